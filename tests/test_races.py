"""Several processes at one place at once: one of them wins, whole, and the others say so in a line."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from helpers import Forked, alone, small_config, to_file, undrawn, waited_for

from collapselab.chain.run import run
from collapselab.config import UserError
from collapselab.store.folders import alone_in, beside, manifest_of, publishing, put_in_place
from collapselab.store.lock import HeldError, check_held, try_lock
from collapselab.store.seals import COPY, IDENTITY

TRIES = int(os.environ.get("RACES", "12"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of two generations (do not change it)."""
    return run(small_config(runs_dir=str(tmp_path_factory.mktemp("races")), generations=1, model__family="bigram"))[0]


def at_once(count: int, work: Callable[[int], Any], seconds: float = 60) -> list[int]:
    """Exit codes of so many processes, forked from this one, that begin `work` at the same moment."""
    ready, go = os.pipe(), os.pipe()
    children = []
    for number in range(count):
        if not (child := os.fork()):
            code = 1
            try:
                alone()
                os.close(go[1])
                os.write(ready[1], b".")
                os.read(go[0], 1)  # until the parent closes its end
                code = int(work(number) or 0)
            except UserError as error:
                (Path(os.environ["SAID"]) / str(number)).write_text(str(error))
                code = 2
            finally:
                os._exit(code)
        children.append(child)
    for _ in children:
        os.read(ready[0], 1)
    for end in (*go, *ready):
        os.close(end)
    return [waited_for(child, seconds) or 0 for child in children]


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


# --- what is published without a lock ---------------------------------------------------------------------------------


def test_of_exports_to_one_folder_one_wins_whole(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: Lab
) -> None:
    from collapselab.cli.main import main

    monkeypatch.setenv("SAID", str(tmp_path))
    assert lab("export", str(made), "--out", str(tmp_path / "alone"))[0] == 0
    whole = tree(tmp_path / "alone")
    for number in range(TRIES):
        out = tmp_path / f"out{number}"
        if number % 2:
            out.mkdir()  # an empty one
        log = tmp_path / "said.log"
        log.write_text("")

        def work(_: int, out: Path = out, log: Path = log) -> int:
            to_file(log)
            return main(["export", str(made), "--out", str(out)])

        codes = at_once(3, work)
        said = [line for line in log.read_text().splitlines() if "error" in line]
        assert sorted(codes) == [0, 2, 2] and tree(out) == whole, (codes, said)
        assert len(said) == 2 and all("name a new folder" in line and len(line) <= 300 for line in said), said
        shutil.rmtree(out)
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "said.log"}


def test_what_killed_processes_left_beside_a_place_is_removed_and_that_of_living_ones_is_not(tmp_path: Path) -> None:
    place = tmp_path / "place[1]"
    for left in (".place[1].partial", ".place[1].123-abc.partial"):
        (tmp_path / left / "x").mkdir(parents=True)
    with beside(place) as mine, beside(place) as another:
        assert sorted(tmp_path.iterdir()) == sorted([mine, another])
        (mine / "a").touch()
        (another / "b").touch()
        assert put_in_place(mine, place) and not put_in_place(another, place)
    assert [path.name for path in tmp_path.rglob("*")] == ["place[1]", "a"]
    (place / "a").unlink()
    with beside(place) as again:  # an empty folder gives way
        (again / "c").touch()
        assert put_in_place(again, place)


