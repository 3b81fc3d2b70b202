"""The process around a verb: its streams, its locale, its user, and what it imports before it says no."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Lab
from helpers import Forked

import collapselab
from collapselab.cli.common import verbs
from collapselab.config import CorpusConfig
from collapselab.corpus.prepared import prepare
from collapselab.runtime.console import LONGEST, Console, one_line

TINY = {
    "name": "t", "generations": 0, "corpus": {"source": "planted", "documents": 200}, "model": {"family": "bigram"},
    "training": {"block": 16}, "mixing": {"tokens": 512}, "evaluation": {"self_bleu_samples": 0, "overlap": False},
}  # fmt: skip
SECONDS = 120  # after which a verb counts as hanging; all of these take one or two


SOURCE = str(Path(collapselab.__file__).parents[1])  # these processes start elsewhere, and are to run this very tree


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command line of a shell, with `lab` for the lab's own command."""
    line = re.sub(r"(?<!\w)lab ", f"{sys.executable} -m collapselab ", line)
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": SOURCE} | environment,
        timeout=SECONDS,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run under a name that is not ASCII, made where Python would read names as ASCII."""
    folder = tmp_path_factory.mktemp("process")
    (folder / "t.yaml").write_text(json.dumps(TINY))
    done = shell("lab run --config t.yaml --runs-dir hé", folder, LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and b"distinct-2" in done.stdout and b"h\\xe9/t/report/index.html" in done.stdout
    return folder


def test_the_closing_table_is_printed_in_a_locale_that_cannot_show_it(finished: Path) -> None:
    assert (finished / "hé" / "t" / "report" / "index.html").is_file()
    done = shell(
        "lab report hé/t; lab watch hé/t --once; lab run --config no_é.yaml", finished, LC_ALL="C", PYTHONUTF8="0"
    )
    assert done.returncode == 2 and b"no_\\xe9.yaml: no such file" in done.stderr and done.stderr.count(b"\n") == 1
    assert done.stdout.isascii() and b"h\\xe9/t/report/index.html" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_fail_what_succeeded(finished: Path, closed: str) -> None:
    assert shell(f"lab run --config t.yaml --runs-dir hé {closed}", finished).returncode == 0
    for line in ("--help", "run --help", "run --print-config", "theory --list", "corpus", "watch hé/t --once"):
        done = shell(f"lab {line} {closed}", finished)
        assert done.returncode == 0 and (b"Traceback" not in done.stderr), (line, done.stderr)
    assert shell(f"lab run --seed=x {closed}", finished).returncode == 2


def test_what_is_printed_with_a_closed_stream_goes_into_no_file(finished: Path) -> None:
    before = {path: path.read_bytes() for path in (finished / "hé").rglob("*.json*")}
    assert shell("lab run --config t.yaml --runs-dir hé >&-; lab sample hé/t --show 1 >&-", finished).returncode == 0
    assert not any(b"distinct-2 " in path.read_bytes() or b"--- 0" in path.read_bytes() for path in before)


def test_a_pipe_that_nobody_reads_is_quiet(finished: Path) -> None:
    done = shell("lab report hé/t | true; lab run --help | head -n 1; lab theory --list | true", finished)
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.startswith(b"usage: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_behind_standard_output_is_told_from_others(finished: Path) -> None:
    for line in ("report hé/t", "corpus", "run --help", "run --print-config"):
        done = shell(f"lab {line} > /dev/full", finished)
        assert done.returncode == 2
        assert done.stderr.decode() == (
            "collapselab: error: standard output: cannot be written (No space left on device); send it elsewhere\n"
        )


def test_a_user_without_a_home_or_a_name(finished: Path) -> None:
    alone = "unshare --user --map-user=54321 --map-group=54321 env -u HOME -u USER -u LOGNAME -u LNAME -u USERNAME"
    if shell(f"{alone} true", finished).returncode:
        pytest.skip("no user names of one's own here")
    alone += " -u COLLAPSELAB_CACHE -u XDG_CACHE_HOME -u HF_HOME -u MPLCONFIGDIR"
    for line in ("corpus", "run --config t.yaml --runs-dir other", "report other/t", "watch other/t --once"):
        done = shell(f"{alone} {sys.executable} -m collapselab {line}", finished)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, (line, done.stderr)
    done = shell(f"{alone} {sys.executable} -m collapselab run --runs-dir=~/runs", finished)
    assert done.returncode == 2 and b"runs_dir='~/runs': ~ has no known home directory" in done.stderr


# --- what is imported before a verb says no -------------------------------------------------------------------------------


HEAVY = ("torch", "transformers", "pandas", "matplotlib", "plotly", "wandb", "datasets")
NOT_THERE = (
    *("report nope", "report nope nope2", "export nope", "sync nope", "sample nope", "eval nope", "eval x --run=nope"),
    *("watch nope", "run --fork nope --at 0 --name b", "run --config nope", "experiment --config nope", "bench nope"),
    *("theory nope", "reproduce nope", "reproduce --all --papers nope", "run --corpus.source=path:nope.txt"),
    *(
        "run --model.pretrained=./nope",
        f"run --config {ROOT}/configs/experiments/regimes.yaml",
        "experiment --base nope",
    ),
)


def test_what_is_not_there_is_said_before_a_heavy_library_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, json\nfrom collapselab.cli.main import main\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    assert main(line.split()) == 2, line\n"
        f"    found = [name for name in {HEAVY} if name in sys.modules]\n"
        "    assert not found, (line, found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(NOT_THERE)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": SOURCE},
    )
    assert done.returncode == 0 and done.stderr.count("\n") == len(NOT_THERE), done.stderr


def test_an_experiment_given_to_run_is_told_apart(lab: Lab) -> None:
    code, _, err = lab("run", "--config", str(ROOT / "configs" / "experiments" / "regimes.yaml"))
    assert code == 2 and "arms: is for experiments; run the file with `collapselab experiment`" in err


# --- no verb hangs --------------------------------------------------------------------------------------------------------


POSITIONAL = {"run": [], "experiment": [], "corpus": [], "reproduce": [], "theory": ["noise"], "bench": ["metrics"]}


@pytest.mark.parametrize("verb", verbs())
def test_no_verb_hangs_on_a_pipe_or_a_loop_of_links(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkfifo("pipe.png")
    Path("loop").symlink_to("loop")
    Path("entries").mkdir()
    os.mkfifo("entries/pipe.yaml")
    Path("entries/round").symlink_to(tmp_path / "entries")
    strange = ("pipe", "loop", "entries", "entries/round/round")
    lines = [[f"--config={place}"] for place in strange]
    lines += [[place] for place in strange if verb not in POSITIONAL]
    lines += [
        [*POSITIONAL.get(verb, ["nope"]), f"--out={place}"]
        for place in ("pipe", "loop")
        if verb in ("sample", "eval", "export", "report")
    ]
    lines += {
        "run": [["--runs-dir=pipe"],
                ["--data-dir=pipe", "--corpus.source=x"], ["--fork=pipe", "--at=0", "--name=b"], ["--model.pretrained=./loop"]],
        "experiment": [["--base=pipe"], ["--base=loop"]],
        "reproduce": [["--papers=pipe", "--all"],
                      ["--papers=entries", "--all"], ["--papers=entries", "--list"], ["--papers=loop", "--list"]],
        "theory": [["noise", "--plot=pipe"]],
        "eval": [["pipe", "--run=entries"], ["entries", "--run=pipe"]],
        "report": [["entries", "pipe"]],
    }.get(verb, [])  # fmt: skip
    lines += [["--plugin", "pipe"], ["--plugin=loop"]]
    for number, line in enumerate(lines):
        process = Forked(verb, *line, output=tmp_path / f"said{number}")
        assert process.wait(SECONDS) == 2, (line, process.said())
        assert "Traceback" not in process.said() and max(map(len, process.said().splitlines())) <= LONGEST, (
            line,
            process.said(),
        )


# --- lines ----------------------------------------------------------------------------------------------------------------


def test_a_long_value_is_cut_in_its_middle_and_the_remedy_stays() -> None:
    names = ", ".join(f"column_{n}" for n in range(2000))
    for text in (
        f"corpus.column='story': a.jsonl, line 1 has no such column; it has: {names}",
        f"corpus.source={'x' * 100_000!r}: no file found; check the path and the pattern",
        f"--config {'/long' * 900}.yaml: seed='x': must be a whole number",
        f"mixing.values={[0.5] * 50_000!r}: give one share for each of the 2 generations",
        f"model.pretrained='m': cannot be loaded ({'words of a library ' * 500}); check the folder or name",
        "a" * 400, "\n".join(["word"] * 500), "'" * 1000, "(" * 1000, "[" * 500 + "]" * 500,
    ):  # fmt: skip
        said = one_line(f"collapselab: error: {text}")
        assert len(said) <= LONGEST and "\n" not in said and "…" in said
        assert said.startswith(f"collapselab: error: {text[:15]}"[:35].split("\n")[0].rstrip("'(["))
        assert said.endswith(text.rsplit("; ", 1)[-1][-60:].split("\n")[-1])
    assert one_line("mixing.floor=2.0: must lie in [0, 1]") == "mixing.floor=2.0: must lie in [0, 1]"


def test_every_line_of_a_console_is_short_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(log=tmp_path / "events.log", bars=False)
    console.say("stage " + "x" * 100_000 + "; goes on")
    console.record("two\nlines")
    assert len(capsys.readouterr().err) <= LONGEST + 1
    lines = (tmp_path / "events.log").read_text().splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= LONGEST + 30 and lines[0].endswith("; goes on")


@pytest.mark.parametrize(
    "line",
    [
        ["run", "--" + "x" * 10_000 + "=1"],
        ["run", "--corpus.source=" + "x" * 99_999],
        ["y" * 9_000],
        ["report", "z" * 9_999],
    ],
)
def test_no_line_is_longer_than_300_characters(lab: Lab, line: list[str]) -> None:
    code, _, err = lab(*line)
    assert code == 2 and err.count("\n") == 1 and len(err) <= LONGEST + 1


# --- a cache that several processes find damaged --------------------------------------------------------------------------


def test_six_starts_at_once_on_a_damaged_cache_all_have_their_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "cache"))
    config = CorpusConfig(source="planted", documents=50)
    folder = prepare(config).folder

    def open_it(_: list[str]) -> int:
        while not (tmp_path / "go").exists():
            time.sleep(0.001)
        return 0 if len(prepare(config).train.ids) else 1

    for turn in range(8):
        if turn % 2:
            (folder / "train.ids.bin").write_bytes(b"damaged")
        else:
            (folder / "manifest.json").unlink()
        (tmp_path / "go").unlink(missing_ok=True)
        starts = [Forked(output=tmp_path / f"said{at}", call=open_it) for at in range(6)]
        (tmp_path / "go").touch()
        assert [one.wait(60) for one in starts] == [0] * 6, [one.said() for one in starts]
