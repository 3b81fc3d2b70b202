"""The keys of a run as a command line and a file have them: dotted, with type and meaning."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import sys
from functools import cache
from typing import Any

from collapselab.config import RunConfig


def sections() -> dict[str, Any]:
    """{"corpus": CorpusConfig, ...}: the fields of RunConfig that hold keys of their own."""
    return {
        f.name: f.default_factory
        for f in dataclasses.fields(RunConfig)
        if f.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(f.default_factory)
    }


def run_keys() -> dict[str, str]:
    """Every key of a run, dotted, with its annotation as written."""
    found = sections()
    keys = {name: text for name, text in RunConfig.__annotations__.items() if name not in found}
    return keys | {f"{s}.{name}": text for s, made in found.items() for name, text in made.__annotations__.items()}


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
    choices = re.findall(r"""["']([^"']+)["']""", annotation)
    plain = [
        names.get(p.strip(), p.strip()) for p in re.sub(r"Literal\[[^]]*\]", "", annotation).split("|") if p.strip()
    ]
    parts = choices + [("a list of numbers" if p.startswith("list") else p) for p in plain]
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
