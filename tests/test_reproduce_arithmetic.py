"""The arithmetic of criteria is closed: an entry from a stranger computes numbers, in bounded time and memory, and no more."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Lab

from collapselab.config import UserError
from collapselab.reproduce import arithmetic, entries
from collapselab.reproduce.courses import Measured, value_of

MEASURED = Measured(
    {
        "a": {"x": np.array([[1.0, 2.0, 3.0, 5.0], [2.0, 2.0, 2.0, 2.0]])},
        "b": {"x": np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 2.0, np.nan]])},
    },
    {"x": np.array([[10.0], [20.0]])},
)
NAN = float("nan")


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("a.x[3] - a.x[0]", [4, 0]),
        ("a.x[-1] / real.x", [0.5, 0.1]),
        ("+a.x[1] * -2 ** 2", [-8, -8]),
        ("slope(a.x[0:3])", [1, 0]),
        ("slope(a.x[-2:])", [2, 0]),
        ("slope(a.x[::2])", [2, 0]),
        ("mean(a.x[1:])", [10 / 3, 2]),
        ("largest(abs(a.x[0:] - 3))", [2, 1]),
        ("smallest(a.x[:2] - b.x[:2])", [1, 1]),
        ("first(a.x[0:], 3)", [2, 4]),
        ("first(a.x[0:], 2 * a.x[0])", [1, 4]),
        ("largest(abs(pooled(a.x[0:]) - 2))", [1.5, 1.5]),
        ("stouffer(a.x[0])", [3 / 2**0.5] * 2),
        ("log(real.x / real.x)", [0, 0]),
        ("largest(b.x[:])", [1, NAN]),
        ("a.x[0] / b.x[0]", [NAN, NAN]),
        ("log(b.x[0])", [NAN, NAN]),
        ("(-a.x[0]) ** 0.5", [NAN, NAN]),
        ("9 ** 9 ** 9 + 0 * a.x[0]", [NAN, NAN]),
        ("1e308 * 10 * a.x[0]", [NAN, NAN]),
    ],
)
def test_expressions_are_paired_by_seed_and_have_no_value_that_is_not_finite(
    expression: str, values: list[float]
) -> None:
    assert value_of(expression, MEASURED, "here") == pytest.approx(values, nan_ok=True)


EVIL = (
    "a.nll[0] if a.nll.values[0].astype('i8')[:1].choose('x|written by a criterion#'.split('|')).astype('S')"
    ".tofile('written_by_an_entry.txt') else a.nll[0]"
)
STRANGE = [
    EVIL,
    "a.nll.values[0]",
    "a.nll[0].tofile('written_by_an_entry.txt')",
    "a.nll.__class__",
    "().__class__.__mro__[1].__subclasses__()",
    "a.__init__[0]",
    "a.__class__[0]",
    "real.__class__",
    "real.nll[0]",
    "abs.__self__",
    "'{0.__class__}'.format(a)",
    "f'{a.nll[0]}'",
    "'x' * a.nll[0]",
    "[0] * 10**9",
    "[a.nll[0]][0]",
    "{'a': a.nll[0]}['a']",
    "(lambda: a.nll[0])()",
    "sum([x for x in a.nll[0:]])",
    "(x := a.nll[0])",
    "open('written_by_an_entry.txt', 'w')",
    "__import__('os').system('touch written_by_an_entry.txt')",
    "eval('1') + a.nll[0]",
    "abs(*a.nll[0:])",
    "abs(x=a.nll[0])",
    "largest(a.nll[0:], a.nll[0:])",
    "a.nll[a.nll[0]]",
    "a.nll['0']",
    "a.nll[0.0]",
    "a.nll[True]",
    "a.nll[0:2, 0]",
    "a.nll[0][0]",
    "a.nll[::0]",
    "a.nll[5:]",
    "a.nll[10**10]",
    "a.nll[0] < 1",
    "a.nll[0] and 1",
    "not a.nll[0]",
    "~a.nll[0]",
    "a.nll[0] << 10**9",
    "a.nll[0] // 0 @ 1",
    "True + a.nll[0]",
    "1j * a.nll[0]",
    "None",
    "...",
    "1",
    "a.nll[0] + " + "9" * 400,
    "a.nll[0] + " + "9" * 900,
    "(" * 300 + "a.nll[0]" + ")" * 300,
    "-" * 600 + "a.nll[0]",
    "9" + "**9" * 200 + "+ a.nll[0]",
    "abs(" * 100 + "a.nll[0]" + ")" * 100,
    "a" + ".nll" * 200 + "[0]",
    "a.nll[0]" + " + a.nll[0]" * 10_000,
    "a.nll[0:2] + a.nll[0:1] + a.nll[0:]",
    "a.nll[0]; 1",
    "a.nll[0]\nimport os",
    "a.nll[0]\0",
    "",
]


def entry(folder: Path, of: str, **keys: Any) -> Path:
    """An entry of two generations with one criterion."""
    folder.mkdir(exist_ok=True)
    paper = {"title": "t", "cite": "c", "protocol": "p", "open": "o", "minutes": 0.1, "plot": ["nll"]}
    paper |= {"quantities": {"nll": "real/nll_nats"}, "published": [{"what": "w", "value": "v", "source": "s"}]}
    paper |= {"criteria": [{"says": "one", "of": of, "at_least": 0}]}
    tree = {"name": "evil", "seeds": [1], "generations": 2, "corpus": {"source": "planted"}, "paper": paper}
    (folder / "evil.yaml").write_text(yaml.safe_dump(tree | {"arms": {"a": {"mixing.start": 0.5}}} | keys))
    return folder


@pytest.mark.parametrize("of", STRANGE, ids=range(len(STRANGE)))
def test_listing_a_strangers_entry_does_nothing_but_refuse_it(
    of: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papers = entry(tmp_path / "papers", of)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    started = time.process_time()
    code, out, err = lab("reproduce", "--list", "--papers", "../papers")
    assert time.process_time() - started < 1
    assert code == 2 and not out and err.count("\n") == 1 and len(err) <= 300, err
    assert "criteria: " in err and "is missing" in err if not of else "cannot be computed" in err or "one number" in err
    assert not list(Path().iterdir()) and sorted(p.name for p in papers.iterdir()) == ["evil.yaml"]


def test_an_expression_takes_no_more_than_its_courses() -> None:
    """The longest expression over long courses: seconds, and megabytes."""
    course = np.random.default_rng(1).random((3, 2000))
    most = "largest(" + "+".join(["stouffer(abs(a.x[:]*9**9))"] * 35) + ")"
    assert len(most) <= arithmetic.LONGEST
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert np.isfinite(value_of(most, Measured({"a": {"x": course}}, {}), "here")).all()
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("generations", [10**5, 10**6, 10**12, -1, "many", 2.5, True])
def test_reading_an_entry_takes_no_room_for_its_generations(generations: Any, tmp_path: Path) -> None:
    papers = entry(tmp_path, "largest(a.nll[:])", generations=generations)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if generations == 10**5:
        entries.read(papers, "evil")
    else:
        with pytest.raises(UserError, match=r"generations=.*must be a whole number"):
            entries.read(papers, "evil")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"arms": {"a": 3}}, "arms.a: must hold keys and values"),
        ({"arms": {"a" * 5000: {}}}, "a name is small letters"),
        ({"simulation": {"arms": {"a": 3}}}, "arms.a: must hold keys and values"),
        ({"simulation": {"arms": {"a": {}}}, "seeds": [10**400]}, ""),
        ({"seeds": ["x" * 5000]}, "seeds=.*give one or more"),
        ({"name": "x" * 5000}, "name=.*must be the file's own"),
        ({"comment": __import__("datetime").date(2026, 1, 1)}, ""),  # text, as it stands there
        ({"comment": {1: 2, "a": 3}}, ""),
        ({"comment": {"a", "b"}}, "not valid YAML"),
    ],
)
def test_what_is_strange_in_an_entry_is_one_line(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    papers = entry(tmp_path, "a.nll[0]", **keys)
    if not said:
        entries.read(papers, "evil")
        return
    with pytest.raises(UserError, match=said) as told:
        entries.read(papers, "evil")
    assert "\n" not in str(told.value) and len(str(told.value)) < 300 + len(str(tmp_path))
