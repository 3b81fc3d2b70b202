"""Runs that an earlier version of the lab made, and what that version made of them: the code of today must do the same, to
the byte (tests/test_frozen.py).

    .venv/bin/python tests/frozen_runs.py        makes tests/frozen/runs.tar.xz and expected.json anew

They were made once, at the commit that first holds them. Making them anew means that runs of that version cannot be gone on
with: a decision for the log, not a way to have a test pass.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

HERE = Path(__file__).parent / "frozen"
ARCHIVE, EXPECTED = HERE / "runs.tar.xz", HERE / "expected.json"
REMOVE = "remove"  # in place of a verb: the folder that follows is lost
ONE_WORKER = ("--workers=1", "--progress=false")
COUNTS, GPT2 = "runs/counts/arm=replace/seed=1", "runs/net/arm=gpt2/seed=1"

START = [("experiment", "--config=counts.yaml", *ONE_WORKER), ("experiment", "--config=net.yaml", *ONE_WORKER)]
"""Command lines that made what is kept."""

ACTIONS: dict[str, list[tuple[str, ...]]] = {
    "continue": [("run", f"--config={COUNTS}/config.yaml"), ("run", f"--config={GPT2}/config.yaml")],
    "extend counts": [("experiment", "--config=counts.yaml", "--generations=3", *ONE_WORKER)],
    "extend networks": [("experiment", "--config=net.yaml", "--generations=3", *ONE_WORKER)],
    "add an arm": [("experiment", "--config=more.yaml", *ONE_WORKER)],
    "fork counts": [("run", f"--fork={COUNTS}", "--at=1", "--name=taken", "--mixing.start=0.5")],
    "fork a network, and the fork": [
        ("run", f"--fork={GPT2}", "--at=2", "--name=forked", "--sampling.temperature=0.8", "--generations=3"),
        ("run", "--fork=runs/forked", "--at=3", "--name=again", "--mixing.start=0.5", "--generations=4"),
    ],
    "rebuild what needs pruned weights": [
        (REMOVE, f"{GPT2}/gen_001/eval"),
        (REMOVE, f"{GPT2}/gen_002"),
        ("run", f"--config={GPT2}/config.yaml"),
    ],
    "score by another protocol": [("eval", "runs/counts/arm=accumulate/seed=1", "--evaluation.prefix=bos")],
    "report": [("report", "runs/counts"), ("report", "runs/net")],
    "export": [("export", COUNTS, "--out=out/counts"), ("export", GPT2, "--out=out/gpt2")],
}
"""What is done with a copy of them; each begins with a fresh one."""


def unpacked(folder: Path) -> None:
    """Puts the frozen runs and the files that made them into a folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    written(folder)


def written(folder: Path) -> None:
    """Puts the files of settings into a folder; `more.yaml` has an arm that counts.yaml lacks."""
    for path in HERE.glob("*.yaml"):
        shutil.copy(path, folder)
    more = "  subsample: {mixing.regime: accumulate_subsample}\n"
    (folder / "more.yaml").write_text((HERE / "counts.yaml").read_text() + more)


def digests(folder: Path) -> dict[str, str]:
    """What lies in a folder, by path: digests of stages, of identities, of a report's numbers and of what is exported."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("cache/"):
            continue
        if path.name == "manifest.json":
            found[name] = json.loads(path.read_text())["digest"]
        elif path.suffix == ".parquet" and name.startswith("out/"):
            found[name] = hashlib.sha256(json.dumps(pq.read_table(path).to_pylist()).encode()).hexdigest()
        elif path.name == "identity.json" or path.suffix == ".safetensors" or name.endswith("report/metrics.csv"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def machine() -> str:
    """A digest of arithmetic as this machine and its libraries do it: where it is another one, so are the bits of a run."""
    torch.manual_seed(0)
    x = torch.rand(40, 24)
    parts = [x @ x.T, x.exp(), x.log(), torch.softmax(x @ x.T, 1), torch.nn.functional.gelu(x), x.double().log().sum(1)]
    parts += [torch.nn.functional.layer_norm(x, (24,)), torch.from_numpy(np.log(x.double().numpy()))]
    sums = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts))
    return sums.hexdigest()[:16] + f" torch {torch.__version__} numpy {np.__version__}"


def _lab(folder: Path, line: tuple[str, ...]) -> None:
    if line[0] == REMOVE:
        return shutil.rmtree(folder / line[1])
    environment = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    environment["COLLAPSELAB_CACHE"] = str(folder / "cache")
    done = subprocess.run(
        [sys.executable, "-m", "collapselab", *line], cwd=folder, env=os.environ | environment, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"{line}: {done.stderr.decode()}")
    return None


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        start.mkdir()
        written(start)
        for line in START:
            _lab(start, line)
        for path in [*start.glob("runs/*/report"), *start.glob("runs/*/*.log")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            archive.add(start / "runs", "runs", filter=_of_nobody)
        expected = {"machine": machine(), "start": digests(start)}
        for name, lines in ACTIONS.items():
            place = Path(scratch) / name
            place.mkdir()
            unpacked(place)
            for line in lines:
                _lab(place, line)
            expected[name] = digests(place)  # type: ignore[assignment]
    EXPECTED.write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def _of_nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
