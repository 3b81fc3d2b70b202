"""Untrusted run directories: they can make a command fail, with one clear line, and nothing else."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from conftest import Lab
from helpers import small_config
from untrusted_runs import TEXTS, change, files_of, reseal, state_of

from collapselab.chain import run as chain
from collapselab.runtime.console import UNSAFE
from collapselab.store.folders import manifest_of

PLANTED = {
    "corpus__source": "planted", "corpus__documents": 500, "corpus__planted__contexts": 4, "corpus__planted__values": 16,
    "corpus__tokenizer": None,
    "training__block": 13, "mixing__tokens": 1300, "mixing__unit": "documents",
    "sampling__prompt": "real_prefix", "sampling__prompt_tokens": 3, "evaluation__prefix": "bos",
}  # fmt: skip
VERBS = ("report", "sample", "eval", "score", "sync", "run", "fork")
LONGEST = 30.0  # seconds of one verb on a changed run; unchanged, the slowest takes two


class HangError(BaseException):
    """Not an Exception, so that nothing but a test catches it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on natural text (do not change it)."""
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("plain")), generations=1)
    return chain.run(config)[0].parents[1]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms that share generation 0, as an experiment leaves them, on a planted language with its laws."""
    folder = tmp_path_factory.mktemp("arms")
    for arm, start in (("mixed", 0.5), ("none", 0.0)):
        config = small_config(runs_dir=str(folder), arm=arm, generations=1, mixing__start=start, **PLANTED)
        root = chain.run(config, shares_generation_0=True)[0].parents[1]
    asked = {"seeds": [1], "baseline": "none", "arms": {"mixed": {"mixing.start": 0.5}, "none": {"mixing.start": 0.0}}}
    (root / "experiment.yaml").write_text(yaml.safe_dump(asked))
    (root / "timing.json").write_text('{"calls": [{"seconds": 1.0, "workers": 1, "stages": 9, "date": "2026-01-01"}]}')
    return root


def command(verb: str, run: Path) -> list[str]:
    """A verb on the first chain of a run; nothing but the run itself, or a fork beside it, may be written."""
    first, runs = str(min(run.glob("arm=*/seed=*"), default=run)), str(run.parent)
    arm = Path(first).parent.name.removeprefix("arm=")
    at = ["--runs_dir", runs, "--data_dir", runs]
    return {
        "report": ["report", str(run), "--out", str(run / "kept")],
        "sample": ["sample", first],
        "eval": ["eval", first],
        "score": ["eval", f"{first}/gen_001/train", "--run", first],
        "sync": ["sync", first, "--wandb", "offline"],
        "run": ["run", "--config", f"{first}/config.yaml", *at, "--name", run.name, "--arm", arm, "--generations", "2"],
        "fork": ["run", "--fork", first, "--at", "0", *at, "--name", "forked", "--generations", "1"],
    }[verb]


def attack(seed: int, base: Path, box: Path, lab: Lab, *, verb: str = "") -> tuple[str, str]:
    """One changed copy of a run under one verb; returns what was done and what is wrong with the answer ("" if nothing)."""
    draw = random.Random(seed)
    runs, sentinel = box / "runs", box / "sentinel"
    shutil.rmtree(runs, ignore_errors=True)
    shutil.copytree(base, runs / base.name)
    sentinel.mkdir(exist_ok=True)
    (sentinel / "kept").write_text("as it was")
    run = runs / base.name
    verb = verb or draw.choice(VERBS)
    known = files_of(base)
    by_name = {p.name: [q for q in known if q.name == p.name] for p in known}
    told = []
    for _ in range(draw.choice([1, 1, 1, 2])):
        file = draw.choice(by_name[draw.choice(sorted(by_name))])
        if file.name == "config.yaml" and verb in ("run", "fork"):
            continue  # what a person asks for: longer training is not a hang
        change(run / file, draw)
        told.append(str(file))
    if draw.random() < 0.85:
        reseal(run)
    what = f"seed {seed}: {verb} after {', '.join(told)}"
    before, here = state_of(box, but=run), Path.cwd()
    os.chdir(box)
    try:
        with limited(LONGEST), warnings.catch_warnings():
            warnings.simplefilter("always")
            code, out, err = lab(*command(verb, run))
    except HangError:
        return what, f"hangs for {LONGEST} s"
    except BaseException as error:
        ours = [at for at in traceback.extract_tb(error.__traceback__) if "collapselab" in at.filename][-1]
        return what, f"{type(error).__name__}: {str(error)[:200]!a} at {Path(ours.filename).name}:{ours.lineno}"
    finally:
        os.chdir(here)
    shutil.rmtree(runs / "forked", ignore_errors=True)
    return what, fault(code, out, err) or strays(before, state_of(box, but=run))


