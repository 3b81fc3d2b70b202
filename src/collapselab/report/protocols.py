"""Chains by the protocol of their numbers. Numbers of different protocols are never drawn on one axis: by the stride alone
the same model's perplexity moves by a sixth."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from collapselab.config.identity import DEFAULTS, deciding
from collapselab.report.files import ChainFiles
from collapselab.report.overlay import grouped_by

# Settings that say where a run lives or how it is watched: no reason for its numbers.
NO_REASON = ("name", "arm", "seed", "retain", *deciding("nothing"))

NAMED = {"corpus": "corpus.source", "tokenizer": "corpus.tokenizer"}  # keys of a protocol that are digests
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # its beginning tells two apart, and fits into a table


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
        """What the names of its files and charts end with: nothing for the first."""
        return "" if self.label == "A" else f"-{self.label.lower()}"


def grouped(chains: list[ChainFiles]) -> list[Group]:
    """The chains by the digest of their protocol, in the order in which they come."""
    found = grouped_by(chains, lambda chain: str(chain.digest)).items()
    return [Group(_label(i), key, members[0].protocol, members) for i, (key, members) in enumerate(found)]


def _label(index: int) -> str:
    """A .. Z, then A2 .. Z2, and so on."""
    letter, times = chr(ord("A") + index % 26), index // 26
    return letter if not times else f"{letter}{times + 1}"


def differing(groups: list[Group]) -> list[list[str]]:
    """A row per key of the protocols that differ: the key, and its value in each."""
    keys = dict.fromkeys(key for group in groups for key in group.protocol)
    rows = [[key, *(shown(group.protocol.get(key, "not recorded")) for group in groups)] for key in keys]
    return [
        [key, *(DIGEST.sub(r"\1…", cell) + _name(key, group) for cell, group in zip(cells, groups, strict=True))]
        for key, *cells in rows
        if len(set(cells)) > 1
    ]


def _name(key: str, group: Group) -> str:
    """The setting that says in words what a digest is of."""
    if key not in NAMED:
        return ""
    names = dict.fromkeys(shown(chain.settings.get(NAMED[key])) for chain in group.chains if chain.settings)
    return f" ({NAMED[key]} {', '.join(names)})" if names else ""


def settings_that_differ(chains: list[ChainFiles]) -> tuple[list[str], list[list[str]]]:
    """(arms, rows): a row per setting in which the arms differ, the key and its value in each. A setting that a chain lacks
    has the value that is the default now."""
    arms = list(dict.fromkeys(chain.arm for chain in chains))
    keys = sorted({key for chain in chains for key in chain.settings} - set(NO_REASON))
    rows = []
    for key in keys:
        values: dict[str, list[str]] = {arm: [] for arm in arms}
        for chain in chains:
            said = shown(chain.settings.get(key, DEFAULTS.get(key))) if chain.settings else "cannot be read"
            if said not in values[chain.arm]:
                values[chain.arm].append(said)
        row = [key, *(" / ".join(values[arm]) for arm in arms)]
        if len(set(row[1:])) > 1:
            rows.append(row)
    return arms, rows


def shown(value: Any) -> str:
    """A setting as a YAML file has it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
