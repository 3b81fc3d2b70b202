"""A model beside a truth that is known exactly: distances, diversity and recall, split by frequency; expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Statements of a fact in the training text: lower bounds of the buckets, and their names.
SEEN: tuple[tuple[int, str], ...] = ((0, "0"), (1, "1"), (2, "2-5"), (6, "6-50"), (51, ">50"))


def simpson(law: np.ndarray) -> np.ndarray:
    """1 - sum p^2 along the last axis: the probability that two draws differ (Simpson 1949)."""
    diversity: np.ndarray = 1 - (law**2).sum(axis=-1)
    return diversity


def divergence_sums(
    log_truth: np.ndarray, log_model: np.ndarray, bands: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """Sums over documents drawn from the truth: those that the model calls impossible are counted and left out.

    Args:
        log_truth, log_model: (documents,) log-probability of each document, nats; -inf in log_model where it is 0.
        bands: (documents,) index into `names`.
    """
    possible = np.isfinite(log_model)
    log_truth, log_model = log_truth[possible], log_model[possible]
    lost = log_truth - log_model
    by_band = np.bincount(bands[possible], weights=lost, minlength=len(names))
    return {
        "documents": float(len(possible)),
        "impossible": float((~possible).sum()),
        "nats_truth": -float(log_truth.sum()),
        "nats_model": -float(log_model.sum()),
        "squares": float(((lost - lost.mean()) ** 2).sum()) if len(lost) else 0.0,
        **{f"lost_{name}": float(by_band[i]) for i, name in enumerate(names)},
    }


def divergence_values(sums: dict[str, float], names: tuple[str, ...]) -> dict[str, float]:
    """`kl`: mean of log truth - log model, nats per document, an unbiased estimate of KL(truth || model); `kl_se`: its
    standard error; `kl/<band>`: the part of it that documents of a band bring, so that the parts add up to it. `impossible`:
    share of documents with probability 0 under the model; where there are any, the divergence is infinite and left out."""
    n = sums["documents"]
    values = {"impossible": sums["impossible"] / n}
    if sums["impossible"]:
        return values
    values["kl"] = (sums["nats_model"] - sums["nats_truth"]) / n
    if n > 1:
        values["kl_se"] = math.sqrt(sums["squares"] / (n - 1) / n)
    return values | {f"kl/{name}": sums[f"lost_{name}"] / n for name in names}


def slot_sums(
    found: np.ndarray, truth: np.ndarray, bands: np.ndarray, names: tuple[str, ...], documents: np.ndarray | None
) -> dict[str, list[float | None]]:
    """What is derived from a slot's law, one number per context; None where the model knows nothing of a context.

    Args:
        found: (contexts, values) probability the model gives to each value; what is left to 1 is its leak.
        truth: (contexts, values) the true law.
        bands: (contexts, values) index into `names` of each value.
        documents: (contexts,) documents of each context in the training set, or None where they are not counted.
    """
    inside = found.sum(axis=1)
    law = _inside(found)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(law > 0, law * np.log(law), 0).sum(axis=1)
    out = {
        "leak": 1 - inside,
        "diversity": simpson(law),
        "diversity_true": simpson(truth),
        "drift": ((law - truth) ** 2).sum(axis=1),
        "entropy": entropy,
        **{f"mass_{name}": np.where(bands == i, law, 0).sum(axis=1) for i, name in enumerate(names)},
    }
    if documents is not None:
        # An exact learner's smallest probability is 1/N: half of it tells what was in its training set.
        least = 1 / (2 * np.maximum(documents, 1))
        out["survivors"] = np.where(documents > 0, (law > least[:, None]).sum(axis=1), 0)
        out["documents"] = documents
    defined = inside > 0
    return {
        name: [float(value) if has else None for value, has in zip(row, defined, strict=True)]
        for name, row in out.items()
    }


def _inside(found: np.ndarray) -> np.ndarray:
    """The law over the slot's own values; nan where a context gives all of its probability to other words."""
    inside = found.sum(axis=1, keepdims=True)
    law: np.ndarray = np.divide(found, inside, out=np.full(found.shape, np.nan), where=inside > 0)
    return law


