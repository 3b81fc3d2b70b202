"""One reader for YAML files of settings and for single values in a file or on a command line.

A scalar follows YAML 1.2's core rules. Forms that other readers take for another number (010, 1_0, 1:30) stay text.
"""

from __future__ import annotations

import json
import os
import re
import stat
import types
import typing
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from collapselab.config import UserError, first_line

MOST_BYTES = 1 << 22  # of a YAML file
MOST_VALUES = 100_000  # in a YAML file with references expanded: a few lines of them can expand to billions

BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
NULLS = ("null", "Null", "NULL", "~")
WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
DECIMAL = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
WITH_EXPONENT = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]{1,2}")
QUOTED_NULL = re.compile(r'("*)(?:null|Null|NULL|~)\1')


def scalar(text: str) -> Any:
    """Value of an unquoted scalar: null, a boolean, a number, or the text itself."""
    if text == "" or text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    try:
        if WHOLE.fullmatch(text):
            return int(text, 0)
    except ValueError:  # more digits than Python accepts
        return text
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower())) if DECIMAL.fullmatch(text) else text


def _as_written(text: str) -> Any:
    """Read a scalar, but keep it as text if its value would print differently (1.10, 1e3, 0x10)."""
    value = scalar(text)
    return value if value is None or json.dumps(value) == text else text


def read(text: str, kind: Any) -> Any:
    """Read a value of a type (str, int, float, bool, None, Literal, list[...], dict, unions of these) from text on a command
    line. Raises ValueError with the invalid part."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = typing.get_args(kind)
        if types.NoneType in kinds and text in NULLS:
            return None
        (kind,) = (one for one in kinds if one is not types.NoneType)
    if kind is str:
        return text[1:-1] if len(text) > 2 and QUOTED_NULL.fullmatch(text) and text[0] == '"' else text
    if dict in (kind, typing.get_origin(kind)) or typing.get_origin(kind) is list:
        return _collection(text, kind)
    if typing.get_origin(kind) is typing.Literal:
        value: Any = text if text in typing.get_args(kind) else None
    elif kind is int and WITH_EXPONENT.fullmatch(text) and DECIMAL.fullmatch(text):
        exact = Decimal(text)
        value = int(exact) if exact == exact.to_integral_value() else None
    else:
        value = scalar(text)
        if kind is float and type(value) is int:
            value = float(text) if WHOLE.fullmatch(text) and "x" not in text and "o" not in text else float(value)
    if type(value) is not (str if typing.get_origin(kind) is typing.Literal else kind):
        raise ValueError(text)
    return value


def _collection(text: str, kind: Any) -> Any:
    try:
        value = _parsed(text)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError(text) from None
    holds = typing.get_origin(kind) or kind
    if not isinstance(value, holds):
        raise ValueError(text)
    return value if holds is dict else [read(as_text(item), typing.get_args(kind)[0]) for item in value]


def _parsed(text: str) -> Any:
    """Parse JSON, which is read fifty times faster, or other YAML."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice([key for key, _ in pairs], [1] * len(pairs))
        return dict(pairs)

    if text[:1] in ("[", "{"):
        try:
            numbers: Any = {"parse_int": _as_written, "parse_float": _as_written}
            return json.loads(text, object_pairs_hook=unique, parse_constant=refuse, **numbers)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
    return _document(text, _AsWritten)


def as_text(value: Any) -> str:
    """Format a value for a command line, so that `read` restores it."""
    if isinstance(value, str):
        return f'"{value}"' if QUOTED_NULL.fullmatch(value) else value
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    return json.dumps(value, ensure_ascii=False)


def taken_for(text: str) -> str:
    """Remark on what YAML 1.1 takes a text for, to append to a message; empty if it is text there too."""
    if not re.fullmatch(r"[-+.:\w]{1,60}", text, re.ASCII) or scalar(text) is not text:
        return ""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # an invalid date
        return ""
    return "" if value is None or isinstance(value, str) else f" (YAML 1.1 takes {text} for {as_plain(value)})"


