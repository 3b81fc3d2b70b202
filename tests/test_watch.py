"""A run is looked at from outside: while it trains, after it was killed, when it is over, and when it is a stranger's."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import Lab
from helpers import alone, small_config
from test_untrusted_runs import fault
from untrusted_runs import TEXTS, change, files_of, reseal, state_of

from collapselab.chain import run as chain
from collapselab.chain.opening import chain_path
from collapselab.cli.watch import draw
from collapselab.config import UserError
from collapselab.runtime import console
from collapselab.runtime.console import PROGRESS, Console
from collapselab.store import lock
from collapselab.watch import DAMAGED, DIED, FINISHED, NOT_BEGUN, RUNNING, STOPPED, WAITING, ChainView, RunView, Watcher

ROOT = Path(__file__).parents[1]


def text_of(view: RunView, height: int | None = None, width: int = 80) -> str:
    """What 80 columns show of a view."""
    from rich.console import Console as Terminal

    terminal = Terminal(width=width, height=height or 100, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    terminal.print(draw(view, height))
    return terminal.export_text()


def forked(work) -> int:
    """A process that does something and ends; returns its number."""
    child = os.fork()
    if not child:
        try:
            alone()
            work()
        finally:
            os._exit(0)
    return child


def until(found, seconds: float = 60):
    """The first value of `found()` that is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two generations (do not change it)."""
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("finished")), generations=1)
    return chain.run(config)[0].parents[1]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of which one chain is over, one stopped, and one not begun (do not change it)."""
    folder = tmp_path_factory.mktemp("arms")
    for arm, last in (("mixed", 1), ("none", 0)):
        config = small_config(runs_dir=str(folder), arm=arm, generations=last, mixing__start=0.5)
        root = chain.run(config, shares_generation_0=True)[0].parents[1]
    settings = root / "arm=none" / "seed=1" / "config.yaml"
    settings.write_text(settings.read_text().replace("generations: 0", "generations: 1"))
    asked = {"generations": 1, "seeds": [1], "baseline": "none", "arms": {"mixed": {}, "none": {}, "later": {}}}
    (root / "experiment.yaml").write_text(yaml.safe_dump(asked, sort_keys=False))
    reseal(root)
    return root


def copy(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / run.name)
    return folder / run.name


def only(view: RunView) -> ChainView:
    (chain,) = view.chains
    return chain


# --- a chain ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("finished")  # what a chain imports is there before the fork
def test_a_chain_is_seen_at_work_then_killed_then_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FIRST_NOTE", 0.05)
    monkeypatch.setattr(console, "EVERY_NOTE", 0.02)
    config = small_config(runs_dir=str(tmp_path), generations=1, training__epochs=12, evaluation__self_bleu_samples=0)
    path = chain_path(config)
    child = forked(lambda: chain.run(config))
    try:
        until(lambda: (path / "identity.copy.json").is_file())
        watcher = Watcher(path)

        def trains_again() -> RunView | None:
            view = watcher.look()
            one = only(view)
            return view if one.finished == 1 and one.bar and one.bar.rate and "train" in one.bar.title else None

        first = until(lambda: (v := only(watcher.look())).bar and v)
        assert first.state == RUNNING and first.finished == 0 and first.stage == "train" and first.left is None
        view = until(trains_again)
        one = only(view)
        assert one.state == RUNNING and one.stage == "train" and one.last == 1 and f"process {child}" in one.said
        assert one.bar is not None and 0 < one.bar.share <= 1 and one.bar.pid == child and one.bar.rate > 100
        assert one.left is not None and 0 < one.left < 60  # what generation 0 took
        shown = text_of(view)
        assert "running: generation 1 of 1, at train" in shown
        assert re.search(r"\[#*\.*\] gen 1 train: \d+%, [\d.]+k? tok/s, \d+:\d\d left", shown), shown
        assert re.search(r"the chain has about \d+:\d\d left", shown)
        assert re.search(r"^ +0 +1\.000 +[\d.]+", shown, re.MULTILINE)  # generation 0's numbers
        assert "arm=main/seed=1/gen_001/mixture published" in shown
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    view = watcher.look()
    assert only(view).state == DIED and only(view).left is None and not view.at_work
    assert re.search(r"process died: generation 1 of 1, next is train\nprocess \d+ on ", text_of(view))
    assert re.search(r"gen 1 train: \d+% when it ended", text_of(view)) and (path / PROGRESS).is_file()
    chain.run(config)
    view = watcher.look()
    assert only(view).state == FINISHED and view.complete and len(only(view).rows) == 2
    assert "finished: all generations, 0 to 1" in text_of(view)
    assert not (path / PROGRESS).exists() and not list(path.glob(".*.tmp"))


