"""Whichever way the path of a run is written, it is the same run: no verb makes anything again that is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Lab
from helpers import undrawn

import collapselab
from collapselab.store.folders import examine, publishing, read_json, sha256_of
from collapselab.store.layout import Chain, find_chains, parent_of, run_root, settled
from collapselab.store.seals import recorded

SETTINGS = {
    "generations": 1,
    "corpus": {"source": "planted", "documents": 600, "planted": {"contexts": 2, "values": 8}},
    "model": {"family": "bigram"},
    "training": {"block": 16},
    "mixing": {"tokens": 1024, "start": 0.5, "ratio": 0.5},
    "evaluation": {"tokens": 512, "sample_tokens": 256},
    "device": "cpu",
}
EXPERIMENT = SETTINGS | {"name": "x", "arms": {"a": {"mixing.start": 0.5}, "b": {"mixing.start": 0.25}}, "seeds": [1]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the settings, and runs/x: two arms that share generation 0 (do not change them)."""
    from helpers import Forking

    from collapselab.cli.main import main
    from collapselab.experiments import local

    folder = tmp_path_factory.mktemp("paths")
    (folder / "x.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    with pytest.MonkeyPatch.context() as patch, undrawn():
        patch.chdir(folder)
        patch.setattr(local, "CONTEXT", Forking())
        assert main(["experiment", "--config", "x.yaml", "--workers", "1"]) == 0
        assert main(["run", "--fork", "runs/x/arm=a/seed=1", "--at", "0", "--name", "forked", "--arm", "f"]) == 0
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers_at_once: None) -> Path:
    """A copy of it, as the home directory and the working one."""
    shutil.copytree(made, tmp_path / "home", copy_function=shutil.copy2)
    (tmp_path / "home" / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def state(runs: Path) -> dict[str, tuple[int, str]]:
    """When each published stage was made, and what it holds."""
    return {
        str(path.relative_to(runs)): (path.stat().st_mtime_ns, sha256_of(path)) for path in runs.rglob("manifest.json")
    }


def moved(home: Path) -> str:
    (home / "other").mkdir()
    (home / "runs").rename(home / "other" / "disk")
    return "other/disk"


def linked(home: Path) -> str:
    (home / "link").symlink_to("runs")
    return "link"


def from_elsewhere(home: Path) -> str:
    os.chdir(home / "empty")
    return "../runs"


FORMS: dict[str, Callable[[Path], str]] = {
    "relative": lambda home: "runs",
    "absolute": lambda home: str(home / "runs"),
    "there and back": lambda home: "./runs/../runs//",
    "upwards": from_elsewhere,
    "linked": linked,
    "moved": moved,
}


def ran(lab: Lab, *arguments: str) -> str:
    """What a command line that must succeed says."""
    code, out, err = lab(*arguments)
    assert code == 0 and "rebuilt" not in out + err and "elsewhere" not in out + err, (arguments, err)
    return out + err


@pytest.mark.parametrize("form", FORMS)
def test_no_verb_makes_anything_again_however_the_path_is_written(home: Path, lab: Lab, form: str) -> None:
    runs = FORMS[form](home)
    place = Path(os.path.realpath(runs))
    before = state(place)
    x, chain = f"{runs}/x", f"{runs}/x/arm=a/seed=1"
    with undrawn():
        for arguments in (
            ("run", "--config", f"{chain}/config.yaml"),
            ("run", "--config", f"{chain}/config.yaml", "--runs_dir", runs),
            ("run", "--config", f"{runs}/forked/arm=f/seed=1/config.yaml"),
            ("experiment", "--config", f"{x}/experiment.yaml", "--workers", "1"),
            ("experiment", "--config", str(home / "x.yaml"), "--runs_dir", runs, "--workers", "1"),
            ("report", x, "--out", "kept"),
            ("watch", "--once", x),
            ("watch", "--once", chain),
            ("sample", chain, "--show", "1"),
            ("export", chain, "--out", "exported"),
            ("eval", chain),
            ("eval", f"{chain}/gen_001/train", "--run", chain),
            ("run", "--fork", chain, "--at", "1", "--name", "second", "--generations", "1"),
        ):
            ran(lab, *arguments)
            assert before.items() <= state(place).items(), arguments
        assert collapselab.load(x).name == "x"
        ran(lab, "run", "--config", f"{chain}/config.yaml", "--generations", "2")
    after = state(place)
    assert before.items() <= after.items() and len(Chain(place / "x" / "arm=a" / "seed=1").finished()) == 3
    assert (place / "second").is_dir()  # beside its parent
    new = {path for path in after if path not in before and "rescored" not in path and not path.startswith("second")}
    assert all(path.startswith("x/arm=a/seed=1/gen_002") for path in new)
    assert place == home / "runs" or not (home / "runs").exists()


def test_a_run_in_the_home_directory_is_found_by_its_tilde(home: Path, lab: Lab) -> None:
    before = state(home / "runs")
    with undrawn():
        for line in (
            ("report", "~/runs/x"),
            ("watch", "--once", "~/runs/x"),
            ("sample", "~/runs/forked"),
            ("eval", "~/runs/forked"),
        ):
            ran(lab, *line)
    ran(lab, "export", "~/runs/forked", "--what", "samples", "--out", "exported")
    assert before.items() <= state(home / "runs").items() and not (home / "~").exists()


@pytest.mark.parametrize("verb", ["run", "report", "watch", "sample", "export"])
def test_a_chain_is_itself_from_within_and_through_a_link(home: Path, lab: Lab, verb: str) -> None:
    chain = home / "runs" / "x" / "arm=a" / "seed=1"
    (home / "a link").symlink_to(chain)
    (home / "an arm").symlink_to(chain.parent)
    before = state(home / "runs")
    said = set()
    for folder, named in (
        (home, "a link"),
        (home, "an arm/seed=1"),
        (home, "runs/x/arm=a/seed=1/gen_001/.."),
        (chain, "."),
        (chain.parent, "seed=1"),
        (chain / "gen_001", ".."),
    ):
        os.chdir(folder)
        line = {
            "run": ["run", "--config", f"{named}/config.yaml"],
            "report": ["report", named],
            "watch": ["watch", "--once", named],
            "sample": ["sample", named, "--show", "1"],
            "export": ["export", named, "--out", str(home / "exported")],
        }[verb]
        with undrawn():
            text = ran(lab, *line).replace(str(home / "runs"), "runs")
        shutil.rmtree(home / "exported", ignore_errors=True)
        said.add("\n".join(text.split("\n", 1)[1:]) if verb == "run" else text)
        assert state(home / "runs") == before, (folder, named)
    assert len(said) == 1 if verb in ("report", "sample", "export") else said


def test_a_path_is_settled_once(home: Path) -> None:
    (home / "link").symlink_to("runs/x")
    assert settled(Path("runs/../runs/./x")) == settled(Path("link")) == Path("runs/x")
    assert settled(home / "link") == home / "runs" / "x"
    os.chdir("runs/x")
    assert settled(Path()) == home / "runs" / "x" == run_root(find_chains(Path("arm=a/seed=1"))[0])
    assert settled(Path("arm=a/..")) == home / "runs" / "x"


def test_a_chain_that_was_taken_out_of_its_run_is_a_run_of_its_own(home: Path, lab: Lab) -> None:
    """And not one with whatever lies in the folder two above."""
    (home / "pipe").symlink_to("nowhere")  # what no run may hold
    shutil.copytree("runs/forked/arm=f/seed=1", "kept/seed=1")
    assert run_root(Path("kept/seed=1")) == home / "kept" / "seed=1"
    assert "stopped" not in ran(lab, "watch", "--once", "kept/seed=1")


def test_only_the_name_in_a_manifest_may_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with publishing(tmp_path / "stage", inputs={}) as out:
        (out / "file").write_text("x")
    assert examine(tmp_path / "a" / ".." / "stage")[0] is not None


@pytest.mark.parametrize("how", ["other directory", "moved together", "parent renamed"])
def test_a_fork_finds_its_parent(home: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    fork, parent = home / "runs" / "forked" / "arm=f" / "seed=1", home / "runs" / "x" / "arm=a" / "seed=1"
    facts = read_json(fork / "fork.json")
    assert facts == recorded(fork).facts["fork"] and facts["path"] == "../../../x/arm=a/seed=1"  # type: ignore[union-attr]
    if how == "moved together":
        fork, parent = (Path(str(path).replace("/runs/", "/new/")) for path in (fork, parent))
        (home / "runs").rename(home / "new")
    if how == "parent renamed":
        (home / "runs" / "x").rename(home / "runs" / "y")
        assert parent_of(fork, facts) == Path(facts["name"])
        return
    os.chdir(home / "empty")
    assert parent_of(fork, facts).absolute() == parent
    other = fork.parents[2] / "x" / "arm=b" / "seed=1"  # what lies there may be another chain
    assert parent_of(fork, facts | {"path": str(other), "name": str(parent)}) == parent


def test_a_damaged_stage_of_a_moved_fork_is_copied_again(home: Path, lab: Lab) -> None:
    (home / "runs").rename(home / "new")
    place = home / "new" / "forked" / "arm=f" / "seed=1" / "gen_000" / "train"
    file = next(place.glob("*.safetensors"))
    before = file.read_bytes()
    file.write_bytes(before[:-1])
    os.chdir(home / "empty")
    with undrawn():
        code, _, err = lab("run", "--config", "../new/forked/arm=f/seed=1/config.yaml")
    assert code == 0 and "restored from" in err and file.read_bytes() == before
