"""Print the measurements of scripts/gpu_check.sh: gpu_figures.py FOLDER [generate | same].

`generate` measures transformers' `generate` once; `same` compares the two small chains file by file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

FILES = ("train/model.safetensors", "samples/tokens-00000.bin", "train/log.jsonl")


def generate(folder: Path) -> int:
    import torch

    if os.environ.get("STUB") == "1":
        import lab  # the stub card's

        lab.install()
    from collapselab.bench import obvious
    from collapselab.bench.run import Case, measured
    from collapselab.bench.sampler import GPT2
    from collapselab.runtime.parallel import Processes

    device, length, batch = Processes("cuda").device, 128, 1024
    net = GPT2.model(length, pad=1).net.to(device, torch.bfloat16)
    prompts = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    name, amount = f"transformers generate, batch {batch}", batch * (length - 1)
    row = measured(name, lambda: obvious.generate(net, prompts, length, batch), amount, device, 1)
    case = Case(f"Sampling {length} tokens, {GPT2.name}", [row])
    (folder / "sampling-generate.json").write_text(json.dumps({"cases": [dataclasses.asdict(case)]}))
    return 0


def same(folder: Path) -> int:
    differ = []
    for generation in (0, 1):
        for file in FILES:
            chains = [folder / "runs" / name / "arm=main" / "seed=1" for name in ("whole", "struck")]
            digests = {hashlib.sha256((c / f"gen_{generation:03d}" / file).read_bytes()).hexdigest() for c in chains}
            differ += [f"gen_{generation:03d}/{file}"] if len(digests) > 1 else []
    print("differ:", ", ".join(differ) or "none")
    return 1 if differ else 0


def show(folder: Path) -> int:
    for path in sorted(folder.glob("*.json")):
        text = path.read_text()
        for case in json.loads(text)["cases"] if text.strip() else []:
            for row in case["rows"]:
                print(f"{path.stem}: {case['title']}: {row['name']}: {_row(row)}")
            if case["parity"]:
                print(f"{path.stem}: parity {case['parity']}")
    chain = folder / "runs" / "gpt2" / "arm=main" / "seed=1"
    metrics = chain / "metrics.jsonl"
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        row = json.loads(line)
        stage = chain / f"gen_{row['generation']:03d}" / "samples" / "meta.json"
        seconds = ", ".join(f"{name.removesuffix('_seconds')} {value:.1f} s" for name, value in row["time"].items())
        batch = json.loads(stage.read_text())["batch_size"]
        print(
            f"generation {row['generation']}: perplexity {row['metrics']['real/perplexity']:.1f}, batch {batch}, {seconds}"
        )
    return 0


def _row(row: dict[str, Any]) -> str:
    if row["rate"] is None:
        return str(row["note"])
    share = "" if row["share"] is None else f", {100 * row['share']:.0f} % of the limit"
    return f"{row['rate']:,.0f} tokens/s{share}, {(row['peak_bytes'] or 0) / 1e9:.1f} GB at most"


if __name__ == "__main__":
    what = {"generate": generate, "same": same, "": show}[sys.argv[2] if len(sys.argv) > 2 else ""]
    sys.exit(what(Path(sys.argv[1])))