def slot_values(sums: dict[str, list[float | None]]) -> dict[str, float]:
    """Means over the contexts that the model knows. `diversity`: Simpson diversity over its true value; `drift`: squared
    distance from the true law over that same value; `survivors`: values with p > 1/(2 N) at N training documents."""
    row = {name: np.array([v for v in numbers if v is not None]) for name, numbers in sums.items()}
    if not len(row["leak"]):
        return {}
    of_truth = row.pop("diversity_true")
    row.pop("documents", None)
    row |= {name: row[name] / of_truth for name in ("diversity", "drift")}
    return {name: float(numbers.mean()) for name, numbers in row.items()}


def slot_divergence(
    found: np.ndarray, truth: np.ndarray, bands: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """KL(truth || model) of the slot, nats, mean over contexts, and the part of each band; empty where it is infinite.
    Shapes as in `slot_sums`."""
    law = _inside(found)
    if not (law > 0).all():
        return {}
    lost = truth * np.log(truth / law)
    parts = {f"kl_{name}": float(np.where(bands == i, lost, 0).sum(axis=1).mean()) for i, name in enumerate(names)}
    return {"kl": float(lost.sum(axis=1).mean()), **parts}


def recall_sums(probability: np.ndarray, right: np.ndarray, seen: np.ndarray) -> dict[str, dict[str, float]]:
    """Facts, probability of the right value and right answers, by how often each fact was stated.

    Args:
        probability: (facts,) that the model gives to the right value.
        right: (facts,) bool, whether that is its most likely word.
        seen: (facts,) statements of each fact in generation 0's training text.
    """
    bucket = np.searchsorted([low for low, _ in SEEN], seen, side="right") - 1

    def count(weights: np.ndarray) -> np.ndarray:
        return np.bincount(bucket, weights=weights, minlength=len(SEEN))

    rows = {"facts": np.ones(len(seen)), "probability": probability, "right": right.astype(np.float64)}
    totals = {name: count(row) for name, row in rows.items()}
    return {name: {key: float(total[i]) for key, total in totals.items()} for i, (_, name) in enumerate(SEEN)}


def recall_values(sums: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means per bucket; buckets without a fact are left out."""
    had = {name: part for name, part in sums.items() if part["facts"]}
    values = {f"recall/{name}": part["probability"] / part["facts"] for name, part in had.items()}
    return values | {f"recall_accuracy/{name}": part["right"] / part["facts"] for name, part in had.items()}


def edit_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Levenshtein distance of each pair of rows over the length of the longer one, float64 (pairs,); 0 of two empty ones.

    Args:
        first, second: (pairs, places) symbols as whole numbers, -1 behind the end of a row.
    """
    places = np.arange(first.shape[1] + 1)
    lengths, others = (first >= 0).sum(axis=1), (second >= 0).sum(axis=1)
    row = np.tile(places, (len(first), 1))  # from nothing to every beginning of the second
    found = np.where(lengths == 0, others, 0)
    for i in range(first.shape[1]):
        best = row + 1
        best[:, 1:] = np.minimum(best[:, 1:], row[:, :-1] + (first[:, i, None] != second))
        row = np.minimum.accumulate(best - places, axis=1) + places  # one more symbol inserted costs 1
        found = np.where(lengths == i + 1, row[np.arange(len(row)), others], found)
    distance: np.ndarray = found / np.maximum(np.maximum(lengths, others), 1)
    return distance


def expression_sums(values: Sequence[bool | None], symbols: np.ndarray) -> dict[str, float]:
    """Counts over documents that should be expressions.

    Args:
        values: of each, what it evaluates to; None where it is none.
        symbols: (documents, places) its symbols as whole numbers, -1 behind its end.
    """
    return {
        "documents": float(len(values)),
        "syntax": float(sum(value is not None for value in values)),
        "correct": float(sum(value is True for value in values)),
        "distinct": float(len(np.unique(symbols, axis=0))),
        "pairs": float(len(values) - 1),
        "edit_distance": float(edit_distances(symbols[:-1], symbols[1:]).sum()),
    }


def expression_values(sums: dict[str, float]) -> dict[str, float]:
    """Shares of the documents that are expressions (`syntax`), that are true ones (`correct`), and of different ones
    (`distinct`); `edit_distance`: mean over neighbours, which are independent draws, of the distance in [0, 1]."""
    values = {name: sums[name] / sums["documents"] for name in ("syntax", "correct", "distinct")}
    return values | ({"edit_distance": sums["edit_distance"] / sums["pairs"]} if sums["pairs"] else {})
