"""The command line: quick to start, strict about keys, and one line for every mistake."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Lab

from collapselab.cli.common import check_out, verbs
from collapselab.cli.experiment import read_experiment
from collapselab.cli.options import config_from
from collapselab.config import CorpusConfig, ModelConfig, RunConfig, TrainingConfig, UserError, as_dict, digest
from collapselab.config.identity import identity
from collapselab.config.keys import RENAMED, run_keys
from collapselab.config.values import flatten
from collapselab.store.yaml_files import as_text, load_yaml

EXPERIMENTS = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))
SWEEPS = set((ROOT / "configs" / "sweeps").glob("*.yaml"))  # tests/test_sweeps.py
PAPERS = set((ROOT / "configs" / "papers").glob("*.yaml"))  # tests/test_reproduce.py
CONFIGS = sorted(set((ROOT / "configs").glob("**/*.yaml")) - set(EXPERIMENTS) - SWEEPS - PAPERS)


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """The exit code is 2, nothing is printed but one line on stderr, and it names all `parts`."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("collapselab: error: ") and err.endswith("\n") and err.count("\n") == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def settings(result: tuple[int, str, str]) -> dict[str, object]:
    """Flat settings that --print_config shows."""
    code, out, err = result
    assert (code, err) == (0, "")
    return flatten(yaml.safe_load(out))


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# --- help --------------------------------------------------------------------------------------------------------------


# Fixed work of the same kind, modules of the standard library imported: .10 s of CPU on the machine the bound was set on.
# The hosts that run these tests differ by two and more from minute to minute, and a second of CPU there with them.
REFERENCE = "import argparse, asyncio, email.message, http.client, inspect, json, logging.config, unittest.mock"
REFERENCE += ", xml.dom.minidom"


