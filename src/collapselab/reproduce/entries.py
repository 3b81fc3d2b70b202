"""Entries: published results with their criteria and how to rerun them, one YAML file each.

An entry is an experiment file (docs/experiments.md), or has a section `simulation` instead of a model, plus a section `paper`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import UserError, digest
from collapselab.config.keys import nearest
from collapselab.reproduce.courses import Measured, check, short, value_of
from collapselab.store.yaml_files import load_yaml

NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published figure."""

    what: str
    value: str
    source: str
    """Where it was read: in the paper, in the authors' code, or where it is quoted."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A criterion of reproduction: the mean over seeds must lie within the bounds."""

    says: str
    of: str
    """An expression over the measured courses (`courses.value_of`)."""
    at_least: float | None = None
    at_most: float | None = None
    published: str = ""
    """The paper's value of the same quantity, if it has one."""

    def holds(self, value: float) -> bool:
        low = -np.inf if self.at_least is None else self.at_least
        high = np.inf if self.at_most is None else self.at_most
        return bool(low <= value <= high)  # nan: no

    @property
    def bound(self) -> str:
        """`≥ 0.3`, `≤ 0.05`, or `0.99 .. 1.01`."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} .. {self.at_most:g}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A published result and how to rerun it."""

    name: str
    path: Path
    title: str
    cite: str
    protocol: str
    open: str
    small: str
    differs: str
    """For a failed run: known differences from the paper."""
    changed: list[str]
    """Changes of criteria, settings or seeds after results had been seen, and the outcome of each try."""
    minutes: float | None
    """Cost on two CPU cores; None for an entry that needs a GPU."""
    gpu_hours: float | None
    """Cost on one GPU, an estimate; None for an entry that needs none."""
    published: list[Published]
    quantities: dict[str, str]
    """Short names for keys of metrics.jsonl; empty for a simulation, whose quantities are named already."""
    plot: list[str]
    criteria: list[Criterion]
    power: list[Criterion]
    """Conditions without which the criteria cannot tell anything; if one fails, the verdict is NO POWER."""
    simulation: dict[str, Any] | None
    seeds: list[int]
    digest: str
    """Digest of everything that decides the verdict: settings, quantities and criteria, but no prose."""

    @property
    def needs_gpu(self) -> bool:
        return self.gpu_hours is not None

    @property
    def cost(self) -> str:
        if self.gpu_hours is not None:
            return f"about {self.gpu_hours:g} h on one GPU (an estimate)"
        if self.minutes is not None and self.minutes < 1:
            return f"{self.minutes * 60:.0f} s on two cores"
        return f"{self.minutes:g} min on two cores"


