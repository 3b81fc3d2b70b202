"""Opening a chain: who holds it, its own files damaged one by one, other settings, another machine, strange entries."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from helpers import one_process, small_config

from collapselab.chain.opening import chain_path, open_corpus, opening_chain
from collapselab.chain.preflight import preflight
from collapselab.chain.run import run
from collapselab.config import RunConfig, UserError
from collapselab.corpus.prepared import Corpus
from collapselab.experiments.experiment import Experiment
from collapselab.report.pages import write_report
from collapselab.store import folders
from collapselab.store import lock as lock_module
from collapselab.store.chain_files import keep_call
from collapselab.store.folders import read_json, write_json
from collapselab.store.layout import Chain, find_chains, keep_batch
from collapselab.store.lock import HeldError, try_lock, wait_for_lock
from collapselab.store.seals import COPY, IDENTITY, TEXT_SEAL, json_text, recorded, sealed, unsealed


def truncated(data: bytes) -> bytes:
    return data[:-1]


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 3] ^= 4
    return bytes(changed)


def without_seal(data: bytes) -> bytes:
    if data.startswith(TEXT_SEAL.encode()):
        return data.partition(b"\n")[2]
    return json_text({key: held for key, held in json.loads(data).items() if key != "seal"}).encode()


DAMAGES: list[Callable[[bytes], bytes | None]] = [truncated, halved, flipped, lambda data: b"", lambda data: None]


def damage(path: Path, how: Callable[[bytes], bytes | None]) -> None:
    data = how(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus(small_config(), one_process())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a chain that shares generation 0, and a fork of it in the same folder (do not change them)."""
    folder = tmp_path_factory.mktemp("opening")
    first, _ = run(small_config(runs_dir=str(folder), generations=1), shares_generation_0=True)
    run(small_config(runs_dir=str(folder), generations=1, arm="fork", sampling__temperature=0.9), fork=(first, 0))
    write_report(folder / "test")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    def copy(source: str, target: str) -> object:  # large files are never written in place
        return (os.link if source.endswith((".safetensors", ".bin")) else shutil.copyfile)(source, target)

    shutil.copytree(made / "test", tmp_path / "test", copy_function=copy)
    return tmp_path


def settings(folder: Path, **changes: Any) -> RunConfig:
    return small_config(**({"runs_dir": str(folder), "generations": 1} | changes))


def of_fork(folder: Path) -> RunConfig:
    return settings(folder, arm="fork", sampling__temperature=0.9)


def opens(config: RunConfig, corpus: Corpus, *, shares_generation_0: bool = False) -> Path:
    """Opens a chain as a run does, and closes it."""
    checked = preflight(config, corpus, Chain(chain_path(config)))
    with opening_chain(checked, one_process(), shares_generation_0):
        pass
    return chain_path(config)


def content(folder: Path, leave: tuple[str, ...] = ("environment.json", "events.log", "lock")) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in leave}


