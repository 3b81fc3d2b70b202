"""missing.py PACKAGES LIBRARY OBJECT: print C source of the functions of a CUDA library that torch needs and OBJECT lacks.

All return success; a cuBLAS product is a launch on the stream of its handle.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PREFIX = {"cudart": r"(__)?cuda[A-Z]", "cuda": r"cu[A-Z]", "cublas": r"cublas(?!Lt)", "cublasLt": r"cublasLt"}
NOT_OURS = r"cu(File|blas|solver|sparse|fft|rand|dnn|pti|da)"  # not of the driver: names of other libraries
ASKS = r"cublas(Get|Set|Create|Destroy)"


def names(file: Path, *options: str) -> set[str]:
    output = subprocess.run(["nm", *options, str(file)], capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in output.splitlines() if line.split()}


def main(packages: Path, library: str, ours: Path) -> None:
    users = [
        *(packages / "torch" / "lib").glob("*.so"),
        *(packages / "nvidia" / "cu13" / "lib").glob("libcusolver.so.*"),
    ]
    needed = {name for user in users for name in names(user, "-D", "--undefined-only")}
    mine = {name for name in needed if re.match(PREFIX[library], name)}
    if library == "cuda":
        mine = {name for name in mine if not re.match(NOT_OURS, name)}
    print('#include "card.h"')
    for name in sorted(mine - names(ours, "--defined-only")):
        if library == "cublas" and not re.match(ASKS, name):
            print(f'API int {name}(void **handle) {{ return stub_launch("{name}", *handle), 0; }}')
        else:
            print(f"API int {name}(void) {{ return 0; }}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