def fault(code: int, out: str, err: str) -> str:
    """What is wrong with an answer: not 0 or one line and 2, or something that a terminal obeys."""
    if UNSAFE.search(out + err):
        return f"control characters: {UNSAFE.findall(out + err)[:3]!a} in {(out + err)[:300]!a}"
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("collapselab: error: ")]
    if code not in (0, 2) or (code == 2) != (len(errors) == 1) or (code == 2 and lines[-1:] != errors):
        return f"exit {code}, {err[-400:]!a}"
    said = ("collapselab: error: ", "note: ", "generation ")
    odd = [line for line in lines if not line.startswith(said) and "arm=" not in line]
    return f"said {odd[:2]!a}" if odd else ""


def strays(before: dict[str, str], after: dict[str, str]) -> str:
    changed = [p for p in before.keys() | after.keys() if before.get(p) != after.get(p)]
    return f"wrote {changed[:3]}" if changed else ""


# --- a run with one thing changed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_run_is_answered_or_refused_in_one_line(
    seed: int, plain: Path, arms: Path, tmp_path: Path, lab: Lab
) -> None:
    what, wrong = attack(seed, arms if seed % 2 else plain, tmp_path, lab)
    assert not wrong, f"{what}: {wrong}"


@pytest.mark.slow
def test_many_changed_runs_are_answered_or_refused_in_one_line(
    plain: Path, arms: Path, tmp_path: Path, lab: Lab
) -> None:
    """UNTRUSTED_TRIES=2000 python -m pytest -m slow tests/test_untrusted_runs.py: 1 s each; UNTRUSTED_FIRST is the first seed."""
    first, tries = (
        int(os.environ.get(name, old)) for name, old in (("UNTRUSTED_FIRST", "100"), ("UNTRUSTED_TRIES", "500"))
    )
    answers = (attack(seed, arms if seed % 2 else plain, tmp_path, lab) for seed in range(first, first + tries))
    wrong = [f"{what}: {how}" for what, how in answers if how]
    assert not wrong, "\n".join(wrong)
    print(f"{tries} changed runs")


# --- things that chance would not find ------------------------------------------------------------------------------


def copy(base: Path, box: Path) -> Path:
    """A copy of a run's only chain (or first), to be changed."""
    shutil.copytree(base, box / base.name)
    return min((box / base.name).glob("arm=*/seed=*"))


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, _, err = result
    assert code == 2 and not fault(*result), result
    for part in parts:
        assert part in err


