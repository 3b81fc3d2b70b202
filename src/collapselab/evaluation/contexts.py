"""Next-token distributions at fixed places of held-out text: the same in every generation, arm and process count."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from collapselab.metrics.next_token import next_token_shape, next_token_sums
from collapselab.runtime.parallel import Processes

WINDOWS, POSITIONS = 64, 16  # at most: evenly spaced windows, and evenly spaced targets in each


def context_places(plan: list[tuple[int, int, int]]) -> np.ndarray:
    """Targets whose distributions are looked at, int64 ascending; their contexts are what the plan scores them with.

    Args:
        plan: (begin, end, first target) of each window.
    """
    longest = max(end - begin for begin, end, _ in plan)
    full = [(first, end) for begin, end, first in plan if end - begin == longest]
    chosen = [full[i] for i in _evenly(len(full), WINDOWS)]
    return np.array([first + i for first, end in chosen for i in _evenly(end - first, POSITIONS)], np.int64)


def _evenly(count: int, most: int) -> list[int]:
    """min(count, most) of the numbers 0 .. count - 1, first and last among them."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, most)).round()]


class NextTokens:
    """Looks at the logits of `real_text.window_losses` as they pass by: no forward pass of its own."""

    def __init__(self, plan: list[tuple[int, int, int]]):
        self.wanted = context_places(plan)
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def observe(self, places: np.ndarray, logits: Tensor) -> None:
        """Look at logits (rows, vocabulary); places int64 (rows,), -1 where a token is not scored there."""
        rows = np.flatnonzero(np.isin(places, self.wanted))
        if len(rows):
            self.found.append((places[rows], next_token_shape(logits[rows].cpu().numpy())))

    def sums(self, processes: Processes) -> dict[str, float]:
        """Sums over all contexts, the same on every process; contexts in order, so that the last bit is too."""
        everything = [item for part in processes.all_gather(self.found) for item in part]
        places = np.concatenate([item[0] for item in everything])
        return next_token_sums(np.concatenate([item[1] for item in everything])[np.argsort(places)])
