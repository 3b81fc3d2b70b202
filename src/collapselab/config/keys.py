"""The keys of a run as a command line and a file have them: dotted, with type and meaning."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import re
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from collapselab.config import RunConfig, UserError

T = TypeVar("T")


RENAMED = {
    "corpus.language_seed": "corpus.planted.seed, corpus.facts.seed or corpus.logic.seed",
    "corpus.zipf": "corpus.planted.zipf or corpus.facts.zipf",
    "corpus.contexts": "corpus.planted.contexts",
    "corpus.values": "corpus.planted.values",
    "corpus.entities": "corpus.facts.entities",
    "corpus.depth": "corpus.logic.depth",
    "corpus.subset": "corpus.hub.subset",
    "corpus.split": "corpus.hub.split",
}
"""Keys that have another name now, and which."""


def sections(made: Any = RunConfig, prefix: str = "") -> dict[str, Any]:
    """{"corpus": CorpusConfig, "corpus.hub": HubConfig, ...}: the fields that hold keys of their own, outer ones first."""
    found: dict[str, Any] = {}
    for part in dataclasses.fields(made):
        if dataclasses.is_dataclass(part.default_factory):
            name = f"{prefix}{part.name}"
            found |= {name: part.default_factory, **sections(part.default_factory, f"{name}.")}
    return found


def run_keys() -> dict[str, str]:
    """Every key of a run, dotted, with its annotation as written."""
    found = sections()
    every = {
        f"{section}.{name}".lstrip("."): text
        for section, made in {"": RunConfig, **found}.items()
        for name, text in made.__annotations__.items()
    }
    return {name: text for name, text in every.items() if name not in found}


def built(made: type[T], values: dict[str, Any]) -> T:
    """A dataclass from a tree of values, sections built first."""
    inner = {key.partition(".")[0]: part for key, part in sections(made).items() if "." not in key}
    return made(**{key: built(inner[key], value) if key in inner else value for key, value in values.items()})


@cache
def docstrings(made: type) -> dict[str, str]:
    """{field: the string that stands under it}, of a dataclass."""
    tree = ast.parse(inspect.getsource(sys.modules[made.__module__]))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == made.__name__)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def in_words(annotation: str) -> str:
    """`Literal["a", "b"] | None` becomes `a, b or null`."""
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
    names["list[dict[str, str]]"] = "a list of records"
    choices = re.findall(r"""["']([^"']+)["']""", annotation)
    plain = [
        names.get(p.strip(), p.strip()) for p in re.sub(r"Literal\[[^]]*\]", "", annotation).split("|") if p.strip()
    ]
    parts = choices + [("a list of numbers" if p.startswith("list") else p) for p in plain]
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def nearest(key: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?", or nothing."""
    if renamed := RENAMED.get(key.replace("-", "_")):
        return f"; it is {renamed} now"
    known = list(known)
    found = [k for k in known if "." not in key and k.split(".")[-1] == key][:1]  # `lr` for `training.lr`
    found = found or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def filled(name: str, settings: dict[str, Any]) -> str:
    """A name in which each `{key}` is replaced by the value of that setting: what starts runs from a table of settings
    (a sweep) gives each a name of its own. Values are written as in YAML (null, true); characters that no name has become
    `_`. Raises UserError for what is no key.

    Args:
        settings: flat.
    """

    def value(found: re.Match[str]) -> str:
        key = found[1]
        if key not in settings or key in ("name", "arm"):
            raise UserError(f"{name!r}: {{{key}}} is no setting; write a key as in {{mixing.start}}")
        held = settings[key]
        return re.sub(r"[^A-Za-z0-9._=+-]", "_", held if isinstance(held, str) else json.dumps(held))

    return re.sub(r"\{([^{}]*)\}", value, name)