def _timed(*arguments: str) -> tuple[float, str]:
    """CPU seconds (user and system) of a Python process of its own, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.parametrize("verb", verbs())
def test_help_takes_under_300_ms_of_cpu_and_shows_defaults(verb: str) -> None:
    """300 ms, or three times the reference where a host is too slow to do that in 100."""
    for _ in range(3):
        seconds, text = _timed("-m", "collapselab", verb, "--help")
        if seconds < 0.3:
            break
    else:
        pairs = [(_timed("-SEc", REFERENCE)[0], _timed("-m", "collapselab", verb, "--help")[0]) for _ in range(5)]
        reference, seconds = min(first for first, _ in pairs), min(second for _, second in pairs)
        assert seconds < 3 * max(0.1, reference), pairs
    assert f"collapselab {verb}" in text
    assert "default: " in text or verb == "report"  # which has no option of its own


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom collapselab.cli.main import main\n"
        "try: main([sys.argv[1], '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('torch', 'transformers', 'tokenizers', 'datasets', 'wandb', 'accelerate', 'pandas', 'matplotlib', 'pyarrow',"
        " 'numpy')], file=sys.stderr)"
    )
    for verb in verbs():
        done = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, check=True)
        assert done.stderr == "[]\n", verb


def test_help_of_run_documents_every_key_with_its_default(lab: Lab) -> None:
    code, text, _ = lab("run", "--help")
    assert code == 0
    joined = " ".join(text.split())
    for key, default in flatten(as_dict(RunConfig())).items():
        option = f"--{key.replace('_', '-')} "
        assert option in joined
        shown = as_text(default)
        found = re.match(r".*?[(,] ?default: (.*?)\)(?: |$)", joined[joined.rindex(f" {option}") :])
        assert found and found[1] == shown, key
    assert "Passes over the training set" in joined  # what stands under a field


def test_usage_lists_the_verbs(lab: Lab) -> None:
    assert lab()[1] == lab("--help")[1]
    for verb, text in verbs().items():
        assert f"{verb:<11} {text}" in lab("--help")[1]


def test_version(lab: Lab) -> None:
    assert lab("--version") == (0, "0.1.0\n", "")


def test_help_survives_a_closed_pipe() -> None:
    done = subprocess.run(
        f"{sys.executable} -m collapselab run --help | head -n 1", shell=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: collapselab run")
    assert "Traceback" not in done.stderr


# --- print_config ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", verbs())
def test_print_config_works_for_each_verb(lab: Lab, verb: str) -> None:
    shown = settings(lab(verb, "--print_config"))
    needs = {"sample": "run", "eval": "target", "report": "run", "sync": "run"}
    nothing = [] if verb == "reproduce" else None
    assert shown.get(needs.get(verb, "name")) == (RunConfig().name if verb in ("run", "experiment") else nothing)


def test_print_config_shows_the_defaults_and_can_be_read_back(lab: Lab, tmp_path: Path) -> None:
    shares = ["--mixing.schedule", "list", "--mixing.values", "[0.5, 0.25]", "--generations", "2"]
    code, out, _ = lab("run", "--print_config", "--training.lr", "0.25", *shares)
    assert code == 0
    shown = flatten(yaml.safe_load(out))
    expected = {**flatten(as_dict(RunConfig())), "training.lr": 0.25, "mixing.values": [0.5, 0.25]}
    expected |= {"mixing.schedule": "list", "generations": 2}
    assert {key: shown[key] for key in expected} == expected
    assert lab("run", "--config", write(tmp_path / "a.yaml", out), "--print_config")[1] == out


def test_print_config_refuses_unknown_keys_too(lab: Lab) -> None:
    refused(lab("run", "--training.lrr", "1", "--print_config"), "training.lrr", "'training.lr'")
    refused(lab("run", "--print_config", "--training.lrr", "1"), "training.lrr", "'training.lr'")
    refused(lab("run", "--print_conf"), "--print_conf")


# --- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("training.lrr", "training.lr"),
        ("trainin.lr", "training.lr"),
        ("lr", "training.lr"),
        ("generation", "generations"),
        ("training.batchsize", "training.batch_size"),
        ("sampling.topp", "sampling.top_p"),
        ("Seed", "seed"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_name(
    lab: Lab, tmp_path: Path, wrong: str, meant: str
) -> None:
    refused(lab("run", f"--{wrong}=1"), f"--{wrong}", f"'{meant.replace('_', '-')}'")
    nested = f"{wrong}: 1" if "." not in wrong else "{}:\n  {}: 1".format(*wrong.split("."))
    path = write(tmp_path / "a.yaml", nested)
    refused(lab("run", "--config", path), path, wrong, f"'{meant}'")


def test_an_unknown_key_of_the_other_verbs_is_refused_too(lab: Lab) -> None:
    refused(lab("corpus", "--cler", "all"), "--cler", "'clear'")
    refused(lab("sync", "x", "--wanb", "online"), "'wandb'")
    refused(lab("eval", "x", "--devise", "cpu"), "'device'")
    refused(lab("sample", "x", "--sampling.tempreature", "1"), "'sampling.temperature'")
    refused(lab("report", "x", "--outt", "y"), "'out'")


@pytest.mark.parametrize("short", ["--gen", "--training.l", "--conf", "--dry", "--he", "--print", "--mixing.sched"])
def test_abbreviations_are_refused(lab: Lab, short: str) -> None:
    refused(lab("run", short, "1"), f"{short}: ")


@pytest.mark.parametrize("arguments", [["extra"], ["--", "x"], ["-x"], ["--corpus.source a"], ["---"]])
def test_what_is_no_option_is_refused(lab: Lab, arguments: list[str]) -> None:
    refused(lab("run", *arguments), arguments[-1])


def test_unknown_verb(lab: Lab) -> None:
    refused(lab("rnu"), "'rnu'", "'run'")
    refused(lab("--verbose"), "'--verbose'")
    refused(lab(""), "''")


# --- order -------------------------------------------------------------------------------------------------------------


def test_later_files_win_and_the_command_line_wins_wherever_it_stands(lab: Lab, tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "training:\n  lr: 0.5\n  block: 64\nname: a\n")
    b = write(tmp_path / "b.yaml", "training:\n  lr: 0.25\n")

    def lr(*arguments: str) -> object:
        shown = settings(lab("run", *arguments, "--print_config"))
        assert (shown["training.block"], shown["name"]) == (64, "a")
        return shown["training.lr"]

    assert lr("--config", a) == 0.5
    assert lr("--config", a, "--config", b) == 0.25
    assert lr("--config", b, f"--config={a}") == 0.5
    for given in (["--training.lr", "0.1"], ["--training.lr=0.1"]):
        assert lr(*given, "--config", a, "--config", b) == 0.1
        assert lr("--config", a, *given, "--config", b) == 0.1
        assert lr("--config", a, "--config", b, *given) == 0.1
    assert lr("--training.lr", "0.001", "--config", a) == 0.001  # the default, given
    assert lr("--training.lr", "0.3", "--config", a, "--training.lr", "0.1") == 0.1


def test_a_list_from_the_command_line_replaces_the_files(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "mixing: {schedule: list, values: [0.5, 0.4]}\ngenerations: 1\n")
    shown = settings(lab("run", "--mixing.values", "[0.1]", "--config", path, "--print_config"))
    assert shown["mixing.values"] == [0.1]
    assert shown["mixing.schedule"] == "list"


def test_a_section_that_a_file_leaves_empty_keeps_the_defaults(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "training: {}\nname: a\n")
    assert settings(lab("run", "--config", path, "--print_config"))["training.lr"] == 1e-3


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}\n"])
def test_a_file_without_a_key_changes_nothing(lab: Lab, tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    assert lab("run", "--config", path, "--print_config") == lab("run", "--print_config")


@pytest.mark.parametrize("text", ["training:\n", "name: a\ntraining:\n", "corpus: null\n", "model: ~\nseed: 2\n"])
def test_a_section_without_a_value_is_empty_or_refused(tmp_path: Path, text: str) -> None:
    path = Path(write(tmp_path / "a.yaml", text))
    try:
        config = config_from(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert (config.training, config.corpus, config.model) == (TrainingConfig(), CorpusConfig(), ModelConfig())


# --- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.lr", "fast"),
        ("training.lr", "true"),
        ("training.epochs", "1.5"),
        ("seed", "1.0"),
        ("seed", "true"),
        ("seed", ""),
        ("progress", "maybe"),
        ("device", "gpu"),
        ("model.family", "bert"),
        ("mixing.schedule", "lin"),
        ("mixing.values", "0.5"),
        ("mixing.values", '["a"]'),
        ("mixing.values", "[null]"),
        ("model.width", "null"),
    ],
)
def test_a_wrong_type_is_refused_by_its_key(lab: Lab, tmp_path: Path, key: str, value: str) -> None:
    refused(lab("run", f"--{key}", value), key)
    if value:
        path = write(tmp_path / "a.yaml", f"{key}: {value}\n")
        refused(lab("run", "--config", path), key)


@pytest.mark.parametrize("line", ["training: {lr: null}", "seed: null", "name: ~", "mixing: {floor: }", "progress: ~"])
def test_null_is_refused_where_a_value_is_needed(tmp_path: Path, line: str) -> None:
    path = Path(write(tmp_path / "a.yaml", f"{line}\n"))
    with pytest.raises(UserError, match=line.split("{")[-1].split(":")[0]):
        config_from(path)


def test_values_that_look_like_something_else(lab: Lab) -> None:
    def shown(*arguments: str) -> dict[str, object]:
        return settings(lab("run", *arguments, "--print_config"))

    shares = ["--mixing.schedule", "list", "--generations", "2"]
    refused(lab("run", "--mixing.floor", "-1", "--print_config"), "mixing.floor=-1.0")  # a value, no option
    assert shown("--mixing.values", "[0.5,0.2]", *shares)["mixing.values"] == [0.5, 0.2]
    assert shown("--mixing.values=[0.5, 0.2]", *shares)["mixing.values"] == [0.5, 0.2]
    assert shown("--training.lr", "1e-4")["training.lr"] == 1e-4
    assert shown("--name", "2024")["name"] == "2024"
    assert shown("--corpus.source", "path:a b c.txt")["corpus.source"] == "path:a b c.txt"
    assert shown("--corpus.tokenizer", "null")["corpus.tokenizer"] is None
    assert shown("--progress", "false")["progress"] is False


def test_a_setting_that_cannot_work_is_one_line(lab: Lab, tmp_path: Path) -> None:
    refused(lab("run", "--mixing.floor", "-1"), "mixing.floor=-1.0")
    refused(lab("run", "--mixing.floor=-1e-3"), "mixing.floor=-0.001")
    refused(lab("run", "--name", "../up"), "name='../up'")
    refused(lab("run", "--mixing.regime", "accumulate", "--mixing.schedule", "constant"), "mixing.schedule='constant'")
    path = write(tmp_path / "a.yaml", "training: {beta1: 2}\n")
    refused(lab("run", "--config", path), "training.beta1=2")


@pytest.mark.parametrize("old", RENAMED)
def test_a_key_that_was_renamed_is_refused_with_its_new_name(old: str, lab: Lab, tmp_path: Path) -> None:
    now = f"it is now {RENAMED[old]}"
    refused(lab("run", f"--{old}=1"), f"--{old}: no such option", now)
    refused(lab("run", f"--{old.replace('_', '-')}=1"), now)
    path = write(tmp_path / "old.yaml", yaml.safe_dump({"corpus": {old.removeprefix("corpus."): 1}}))
    refused(lab("run", "--config", path), f"{old}: no such key", now)
    path = write(tmp_path / "arms.yaml", yaml.safe_dump({"name": "x", "seeds": [1], "arms": {"a": {old: 1}}}))
    refused(lab("experiment", "--config", path), f"arms.a.{old}: ", now)
    new = re.findall(r"corpus\.[\w.]+", RENAMED[old])
    assert new and set(new) <= run_keys().keys() and old not in run_keys()


def test_a_missing_value_is_named(lab: Lab) -> None:
    refused(lab("run", "--config"), "--config")
    refused(lab("run", "--name"), "--name")
    refused(lab("run", "--name", "--seed", "1"), "--name")
    refused(lab("corpus", "--clear"), "--clear")
    refused(lab("run", "--dry_run=true"), "--dry_run")


def test_what_a_verb_needs_is_named(lab: Lab, tmp_path: Path) -> None:
    for verb, needs in {"sample": "run", "eval": "target", "report": "run", "sync": "run"}.items():
        refused(lab(verb), needs, f"collapselab {verb} --help")
    refused(lab("eval", "x"), "--run")
    refused(lab("run", "--at", "1"), "--fork", "--at")
    refused(lab("run", "--fork", str(tmp_path), "--at", "0", "--name", "b"), str(tmp_path))
    for verb in ("report", "sync", "sample"):
        refused(lab(verb, str(tmp_path)), str(tmp_path), "no run here")


def test_a_fork_asked_for_in_a_file_is_not_forgotten(lab: Lab, tmp_path: Path) -> None:
    """`fork` in YAML is obeyed or refused: it must never start a chain of its own."""
    path = write(tmp_path / "a.yaml", f"name: b\nruns_dir: {tmp_path / 'runs'}\nfork: {tmp_path / 'nowhere'}\nat: 0\n")
    refused(lab("run", "--config", path, "--corpus.source", "path:not-a-file"), "fork")


# --- files -------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "none.yaml")
    for arguments in (["--config", path], [f"--config={path}"], ["--seed", "1", "--config", path, "--print_config"]):
        refused(lab("run", *arguments), path)
    refused(lab("run", "--config", str(tmp_path)), str(tmp_path))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nname: b\n", 2),
        ("seed: 1\ntraining:\n  lr: 0.5\n  block: 64\n  lr: 0.5\n", 5),
        ("training:\n  lr: 0.5\nseed: 1\ntraining:\n  block: 64\n", 4),
        ("{seed: 1,\n seed: 2}\n", 2),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(lab: Lab, tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path / "a.yaml", text)
    refused(lab("run", "--config", path, "--print_config"), path, f"line {line}: ", "twice")


def test_a_dotted_key_beside_its_section_is_the_same_key(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "training.lr: 0.5\ntraining:\n  lr: 0.1\n")
    refused(lab("run", "--config", path, "--print_config"), path, "training.lr", "twice")


@pytest.mark.parametrize(
    "text",
    [
        "- 1\n",
        "hello\n",
        "name: a\n---\nname: b\n",
        "training:\n\tlr: 1\n",
        b"name: caf\xe9\n",
        "name: a\n".encode("utf-16"),
        b"name: a\x00b\n",
        "name: !!python/object/apply:os.getcwd []\n",
        "name: [a\n",
        "training: 5\n",
        "training:\n  - lr: 1\n",
        "training: {lr: {a: 1}}\n",
        "config: other.yaml\n",
        "print_config: true\n",
        "1: 2\n",
        "null: 2\n",
        "2020-01-01: 2\n",
        "? [a, b]\n: 2\n",
        "? {a: b}\n: 2\n",
        "&a\ntraining: *a\n",
        "a: " + "[" * 3000 + "]" * 3000 + "\n",
        "model: &m {width: 64}\ntraining: *m\n",
    ],
    ids=lambda text: repr(text)[:40],
)
def test_a_broken_file_is_refused_by_its_name(lab: Lab, tmp_path: Path, text: str | bytes) -> None:
    path = write(tmp_path / "broken.yaml", text)
    refused(lab("run", "--config", path), path)


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbftraining:\n  lr: 0.5\n",
        b"training:\r\n  lr: 0.5\r\n",
        b"training.lr: 0.5\n",
        b"training: {lr: 5e-1}\n",
        b"model: &sizes {layers: 2}\ntraining: {lr: 0.5}\n",
        b"training:\n  <<: {lr: 0.5}\n",
    ],
    ids=repr,
)
def test_ways_to_write_a_value(lab: Lab, tmp_path: Path, text: bytes) -> None:
    path = write(tmp_path / "a.yaml", text)
    assert settings(lab("run", "--config", path, "--print_config"))["training.lr"] == 0.5


def test_a_file_for_another_verb(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", f"run: {tmp_path}/nowhere\nshow: 1\n")
    assert settings(lab("sample", "--config", path, "--print_config"))["show"] == 1
    refused(lab("sample", "--config", path), f"{tmp_path}/nowhere")
    path = write(tmp_path / "b.yaml", "rum: 1\n")
    refused(lab("report", "--config", path), path, "'run'")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_in_configs_experiments_is_an_experiment(lab: Lab, path: Path) -> None:
    code, _, err = lab("experiment", "--config", str(path), "--print_config")
    assert code == 0, err
    asked, _ = read_experiment(["--config", str(path)])
    assert asked.arms and asked.baseline in asked.arms
    assert len(asked.seeds) >= 3 or path.stem == "demo"  # which asks for one, and says how to have intervals
    assert len({digest(identity(config)) for config in asked.arms.values()}) == len(asked.arms)  # no two are the same


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_in_configs_is_a_run(lab: Lab, path: Path) -> None:
    built = flatten(as_dict(config_from(path)))
    asked = flatten(load_yaml(path))
    for key, value in asked.items():
        assert built[key] == value
    shown = settings(lab("run", "--config", str(path), "--print_config"))
    assert {key: shown[key] for key in built} == built


def test_there_are_files_in_configs() -> None:
    assert ROOT / "configs" / "smoke.yaml" in CONFIGS


# --- the process -------------------------------------------------------------------------------------------------------


def test_the_installed_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("collapselab"), "run", "--lr", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    refused((done.returncode, done.stdout, done.stderr), "'training.lr'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", [["run", f"--runs_dir={'x' * 300}"], ["report", "x" * 300], ["sync", "y" * 5000]], ids=lambda v: v[0]
)
def test_what_the_system_refuses_is_one_line(lab: Lab, line: list[str]) -> None:
    refused(lab(*line), "File name too long")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "collapselab", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("collapselab: error: standard output: ")


def test_what_a_chain_has_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "gen_000" / "train").mkdir(parents=True)
    (tmp_path / "gen_000" / "train" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="lies in a chain, which only the lab may change"):
        check_out(tmp_path / "gen_000" / "train" / "more", "more")
    check_out(tmp_path / "text", "text")
    assert not (tmp_path / "text").exists()


def test_only_the_first_process_speaks(tmp_path: Path) -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "collapselab", "run", "--lr", "1"],
            capture_output=True,
            text=True,
            env={**os.environ, "RANK": rank},
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, lines)
