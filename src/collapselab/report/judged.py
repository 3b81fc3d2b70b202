"""Data of the report's explorer on what judges let through: a few samples of each verdict and class, generation by generation.
Like the rest of the explorer it shows the first seed of each arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collapselab.metrics.calibration import CLASSES
from collapselab.report.series import evenly
from collapselab.runtime.console import inert
from collapselab.store.checks import number, reading, text, whole
from collapselab.store.folders import read_json

if TYPE_CHECKING:
    from collapselab.report.files import ChainFiles

MOST_CHARACTERS = 1_000_000  # per page
LONGEST = 600  # characters shown of a prompt, and of what follows
VERDICTS = ("accepted", "rejected", "abstained")
MOST_GROUPS, MOST_EXAMPLES = 3 * (len(CLASSES) + 1), 12  # of a generation; of a group

Group = list[Any]
"""[verdict, class (None without an exact checker), samples, [[score (None: abstained), prompt, text], ...]]"""


def judged(chains: list[ChainFiles], most: int, notes: list[str]) -> list[dict[str, Any] | None]:
    """For each chain {`generations`, `cells`: for each of them its groups}; None without examples.

    Args:
        most: characters of all chains together; generations are left out evenly, and `notes` says so.
    """
    every = [_read(chain) for chain in chains]
    sizes = [{g: _size(groups) for g, groups in cells.items()} for cells in every]
    share = min(1.0, most / max(1, sum(sum(each.values()) for each in sizes)))
    out: list[dict[str, Any] | None] = []
    left = most
    for chain, cells, each in zip(chains, every, sizes, strict=True):
        shown = evenly(list(cells), max(2, int(share * len(cells))))
        left -= sum(each[g] for g in shown)
        out.append({"generations": shown, "cells": [cells[g] for g in shown]} if shown and left >= 0 else None)
        if shown and left < 0:
            notes.append(
                f"Judged samples of {inert(chain.arm)} are left out: the page has room for {most:,} characters."
            )
        elif len(shown) < len(cells):
            some = f"{len(shown)} of {len(cells)} generations, evenly spaced"
            notes.append(f"Judged samples of {inert(chain.arm)}: {some}; the page has room for {most:,} characters.")
    return out


def _size(groups: list[Group]) -> int:
    return sum(len(prompt) + len(text) for *_, examples in groups for _, prompt, text in examples)


def _read(chain: ChainFiles) -> dict[int, list[Group]]:
    """Read the groups of each generation; none for a chain that is not judged, or was judged before there were examples."""
    places = {g: chain.chain.stage(g, "judged") / "examples.json" for g in range(len(chain.rows))}
    return {g: _groups(path) for g, path in places.items() if chain.chain.judged and path.is_file()}


def _groups(path: Any) -> list[Group]:
    """Read examples.json of a judged folder. Raises UserError if it is not in the lab's format."""
    saved = read_json(path)
    with reading(path):
        groups = list(saved["groups"])
        if len(groups) > MOST_GROUPS:
            raise ValueError(f"{len(groups)} groups")
        return [_group(one) for one in groups]


def _group(saved: dict[str, Any]) -> Group:
    verdict, kind, examples = saved["verdict"], saved["class"], list(saved["examples"])
    if verdict not in VERDICTS or kind not in (None, *CLASSES.values()) or len(examples) > MOST_EXAMPLES:
        raise ValueError("a verdict, a class and a few examples")
    shown = [[_score(one["score"]), _cut(one["prompt"]), _cut(one["text"])] for one in examples]
    return [verdict, kind, whole(saved["count"]), shown]


def _score(score: Any) -> float | None:
    return None if score is None else number(score)


def _cut(value: Any) -> str:
    long = text(value)
    return inert(long if len(long) <= LONGEST else long[:LONGEST] + "…")