class Page(HTMLParser):
    """Every tag and attribute of a page, its text, the scripts that can run, and the data that they read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = self.data = ""
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.inside = ""
        if tag == "script":
            self.inside = dict(attrs).get("type") or "script"
            self.scripts += [""] if self.inside == "script" else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside:
            assert self.inside == "application/json"
            self.data += data
        else:
            self.text += data


def test_hostile_text_is_inert_on_the_page_and_in_the_tables(plain: Path, tmp_path: Path, lab: Lab) -> None:
    first = copy(plain, tmp_path)
    run = first.parents[1].rename(tmp_path / '"><script>alert(1)</script>\x1b[2J\u202e=1'.replace("/", "-"))
    first = min(run.glob("arm=*/seed=*"))
    (first / "gen_001" / "eval" / "examples.json").write_text(json.dumps(TEXTS))
    for file, key in (("environment.json", "note"), ("environment.json", "device")):
        known = json.loads((first / file).read_text())
        (first / file).write_text(json.dumps(known | {key: "".join(TEXTS[:10])}))
    scores = first / "gen_000" / "eval" / "eval.json"
    found = json.loads(scores.read_text())
    found["protocol"] |= {name: name for name in TEXTS[:10]}
    scores.write_text(json.dumps(found))
    (first / "config.yaml").write_text("</pre><script>alert(2)</script>\x1b[31m", encoding="utf-8")
    reseal(run)
    result = lab(*command("report", run))
    assert result[0] == 0 and not fault(*result), result
    text = (run / "report" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.isdisjoint({"iframe", "object", "embed", "link", "base", "form", "svg", "img"})
    names = {name for name, _ in page.attributes}
    assert not any(name.startswith("on") for name in names) and "src" not in names
    links = [value for name, value in page.attributes if name == "href"]
    assert links and all(re.fullmatch(r"#[a-z-]+|[a-z]+\.(csv|png)", link) for link in links)
    styles = {value for name, value in page.attributes if name == "style"}
    assert all(re.fullmatch("border-color: #[0-9a-f]{6}", style) for style in styles)
    assert len(page.scripts) == 3 and page.text.count("default-src") == 0
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    assert policy == f"default-src 'none'; script-src {allowed}; {rest}"
    assert not UNSAFE.search(text.replace(page.scripts[0], ""))  # plotly's own has a control character in a string
    assert "<script>alert(1)</script>" in page.text and "x" * (1 << 20) in page.text  # shown as it is written
    assert not any(sign in page.data for sign in "<>&\u2028\u2029")
    for table in [*(run / "report").glob("*.csv"), run / "kept" / "metrics.csv"]:
        for line in csv.reader(table.open(encoding="utf-8")):
            assert not any(cell[:1] in ("=", "+", "@", "\t") for cell in line), line
            assert not UNSAFE.search("".join(line))
    assert not UNSAFE.search((run / "kept" / "table.md").read_text(encoding="utf-8"))
    assert "<script>" not in (run / "kept" / "table.md").read_text(encoding="utf-8").split("Machine:")[1]


@pytest.mark.parametrize("key", ["=1+1", "@SUM(A1)", "<script>", "real/\x1b[2J", "../x"])
def test_a_metric_has_a_plain_name(key: str, plain: Path, tmp_path: Path, lab: Lab) -> None:
    first = copy(plain, tmp_path)
    rows = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    rows[0]["metrics"][key] = 1.0
    (first / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(lab("report", str(first)), "metrics.jsonl")


@pytest.mark.parametrize("arm", ["=1+1", "@a", "-a", "<script>", "a\x1b[2J", "a..b", "a\u202eb", "[red]"])
def test_an_arm_has_the_name_that_a_configuration_may_give_it(arm: str, plain: Path, tmp_path: Path, lab: Lab) -> None:
    first = copy(plain, tmp_path)
    first.parent.rename(first.parent.with_name(f"arm={arm}"))
    refused(lab("report", str(tmp_path / "test")), "arm=")


LINKS = ("report", "kept", "arm=main/seed=1/lock", "events.log", "arm=main/seed=1/rescored", "arm=main/seed=1/wandb",
         "arm=main/seed=1/gen_002", "arm=main/seed=1/gen_001/eval/row.json", "arm=main/seed=1/config.yaml")  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_a_run_is_neither_read_nor_written(name: str, plain: Path, tmp_path: Path, lab: Lab) -> None:
    first = copy(plain, tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("as it was")
    place = tmp_path / "test" / name
    target = outside / "mine" if Path(name).suffix or name.endswith("lock") else outside
    if place.is_file():
        place.unlink()
    place.symlink_to(target)
    before = state_of(tmp_path, but=tmp_path / "nothing")
    for verb in VERBS:
        if verb == "run" and place.name == "config.yaml":
            continue  # that file is named on its command line
        refused(lab(*command(verb, first.parents[1])), "a symbolic link")
    assert state_of(tmp_path, but=tmp_path / "nothing") == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "gen_000/samples/manifest.json", "lock"])
def test_a_pipe_is_not_waited_for(name: str, plain: Path, tmp_path: Path, lab: Lab) -> None:
    first = copy(plain, tmp_path)
    (first / name).unlink()
    os.mkfifo(first / name)
    for verb in VERBS:
        with limited(LONGEST):
            refused(lab(*command(verb, first.parents[1])), "a pipe")


@pytest.mark.parametrize("name", ["../mixture/blocks.bin", "/etc/hostname", "link", "."])
def test_a_manifest_names_files_of_its_own_folder(name: str, plain: Path, tmp_path: Path) -> None:
    stage = copy(plain, tmp_path) / "gen_000" / "train"
    assert manifest_of(stage) is not None
    if name == "link":
        (stage / "link").symlink_to("config.json")
    manifest = json.loads((stage / "manifest.json").read_text())
    path = stage / name
    is_file = path.is_file()
    manifest["files"][name] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if is_file else "",
    }
    (stage / "manifest.json").write_text(json.dumps(manifest))
    assert manifest_of(stage) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"n_layer": 10**9},
        {"num_hidden_layers": 10**9, "model_type": "llama"},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "someone/kernel"},
        {"model_type": "collapselab_bigram", "entries": 10**10},
        {"model_type": "zz", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}},
        {"model_type": "\x1b[2J<script>"},
    ],
)
def test_a_strangers_model_is_data_and_of_a_size_that_can_be_built(
    settings: dict[str, object], plain: Path, tmp_path: Path, lab: Lab
) -> None:
    first = copy(plain, tmp_path)
    folder = first / "gen_001" / "train"
    (folder / "evil.py").write_text("from pathlib import Path\nPath('stolen').touch()\n")
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | settings))
    reseal(first.parents[1])
    for verb in ("sample", "score"):
        with limited(LONGEST):
            refused(lab(*command(verb, first.parents[1])), str(folder))
    assert not Path("stolen").exists()


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_references_to_references_are_not_written_out(form: str, plain: Path, tmp_path: Path, lab: Lab) -> None:
    first = copy(plain, tmp_path)
    levels = [f"a{i}: &a{i} {form.format(','.join([f'*a{i - 1}'] * 10))}" for i in range(1, 12)]
    text = "a0: &a0 {x: 1}\n" + "\n".join(levels) + "\n"
    (first.parents[1] / "experiment.yaml").write_text(text + "arms: {main: {}}\nbaseline: *a11\n")
    with limited(LONGEST):
        refused(lab("report", str(first)), "experiment.yaml")
    (first / "config.yaml").write_text(text)
    reseal(first.parents[1])
    with limited(LONGEST):
        refused(lab("sample", str(first)), "config.yaml")


def test_trust_remote_code_is_not_a_key(tmp_path: Path, lab: Lab) -> None:
    for key in ("trust_remote_code", "model.trust_remote_code", "corpus.trust_remote_code"):
        refused(lab("run", f"--{key}=true"), key, "no such option")
        section, _, name = key.rpartition(".")
        tree = {section: {name: True}} if section else {name: True}
        (tmp_path / "asked.yaml").write_text(yaml.safe_dump(tree))
        refused(lab("run", "--config", str(tmp_path / "asked.yaml")), key, "no such key")


def test_what_a_person_sees_is_inert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from collapselab.cli.common import print_table
    from collapselab.runtime.console import Console

    text = "".join(t for t in TEXTS if len(t) < 1000)
    Console(log=tmp_path / "events.log").say(text)
    print_table(text, [text, "b"], [[text, text]])
    seen = capsys.readouterr()
    assert not UNSAFE.search(seen.out + seen.err + (tmp_path / "events.log").read_text(encoding="utf-8"))
    assert "<script>" in seen.err