def names(folder: Path) -> list[str]:
    """Return the sorted names of the entries in a folder. Raises UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(
            f"--papers {folder}: no such folder; run it from the repository's root, or name the folder of entries"
        )
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read(folder: Path, name: str) -> Entry:
    """Read an entry. Raises UserError for keys that are missing or unknown and criteria that cannot be computed."""
    if name not in (available := names(folder)):
        raise UserError(f"reproduce {name!r}: no such entry{nearest(name, available)}; `collapselab reproduce --list`")
    path = folder / f"{name}.yaml"
    tree = load_yaml(path)
    where = f"{path}: paper"
    optional = {"changed", "needs", "minutes", "gpu_hours", "quantities", "power"}
    paper = _section(tree.get("paper"), where, _TEXTS | _LISTS | optional)
    _check_paper(paper, where)
    if tree.get("name") != name or not NAME.fullmatch(name):
        raise UserError(
            f"{path}: name={short(repr(tree.get('name')))}: must be the file's own, small letters, digits and _"
        )
    seeds = tree.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{path}: seeds={short(repr(seeds))}: give one or more, as in [1, 2, 3]")
    quantities = paper.get("quantities", {})
    criteria = _parse_list(Criterion, paper, "criteria", where)
    power = _parse_list(Criterion, paper, "power", where) if "power" in paper else []
    base = load_yaml(path.parent / str(tree["base"])) if "base" in tree else {}
    deciding: dict[str, Any] = {key: value for key, value in tree.items() if key != "paper"}
    if base:
        deciding["base"] = base
    deciding |= {"quantities": quantities, "criteria": [_deciding(item) for item in paper["criteria"]]}
    if power:
        deciding["power"] = [_deciding(item) for item in paper["power"]]
    texts: dict[str, Any] = {key: _words(paper.get(key, "")) for key in ("protocol", "open", "small", "differs")}
    entry = Entry(
        name=name,
        path=path,
        title=paper["title"],
        cite=paper["cite"],
        **texts,
        changed=[_words(one) for one in paper.get("changed", [])],
        minutes=paper.get("minutes"),
        gpu_hours=paper.get("gpu_hours"),
        published=_parse_list(Published, paper, "published", where),
        quantities=quantities,
        plot=_list(paper, "plot", where),
        criteria=criteria,
        power=power,
        simulation=tree.get("simulation"),
        seeds=seeds,
        digest=digest(deciding),
    )
    _check(entry, base | tree)
    return entry


def _check_paper(paper: dict[str, Any], where: str) -> None:
    """Refuse texts, costs and lists of the wrong type."""
    for key in _TEXTS:
        if not isinstance(paper.get(key, "" if key in ("small", "differs") else None), str):
            raise UserError(f"{where}.{key}: must be text; write a line or more")
    costs = [paper.get("minutes"), paper.get("gpu_hours")]
    if (paper.get("needs") == "gpu") != (costs[1] is not None) or (costs[0] is None) == (costs[1] is None):
        raise UserError(f"{where}.minutes: give the minutes on two cores, or needs: gpu and gpu_hours")
    for key in ("minutes", "gpu_hours"):
        if not _is_number(paper.get(key, 0)):
            raise UserError(f"{where}.{key}={short(repr(paper[key]))}: must be a number")
    changed = paper.get("changed", [])
    if not isinstance(changed, list) or not all(isinstance(one, str) for one in changed):
        raise UserError(f"{where}.changed: give a list of sentences")
    quantities = paper.get("quantities", {})
    if not isinstance(quantities, dict):
        raise UserError(f"{where}.quantities: give short names, as in nll: real/nll_nats")
    for key, value in quantities.items():
        if not NAME.fullmatch(str(key)) or not isinstance(value, str):
            raise UserError(
                f"{where}.quantities.{short(str(key))}={short(repr(value))}: a short name, and a key of metrics.jsonl"
            )


_TEXTS = {"title", "cite", "protocol", "open", "small", "differs"}
_LISTS = {"published", "plot", "criteria"}


def _words(text: str) -> str:
    return " ".join(text.split())


def _section(tree: Any, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: must hold keys and values; see configs/papers/ for examples")
    for key in tree:
        if key not in keys:
            raise UserError(f"{where}.{short(str(key))}: no such key{nearest(str(key), keys)}")
    return tree


def _list(paper: dict[str, Any], key: str, where: str) -> list[Any]:
    items = paper.get(key)
    if not isinstance(items, list) or not items:
        raise UserError(f"{where}.{key}: give a list of one or more")
    return items


def _parse_list(kind: Any, paper: dict[str, Any], key: str, where: str) -> list[Any]:
    return [_parse(kind, item, f"{where}.{key}") for item in _list(paper, key, where)]


def _parse(kind: Any, item: Any, where: str) -> Any:
    fields = dataclasses.fields(kind)
    tree = _section(item, where, {field.name for field in fields})
    texts = {key: str(value) for key, value in tree.items() if key not in ("at_least", "at_most")}
    bounds = {key: tree[key] for key in ("at_least", "at_most") if key in tree}
    for field in fields:
        if field.default is dataclasses.MISSING and not texts.get(field.name, "").strip():
            raise UserError(f"{where}: {short(str(item), 120)}: {field.name} is missing")
    for key, value in bounds.items():
        if not _is_number(value):
            raise UserError(f"{where}.{key}={short(repr(value))}: must be a number")
    if kind is Criterion and not bounds:
        raise UserError(f"{where}: {short(tree['says'])}: give at_least, at_most, or both")
    return kind(**texts, **bounds)


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _deciding(item: dict[str, Any]) -> list[Any]:
    return [item.get("of"), item.get("at_least"), item.get("at_most")]


def _check(entry: Entry, tree: dict[str, Any]) -> None:
    """Refuse wrong arms, and criteria that cannot be computed from the entry's quantities (tried on courses without seeds).

    A simulation's quantities are known only after it has run, so only the syntax of its criteria is checked.
    """
    path = entry.path
    if entry.simulation is not None and not isinstance(entry.simulation, dict):
        raise UserError(f"{path}: simulation: must hold arms, as in arms: {{closed: {{process: gaussian}}}}")
    arms = (tree if entry.simulation is None else entry.simulation).get("arms")
    if not isinstance(arms, dict) or not arms:
        raise UserError(f"{path}: arms: give one or more")
    for arm, keys in arms.items():
        if not NAME.fullmatch(str(arm)) or arm == "real":
            raise UserError(f"{path}: arms.{short(str(arm))}: a name is small letters, digits and _, and not `real`")
        if not isinstance(keys, dict):
            raise UserError(f"{path}: arms.{arm}: must hold keys and values")
    for key in entry.plot:
        if not isinstance(key, str) or (entry.simulation is None and key not in entry.quantities):
            near = nearest(str(key), entry.quantities)
            raise UserError(f"{path}: paper.plot: {short(str(key))}: no such quantity{near}")
    generations = tree.get("generations", 5)
    if type(generations) is not int or not 0 <= generations <= 10**5:
        raise UserError(f"{path}: generations={short(repr(generations))}: must be a whole number in [0, 100000]")
    none = {arm: {key: np.empty((0, generations + 1)) for key in entry.quantities} for arm in arms}
    real = {key: np.empty((0, 1)) for key in entry.quantities}
    for criterion in (*entry.criteria, *entry.power):
        where = f"{path}: {short(criterion.says)}"
        if entry.simulation is None:
            value_of(criterion.of, Measured(none, real), where)
        else:
            check(criterion.of, where)
