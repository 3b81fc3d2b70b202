"""Files of a run that were truncated, emptied, changed, deleted or added: named at the next start, and made again."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import STAGES, Watched, fragile_config, left

from collapselab.chain.run import run
from collapselab.config import RunConfig, UserError
from collapselab.learning import trainer
from collapselab.store import layout, unfinished
from collapselab.store.folders import examine, manifest_of, read_json, write_json

CHAIN = Path("test", "arm=main", "seed=1")
DAMAGES = ("truncated", "emptied", "flipped", "deleted")
LAST = 2


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2] if how == "truncated" else b"")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunConfig, dict[str, object]]]:
    """A finished chain (do not change it: copy it) whose middle generation has no weights, and what it left."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = fragile_config(tmp_path_factory.mktemp("damage") / "runs")
    path, _ = run(config)
    yield config, left(path)
    torch.set_num_threads(threads)


class Copied:
    """A copy of the finished chain, and what happens when it is run again."""

    def __init__(self, config: RunConfig, home: Path, said: pytest.CaptureFixture[str]):
        shutil.copytree(config.runs_dir, home)
        self.config, self.said = dataclasses.replace(config, runs_dir=str(home)), said
        self.path = home / CHAIN
        self.before = self.times()

    def times(self) -> dict[str, int]:
        """When each stage was made."""
        places = (path for path in self.path.rglob("manifest.json"))
        return {str(p.parent.relative_to(self.path)): p.stat().st_mtime_ns for p in places}

    def again(self) -> tuple[list[str], set[str]]:
        """Runs the chain: (lines on stderr but the first, stages that were made again)."""
        self.said.readouterr()
        run(self.config)
        lines = [line for line in self.said.readouterr().err.splitlines() if str(self.path) in line]
        after = self.times()
        return lines[1:], {name for name in after if after[name] != self.before.get(name)}


def files_of(stage: Path) -> list[str]:
    """Names of a published stage's files, shards and the like as they are, and its manifest."""
    manifest = manifest_of(stage) or {"files": {}}
    return [name for name in manifest["files"] if (stage / name).exists()] + ["manifest.json"]


def every_file(chain: Path) -> list[tuple[str, str]]:
    """(stage, file) of all that a chain published."""
    stages = [f"gen_{g:03d}/{name}" for g in range(LAST + 1) for name in STAGES] + ["reference"]
    return [(stage, file) for stage in stages for file in files_of(chain / stage)]