def test_a_bar_keeps_its_rate_without_what_an_earlier_start_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / PROGRESS
    path.write_text("of a process that was killed")
    speaker = Console(bars=False, progress=path)
    assert not path.exists()
    with speaker.bar("short", 8) as bar:
        bar.update(8)
        assert not path.exists()  # too short to be seen
    monkeypatch.setattr(console, "FIRST_NOTE", 0.05)
    began = time.monotonic()
    with speaker.bar("gen 3 train", 10**9) as bar:
        bar.update(10**8)
        time.sleep(0.1)
        bar.update(1000)
        most = time.monotonic() - began
        said = json.loads(path.read_text())
    assert said["title"] == "gen 3 train" and said["done"] == 10**8 + 1000 and said["pid"] == os.getpid()
    assert 1000 / most <= said["rate"] <= 1000 / 0.1
    assert not path.exists()
    with Console(speaks=False, progress=path).bar("another rank", 8) as bar:
        time.sleep(0.06)
        bar.update(1)
        assert not path.exists()


def test_a_bar_that_cannot_write_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FIRST_NOTE", 0.0)
    with Console(bars=False, progress=tmp_path / "gone" / PROGRESS).bar("", 8) as bar:
        bar.update(1)
    assert bar.done == 1 and not list(tmp_path.iterdir())


def test_a_number_that_went_to_a_later_process_is_not_taken_for_the_chains(finished: Path, tmp_path: Path) -> None:
    path = copy(finished, tmp_path) / "arm=main" / "seed=1"
    shutil.rmtree(path / "gen_001" / "eval")
    taken = lock.try_lock(path / "lock")
    try:
        assert only(Watcher(path).look()).state == RUNNING
        said = json.loads((path / "lock").read_text())
        (path / "lock").write_text(json.dumps(said | {"started": "2020-01-01T00:00:00+0000"}))
        assert only(Watcher(path).look()).state == DIED
        (path / "lock").write_text(json.dumps(said | {"host": "elsewhere"}))
        assert only(Watcher(path).look()).state == RUNNING  # nobody here can tell
    finally:
        taken.release()
    assert only(Watcher(path).look()).state == STOPPED


def test_a_chain_whose_rows_are_gone_is_not_called_finished(finished: Path, tmp_path: Path) -> None:
    path = copy(finished, tmp_path) / "arm=main" / "seed=1"
    watcher, metrics = Watcher(path), path / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    assert only(watcher.look()).state == FINISHED
    for text in (lines[0], ""):
        metrics.write_text(text)
        one = only(watcher.look())
        assert one.state == DAMAGED and f"metrics.jsonl has {bool(text):d} of 2 rows; continue the run" in one.said
    metrics.unlink()
    (path / "gen_001" / "eval" / "eval.json").unlink()
    assert "unreadable: metrics.jsonl has 0 of 2 rows" in text_of(watcher.look()) and not watcher.look().complete


# --- an experiment ----------------------------------------------------------------------------------------------------


def test_an_experiment_is_a_table_of_all_chains_also_of_those_not_begun(arms: Path, tmp_path: Path) -> None:
    root = copy(arms, tmp_path)
    states = [(c.arm, c.state, c.finished, c.last) for c in Watcher(root).look().chains]
    assert states == [("mixed", FINISHED, 2, 1), ("none", STOPPED, 1, 1), ("later", NOT_BEGUN, 0, 1)]
    shown = text_of(Watcher(root).look())
    assert "3 chains: 1 finished, 1 stopped, 1 not begun" in shown
    assert re.search(r"^mixed +1 +1/1 +[\d.]+ +finished *$", shown, re.MULTILINE), shown
    assert re.search(r"^none +1 +1/1 +mixture +[\d.]+ +stopped *$", shown, re.MULTILINE), shown
    taken = lock.try_lock(root / "arm=none" / "seed=1" / "lock")
    try:
        states = [(c.arm, c.state) for c in Watcher(root).look().chains]
        assert states == [("mixed", FINISHED), ("none", RUNNING), ("later", WAITING)]
        low = text_of(Watcher(root).look(), height=8)
        assert "none" in low and "later" in low and "mixed" not in low and "and 1 more" in low
    finally:
        taken.release()