def test_a_cache_that_is_damaged_is_published_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has found it whole never sees it vanish."""
    monkeypatch.setenv("SAID", str(tmp_path))
    place = tmp_path / "cache" / "key"

    def work(number: int) -> int:
        if manifest_of(place) is None:
            with publishing(place, inputs={}, shared=True) as out:
                (out / "data").write_bytes(b"x" * 1000)
        for _ in range(50):
            assert manifest_of(place) is not None
        return 0

    for _ in range(TRIES):
        assert at_once(6, work) == [0] * 6
        assert [path.name for path in place.parent.iterdir()] == ["key"]
        (place / "data").write_bytes(b"y")


def test_who_waits_for_a_folder_waits_a_bounded_time(tmp_path: Path) -> None:
    began = time.monotonic()
    with alone_in(tmp_path):
        with pytest.raises(BlockingIOError, match="another process writes there"), alone_in(tmp_path, 0.1):
            pass
        assert time.monotonic() - began < 5
    with alone_in(tmp_path, 0):
        pass


def test_reports_of_one_run_at_once_are_whole(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collapselab.report.pages import write_report

    monkeypatch.setenv("SAID", str(tmp_path))
    with undrawn():
        page = write_report(made)
        before = tree(page.parent)
        assert at_once(3, lambda number: write_report(made) and 0) == [0] * 3
    assert tree(page.parent) == before


# --- one writer -------------------------------------------------------------------------------------------------------


def test_a_lock_file_that_is_removed_lets_nobody_in(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    (tmp_path / "lock").unlink()
    with pytest.raises(HeldError):
        try_lock(tmp_path / "lock")
    check_held()
    lock.release()
    try_lock(tmp_path / "lock").release()


@pytest.mark.parametrize("how", ["moved", "removed", "made again", "file alone"])
def test_who_has_lost_its_lock_finds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    from collapselab.store import lock as module

    place = tmp_path / "chain"
    place.mkdir()
    if how == "file alone":  # a file system that does not lock folders
        monkeypatch.setattr(module, "_locked", _without_folders(module._locked))
    lock = try_lock(place / "lock")
    check_held()
    if how == "moved":
        place.rename(tmp_path / "elsewhere")
    elif how == "file alone":
        (place / "lock").unlink()
        other = try_lock(place / "lock")
        other.release()
    else:
        shutil.rmtree(place)
        if how == "made again":
            place.mkdir()
            try_lock(place / "lock").release()
    with pytest.raises(UserError, match="moved or removed, or lost its lock"):
        check_held()
    lock.release()
    check_held()


def _without_folders(locked: Callable[[Path, int], int | None]) -> Callable[[Path, int], int | None]:
    def only_files(path: Path, flags: int) -> int | None:
        if flags & os.O_DIRECTORY:
            raise OSError(9, "Bad file descriptor")
        return locked(path, flags)

    return only_files


SLOW = ["--corpus.tokenizer=bytes", "--model.layers=2", "--model.width=32", "--model.heads=2", "--training.block=32"]
SLOW += ["--training.batch_size=4", "--training.epochs=20", "--mixing.tokens=4096", "--evaluation.tokens=1024"]
SLOW += ["--generations=1", "--training.checkpoint_steps=5", "--training.checkpoint_seconds=0.01", "--progress=false"]


def begun(tmp_path: Path, name: str) -> tuple[Forked, Path]:
    """A run that trains, and its chain."""
    one = Forked("run", f"--name={name}", "--runs_dir", str(tmp_path), *SLOW, output=tmp_path / "one.log")
    chain = tmp_path / name / "arm=main" / "seed=1"
    until = time.monotonic() + 60
    while not list(chain.glob("gen_000/train.unfinished/*")):
        assert one.poll() is None and time.monotonic() < until, one.said()
        time.sleep(0.005)
    return one, chain


def test_a_second_start_is_refused_though_the_lock_was_removed(tmp_path: Path, lab: Lab) -> None:
    one, chain = begun(tmp_path, "x")
    (chain / "lock").unlink()
    code, _, err = lab("run", "--name=x", "--runs_dir", str(tmp_path), *SLOW)
    assert code == 2 and err.count("\n") == 1 and "has locked this chain; wait for it or stop it" in err
    one.send_signal(signal.SIGTERM)
    assert one.wait(60) == 128 + signal.SIGTERM, one.said()


@pytest.mark.parametrize("how", ["moved", "replaced"])
def test_a_run_whose_folder_goes_stops_in_one_line_and_writes_no_more(tmp_path: Path, how: str) -> None:
    one, chain = begun(tmp_path, "x")
    os.kill(one.pid, signal.SIGSTOP)
    (tmp_path / "x").rename(tmp_path / "y")
    if how == "replaced":
        shutil.copytree(tmp_path / "y", tmp_path / "x")  # and somebody goes on there
        (tmp_path / "x" / "arm=main" / "seed=1" / "lock").write_text("")
        lock = try_lock(chain / "lock")
    before = {folder: tree(tmp_path / folder) for folder in ("x", "y")}
    os.kill(one.pid, signal.SIGCONT)
    assert one.wait(120) == 2, one.said()
    last = one.said().splitlines()[-1]
    assert last.startswith("collapselab: error: ") and "Traceback" not in one.said() and str(tmp_path / "x") in last
    after = {folder: tree(tmp_path / folder) for folder in ("x", "y")}
    published = [
        path for folder in after for path in after[folder].keys() - before[folder].keys() if "unfinished" not in path
    ]
    assert not [path for path in published if path.endswith("manifest.json")], published
    if how == "replaced":
        lock.release()
        assert (chain / IDENTITY).is_file() and (chain / COPY).is_file()
