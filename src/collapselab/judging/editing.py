"""Token editing (Zhu et al. 2024, arXiv 2412.14689): tokens that a model is sure of are drawn again."""

from __future__ import annotations

import numpy as np
import torch

from collapselab.judging.episodes import Reader
from collapselab.sampling.draw import draw, stream_key, uniforms


class _Editor:
    """Observer of the logits of `window_losses`: draws again the tokens of high probability."""

    def __init__(self, stream: np.ndarray, targets: np.ndarray, u: np.ndarray, least: float):
        self.stream, self.targets, self.u, self.least = stream, targets, u, least
        self.changes: list[tuple[np.ndarray, np.ndarray]] = []

    def observe(self, places: np.ndarray, logits: torch.Tensor) -> None:
        """Draw again; places int64 (rows,), -1 for rows that are not scored; logits (rows, vocabulary)."""
        rows = np.flatnonzero(places >= 0)
        chosen = torch.from_numpy(self.stream[places[rows]].astype(np.int64)).to(logits.device)
        sure = logits[rows].softmax(1).gather(1, chosen[:, None])[:, 0] >= self.least
        rows = rows[sure.cpu().numpy()]
        if len(rows):
            u = torch.from_numpy(self.u[places[rows]]).to(logits.device)
            self.changes.append((places[rows], draw(logits[rows], u).cpu().numpy()))


def edited(rows: np.ndarray, head: int, reader: Reader) -> tuple[np.ndarray, int]:
    """Draw again every written token that `judging.model` gives at least `judging.threshold`, from the model's distribution
    after the original text before it. Returns (int64 (n, length), tokens drawn again).

    A token's random number depends on its sequence and place alone.

    Args:
        rows: int64 (n, length), sequences number 0 and up. head: tokens of each that no model wrote.
    """
    config = reader.config
    separator = np.full((len(rows), 1), reader.corpus.tokenizer.separator)
    padded = rows if head else np.concatenate([separator, rows], 1)
    length, first = padded.shape[1], max(1, head)
    u = uniforms(stream_key(config.seed, reader.generation, "judge/edit"), range(len(rows)), range(length)).reshape(-1)
    targets = np.arange(padded.size).reshape(padded.shape)[:, first:].ravel()
    editor = _Editor(padded.reshape(-1), targets, u, config.judging.threshold)
    reader.losses(padded, first, config.judging.model, "edit", editor)
    out, count = padded.reshape(-1).copy(), 0
    for part in reader.session.processes.all_gather(editor.changes):
        for places, tokens in part:
            out[places], count = tokens, count + len(places)
    return out.reshape(padded.shape)[:, 0 if head else 1 :], count
