"""One reader for files and the command line: the same text means the same, names stay as they are written, and what is written
is read back."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Lab
from hypothesis import given, settings
from hypothesis import strategies as st

from collapselab.cli.experiment import read_experiment
from collapselab.cli.options import Options, config_from, run_config
from collapselab.config import CorpusConfig, RunConfig, UserError, as_dict
from collapselab.corpus.prepared import prepare
from collapselab.store.yaml_files import as_text, dump_yaml, load_yaml, read, scalar

# Texts that some reader of YAML takes for something else than text.
WORDS = (
    *(
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
        "true",
        "True",
        "FALSE",
        "null",
        "Null",
        "~",
        "010",
        "017",
        "01",
        "1.0",
        "1.10",
        "1e5",
    ),
    *(
        "3e5",
        "1_0",
        "1:30",
        "190:20:30",
        "0x10",
        "0o17",
        "0b11",
        "+1",
        "-0",
        ".5",
        "5.",
        ".inf",
        ".nan",
        "2024-01-01",
        "=",
        "<<",
    ),
    *(
        "2024-01-01T10:00:00Z",
        '"~"',
        "'no'",
        '""null""',
        "",
        " ",
        "- a",
        "{a}",
        "#x",
        "a: b",
        "!x",
        "&a",
        "*a",
        "\u00e9",
        "1\u0661",
    ),
)


def asked(*arguments: str) -> RunConfig:
    options = Options("run", "")
    options.add_run_keys()
    return run_config(options.parse(options.gather(list(arguments))))


def in_file(folder: Path, text: str) -> RunConfig:
    (folder / "a.yaml").write_text(text, encoding="utf-8")
    return config_from(folder / "a.yaml")


def outcome(key: str, make: Any) -> Any:
    """The value of a key, or what is said of it without the file's name."""
    try:
        value: Any = make()
    except UserError as error:
        return str(error).split(".yaml: ")[-1]
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    "text", [word for word in WORDS if word.strip(" =<") and word[0] not in "-{#!&*\"'" and ": " not in word]
)
@pytest.mark.parametrize(
    "key", ["seed", "training.lr", "training.epochs", "progress", "training.compile", "corpus.column"]
)
def test_a_text_means_the_same_in_a_file_and_on_the_command_line(tmp_path: Path, key: str, text: str) -> None:
    if key == "corpus.column" and text in ("null", "Null", "~"):
        pytest.skip("a plain null in a file is no text; a shell has nothing else")
    if scalar(text) is None and key in ("seed", "training.lr", "progress"):
        pytest.skip("refused by both, in a file with a remedy of its own")
    assert outcome(key, lambda: in_file(tmp_path, f"{key}: {text}\n")) == outcome(key, lambda: asked(f"--{key}={text}"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3e5", 300000), (int, "1.5e3", 1500), (int, "30e-1", 3), (int, "0x10", 16), (int, "0o17", 15), (int, "+1", 1),
        (int, "-0", 0), (float, "1e-3", 0.001), (float, "3", 3.0), (float, ".5", 0.5), (float, "5.", 5.0), (float, "0x10", 16.0),
        (bool, "true", True), (bool, "False", False), (int | None, "~", None), (int | None, "7", 7), (str, "null", "null"),
        (str | None, "null", None), (str | None, '"null"', "null"), (str, "010", "010"), (list[float], "[1, 5e-1]", [1.0, 0.5]),
        (list[int], "[1, 2e0]", [1, 2]), (list[int] | None, "null", None), 
        (dict, "{no: {a: 1}, 1.10: null}", {"no": {"a": 1}, "1.10": None}),
        (dict, '{"a": 1.10}', {"a": "1.10"}),
    ],
)  # fmt: skip
def test_what_a_text_means(kind: Any, text: str, value: Any) -> None:
    found = read(text, kind)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(
            (int, text)
            for text in ("1.0", "3e-1", "1e400", "9" * 5000, "010", "1_0", "1:30", "true", "", "\u0661", "nan", "[1]")
        ),
        *((float, text) for text in ("nan", "inf", "01.5", "1_0.5", "1:30", "fast", "0x", "1" * 5000 + "x")),
        *((bool, text) for text in ("yes", "on", "1", "y", "tRue", "")),
        *((list[float], text) for text in ("[010]", "[true]", "[null]", "[[1]]", "1", "{a: 1}", "[1", "[NaN]", "")),
        *((dict, text) for text in ("a", "[a]", "{a: 1", "")),
    ],
)
def test_what_is_no_value_of_a_type(kind: Any, text: str) -> None:
    with pytest.raises(ValueError):
        read(text, kind)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--seed=010"], "seed='010': must be a whole number (YAML 1.1 takes 010 for 8)"),
        (["--training.lr", "1:30"], "training.lr='1:30': must be a number (YAML 1.1 takes 1:30 for 90)"),
        (["--generations=1_0"], "generations='1_0': must be a whole number (YAML 1.1 takes 1_0 for 10)"),
        (["--progress=yes"], "progress='yes': must be true or false (YAML 1.1 takes yes for true)"),
        (
            ["--mixing.values=[0.5, 010]"],
            "mixing.values='[0.5, 010]': must be a list of numbers (YAML 1.1 takes 010 for 8)",
        ),
        (["--judging.judges", "valid"], "judging.judges='valid': must be a list of names"),
        (["--judging.errors={fpr: 1}"], "judging.errors='{fpr: 1}': must be a list of patterns"),
        (["--judging.errors=[0.5]"], "judging.errors='[0.5]': must be a list of patterns"),
        (["--mixing.values=0.5"], "mixing.values='0.5': must be a list of numbers"),
        (["--seed=2024-01-01"], "seed='2024-01-01': must be a whole number (YAML 1.1 takes 2024-01-01 for 2024-01-01)"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_it_was_taken_for(line: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        asked(*line)
    assert str(caught.value) == said


ARMS = ("yes", "true", "on", "no", "1", "01", "1.0", "017", "1_0", "0x10", "1e5", "null", "2024-01-01", "1.10", "True")


def test_arms_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "arms.yaml"
    lines = [f"  {name}: {{mixing.start: 0.{at + 1:02d}}}" for at, name in enumerate(ARMS)]
    path.write_text("\n".join(["seeds: [1]", "baseline: 01", "arms:", *lines]) + "\n")
    asked, _ = read_experiment(["--config", str(path)])
    assert tuple(asked.arms) == ARMS and asked.baseline == "01"
    assert [config.mixing.start for config in asked.arms.values()] == [(at + 1) / 100 for at in range(len(ARMS))]
    kept = tmp_path / "experiment.yaml"
    kept.write_text(dump_yaml(asked.asked()))
    again, _ = read_experiment(["--config", str(kept)])
    assert again == asked
    assert tuple(yaml.safe_load(kept.read_text())["arms"]) == ARMS  # as the page and `watch` read it


@pytest.mark.parametrize("second", ["yes", "'yes'", '"yes"'])
def test_two_arms_of_one_name_are_refused(lab: Lab, tmp_path: Path, second: str) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text(f"seeds: [1]\narms:\n  yes: {{}}\n  {second}: {{mixing.start: 0.5}}\n")
    code, _, err = lab("experiment", "--config", str(path), "--print-config")
    assert code == 2 and "key 'yes' occurs twice" in err


@pytest.mark.parametrize(
    "word", [word for word in WORDS if word and word.isascii() and all(c.isalnum() or c in "._+-=" for c in word)]
)
def test_a_name_stays_as_it_is_written(tmp_path: Path, word: str) -> None:
    if not word[0].isalnum():
        pytest.skip("no name of a folder")
    assert in_file(tmp_path, f'name: "{word}"\n').name == word
    if scalar(word) is not None and ":" not in word:
        assert in_file(tmp_path, f"name: {word}\n").name == word
    assert asked(f"--name={word}").name == word


TEXTS = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
SHARES = st.floats(0, 1, allow_nan=False)
CONFIGS = st.builds(
    RunConfig,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,20}", fullmatch=True).filter(lambda name: ".." not in name),
    runs_dir=TEXTS.filter(lambda text: bool(text.strip())).filter(lambda text: not text.startswith("~")),
    seed=st.integers(0, 2**63 - 1),
    corpus=st.builds(CorpusConfig, joiner=st.none() | TEXTS, column=TEXTS),
    mixing=st.builds(lambda start: RunConfig().mixing.__class__(start=start), SHARES),
    training=st.builds(lambda lr: RunConfig().training.__class__(lr=lr), st.floats(1e-300, 1)),
)


@settings(max_examples=60, deadline=None)
@given(config=CONFIGS)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, config: RunConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "kept.yaml"
    text = dump_yaml(as_dict(config))
    path.write_text(text, encoding="utf-8")
    assert config_from(path) == config
    assert yaml.safe_load(text) == as_dict(config) == load_yaml(path)  # by another reader too
    path.write_text(yaml.safe_dump(as_dict(config), sort_keys=False), encoding="utf-8")  # as others write it
    assert config_from(path) == config


@given(value=TEXTS | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False))
def test_a_value_goes_through_a_command_line(value: Any) -> None:
    kind: Any = str if value is None else type(value)
    assert read(as_text(value), kind | None) == value


