"""Dotted keys of a run, as in files and on command lines, with types and meanings."""

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
"""Present names of renamed keys."""


def sections(config: Any = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Sections of a configuration, outer ones first: {"corpus": CorpusConfig, "corpus.hub": HubConfig, ...}."""
    classes: dict[str, Any] = {}
    for part in dataclasses.fields(config):
        if dataclasses.is_dataclass(part.default_factory):
            name = f"{prefix}{part.name}"
            classes |= {name: part.default_factory, **sections(part.default_factory, f"{name}.")}
    return classes


def run_keys() -> dict[str, str]:
    """Every key of a run, dotted, with its annotation as written."""
    classes = sections()
    every = {
        f"{section}.{name}".lstrip("."): text
        for section, config in {"": RunConfig, **classes}.items()
        for name, text in config.__annotations__.items()
    }
    return {name: text for name, text in every.items() if name not in classes}


def from_tree(config: type[T], values: dict[str, Any]) -> T:
    """Build a configuration from a tree of values, sections first."""
    inner = {key.partition(".")[0]: part for key, part in sections(config).items() if "." not in key}
    return config(**{key: from_tree(inner[key], value) if key in inner else value for key, value in values.items()})


@cache
def docstrings(config: type) -> dict[str, str]:
    """Docstrings of a dataclass's fields."""
    tree = ast.parse(inspect.getsource(sys.modules[config.__module__]))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == config.__name__)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def describe_type(annotation: str) -> str:
    """Describe an annotation to users: `Literal["a", "b"] | None` as `a, b or null`."""
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
    names |= {
        "list[str]": "a list of names",
        "list[dict[str, Any]]": "a list of patterns",
        "dict[str, Any]": "a mapping",
    }
    names |= {"list[dict[str, str]]": "a list of records"}
    names |= dict.fromkeys(("list[int]", "list[float]"), "a list of numbers")
    choices = re.findall(r"""["']([^"']+)["']""", annotation)
    parts = choices + [
        names.get(p.strip(), p.strip()) for p in re.sub(r"Literal\[[^]]*\]", "", annotation).split("|") if p.strip()
    ]
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def nearest(key: str, keys: Iterable[str]) -> str:
    """Suggest a key for an unknown one, as the end of a message: "; did you mean ...?", or nothing."""
    if renamed := RENAMED.get(key.replace("-", "_")):
        return f"; it is now {renamed}"
    keys = list(keys)
    similar = [k for k in keys if "." not in key and k.split(".")[-1] == key][:1]  # `lr` for `training.lr`
    similar = similar or difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def fill_name(name: str, settings: dict[str, Any]) -> str:
    """Replace each `{key}` in a name by that setting's value, so that a sweep can name its runs by their settings. Values are
    written as in YAML (null, true); characters that no name has become `_`. Raises UserError for an unknown key.

    Args:
        settings: flat.
    """

    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key not in settings or key in ("name", "arm"):
            raise UserError(f"{name!r}: {{{key}}} is not a setting; write a key as in {{mixing.start}}")
        value = settings[key]
        return re.sub(r"[^A-Za-z0-9._=+-]", "_", value if isinstance(value, str) else json.dumps(value))

    return re.sub(r"\{([^{}]*)\}", value, name)