# --- the chain's own files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        IDENTITY,
        COPY,
        "shared.json",
        "config.yaml",
        "environment.json",
        "batch.json",
        "fork/fork.json",
        "fork/batch.json",
    ],
)
def test_each_file_of_a_chain_is_missed_where_it_is_damaged_and_comes_back(
    folder: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    config = of_fork(folder) if name.startswith("fork/") else settings(folder)
    path = chain_path(config) / name.removeprefix("fork/")
    if name == "batch.json":
        path = Chain(path.parent).batch_file
    opens(config, corpus)  # the copy lies in another runs_dir, and config.yaml says so
    before, whole = content(folder), path.read_bytes()
    for how in DAMAGES if path.name in ("shared.json", "fork.json") else [*DAMAGES, without_seal]:
        capsys.readouterr()
        damage(path, how)
        opens(config, corpus)
        said = [line for line in capsys.readouterr().err.splitlines() if str(path) in line]
        assert len(said) == 1 and said[0].startswith((f"{path}: missing; ", f"{path}: damaged")), said
        assert content(folder) == before and path.read_bytes() == whole
        assert said[0] in (folder / "test" / "events.log").read_text()
    opens(config, corpus)
    assert str(path) not in capsys.readouterr().err


def test_a_flipped_bit_anywhere_in_an_identity_is_found(folder: Path) -> None:
    """Also where the file stays readable: another value would be taken for another configuration."""
    root = chain_path(settings(folder))
    whole, facts = (root / IDENTITY).read_bytes(), recorded(root)
    assert facts is not None and facts.wrong == {}
    for turn, place in enumerate(range(0, len(whole), 3)):
        data = bytearray(whole)
        data[place] ^= 1 << turn % 8
        (root / IDENTITY).write_bytes(data)
        found = recorded(root)
        assert found is not None and found.facts == facts.facts and found.wrong == {IDENTITY: "damaged"}, place


@pytest.mark.parametrize("how", [truncated, lambda data: None])
def test_without_a_whole_identity_nothing_is_done(
    folder: Path, corpus: Corpus, how: Callable[[bytes], bytes | None]
) -> None:
    config = settings(folder)
    root = chain_path(config)
    damage(root / IDENTITY, halved if how is truncated else how)
    damage(root / COPY, how)
    before = content(folder)
    with pytest.raises(UserError) as refused:
        run(config, shares_generation_0=True)
    assert str(root) in str(refused.value) and IDENTITY in str(refused.value) and "another name" in str(refused.value)
    assert content(folder) == before


def test_readers_take_what_is_shared_from_the_identity_and_refuse_other_settings(folder: Path, lab: Lab) -> None:
    root = chain_path(settings(folder))
    (root / "shared.json").write_text("[")
    assert Chain(root).stage(0, "train") != root / "gen_000" / "train"
    assert root in find_chains(folder / "test")
    for wrong in ("damaged", "missing"):
        damage(root / "config.yaml", flipped if wrong == "damaged" else lambda data: None)
        code, _, err = lab("report", str(folder / "test"))
        assert (
            code == 2 and err.count("\n") == 1 and f"{root}/config.yaml: {wrong}" in err and "continue the run" in err
        )


def test_a_chain_without_a_seal_is_refused_and_left_as_it_is(folder: Path, corpus: Corpus, lab: Lab) -> None:
    config = settings(folder)
    root = chain_path(config)
    for name in (IDENTITY, "config.yaml"):
        damage(root / name, without_seal)
    (root / COPY).unlink()
    before = content(folder, ())
    line = f"{root}/{IDENTITY}: not in this lab's format (no seal); repeat the run under another name"
    with pytest.raises(UserError) as refused:
        opens(config, corpus)
    assert str(refused.value) == line
    assert lab("report", str(folder / "test")) == (2, "", f"collapselab: error: {line}\n")
    assert content(folder, ()) == before


def test_a_start_that_was_stopped_before_the_identity_is_begun_anew(tmp_path: Path, corpus: Corpus, made: Path) -> None:
    """What it left of other settings is not taken over."""
    config = settings(tmp_path, training__lr=1e-2)
    root = chain_path(config)
    shutil.copytree(chain_path(settings(made)), root, ignore=shutil.ignore_patterns("gen_*", "identity*", "metrics*"))
    assert Chain(root).stage(0, "train").exists() is False
    old = read_json(root / "shared.json")
    opens(config, corpus)
    facts = recorded(root)
    assert facts is not None and facts.facts["shared"] == read_json(root / "shared.json") != old

    (tmp_path / "fork").mkdir()
    fork, parent = of_fork(tmp_path / "fork"), chain_path(settings(made))
    shutil.copytree(Chain(parent).stage(0, "mixture"), chain_path(fork) / "gen_000" / "mixture")
    with pytest.raises(UserError, match=r"no identity\.json"):
        opens(fork, corpus)
    with opening_chain(preflight(fork, corpus, Chain(chain_path(fork)), (parent, 0)), one_process()):
        assert Chain(chain_path(fork)).finished() == [0]


def test_a_start_that_is_killed_at_any_of_its_writes_is_no_damage(
    tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new chain, and one whose settings have changed; only the second copy of the identity may lag behind."""
    write = folders.write_bytes
    longer = LISTED | {"generations": 3, "mixing__values": [0.5, 0.25, 0.1]}
    for last in range(6):
        name = f"killed-{last}"
        for config in (settings(tmp_path, name=name, **LISTED), settings(tmp_path, name=name, **longer)):
            left = last

            def killed(path: Path, data: bytes) -> None:
                nonlocal left
                if left == 0:
                    path.with_name(f".{path.name}.1.tmp").write_bytes(data[:5])
                    raise KeyboardInterrupt
                left -= 1
                write(path, data)

            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                patch.setattr(folders, "write_bytes", killed)
                opens(config, corpus, shares_generation_0=True)
            capsys.readouterr()
            root = opens(config, corpus, shares_generation_0=True)
            wrong = [line for line in capsys.readouterr().err.splitlines() if "restored" in line or "rewritten" in line]
            assert all(line.startswith(f"{root}/{COPY}: ") for line in wrong), wrong
            assert not list(root.glob(".*")) and (root / IDENTITY).read_bytes() == (root / COPY).read_bytes()


def test_a_fork_takes_the_batch_of_its_parent_also_where_that_file_is_damaged(
    made: Path, folder: Path, corpus: Corpus
) -> None:
    parent = chain_path(settings(folder))
    Chain(parent).batch_file.write_text("{}")
    fork = settings(folder, arm="other", mixing__start=0.9)
    with opening_chain(preflight(fork, corpus, Chain(chain_path(fork)), (parent, 0)), one_process()):
        assert read_json(chain_path(fork) / "batch.json")["batch_size"] == 64
    assert read_json(chain_path(fork) / "fork.json") == {
        "parent": read_json(chain_path(of_fork(folder)) / "fork.json")["parent"], "name": str(parent), "at": 0, "batch": 64,
        "changed": ["mixing.start"], "path": "../../arm=main/seed=1",
    }  # fmt: skip


def test_a_batch_that_was_halved_stays_and_one_without_any_text_is_chosen_anew(
    folder: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    config = of_fork(folder)
    path = chain_path(config) / "batch.json"
    keep_batch(path, 8)
    opens(config, corpus)
    assert read_json(path)["batch_size"] == 8
    new = settings(folder, name="new", generations=0)
    opens(new, corpus)
    (chain_path(new) / "batch.json").write_text("{")
    opens(new, corpus)
    assert f"{chain_path(new)}/batch.json: damaged; a new batch size is chosen" in capsys.readouterr().err
    assert not (chain_path(new) / "batch.json").exists()


@pytest.mark.parametrize("name", ["experiment.yaml", "timing.json"])
def test_each_file_of_an_experiment_is_missed_where_it_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    experiment = Experiment({"a": settings(tmp_path, arm="a")}, {"a": []}, [1], "a")
    experiment.save()
    path = experiment.root / name
    for how in [*DAMAGES, without_seal]:
        keep_call(experiment.root, {"seconds": 1.0})
        experiment.save()
        assert capsys.readouterr().err == ""
        whole = path.read_bytes()
        damage(path, how)
        experiment.save()
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err.startswith((f"{path}: missing; ", f"{path}: damaged")), err
        calls = read_json(experiment.root / "timing.json")["calls"]
        assert path.read_bytes() == whole if name == "experiment.yaml" else calls == []


# --- other settings, another machine ----------------------------------------------------------------------------------

LISTED = {"mixing__schedule": "list", "mixing__values": [0.5, 0.25], "generations": 2}


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ({}, {"training__lr": 0.5, "sampling__top_k": 7}, "sampling.top_k was 0, is 7; training.lr was 0.003, is 0.5"),
        ({}, {"deterministic": True}, "deterministic was False, is True"),
        ({}, {"mixing__regime": "accumulate"}, "mixing.regime was 'replace', is 'accumulate'"),
        ({}, {"evaluation__tokens": 512}, "evaluation.tokens was 1024, is 512"),
        ({}, {"retain": "last", "training__checkpoint_seconds": 1.0, "training__checkpoint_steps": 2}, None),
        ({}, {"progress": True, "data_dir": "/nowhere", "tracking__project": "other"}, None),
        ({}, {"generations": 9}, None),
        ({"mixing__schedule": "linear"}, {"mixing__schedule": "linear", "generations": 9}, "generations was 1, is 9"),
        ({"mixing__schedule": "cosine"}, {"mixing__schedule": "cosine", "generations": 0}, "generations was 1, is 0"),
        ({"mixing__schedule": "linear"}, {"mixing__schedule": "constant", "generations": 9}, "(mixing.schedule was 'linear'"),
        (LISTED, LISTED | {"generations": 3, "mixing__values": [0.5, 0.25, 0.1]}, None),
        (LISTED, LISTED | {"mixing__values": [0.5, 0.3]}, "mixing.values was [0.5, 0.25], is [0.5, 0.3]"),
        (LISTED, LISTED | {"mixing__values": [0.5], "generations": 1}, "mixing.values was [0.5, 0.25], is [0.5]"),
        (LISTED, {"generations": 2}, "mixing.values was [0.5, 0.25], is []"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_key_and_harmless_ones_may_change(
    tmp_path: Path, corpus: Corpus, first: dict[str, Any], second: dict[str, Any], refused: str | None
) -> None:
    root = opens(settings(tmp_path, **first), corpus)
    before = content(root, ())
    config = settings(tmp_path, **second)
    with pytest.raises(UserError) if refused else nullcontext() as error:
        opens(config, corpus)
    if error is not None:
        assert refused in str(error.value) and "the chain has another configuration" in str(error.value)
        assert content(root, ()) == before
        return
    opens(config, corpus)
    if first != LISTED:  # a list that has grown is part of what the chain is from then on
        opens(settings(tmp_path, **first), corpus)
        return
    with pytest.raises(UserError, match=r"mixing\.values was \[0.5, 0.25, 0.1\]"):
        opens(settings(tmp_path, **first), corpus)


def test_a_chain_does_not_shrink_and_an_arm_is_not_another_one(folder: Path, corpus: Corpus) -> None:
    with pytest.raises(UserError, match="generations=0: the chain has reached 1; ask for 1 or more"):
        opens(settings(folder, generations=0), corpus)
    with pytest.raises(UserError, match=r"sampling\.temperature was 0\.9, is 1\.0"):
        opens(settings(folder, arm="fork"), corpus)


def test_another_machine_is_noted_and_the_earlier_ones_are_kept(
    folder: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(folder)
    path = chain_path(config) / "environment.json"
    now = unsealed(path.read_bytes())
    assert now is not None and "earlier" not in now
    for turn in (1, 2):
        other = unsealed(path.read_bytes())
        write_json(path, sealed((other or {}) | {"threads": 77, "torch": f"{turn}.0", "cuda": "another card"}))
        opens(config, corpus)
        note = f"note: torch was {turn}.0, is {now['torch']}, threads was 77, is {now['threads']}: results from here on may"
        assert note in capsys.readouterr().err
        opens(config, corpus)
        assert "note:" not in capsys.readouterr().err
    earlier = read_json(path)["earlier"]
    assert [(e["torch"], e["threads"], e["generations"]) for e in earlier] == [("1.0", 77, [0, 1]), ("2.0", 77, [0, 1])]


# --- who holds it -----------------------------------------------------------------------------------------------------

HOLDS = """
import os, sys, time
from pathlib import Path
from collapselab.store.lock import try_lock
lock = try_lock(Path(sys.argv[1]))
if sys.argv[2] == "child" and os.fork() == 0:
    time.sleep(float(sys.argv[3]))
    os._exit(0)
print("ready", flush=True)
if sys.argv[2] == "briefly":
    sys.stdin.readline()
    time.sleep(float(sys.argv[3]))
    lock.release()
time.sleep(60)
"""


def holder(path: Path, *how: str) -> subprocess.Popen[str]:
    """A process that has the lock."""
    command = [sys.executable, "-c", HOLDS, str(path), *(how or ("alone",))]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None and made.stdout.readline() == "ready\n"
    return made


def test_a_second_process_says_who_has_the_chain_and_takes_over_from_a_dead_one(
    folder: Path, corpus: Corpus, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    root = opens(settings(folder), corpus)
    other = holder(root / "lock")
    before = content(folder, ())
    code, out, err = lab("run", "--config", str(root / "config.yaml"))
    who = f"process {other.pid} on {socket.gethostname()} since 2"
    assert (code, out) == (2, "") and err.count("\n") == 1 and f"{root}: {who}" in err
    assert "has locked this chain; wait for it or stop it" in err and content(folder, ()) == before
    code, _, err = lab("eval", str(root))
    assert code == 2 and err.count("\n") == 1 and f"{root}: {who}" in err
    other.kill()
    other.wait()
    capsys.readouterr()
    opens(settings(folder), corpus)
    err = capsys.readouterr().err
    assert f"{root}/lock: took over the lock of {who}" in err and "which no longer runs" in err
    assert (root / "lock").read_bytes() == b""
    opens(settings(folder), corpus)
    assert "took over" not in capsys.readouterr().err


def test_the_child_of_a_killed_process_is_waited_for_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = holder(path, "child", "1.5")
    with pytest.raises(HeldError) as refused:
        try_lock(path)
    assert refused.value.process == str(other.pid)
    os.kill(other.pid, signal.SIGKILL)  # a zombie: nobody has asked how it ended
    lock = try_lock(path)
    assert lock.line is not None and f"took over the lock of process {other.pid} on" in lock.line
    assert read_json(path)["pid"] == os.getpid() and len(read_json(path)["command"]) <= 200
    with pytest.raises(HeldError):
        try_lock(path)
    lock.release()
    other.wait()
    assert path.read_bytes() == b""


def test_a_lock_that_is_given_back_is_free_though_a_child_has_inherited_it(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    lock.release()
    again = try_lock(tmp_path / "lock")
    assert again.line is None
    again.release()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    "said", [b'{"pid": 12', b"\xff\xfe\x00", b"[]", b'{"pid": "x"}', b"[" * 5000, b"4242", b"\x1b[31m\n"]
)
def test_a_torn_or_strange_lock_file_is_no_error(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "lock"
    with path.open("wb") as other:
        other.write(said)
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HeldError) as refused:
            try_lock(path)
    assert str(refused.value) == f"{tmp_path}: another process has locked this chain; wait for it or stop it"
    lock = try_lock(path)
    assert lock.line is not None and "took over the lock of" in lock.line and "\x1b" not in lock.line
    lock.release()


def test_who_waits_for_a_shared_folder_says_for_whom(tmp_path: Path) -> None:
    other = holder(tmp_path / "lock", "briefly", "0.5")
    assert other.stdin is not None
    other.stdin.write("\n")
    other.stdin.flush()
    said: list[str] = []
    with wait_for_lock(tmp_path / "lock", said.append):
        assert len(said) == 1 and said[0].startswith(f"queued: waiting for process {other.pid} on")
    other.kill()
    other.wait()


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock_module.fcntl, "flock", none)
    with pytest.raises(UserError, match=r"lock: this file system has no locks .*; choose a runs_dir on another one"):
        try_lock(tmp_path / "lock")


@pytest.mark.parametrize("name", ["lock", "config.yaml", "../../events.log"])
def test_what_cannot_be_written_is_named(folder: Path, corpus: Corpus, name: str) -> None:
    config = settings(folder)
    path = Path(os.path.normpath(chain_path(config) / name))
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError) as refused:
        opens(config, corpus)
    assert str(refused.value).startswith(f"{path}: cannot be read or written (Is a directory)")


# --- strange entries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["lock", IDENTITY, "shared.json", ".config.yaml.1.tmp", "gen_001/train/model.safetensors", "gen_001/eval", "wandb",
     "../../events.log", "../../report", "../../report/index.html", "../../shared", "../../experiment.yaml", ".."],
)  # fmt: skip
def test_a_link_in_a_run_is_refused_before_anything_is_written(folder: Path, lab: Lab, place: str) -> None:
    root = chain_path(settings(folder))
    path = Path(os.path.normpath(root / place))
    outside = folder / "outside"
    if path.exists():
        path.rename(outside)
    else:
        outside.write_text("mine")
    path.symlink_to(outside)
    before = content(folder, ())
    with pytest.raises(UserError) as refused:
        run(settings(folder), shares_generation_0=True)
    assert str(refused.value).startswith(f"{path}: a symbolic link") and "remove it" in str(refused.value)
    for line in (("report", str(folder / "test")), ("eval", str(root)), ("sample", str(root)), ("sync", str(root))):
        code, _, err = lab(*line)
        assert code == 2 and err.count("\n") == 1 and f"{path}: a symbolic link" in err, err
    with pytest.raises(UserError, match="a symbolic link"):
        run(settings(folder, name="fork"), fork=(root, 0))
    assert content(folder, ()) == before


@pytest.mark.parametrize(
    "place", ["lock", IDENTITY, "shared.json", "gen_001/mixture/mixture.json", "../../timing.json"]
)
def test_a_pipe_in_a_run_does_not_hang_it(folder: Path, place: str) -> None:
    path = Path(os.path.normpath(chain_path(settings(folder)) / place))
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    experiment = Experiment({"a": settings(folder, arm="a")}, {"a": []}, [1], "a")
    for asks in (
        lambda: run(settings(folder), shares_generation_0=True),
        lambda: find_chains(folder / "test"),
        experiment.save,
    ):
        with pytest.raises(UserError) as refused:
            asks()
        assert str(refused.value).startswith(f"{path}: a pipe")


def test_a_socket_is_refused_and_links_of_the_users_and_of_wandb_are_not(folder: Path, corpus: Corpus) -> None:
    (folder / "real").mkdir()
    (folder / "test").rename(folder / "real" / "elsewhere")
    (folder / "real" / "test").symlink_to(folder / "real" / "elsewhere")
    (folder / "link").symlink_to(folder / "real")
    config = settings(folder / "link")
    (chain_path(config) / "wandb").mkdir()
    (chain_path(config) / "wandb" / "latest-run").symlink_to("offline-run")
    opens(config, corpus)
    assert find_chains(folder / "link" / "test")
    with socket.socket(socket.AF_UNIX) as strange:
        os.chdir(chain_path(config))  # the path of a socket is short
        try:
            strange.bind("strange")
        finally:
            os.chdir(folder)
    with pytest.raises(UserError, match="strange: a device or socket"):
        opens(config, corpus)


def test_an_identity_from_a_stranger_leads_nowhere_else(folder: Path, corpus: Corpus) -> None:
    root = chain_path(settings(folder))
    facts = unsealed((root / IDENTITY).read_bytes())
    for name in (IDENTITY, COPY):
        write_json(root / name, sealed((facts or {}) | {"shared": {"train": "../../elsewhere"}}))
    with pytest.raises(UserError, match="not written by this lab"):
        opens(settings(folder), corpus)
    (root / COPY).unlink()
    for strange in ("[" * 100_000, json.dumps({"config": [], "corpus": 5, "seal": 1}), '{"config": NaN}'):
        (root / IDENTITY).write_text(strange)
        with pytest.raises(UserError, match=r"cannot be identified|no seal"):
            opens(settings(folder), corpus)


def test_a_forged_seal_around_what_is_no_number_holds_nothing() -> None:
    for strange in (math.nan, math.inf):
        forged = json.dumps(sealed({"a": strange}), indent=1, sort_keys=True) + "\n"
        assert unsealed(forged.encode()) is None
        assert unsealed(forged.replace("Infinity", "1e999").encode()) is None
