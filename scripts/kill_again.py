#!/usr/bin/env python3
"""Kill a running chain with SIGKILL at random moments until it finishes, and compare it with an uninterrupted one: digests of
weights, samples and scores, and the lines of metrics.jsonl.

    .venv/bin/python scripts/kill_again.py --kills 200              a new process for each start
    .venv/bin/python scripts/kill_again.py --kills 25 --fork        each start forked from a process that has imported the lab

New chains are started until there were as many kills. Prints where the kills struck; exit code 1 if anything differs, hangs or
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does
HANGS = 300.0  # seconds after which a start counts as hung: on a shared host one in ten takes minutes
CHAIN = [
    *("--generations=3", "--corpus.tokenizer=bytes", "--model.layers=2", "--model.width=32", "--model.heads=2"),
    *("--training.block=32", "--training.batch-size=4", "--training.lr=3e-3", "--training.checkpoint-steps=7"),
    *("--training.checkpoint-seconds=0.05", "--mixing.tokens=4096", "--mixing.start=0.5", "--mixing.ratio=0.5"),
    *("--sampling.batch-size=16", "--evaluation.tokens=1024", "--evaluation.sample-tokens=1024", "--model.dropout=0.1"),
    *("--model.start=previous", "--retain=last"),
]


def import_lab() -> None:
    """Import everything that a run imports, so that forked processes start at once."""
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    import collapselab.chain.run
    import collapselab.cli.options
    import collapselab.cli.run
    import collapselab.report.figures  # noqa: F401


def own_bars() -> None:
    """Give progress bars a lock of this process: one shared with the parent stays locked if a process is killed holding it."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def start(arguments: list[str], log: Path, fork: bool) -> int:
    """Start `collapselab` in a process of its own; return its number."""
    if not fork:
        with log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "collapselab", *arguments], stdout=stream, stderr=stream, start_new_session=True
            ).pid
    child = os.fork()
    if child:
        return child
    import torch

    torch.set_num_threads(1)  # the parent's threads do not exist in a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    own_bars()
    os.setsid()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    from collapselab.chain.run import run
    from collapselab.cli.options import Options, run_config

    options = Options("run", "")
    options.add_run_keys()
    code = 1
    try:
        run(run_config(options.parse(options.gather(arguments[1:]))))
        code = 0
    finally:
        os._exit(code)


def exit_status(process: int, seconds: float) -> int | None:
    """Wait for a process; return its exit status (negative: the signal that ended it), or None if it still runs."""
    until = time.monotonic() + seconds
    while True:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def wait_for_start(process: int, lock: Path) -> int | None:
    """Wait until a process holds a chain's lock; return its exit status if it ended instead."""
    until = time.monotonic() + HANGS
    while not (lock.exists() and str(process) in lock.read_text()):
        assert time.monotonic() < until, f"nothing has started for {HANGS} s"
        if (status := exit_status(process, 0)) is not None:
            return status
        time.sleep(0.002)
    return None


def at_work(chain: Path) -> str:
    """Return what a killed chain was doing, judged from its files."""
    partial = sorted(chain.rglob(".*.partial"), key=lambda path: path.stat().st_mtime)
    if partial:
        inside = partial[-1].parent.name
        return (
            f"checkpoint of {inside.split('.')[0]}"
            if inside.endswith(".unfinished")
            else partial[-1].name.split(".")[1]
        )
    return "between stages" if any(chain.glob("gen_*")) else "at the start"


def left(chain: Path) -> dict[str, object]:
    """Return what a chain has produced: digests of its stages, metrics.jsonl without times, and its files."""
    manifests = {path.parent: json.loads(path.read_text()) for path in sorted(chain.rglob("manifest.json"))}
    lines = (chain / "metrics.jsonl").read_text().splitlines()
    return {
        **{str(place.relative_to(chain)): (m["digest"], m.get("pruned")) for place, m in manifests.items()},
        "metrics": [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines],
        "files": sorted(
            str(path.relative_to(chain)) for path in chain.rglob("*") if path.is_file() and path.parent.name != "wandb"
        ),
    }


def kill_chains(root: Path, kills: int, seed: int, fork: bool, settings: list[str]) -> dict[str, object]:
    """Kill chains below `root` until there were `kills`; return a summary. Raise AssertionError for a difference."""
    draw = random.Random(seed)
    home, log = ["--runs-dir", str(root), "--progress=false", *settings], root / "output.log"
    clock = time.monotonic()
    assert exit_status(start(["run", "--name=whole", *home], log, fork), 10 * HANGS) == 0, log.read_text()[-2000:]
    whole = time.monotonic() - clock
    expected = left(root / "whole" / "arm=main" / "seed=1")
    done, chains, struck = 0, 0, Counter[str]()
    while done < kills:
        chains += 1
        name = f"killed-{chains}"
        chain = root / name / "arm=main" / "seed=1"
        arguments = ["run", f"--name={name}", *home]
        while True:
            process = start(arguments, log, fork)
            status = wait_for_start(process, chain / "lock") if draw.random() < 0.8 else None
            if status is None:
                status = exit_status(
                    process, draw.random() ** 2 * whole if done < kills else HANGS
                )  # early ones more often
            if status is None and done < kills:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                struck[at_work(chain)] += 1
                done += 1
                continue
            assert status == 0, f"ended with {status}: {log.read_text()[-2000:]}"
            break
        result = left(chain)
        assert result == expected, f"{chain} differs: " + ", ".join(k for k in expected if result.get(k) != expected[k])
    return {"kills": done, "chains": chains, "seconds": round(time.monotonic() - clock, 1), "struck": dict(struck)}


def quick_folder() -> tempfile.TemporaryDirectory[str]:
    """Create a temporary folder, in memory if possible: small writes are fast there, and SIGKILL is the same."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fork", action="store_true", help="fork each start from a process that has imported the lab")
    parser.add_argument(
        "settings", nargs="*", help="settings of the chain, in place of the small one's, as in --generations=5"
    )
    given, more = parser.parse_known_args()
    if given.fork:
        import_lab()
    with quick_folder() as root:
        result = kill_chains(Path(root), given.kills, given.seed, given.fork, [*given.settings, *more] or CHAIN)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
