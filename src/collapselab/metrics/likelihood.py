"""Likelihood metrics of held-out real text and of sequences, from the loss of every scored token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Occurrences in the real training text: lower bounds of the buckets, and their names.
BUCKETS: tuple[tuple[int, str], ...] = ((0, "0"), (1, "1"), (2, "2-5"), (6, "6-50"), (51, "51-500"), (501, ">500"))

HISTOGRAM_STEP, HISTOGRAM_END = 0.25, 20.0  # nats; the last bin is open
QUANTILES = (50, 90, 99)  # per cent


def windows(tokens: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """Plan windows over a stream, (begin, end, first target) each, so that no token is scored twice.

    A window is `context` tokens, inputs and targets together; its first token has no predecessor and cannot be a target.
    With stride < context every token but the stream's first is scored; with stride = context the windows are disjoint and
    the first token of each is not scored (the protocol of packed blocks).
    """
    out, reached = [], 0
    for begin in range(0, tokens, stride):
        end = min(begin + context, tokens)
        first = max(reached, begin + 1)
        if first < end:
            out.append((begin, end, first))
        reached = end
        if end == tokens:
            break
    return out


def likelihood_sums(nll: np.ndarray, correct: np.ndarray, nbytes: np.ndarray) -> dict[str, float]:
    """Return sums over scored tokens; `impossible` counts tokens of probability 0, if any, and `nats` leaves them out.

    Args:
        nll: (tokens,) negative log-likelihood of each scored token, nats; +inf where its probability is 0.
        correct: (tokens,) bool, true where the most likely token was the right one.
        nbytes: (tokens,) UTF-8 bytes each scored token accounts for.
    """
    impossible = np.isposinf(nll)
    return {
        "nats": float(nll[~impossible].sum(dtype=np.float64)),
        "tokens": float(len(nll)),
        "correct": float(correct.sum()),
        "bytes": float(nbytes.sum()),
    } | ({"impossible": float(impossible.sum())} if impossible.any() else {})


def likelihood_values(sums: dict[str, float]) -> dict[str, float]:
    """nll_nats = nats / tokens; perplexity = exp of it; bits_per_byte = nats / (ln 2 x bytes); accuracy.

    If a scored token has probability 0, the infinite values are left out, and impossible is the share of such tokens.
    """
    if "impossible" in sums:
        return {"impossible": sums["impossible"] / sums["tokens"], "accuracy": sums["correct"] / sums["tokens"]}
    nll = sums["nats"] / sums["tokens"]
    values = {"nll_nats": nll, "perplexity": math.exp(min(nll, 700.0)), "accuracy": sums["correct"] / sums["tokens"]}
    if sums["bytes"]:
        values["bits_per_byte"] = sums["nats"] / (math.log(2) * sums["bytes"])
    return values


def frequency_sums(nll: np.ndarray, occurrences: np.ndarray) -> dict[str, dict[str, float]]:
    """Nats and tokens by frequency of the scored tokens in the real training text.

    Args:
        nll: (tokens,) nats; +inf as in `likelihood_sums`.
        occurrences: (tokens,) count of each scored token in the real training split.
    """
    bucket = np.searchsorted([low for low, _ in BUCKETS], occurrences, side="right") - 1
    lost = np.isposinf(nll)
    nats = np.bincount(bucket, weights=np.where(lost, 0, nll.astype(np.float64)), minlength=len(BUCKETS))
    tokens, impossible = (np.bincount(b, minlength=len(BUCKETS)) for b in (bucket, bucket[lost]))
    return {
        name: {"nats": float(nats[i]), "tokens": float(tokens[i])}
        | ({"impossible": float(impossible[i])} if impossible[i] else {})
        for i, (_, name) in enumerate(BUCKETS)
    }


def frequency_values(sums: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean NLL in nats per bucket, without buckets that are empty or hold a token of probability 0."""
    return {
        name: part["nats"] / part["tokens"]
        for name, part in sums.items()
        if part["tokens"] and "impossible" not in part
    }


def sequence_sums(nll: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Return sums of the losses of many sequences, and the distribution of the sequences' mean losses (the data points of
    Shumailov et al. 2024, figure 1).

    Sequences shorter than the longest (the budget may cut the last one) enter the sums alone: a mean of few tokens would
    lie in the tails for that reason.

    Args:
        nll: (tokens,) nats, sequence after sequence.
        lengths: (sequences,) scored tokens of each, 1 or more.

    Returns:
        nats, tokens; sequences: number of full-length ones; quantiles: of their means, linear between neighbours;
        histogram: counts of their means in [0, 0.25), [0.25, 0.5), ..., [20, infinity) nats.
    """
    first = np.cumsum(lengths) - lengths
    means = (np.add.reduceat(nll.astype(np.float64), first) / lengths)[lengths == lengths.max()]
    bins = int(HISTOGRAM_END / HISTOGRAM_STEP) + 1
    place = np.minimum(means / HISTOGRAM_STEP, bins - 1).astype(np.int64)
    return {
        "nats": float(nll.sum(dtype=np.float64)),
        "tokens": float(len(nll)),
        "sequences": float(len(means)),
        "quantiles": {str(q): float(np.quantile(means, q / 100)) for q in QUANTILES},
        "histogram": np.bincount(place, minlength=bins).tolist(),
    }


def sequence_values(sums: dict[str, Any]) -> dict[str, float]:
    """nll: mean over tokens, nats; nll_p50, nll_p90, nll_p99: quantiles over sequences."""
    quantiles = {f"nll_p{q}": value for q, value in sums["quantiles"].items()}
    return {"nll": sums["nats"] / sums["tokens"], **quantiles}
