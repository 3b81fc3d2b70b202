"""Crashes and errors of the disk at every call that changes a file, and a real file system that is too small."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from helpers import Watched, alone, fragile_config, left, on_a_disk, waited_for

from collapselab.chain import preflight
from collapselab.chain.run import run
from collapselab.config import RunConfig, UserError, as_dict
from collapselab.runtime.errors import OUTPUT, of_disk
from collapselab.store import folders, unfinished

PATIENCE = 120.0  # seconds for a chain that takes one
CHAIN = Path("test", "arm=main", "seed=1")
CRASHES = ("before", "after", "power")


def forked(config: RunConfig, crash: int = 0, how: str = "before") -> tuple[int | None, str, list[str]]:
    """Runs a chain in a process of its own that kills itself at its `crash`-th call; returns its exit status, what it
    printed and the calls that it had made.

    Args:
        how: "before" or "after" the call; "power": before it, and files that were not flushed are empty afterwards.
    """
    home = Path(config.runs_dir)
    home.mkdir(parents=True, exist_ok=True)
    said, listed = home.with_suffix(".said"), home.with_suffix(".calls")
    child = os.fork()
    if not child:
        code = 1
        try:
            stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            sys.stdout = sys.stderr = os.fdopen(stream, "w", buffering=1)
            alone()
            unfinished.COST_SHARE = 1e9  # a checkpoint after every step and every batch
            listed.write_text("\n".join(crashing(config, home, crash, how)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = waited_for(child, PATIENCE)
    return status, said.read_text(), listed.read_text().splitlines() if status == 0 else []


def crashing(config: RunConfig, home: Path, crash: int, how: str) -> list[str]:
    """Runs a chain and dies at a call; before each one there are at most two training checkpoints."""
    calls: list[str] = []
    there = (path.stat() for path in home.rglob("*") if path.is_file())
    flushed = {
        found.st_ino: found.st_size for found in there
    }  # by inode: what lies there at the start, and what follows

    def die() -> None:
        if how == "power":
            for path in home.rglob("*"):
                if path.is_file() and flushed.get(path.stat().st_ino) != path.stat().st_size:
                    os.truncate(path, 0)
        os.kill(os.getpid(), signal.SIGKILL)

    def before(name: str, path: str) -> None:
        calls.append(f"{name} {path}")
        for folder in home.glob("test/arm=*/seed=*/gen_*/train*.unfinished"):
            assert len(list(folder.iterdir())) <= 2, sorted(folder.iterdir())
        if len(calls) == crash and how != "after":
            die()

    def after(name: str, path: str) -> None:
        if name == "fsync":
            flushed[Path(path).stat().st_ino] = Path(path).stat().st_size
        if len(calls) == crash and how == "after":
            die()

    with Watched(home, before, after):
        run(config)
    return calls


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], list[str], Path]:
    """What an uninterrupted chain leaves, the calls that it makes, and where it lies (do not change it: copy it)."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(fragile_config(folder / "first"))  # what it imports on the way is there for all
    torch.set_num_threads(threads)
    status, said, calls = forked(fragile_config(folder / "runs"))
    assert status == 0, said
    return left(folder / "runs" / CHAIN), calls, folder / "runs"


def survives(config: RunConfig, crashes: list[tuple[int, str]], wanted: dict[str, object]) -> None:
    """A chain that crashed at each of these calls, one start after the other, ends like one that never did."""
    home = Path(config.runs_dir)
    for crash, how in crashes:
        status, said, _ = forked(config, crash, how)
        assert status in (-signal.SIGKILL, 0), (crash, how, said)
    status, said, _ = forked(config)
    assert status == 0, (crashes, said)
    found = left(home / CHAIN)
    differ = [key for key in wanted if found.get(key) != wanted[key]]
    extra = set(found["files"]) ^ set(wanted["files"])  # type: ignore[call-overload]
    assert found == wanted, (crashes, differ, extra, said)
    shutil.rmtree(home)


