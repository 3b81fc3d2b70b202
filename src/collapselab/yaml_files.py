"""YAML files of settings: read once, strictly, and what is wrong with one said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from collapselab.config import UserError, first_line

MOST_BYTES = 1 << 22  # of a YAML file
MOST_VALUES = 100_000  # in a YAML file with its references written out: a few lines of them can stand for billions


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"line {line}: a key must be a plain word")
            if key_node.value in seen:
                raise UserError(
                    f"line {line}: key {key_node.value!r} stands twice (first in line {seen[key_node.value]}); keep one"
                )
            seen[key_node.value] = line
        return super().construct_mapping(node, deep)


def _written_out(node: Any, known: dict[int, int]) -> int:
    """Values that a YAML node stands for with its references written out. Raises ValueError where it holds itself."""
    if id(node) not in known:
        known[id(node)] = -1
        held = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [c for item in held for c in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_written_out(child, known) for child in children)
    if known[id(node)] < 0:
        raise ValueError("it holds itself")
    return known[id(node)]


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping; raises UserError that names the file and the line."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UserError(f"over {MOST_BYTES:,} bytes; name a file with settings")
        loader = _UniqueKeys(data.decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            return {}
        if _written_out(node, {}) > MOST_VALUES:
            raise ValueError(f"references that stand for more than {MOST_VALUES} values")
        tree = loader.construct_document(node)
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); check the path") from None
    except UserError as error:
        raise UserError(f"--config {path}, {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) if isinstance(error, yaml.YAMLError) else first_line(error)
        raise UserError(f"--config {path}: not valid YAML ({reason[:200]}); mend the file") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"--config {path}: must hold keys and values; see configs/ for examples")
    return tree