def test_fifty_thousand_shares_are_read_at_once(lab: Lab, tmp_path: Path) -> None:
    shares = json.dumps([0.5] * 50_000)
    path = tmp_path / "long.yaml"
    path.write_text(f"mixing: {{schedule: list, values: {shares}}}\ngenerations: 2\n")
    before = os.times()
    assert len(config_from(path).mixing.values) == 50_000
    spent = os.times().user - before.user
    before = os.times()
    yaml.safe_load(path.read_text())
    assert spent < 3 * (os.times().user - before.user) + 1
    code, _, err = lab("run", "--config", str(path), "--generations", "60000")
    assert code == 2 and "give one share for each of the 60000 generations" in err and len(err) <= 301


# --- ~ --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [("runs_dir", "~/runs"), ("data_dir", "~/data"), ("model.pretrained", "~/model"), ("corpus.tokenizer", "~/tok")],
)
def test_a_home_directory_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    meant = value.replace("~", "/home/someone")
    assert outcome(key, lambda: asked(f"--{key}={value}")) == meant
    assert outcome(key, lambda: in_file(tmp_path, f"{key}: {value}\n")) == meant
    here = pwd.getpwuid(os.getuid())
    assert outcome(key, lambda: asked(f"--{key}=~{here.pw_name}/x")) == f"{here.pw_dir}/x"
    assert outcome(key, lambda: asked(f"--{key}=a~/x")) == "a~/x"