def test_a_chain_waits_for_the_process_that_makes_its_generation_0(arms: Path, tmp_path: Path) -> None:
    root = copy(arms, tmp_path)
    path = root / "arm=none" / "seed=1"
    (shared,) = {p.parents[1] for p in root.glob("shared/*/seed=1/gen_000/eval")}
    shutil.rmtree(shared / "gen_000" / "eval")
    ready = tmp_path / "ready"

    def hold() -> None:
        lock.try_lock(shared / "lock")
        ready.touch()
        time.sleep(60)

    child = forked(hold)
    taken = lock.try_lock(path / "lock")
    try:
        until(ready.exists)
        one = only(Watcher(path).look())
        assert one.state == WAITING and one.said == f"generation 0, which process {child} makes"
    finally:
        taken.release()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_table_of_many_chains_with_long_names_fits_80_columns(tmp_path: Path) -> None:
    views = [
        ChainView("an_arm_of_a_very_long_name" * 3, "9" * 18, tmp_path, RUNNING, last=10**5, finished=10**5 - 1,
                  stage="samples", left=1e8, rows=[{"generation": 0, "real_share": 0.5, "metrics": {"real/perplexity": 1e150}}])
    ] * 50  # fmt: skip
    shown = text_of(RunView(tmp_path, views, ["a" * 500], 0.0), height=24)
    assert len(shown.splitlines()) <= 24 and max(map(len, shown.splitlines())) <= 80
    assert "running" in shown and "and 32 more" in shown


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_one_plain_snapshot(finished: Path, lab: Lab) -> None:
    before = state_of(finished, but=finished / "nothing")
    for arguments in ((str(finished),), (str(finished / "arm=main" / "seed=1"), "--once")):
        code, out, err = lab("watch", *arguments)
        assert code == 0 and err == "" and "\x1b" not in out
        assert "finished: all generations, 0 to 1" in out and "perplexity" in out
    assert state_of(finished, but=finished / "nothing") == before


def test_a_pipe_gets_lines_wider_than_80_columns_and_none_over_160(finished: Path, tmp_path: Path, lab: Lab) -> None:
    run = copy(finished, tmp_path)
    said = "note: " + "word " * 20 + "end"
    (run / "events.log").write_text(f"2026-01-02T03:04:05 {said}\n2026-01-02T03:04:05 {'x' * 500}\n")
    lines = lab("watch", str(run))[1].splitlines()
    assert f"03:04:05 {said}" in map(str.rstrip, lines) and max(map(len, lines)) == 160


def test_what_is_not_there_yet_is_said_in_one_line(tmp_path: Path, finished: Path, lab: Lab) -> None:
    code, out, err = lab("watch", str(tmp_path / "no"))
    assert code == 2 and out == "" and err.count("\n") == 1 and "no run here, or it has not started yet" in err
    assert lab("watch", str(tmp_path))[0] == 2
    code, _, err = lab("watch", str(finished), "--every", "0")
    assert code == 2 and "--every=0.0: must lie in [0.1, 3600] seconds" in err
    for wrong in ("nan", "often"):
        code, _, err = lab("watch", str(finished), "--every", wrong)
        assert code == 2 and err == f"collapselab: error: --every='{wrong}': must be a number\n"


def on_a_terminal(run: Path, interrupt: bool) -> tuple[int, str]:
    """(exit code, what 80 columns were sent) of `watch` on a terminal; interrupted after its third look, if asked for."""
    here, there = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-m", "collapselab", "watch", str(run), "--every", "0.1"],
        stdin=there, stdout=there, stderr=there, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(there)
    said = b""
    try:
        while True:
            try:
                part = os.read(here, 1 << 16)
            except OSError:  # nobody has the terminal any more
                break
            if not part:
                break
            said += part
            if interrupt and said.count(str(run).encode()) >= 3:
                process.send_signal(signal.SIGINT)
                interrupt = False
        return process.wait(20), said.decode()
    finally:
        process.kill()
        os.close(here)