def as_plain(value: Any) -> str:
    """Format a value as plain words: true, 90, 2024-01-01."""
    return json.dumps(value, default=str).strip('"')


# --- files ------------------------------------------------------------------------------------------------------------

PLAIN, TEXT = "tag:collapselab,plain", "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"


class _UniqueKeys(yaml.SafeLoader):
    """YAML loader that reads scalars by `scalar`, keeps keys as written and refuses duplicate keys."""

    yaml_implicit_resolvers = {"<": [(MERGE, re.compile("<<$"))], None: [(PLAIN, re.compile(""))]}  # noqa: RUF012
    means = staticmethod(scalar)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != MERGE]
        for key in keys:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"line {key.start_mark.line + 1}: a key must be a plain word")
        _refuse_twice([key.value for key in keys], [key.start_mark.line + 1 for key in keys])
        self.flatten_mapping(node)
        for key, _ in node.value:
            key.tag = TEXT
        return super().construct_mapping(node, deep)

    def construct_plain(self, node: Any) -> Any:
        return type(self).means(self.construct_scalar(node))


class _AsWritten(_UniqueKeys):
    means = staticmethod(_as_written)


_UniqueKeys.yaml_constructors = {
    kind: constructor
    for kind, constructor in yaml.SafeLoader.yaml_constructors.items()
    if kind is None or kind.rpartition(":")[2] in ("str", "seq", "map")
}
for _kind in (PLAIN, *(f"tag:yaml.org,2002:{_name}" for _name in ("null", "bool", "int", "float"))):
    _UniqueKeys.add_constructor(_kind, _UniqueKeys.construct_plain)


def _refuse_twice(keys: list[str], lines: Iterable[int]) -> None:
    seen: dict[str, int] = {}
    for key, line in zip(keys, lines, strict=True):
        if key in seen:
            raise UserError(f"line {line}: key {key!r} occurs twice (first in line {seen[key]}); keep one")
        seen[key] = line


def _expanded_size(node: Any, sizes: dict[int, int]) -> int:
    """Count the values of a YAML node with references expanded. Raises ValueError if it contains itself."""
    if id(node) not in sizes:
        sizes[id(node)] = -1
        items = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [c for item in items for c in (item if isinstance(item, tuple) else (item,))]
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    if sizes[id(node)] < 0:
        raise ValueError("it contains itself")
    return sizes[id(node)]


def _document(text: str, kind: type[_UniqueKeys]) -> Any:
    loader = kind(text)
    node = loader.get_single_node()
    if node is None:
        return None
    if _expanded_size(node, {}) > MOST_VALUES:
        raise ValueError(f"references that expand to more than {MOST_VALUES} values")
    return loader.construct_document(node)


def load_yaml(path: Path, *, as_written: bool = False) -> dict[str, Any]:
    """Read a YAML file as a mapping. Raises UserError naming the file and the line.

    Args:
        as_written: keep numbers and booleans as text if their value would print differently.
    """
    try:
        data = _content(path)
        tree = _document(data.decode("utf-8-sig"), _AsWritten if as_written else _UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); check the path") from None
    except UserError as error:
        raise UserError(f"--config {path}, {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        reason = f"{where}{getattr(error, 'problem', None) or first_line(error)}"
        raise UserError(f"--config {path}: not valid YAML ({reason[:200]}); fix the file") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"--config {path}: must hold keys and values; see configs/ for examples")
    return tree


def _content(path: Path) -> bytes:
    """Read a regular file; reading a pipe without a writer could block for ever. Raises UserError or OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "Is a directory")
        if not stat.S_ISREG(mode):
            raise UserError("a pipe or device; write the settings to a file and name that")
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(f"over {MOST_BYTES:,} bytes; name a file with settings")
    return data


class _Dumper(yaml.SafeDumper):
    """YAML writer that quotes text which YAML 1.1 or 1.2 would not read as text, and expands references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", DECIMAL, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", WHOLE, list("-+0123456789"))


def dump_yaml(tree: Any) -> str:
    """Format YAML that this module and any other reader read back as equal values."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