def test_a_pattern_keeps_its_tilde_for_it_is_a_part_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert asked("--corpus.source=path:~/a*.txt").corpus.source == "path:~/a*.txt"
    with pytest.raises(UserError, match="~nosuch has no known home directory"):
        asked("--corpus.source=path:~nosuch/a.txt")


def test_every_path_of_every_verb_may_begin_with_a_tilde(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for line in (
        ["report", "~/none"], ["export", "~/none"], ["sync", "~/none"], ["sample", "~/none"], ["eval", "~/none"],
        ["watch", "~/none"],
        ["eval", "x", "--run=~/none"], ["run", "--fork=~/none", "--at=0", "--name=b"], ["run", "--config=~/none"],
        ["experiment", "--base=~/none"], ["reproduce", "--list", "--papers=~/none"], ["reproduce", "--list", "--papers", "~/none"],
    ):  # fmt: skip
        code, _, err = lab(*line)
        assert code == 2 and f"{tmp_path}/none" in err, (line, err)
        code, _, err = lab(*(item.replace("~/", "~nosuch/") for item in line))
        assert code == 2 and "~nosuch has no known home directory" in err, (line, err)


def test_folders_of_the_environment_may_begin_with_a_tilde(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts" / "mine").mkdir(parents=True)
    (tmp_path / "texts" / "mine" / "a.txt").write_text("\n\n".join(f"The text of document {n}." for n in range(200)))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for key in ("COLLAPSELAB_DATA", "COLLAPSELAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("COLLAPSELAB_DATA", "~/texts")
    for key, place in (("COLLAPSELAB_CACHE", "caches"), ("XDG_CACHE_HOME", "caches/collapselab")):
        monkeypatch.setenv(key, "~/caches")
        assert prepare(CorpusConfig(source="mine", document="paragraph", tokenizer="bytes", shared_passages="keep"))
        assert (tmp_path / place).is_dir() and not (tmp_path / "~").exists()
        monkeypatch.setenv(key, "~nosuch/x")
        with pytest.raises(UserError, match=f"{key}='~nosuch/x': ~nosuch has no known home directory"):
            prepare(CorpusConfig(source="mine", tokenizer="bytes"))
        monkeypatch.delenv(key)
    monkeypatch.setenv("COLLAPSELAB_DATA", "~nosuch/x")
    code, _, err = lab("corpus", "--show", "mine")
    assert code == 2 and "COLLAPSELAB_DATA='~nosuch/x': ~nosuch has no known home directory" in err


# --- hyphens --------------------------------------------------------------------------------------------------------------


def test_hyphen_and_underscore_are_equal_in_names_of_options(lab: Lab, tmp_path: Path) -> None:
    both = [
        ["--runs-dir=a", "--mixing.start=0.5", "--training.batch-size", "8"],
        ["--runs_dir=a", "--mixing.start=0.5", "--training.batch_size", "8"],
    ]
    shown = [lab("run", *line, flag) for line in both for flag in ("--print-config", "--print_config")]
    assert shown[0][0] == 0 and all(one == shown[0] for one in shown)
    path = tmp_path / "a.yaml"
    path.write_text("training: {batch-size: 8}\n")
    code, _, err = lab("run", "--config", str(path))
    assert code == 2 and "training.batch-size: no such key; did you mean 'training.batch_size'?" in err
    code, _, err = lab("run", "--training.batchsize=8")
    assert "did you mean 'training.batch-size'?" in err
    assert "--dry-run" in lab("run", "--help")[1] and "_" not in "".join(
        word for word in lab("run", "--help")[1].split() if word.startswith(("--", "[--"))
    )


def test_the_gallery_has_no_number_that_readers_differ_in() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        old, new = yaml.safe_load(path.read_text(encoding="utf-8")), load_yaml(path)
        assert json.dumps(old, default=str) == json.dumps(new, default=str), path