def test_a_terminal_shows_it_live_until_control_c(finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    path = run / "arm=main" / "seed=1"
    shutil.rmtree(path / "gen_001" / "eval")
    taken = lock.try_lock(path / "lock")
    try:
        code, said = on_a_terminal(run, True)
    finally:
        taken.release()
    assert code == 130 and "\x1b[?25h" in said  # the cursor is given back
    assert said.rstrip().endswith(f"collapselab: stopped by SIGINT; to repeat: collapselab watch {run} --every 0.1")
    assert "Traceback" not in said and "at eval" in said
    code, said = on_a_terminal(run, False)  # nothing is at work any more: the final state, and an end
    assert code == 0 and "stopped: generation 1 of 1, next is eval" in said


# --- strangers' files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"title": 1}', b"[" * 10**5, b'{"rate": NaN}',
                         b'{"title":"a","done":-1,"total":0,"rate":1,"at":0,"pid":1}',
                         b'{"title":"a","done":1,"total":0,"rate":"x","at":0,"pid":1}'])  # fmt: skip
def test_a_damaged_progress_file_is_no_progress(content: bytes, finished: Path, tmp_path: Path) -> None:
    path = copy(finished, tmp_path) / "arm=main" / "seed=1"
    shutil.rmtree(path / "gen_001" / "eval")
    taken = lock.try_lock(path / "lock")
    try:
        (path / PROGRESS).write_bytes(content)
        one = only(Watcher(path).look())
        assert one.state == RUNNING and one.bar is None
    finally:
        taken.release()


def test_whatever_a_strangers_file_holds_is_shown_inert_or_refused_in_one_line(
    arms: Path, finished: Path, tmp_path: Path, lab: Lab
) -> None:
    for seed in range(40):
        draw = random.Random(seed)
        run = copy(draw.choice([arms, finished]), tmp_path / str(seed))
        path = run / draw.choice([p for p in files_of(run) if p.suffix in (".json", ".yaml", ".jsonl")])
        change(path, draw)
        if draw.random() < 0.8:
            reseal(run)
        before = state_of(run, but=run / "nothing")
        answer = lab("watch", str(run))
        assert not fault(*answer), (seed, path, answer)
        assert state_of(run, but=run / "nothing") == before
        shutil.rmtree(run)


def test_markup_and_control_characters_are_shown_and_not_obeyed(finished: Path, tmp_path: Path, lab: Lab) -> None:
    run = copy(finished, tmp_path)
    path = run / "arm=main" / "seed=1"
    shutil.rmtree(path / "gen_001" / "eval")
    said = " ".join(t for t in TEXTS if len(t) < 200) + "[red]x[/red] [link=http://a.b]y[/link]"
    (path / "lock").write_text(json.dumps({"pid": os.getpid(), "host": said, "started": "[bold]", "command": ""}))
    bar = {"title": said, "done": 1, "total": 2, "rate": 1e150, "at": -1e150, "pid": os.getpid()}
    (path / PROGRESS).write_text(json.dumps(bar))
    (run / "events.log").write_bytes(said.encode("utf-8", "replace") + b"\xff\n[green]ends[/green]\n")
    code, out, err = lab("watch", str(run))
    assert code == 0 and not console.UNSAFE.search(out + err)
    assert "[green]ends[/green]" in out and "50%" in out and "running" in out


def test_files_that_vanish_between_two_looks_are_missing_and_nothing_else(arms: Path, tmp_path: Path) -> None:
    root = copy(arms, tmp_path)
    watcher = Watcher(root)
    for name in (
        "metrics.jsonl",
        "gen_000",
        "config.yaml",
        "identity.json",
        "identity.copy.json",
        "shared.json",
        "lock",
    ):
        for path in root.glob(f"arm=*/seed=*/{name}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        text_of(watcher.look())
    shutil.rmtree(root / "arm=none")
    (root / "experiment.yaml").unlink()
    (root / "events.log").unlink()
    assert [c.arm for c in watcher.look().chains] == ["mixed"]
    shutil.rmtree(root)
    assert text_of(watcher.look()).count("none yet") == 1
    (tmp_path / "link").symlink_to(arms)
    root.mkdir()
    (root / "arm=x").symlink_to(arms / "arm=mixed")
    with pytest.raises(UserError, match="a symbolic link"):
        Watcher(root)
    assert watcher.look().chains == []
