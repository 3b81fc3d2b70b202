"""Next-token distributions at fixed places of held-out text, independent of generation, arm and process count."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from collapselab.metrics.next_token import next_token_shape, next_token_sums
from collapselab.runtime.parallel import Processes

WINDOWS, POSITIONS = 64, 16  # at most: evenly spaced windows, and evenly spaced targets in each


def context_places(plan: list[tuple[int, int, int]]) -> np.ndarray:
    """Targets whose distributions are measured, int64 ascending, from a plan of (begin, end, first target) per window."""
    longest = max(end - begin for begin, end, _ in plan)
    full = [(first, end) for begin, end, first in plan if end - begin == longest]
    chosen = [full[i] for i in _evenly(len(full), WINDOWS)]
    return np.array([first + i for first, end in chosen for i in _evenly(end - first, POSITIONS)], np.int64)


def _evenly(count: int, most: int) -> list[int]:
    """min(count, most) evenly spaced numbers of 0 .. count - 1, including first and last."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, most)).round()]


class NextTokens:
    """Observer of the logits that `real_text.window_losses` computes: no forward pass of its own."""

    def __init__(self, plan: list[tuple[int, int, int]]):
        self.targets = context_places(plan)
        self.shapes: list[tuple[np.ndarray, np.ndarray]] = []

    def observe(self, places: np.ndarray, logits: Tensor) -> None:
        """Record logits (rows, vocabulary); places int64 (rows,), -1 for rows that are not scored."""
        rows = np.flatnonzero(np.isin(places, self.targets))
        if len(rows):
            self.shapes.append((places[rows], next_token_shape(logits[rows].cpu().numpy())))

    def sums(self, processes: Processes) -> dict[str, float]:
        """Return sums over all contexts in order, bit-identical on every process."""
        everything = [item for part in processes.all_gather(self.shapes) for item in part]
        places = np.concatenate([item[0] for item in everything])
        return next_token_sums(np.concatenate([item[1] for item in everything])[np.argsort(places)])
