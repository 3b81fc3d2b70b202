#!/usr/bin/env python3
"""Kills a running chain with SIGKILL at random moments, again and again until it ends, and compares what it left with an
uninterrupted one: digests of weights, samples and scores, and the lines of metrics.jsonl.

    .venv/bin/python scripts/kill_again.py --kills 200              each start a process of its own
    .venv/bin/python scripts/kill_again.py --kills 25 --fork        each start forked from one that has imported the lab

Where a chain ends before there were as many kills, another one is begun. Prints where the kills struck; exit code 1 where
anything differs, hangs or fails.
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
HANGS = 300.0  # seconds that no start may take: on a shared host one of ten takes minutes
CHAIN = [
    *("--generations=3", "--corpus.tokenizer=bytes", "--model.layers=2", "--model.width=32", "--model.heads=2"),
    *("--training.block=32", "--training.batch-size=4", "--training.lr=3e-3", "--training.checkpoint-steps=7"),
    *("--training.checkpoint-seconds=0.05", "--mixing.tokens=4096", "--mixing.start=0.5", "--mixing.ratio=0.5"),
    *("--sampling.batch-size=16", "--evaluation.tokens=1024", "--evaluation.sample-tokens=1024", "--model.dropout=0.1"),
    *("--model.start=previous", "--retain=last"),
]


def imported() -> None:
    """Imports all that a run comes to import, so that a process forked from this one begins at once."""
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    import collapselab.chain.run
    import collapselab.cli.options
    import collapselab.cli.run
    import collapselab.report.figures  # noqa: F401


def own_bars() -> None:
    """Gives progress bars a lock of this process's own: the one that a forked process shares with its parent stays taken for
    ever where the process is killed while it holds it."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def started(arguments: list[str], log: Path, fork: bool) -> int:
    """Starts `collapselab` in a process of its own; returns its number."""
    if not fork:
        with log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "collapselab", *arguments], stdout=stream, stderr=stream, start_new_session=True
            ).pid
    child = os.fork()
    if child:
        return child
    import torch

    torch.set_num_threads(1)  # the threads of the process that this one was forked from are not there
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


def ended(process: int, seconds: float) -> int | None:
    """The exit status of a process (negative: the signal that ended it); None where it runs on after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def began(process: int, lock: Path) -> int | None:
    """Waits until a process holds a chain; its exit status where it ended instead."""
    until = time.monotonic() + HANGS
    while not (lock.exists() and str(process) in lock.read_text()):
        assert time.monotonic() < until, f"nothing has begun for {HANGS} s"
        if (status := ended(process, 0)) is not None:
            return status
        time.sleep(0.002)
    return None


def at_work(chain: Path) -> str:
    """What a chain that was just killed was doing, from what it left."""
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
    """What a chain has made: its stages' digests, and metrics.jsonl without times."""
    manifests = {path.parent: json.loads(path.read_text()) for path in sorted(chain.rglob("manifest.json"))}
    lines = (chain / "metrics.jsonl").read_text().splitlines()
    return {
        **{str(place.relative_to(chain)): (m["digest"], m.get("pruned")) for place, m in manifests.items()},
        "metrics": [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines],
        "files": sorted(
            str(path.relative_to(chain)) for path in chain.rglob("*") if path.is_file() and path.parent.name != "wandb"
        ),
    }


def tried(root: Path, kills: int, seed: int, fork: bool, settings: list[str]) -> dict[str, object]:
    """Kills chains below `root` until there were `kills`; returns what happened. Raises AssertionError for a difference."""
    draw = random.Random(seed)
    home, log = ["--runs-dir", str(root), "--progress=false", *settings], root / "output.log"
    clock = time.monotonic()
    assert ended(started(["run", "--name=whole", *home], log, fork), 10 * HANGS) == 0, log.read_text()[-2000:]
    whole = time.monotonic() - clock
    wanted = left(root / "whole" / "arm=main" / "seed=1")
    done, chains, struck = 0, 0, Counter[str]()
    while done < kills:
        chains += 1
        name = f"killed-{chains}"
        chain = root / name / "arm=main" / "seed=1"
        arguments = ["run", f"--name={name}", *home]
        while True:
            process = started(arguments, log, fork)
            status = began(process, chain / "lock") if draw.random() < 0.8 else None
            if status is None:
                status = ended(process, draw.random() ** 2 * whole if done < kills else HANGS)  # early ones more often
            if status is None and done < kills:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                struck[at_work(chain)] += 1
                done += 1
                continue
            assert status == 0, f"ended with {status}: {log.read_text()[-2000:]}"
            break
        found = left(chain)
        assert found == wanted, f"{chain} differs: " + ", ".join(k for k in wanted if found.get(k) != wanted[k])
    return {"kills": done, "chains": chains, "seconds": round(time.monotonic() - clock, 1), "struck": dict(struck)}


def quick_folder() -> tempfile.TemporaryDirectory[str]:
    """In memory where there is such a place: SIGKILL is the same there, and many small writes are not waited for."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fork", action="store_true", help="fork each start from a process that has imported the lab")
    parser.add_argument(
        "settings", nargs="*", help="settings of the chain instead of the small one, as in --generations=5"
    )
    given, more = parser.parse_known_args()
    if given.fork:
        imported()
    with quick_folder() as root:
        result = tried(Path(root), given.kills, given.seed, given.fork, [*given.settings, *more] or CHAIN)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