def test_a_crash_at_any_call_leaves_what_can_be_gone_on_with(
    tmp_path: Path, whole: tuple[dict[str, object], list[str], Path]
) -> None:
    wanted, calls, _ = whole
    for i in range(7):
        survives(fragile_config(tmp_path / "runs"), [(1 + (2 * i + 1) * len(calls) // 14, CRASHES[i % 3])], wanted)


# --- errors ------------------------------------------------------------------------------------------------------------

EVERY = int(os.environ.get("FAULTS_EVERY", "1"))  # in the long forms: every n-th call
WRITES = ("open", "write", "fsync", "replace", "mkdir")  # a full disk still removes


def failing(root: Path, at: int, number: int) -> tuple[Watched, list[str]]:
    """Fails the `at`-th call and, of a disk that is full or gone, all later ones; and the list of calls so far."""
    made: list[str] = []

    def before(name: str, path: str) -> None:
        if number == errno.ENOSPC and name not in WRITES:
            return
        made.append(f"{name} {path}")
        if len(made) == at or (len(made) > at > 0 and number != errno.EIO):
            raise OSError(number, os.strerror(number), path)

    return Watched(root, before), made


def fails_and_goes_on(config: RunConfig, at: int, number: int, wanted: dict[str, object]) -> bool:
    """An error at a call ends in one line, harms nothing, and is made up for by the same run; whether it was said."""
    home = Path(config.runs_dir)
    home.mkdir(parents=True)
    watched, made = failing(home, at, number)
    said = ""
    with watched:
        try:
            run(config)
        except UserError as error:
            said = str(error)
    where = made[at - 1]
    assert "\n" not in said and len(said) < 600, (where, said)
    if said:
        words = "disk is full" if number == errno.ENOSPC else os.strerror(number)
        assert str(home) in said and (words in said or os.strerror(number) in said), (where, said)
        at_start = "choose another folder than runs_dir" in said  # nothing is published yet
        assert "the same command resumes" in said or "cannot be written" in said or at_start, (where, said)
    for manifest in home.glob("test/arm=main/seed=1/gen_*/*/manifest.json"):
        if manifest.parent.parent.name.startswith("gen_"):
            assert folders.examine(manifest.parent)[1] == "", (where, manifest)
    run(config)
    found = left(home / CHAIN)
    extra = set(found["files"]) ^ set(wanted["files"])  # type: ignore[call-overload]
    assert found == wanted, (where, extra, said)
    shutil.rmtree(home)
    return bool(said)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "COST_SHARE", 1e9)  # a checkpoint after every step and every batch


def test_a_full_disk_is_said_in_one_line_and_harms_nothing(tmp_path: Path, whole, every_step: None) -> None:
    for i in range(4):
        fails_and_goes_on(fragile_config(tmp_path / "runs"), 40 + i * 210, errno.ENOSPC, whole[0])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_other_errors_of_the_disk_are_said_too(tmp_path: Path, whole, every_step: None, number: int) -> None:
    assert fails_and_goes_on(fragile_config(tmp_path / "runs"), 100 + 150 * (number % 5), number, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_call(tmp_path: Path, whole, every_step: None, number: int) -> None:
    home = tmp_path / "count"
    home.mkdir()
    watched, made = failing(home, 0, number)
    with watched:
        run(fragile_config(home))
    places = range(1, len(made) + 1, EVERY)
    for at in places:
        fails_and_goes_on(fragile_config(tmp_path / "runs"), at, number, whole[0])
    print(f"{errno.errorcode[number]} at {len(places)} of {len(made)} calls")


@pytest.mark.parametrize("file", ["gen_002/.eval.partial", "report", "metrics.jsonl"])
def test_the_command_line_ends_with_one_line(tmp_path: Path, whole, lab, file: str) -> None:
    """The disk is full from the first call on that touches a file."""
    config = fragile_config(tmp_path / "runs")
    shutil.copytree(whole[2], tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / CHAIN / "gen_002" / "eval")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(as_dict(config)))
    full = False

    def before(name: str, path: str) -> None:
        nonlocal full
        full |= file in path
        if full and name in WRITES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with Watched(tmp_path / "runs", before):
        code, _, said = lab("run", "--config", str(tmp_path / "run.yaml"))
    errors = [line for line in said.splitlines() if line.startswith("collapselab: error: ")]
    assert code == 2 and len(errors) == 1 and "Traceback" not in said, said
    assert "the disk is full" in errors[0] or "No space left on device" in errors[0], said
    assert lab("run", "--config", str(tmp_path / "run.yaml"))[0] == 0
    assert {**left(tmp_path / "runs" / CHAIN), "files": 0} == {**whole[0], "files": 0}


def test_a_log_that_cannot_be_written_any_more_stops_nothing(tmp_path: Path, whole) -> None:
    opened = 0

    def before(name: str, path: str) -> None:
        nonlocal opened
        opened += path.endswith("events.log")
        if path.endswith("events.log") and opened > 1:  # at the start it would be said
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with Watched(tmp_path, before):
        path, _ = run(fragile_config(tmp_path))
    assert left(path) == whole[0]


# --- a file system that is too small -------------------------------------------------------------------------------------


def fills_up(place: Path, size: int, wanted: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> str:
    """A chain on a file system of so many KiB is refused before it starts; where the estimate is told of more room, the
    disk really fills up, and with more room the same chain ends as it should. Returns the line that it ended with."""
    config = fragile_config(place)
    line = place.with_suffix(".line")

    def work(resize: Callable[[str], None]) -> None:
        with pytest.raises(UserError, match=r"runs_dir=.*: the chain takes about \d+ MB and 0 MB are free; free some"):
            run(config)
        assert not list(place.iterdir())
        with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
            patch.setattr(preflight, "free_at", lambda path: 1 << 40)
            run(config)
        line.write_text(str(caught.value))
        for stage in (*place.glob("test/*/*/gen_*/*"), *place.glob("test/*/*/reference")):
            assert stage.suffix == ".unfinished" or folders.examine(stage)[0], stage
        resize("64m")
        run(config)
        assert left(place / CHAIN) == wanted

    told = on_a_disk(f"{size}k", place, work)
    if told.startswith("skip: "):
        pytest.skip(told)
    assert not told, told
    said = line.read_text()
    assert "\n" not in said and str(place) in said and ("disk is full" in said or "No space left" in said), said
    return said


def test_a_small_disk_really_fills_up(tmp_path: Path, whole, every_step: None, monkeypatch) -> None:
    for size in (40, 160, 420):
        fills_up(tmp_path / str(size), size, whole[0], monkeypatch)


@pytest.mark.slow
def test_a_disk_of_every_size_fills_up(tmp_path: Path, whole, every_step: None, monkeypatch) -> None:
    for size in range(4, 464, 4):
        fills_up(tmp_path / str(size), size, whole[0], monkeypatch)


def test_a_crash_inside_a_checkpoint_goes_on_from_the_one_before(tmp_path: Path, whole) -> None:
    """Twice in a row, each time while the fourth checkpoint of generation 1 is written."""
    config, (wanted, calls, _) = fragile_config(tmp_path / "runs"), whole
    inside = [i for i, call in enumerate(calls, 1) if "gen_001/train.unfinished/.0000000004.partial/state" in call]
    assert forked(config, inside[-1], "power")[0] == -signal.SIGKILL
    part = tmp_path / "runs" / CHAIN / "gen_001" / "train.unfinished"
    line = f"generation 1: training resumes after step 3 of 5, from {part / '0000000003'}"
    status, said, calls = forked(config, 0)
    assert status == 0 and line in said, said
    assert left(tmp_path / "runs" / CHAIN) == wanted

    shutil.rmtree(tmp_path / "runs")
    assert forked(config, inside[-1])[0] == -signal.SIGKILL
    again = [i for i, call in enumerate(calls, 1) if "gen_001/train.unfinished/.0000000004.partial/state" in call]
    assert forked(config, again[-1])[0] == -signal.SIGKILL
    status, said, _ = forked(config)
    assert status == 0 and line in said, said
    assert left(tmp_path / "runs" / CHAIN) == wanted


@pytest.mark.parametrize("retain", ["all", "last", "ends"])
def test_the_estimate_of_the_space_is_near_what_a_chain_takes(
    tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch, retain: str
) -> None:
    """At its peak, in blocks of the disk; the estimate has 2 MB for the scores of each generation, which are tiny here."""
    asked: list[int] = []
    real = preflight.bytes_needed
    monkeypatch.setattr(preflight, "bytes_needed", lambda *given: asked.append(real(*given)) or asked[-1])
    peak = 0

    def after(name: str, path: str) -> None:
        nonlocal peak
        if name in ("fsync", "replace"):
            peak = max(peak, sum(found.stat().st_blocks * 512 for found in tmp_path.rglob("*")))

    config = fragile_config(
        tmp_path, retain=retain, generations=4, model__width=128, model__heads=2, mixing__tokens=512, evaluation__sample_tokens=256,
        training__batch_size=4, sampling__batch_size=16,
    )  # fmt: skip
    with Watched(tmp_path, lambda name, path: None, after):
        run(config)
    print(f"peak {peak}, estimate {asked[0]}")
    estimate = asked[0] - preflight.REPORT  # a chain alone makes none
    assert peak <= estimate <= 3 * peak + 5 * preflight.SCORES, (peak, asked)


@pytest.mark.slow
@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_at_every_call(tmp_path, whole, how: str) -> None:
    wanted, calls, _ = whole
    places = range(1, len(calls) + 1, EVERY)
    for crash in places:
        survives(fragile_config(tmp_path / "runs"), [(crash, how)], wanted)
    print(f"{how}: {len(places)} of {len(calls)} calls")


@pytest.mark.slow
def test_two_crashes_in_a_row(tmp_path, whole) -> None:
    wanted, calls, _ = whole
    draw = random.Random(1)
    for _ in range(200 // EVERY):
        crashes = [(draw.randrange(1, len(calls)), draw.choice(CRASHES)) for _ in range(2)]
        survives(fragile_config(tmp_path / "runs"), crashes, wanted)
    print(f"{200 // EVERY} pairs of crashes")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_output_that_cannot_be_written_says_nothing_of_another_disk(number: int) -> None:
    said = of_disk(OUTPUT, OSError(number, os.strerror(number)))
    assert said.startswith(f"standard output: {os.strerror(number)}; ")
    assert "MB free" not in said and "retain" not in said and len(said) <= 300