@pytest.fixture
def copied(finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Copied:
    return Copied(finished[0], tmp_path / "runs", capsys)


def mended(copied: Copied, stage: str, file: str, how: str, wanted: dict[str, object]) -> None:
    """A file that was damaged is named, and its stage alone made again, to the same digests."""
    what = (stage, file, how)
    if how == "added":
        (copied.path / stage / file).write_bytes(b"{}")
    else:
        damage(copied.path / stage / file, how)
    lines, made = copied.again()
    named = [line for line in lines if line.startswith(f"{copied.path / stage}: {file} ")]
    assert len(named) == 1 and named[0].endswith("; rebuilt"), (what, lines)
    assert made == {stage}, (what, made)
    found = left(copied.path)
    assert found == wanted, (what, [key for key in wanted if found.get(key) != wanted[key]])
    shutil.rmtree(copied.config.runs_dir)


def test_a_damaged_file_is_named_and_its_stage_made_again(finished, tmp_path: Path, capsys) -> None:
    """Every kind of file once, and every kind of damage in turn."""
    files = every_file(Path(finished[0].runs_dir) / CHAIN)
    kinds = list({(stage.rpartition("/")[2], file): (stage, file) for stage, file in files}.values())
    for i, (stage, file) in enumerate(kinds):
        mended(Copied(finished[0], tmp_path / "runs", capsys), stage, file, DAMAGES[i % 4], finished[1])


def test_a_strange_file_in_a_stage_is_named_and_removed(copied: Copied, finished) -> None:
    mended(copied, "gen_002/train", "adapter_config.json", "added", finished[1])


def test_a_manifest_without_a_seal_is_a_damaged_one(copied: Copied, finished) -> None:
    place = copied.path / "gen_001" / "mixture"
    manifest = read_json(place / "manifest.json")
    write_json(place / "manifest.json", {key: value for key, value in manifest.items() if key != "seal"})
    assert examine(place) == (None, "manifest.json is damaged")
    lines, made = copied.again()
    assert f"{place}: manifest.json is damaged; rebuilt" in lines and made == {"gen_001/mixture"}
    assert left(copied.path) == finished[1]


@pytest.mark.slow
def test_every_file_with_every_damage(finished, tmp_path: Path, capsys) -> None:
    files = every_file(Path(finished[0].runs_dir) / CHAIN)
    for stage, file in files:
        for how in DAMAGES:
            mended(Copied(finished[0], tmp_path / "runs", capsys), stage, file, how, finished[1])
    with capsys.disabled():
        print(f"{len(files)} files in {len(DAMAGES)} ways")


@pytest.mark.parametrize("stage", ["gen_000/eval", "gen_001/mixture", "gen_001/samples", "gen_002/train", "reference"])
def test_a_stage_that_is_gone_is_said_and_made_again(copied: Copied, finished, stage: str) -> None:
    shutil.rmtree(copied.path / stage)
    lines, made = copied.again()
    assert f"{copied.path / stage}: is missing; rebuilt" in lines and made == {stage}
    assert left(copied.path) == finished[1]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_metrics_file_is_named_and_made_again(copied: Copied, finished, how: str) -> None:
    damage(copied.path / "metrics.jsonl", how)
    lines, made = copied.again()
    assert len(lines) == 1 and lines[0].startswith(f"{copied.path / 'metrics.jsonl'} is ") and not made
    assert left(copied.path) == finished[1]


# --- weights that were pruned --------------------------------------------------------------------------------------------


def test_what_was_pruned_is_no_damage(copied: Copied) -> None:
    assert not (copied.path / "gen_001" / "train" / "model.safetensors").exists()
    assert copied.again() == ([], set())


@pytest.mark.parametrize("stage", ["gen_001/samples", "gen_001/eval", "gen_002/train"])
def test_pruned_weights_that_are_needed_are_trained_again_and_pruned_again(copied: Copied, finished, stage) -> None:
    damage(copied.path / stage / "manifest.json", "emptied")
    lines, made = copied.again()
    place = copied.path / "gen_001" / "train"
    assert f"{place}: its weights were pruned and are needed; retraining them" in lines and made == {stage}
    assert left(copied.path) == finished[1] and not (place / "model.safetensors").exists()


def test_pruned_weights_that_come_out_otherwise_are_refused(copied: Copied, finished, monkeypatch) -> None:
    """As on a GPU that adds in another order: here another learning rate stands for it."""
    shutil.rmtree(copied.path / "gen_001" / "samples")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "learning_rate", lambda *_: 1e-3)
        with pytest.raises(UserError, match=r"does not give the same ones again here; remove .*gen_001 and all later"):
            run(copied.config)
    _, made = copied.again()
    assert made == {"gen_001/samples"} and left(copied.path) == finished[1]


def test_retain_ends_keeps_the_end_of_every_run(finished, tmp_path: Path) -> None:
    config = dataclasses.replace(finished[0], runs_dir=str(tmp_path), retain="ends", generations=1)
    run(config)
    path, _ = run(dataclasses.replace(config, generations=3))
    assert [g for g in range(4) if (path / f"gen_{g:03d}" / "train" / "model.safetensors").exists()] == [0, 1, 3]
    assert layout.Chain(path).with_weights() == [0, 1, 3]


