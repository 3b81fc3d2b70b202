"""Ancestral samples of a bigram model: a step is one search in the running sum of its counts.

Random numbers and rule (the token whose slice of [0, 1) holds u) are those of `draw.py`. Sums are integers, so nothing is
rounded and the text does not depend on the batch size.
"""

from __future__ import annotations

import numpy as np


class Slices:
    """Running sums of a bigram model's counts (`bigram.arrays`); token a's slice begins at `low[a]` and is `total[a]` wide."""

    def __init__(self, starts: np.ndarray, tokens: np.ndarray, counts: np.ndarray, unigrams: np.ndarray):
        # The last row is for tokens without successors.
        self.token = np.concatenate([tokens, np.arange(len(unigrams))])
        self.reach = np.concatenate([counts, unigrams]).cumsum()
        ends = np.concatenate([[0], self.reach])
        alone = starts[:-1] == starts[1:]
        self.low = np.where(alone, ends[len(counts)], ends[starts[:-1]])
        self.total = np.where(alone, ends[-1] - ends[len(counts)], ends[starts[1:]] - ends[starts[:-1]])

    def write(self, last_B: np.ndarray, uniforms_BN: np.ndarray) -> np.ndarray:
        """Continue each sequence, of which only the last token matters, by N tokens.

        Args:
            last_B: int64 (B,). uniforms_BN: float64 (B, N) in [0, 1).

        Returns:
            int64 (B, N).
        """
        out = np.empty(uniforms_BN.shape, np.int64)
        for step, u_B in enumerate(uniforms_BN.T):
            total_B = self.total[last_B]
            # The product can round up to the total.
            inside_B = np.minimum((u_B * total_B).astype(np.int64), total_B - 1)
            last_B = self.token[np.searchsorted(self.reach, self.low[last_B] + inside_B, side="right")]
            out[:, step] = last_B
        return out
