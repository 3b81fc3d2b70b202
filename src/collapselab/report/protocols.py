"""Chains grouped by protocol. Numbers of different protocols never share an axis: the stride alone changes the same model's
perplexity by a sixth."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from collapselab.config.identity import DEFAULTS, deciding
from collapselab.report.files import ChainFiles
from collapselab.report.overlay import grouped_by

# Settings for where a run lives or how it is watched, which do not affect its numbers.
NO_REASON = ("name", "arm", "seed", "retain", *deciding("nothing"))

NAMED = {"corpus": "corpus.source", "tokenizer": "corpus.tokenizer"}  # keys of a protocol that are digests
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # its beginning identifies it, and fits into a table


@dataclass
class Group:
    """Chains whose numbers compare."""

    label: str
    """A, B, ... in the order of the report."""
    digest: str
    protocol: dict[str, Any]
    chains: list[ChainFiles]

    @property
    def suffix(self) -> str:
        """Ending of the names of its files and charts; empty for the first."""
        return "" if self.label == "A" else f"-{self.label.lower()}"


def grouped(chains: list[ChainFiles]) -> list[Group]:
    """Group chains by the digest of their protocol, keeping their order."""
    groups = grouped_by(chains, lambda chain: str(chain.digest)).items()
    return [Group(_label(i), key, members[0].protocol, members) for i, (key, members) in enumerate(groups)]


def _label(index: int) -> str:
    """Label of a protocol: A .. Z, then A2 .. Z2, and so on."""
    letter, times = chr(ord("A") + index % 26), index // 26
    return letter if not times else f"{letter}{times + 1}"


def differing(groups: list[Group]) -> list[list[str]]:
    """Rows of the keys in which protocols differ: the key, and its value in each."""
    keys = dict.fromkeys(key for group in groups for key in group.protocol)
    rows = [[key, *(shown(group.protocol.get(key, "not recorded")) for group in groups)] for key in keys]
    return [
        [key, *(DIGEST.sub(r"\1…", cell) + _name(key, group) for cell, group in zip(cells, groups, strict=True))]
        for key, *cells in rows
        if len(set(cells)) > 1
    ]


def _name(key: str, group: Group) -> str:
    """Name the setting behind a digest, in parentheses; empty for other keys."""
    if key not in NAMED:
        return ""
    names = dict.fromkeys(shown(chain.settings.get(NAMED[key])) for chain in group.chains if chain.settings)
    return f" ({NAMED[key]} {', '.join(names)})" if names else ""


def settings_that_differ(chains: list[ChainFiles]) -> tuple[list[str], list[list[str]]]:
    """(arms, rows): a row per setting in which arms differ, the key and its value in each. Missing settings have today's
    default."""
    arms = list(dict.fromkeys(chain.arm for chain in chains))
    keys = sorted({key for chain in chains for key in chain.settings} - set(NO_REASON))
    rows = []
    for key in keys:
        values: dict[str, list[str]] = {arm: [] for arm in arms}
        for chain in chains:
            value = shown(chain.settings.get(key, DEFAULTS.get(key))) if chain.settings else "cannot be read"
            if value not in values[chain.arm]:
                values[chain.arm].append(value)
        row = [key, *(" / ".join(values[arm]) for arm in arms)]
        if len(set(row[1:])) > 1:
            rows.append(row)
    return arms, rows


def shown(value: Any) -> str:
    """Format a setting as in a YAML file."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