def test_commands_that_need_pruned_weights_name_those_that_are_kept(copied: Copied, lab) -> None:
    before = left(copied.path)
    fork = ("run", "--fork", str(copied.path), "--name", "fork", "--runs_dir", copied.config.runs_dir, "--at")
    for command in (("sample", str(copied.path), "--generation", "1"), ("eval", str(copied.path)), (*fork, "1")):
        code, _, said = lab(*command)
        assert code == 2 and len(said.splitlines()) == 1, (command, said)
        assert "pruned the weights of generations 1; it keeps those of 0, 2" in said, command
    assert not (copied.path.parents[2] / "fork").exists() and left(copied.path) == before
    code, _, said = lab("sample", str(copied.path), "--generation", "2", "--show", "1")
    assert code == 0, said
    code, _, said = lab("report", str(copied.path))
    assert code == 0, said
    code, _, said = lab(*fork, "2")
    assert code == 0, said


def test_damage_to_what_a_fork_took_along_is_not_mended_by_its_own_settings(copied: Copied) -> None:
    other = dataclasses.replace(
        copied.config, name="fork", training=dataclasses.replace(copied.config.training, lr=1e-3), generations=3
    )
    path, _ = run(other, fork=(copied.path, 2))
    assert "missing" not in copied.said.readouterr().err
    wanted = left(path)
    damage(path / "gen_002" / "samples" / "tokens-00000.bin", "flipped")
    run(other)
    assert "samples: tokens-00000.bin has other content than was written; restored from" in copied.said.readouterr().err
    assert left(path) == wanted
    for chain in (path, copied.path):
        damage(chain / "gen_002" / "samples" / "tokens-00000.bin", "flipped")
    with pytest.raises(
        UserError, match=r"samples: tokens-00000\.bin has other content.*the fork inherited it: restore .*test/arm"
    ):
        run(other)


# --- parts of a stage that is not finished -------------------------------------------------------------------------------


class HaltedError(Exception):
    pass


def halted(config: RunConfig, home: Path, before: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of nothing: a chain that ends just before it writes a file; it has checkpoints of every step and batch."""
    monkeypatch.setattr(unfinished, "COST_SHARE", 1e9)

    def look(name: str, path: str) -> None:
        if before in path:
            raise HaltedError

    with pytest.raises(HaltedError), Watched(home, look):
        run(dataclasses.replace(config, runs_dir=str(home)))
    return home / CHAIN


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_parts_are_named_and_the_others_gone_on_with(finished, tmp_path, how: str, capsys, monkeypatch) -> None:
    """The newest checkpoint within training, and a part of the text; each kind of file in them by turns."""
    for stage, before, goes_on in (
        ("train", "gen_001/.train.partial/.log.jsonl", "training resumes after step 3 of 5"),
        ("samples", "gen_001/.samples.partial/.tokens-00000.bin", "sampling resumes with 2 of 3 batches"),
    ):
        home = tmp_path / stage
        path = halted(finished[0], home, before, monkeypatch)
        part = sorted((path / "gen_001" / f"{stage}.unfinished").iterdir())[-1]
        files = sorted(file.name for file in part.iterdir())
        file = files[DAMAGES.index(how) % len(files)]
        damage(part / file, how)
        capsys.readouterr()
        run(dataclasses.replace(finished[0], runs_dir=str(home)))
        said = capsys.readouterr().err
        assert f"{part}: {file} " in said and f"generation 1: {goes_on}" in said, (file, said)
        assert left(path) == finished[1]


def test_a_checkpoint_under_the_name_of_another_is_not_believed(finished, tmp_path, capsys, monkeypatch) -> None:
    path = halted(finished[0], tmp_path, "gen_001/.train.partial/.log.jsonl", monkeypatch)
    older, newer = sorted((path / "gen_001" / "train.unfinished").iterdir())
    older.rename(older.with_name("aside"))
    newer.rename(older)
    older.with_name("aside").rename(newer)
    run(dataclasses.replace(finished[0], runs_dir=str(tmp_path)))
    said = capsys.readouterr().err
    assert f"{newer}: manifest.json is that of" in said and "training resumes" not in said
    assert left(path) == finished[1]
