"""Examples of a generation's samples by verdict and class, as text: the report's explorer shows them. Nothing is learned from
them."""

from __future__ import annotations

from typing import Any

import numpy as np

from collapselab.judging.episodes import Episodes, Reader
from collapselab.metrics.calibration import CLASSES

EACH = 3  # of a verdict and class
LONGEST = 2000  # characters of a prompt, and of what follows


def examples(
    reader: Reader, episodes: Episodes, scores: np.ndarray, accepted: np.ndarray, classes: np.ndarray | None
) -> dict[str, Any]:
    """Content of examples.json: for each verdict (accepted, rejected, abstained) and class of the exact checker that occurs
    (null without one) the count of samples, and a few of them, evenly spaced: number, prompt, text after it, score.

    Args:
        accepted: bool (n,), what is let through. classes: int8 (n,), keys of CLASSES.
    """
    silent = np.isnan(scores)
    verdicts = {"accepted": accepted & ~silent, "rejected": ~accepted & ~silent, "abstained": silent}
    kinds: dict[str | None, np.ndarray] = {None: np.ones(len(scores), bool)}
    if classes is not None:
        kinds = {name: classes == number for number, name in sorted(CLASSES.items(), key=_order)}
    groups = []
    for verdict, of_verdict in verdicts.items():
        for kind, of_kind in kinds.items():
            if len(rows := np.flatnonzero(of_verdict & of_kind)):
                some = rows[np.unique(np.linspace(0, len(rows) - 1, EACH).round().astype(int))]
                shown = _shown(reader, episodes, some, scores)
                groups.append({"verdict": verdict, "class": kind, "count": len(rows), "examples": shown})
    return {"groups": groups}


def _order(entry: tuple[int, str]) -> int:
    """Correct, hack, wrong, unreadable."""
    return (1, 2, 0, -1).index(entry[0])


def _shown(reader: Reader, episodes: Episodes, rows: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    own = Episodes(episodes.ids[rows], episodes.head, episodes.number[rows], episodes.group[rows])
    heads = Episodes(own.ids[:, : own.head], own.head, own.number, own.group)
    shown = []
    for row, whole, head in zip(rows, reader.texts(own), reader.texts(heads), strict=True):
        prompt = head if whole.startswith(head) else ""  # a cut character decodes to something else
        score = None if np.isnan(scores[row]) else float(scores[row])
        parts = {"prompt": prompt[:LONGEST], "text": whole[len(prompt) :][:LONGEST]}
        shown.append({"number": int(episodes.number[row])} | parts | {"score": score})
    return shown
