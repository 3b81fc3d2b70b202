"""A model compared with an exactly known truth: distances, diversity and recall by frequency; expressions; answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Statements of a fact in the training text: lower bounds of the buckets, and their names.
SEEN: tuple[tuple[int, str], ...] = ((0, "0"), (1, "1"), (2, "2-5"), (6, "6-50"), (51, ">50"))


def simpson(law: np.ndarray) -> np.ndarray:
    """Probability that two draws differ, 1 - sum p^2 over the last axis (Simpson 1949)."""
    diversity: np.ndarray = 1 - (law**2).sum(axis=-1)
    return diversity


def divergence_sums(
    log_truth: np.ndarray, log_model: np.ndarray, bands: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """Return sums over documents drawn from the truth; those of probability 0 under the model are counted and left out.

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
    standard error; `kl/<band>`: the part due to documents of a band, so that parts add up to `kl`. `impossible`: share of
    documents of probability 0 under the model; if there are any, the divergence is infinite and left out."""
    n = sums["documents"]
    values = {"impossible": sums["impossible"] / n}
    if sums["impossible"]:
        return values
    values["kl"] = (sums["nats_model"] - sums["nats_truth"]) / n
    if n > 1:
        values["kl_se"] = math.sqrt(sums["squares"] / (n - 1) / n)
    return values | {f"kl/{name}": sums[f"lost_{name}"] / n for name in names}


def slot_sums(
    model: np.ndarray, truth: np.ndarray, bands: np.ndarray, names: tuple[str, ...], documents: np.ndarray | None
) -> dict[str, list[float | None]]:
    """Return statistics of a slot's law, one number per context; None if the model gives the slot's values no probability.

    Args:
        model: (contexts, values) probability that the model gives to each value; the rest up to 1 is its leak.
        truth: (contexts, values) the true law.
        bands: (contexts, values) index into `names` of each value.
        documents: (contexts,) documents of each context in the training set, or None if they are not counted.
    """
    inside = model.sum(axis=1)
    law = _inside(model)
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
        # An exact learner's smallest probability is 1/N: values above half of it were in its training set.
        least = 1 / (2 * np.maximum(documents, 1))
        out["survivors"] = np.where(documents > 0, (law > least[:, None]).sum(axis=1), 0)
        out["documents"] = documents
    defined = inside > 0
    return {
        name: [float(value) if has else None for value, has in zip(row, defined, strict=True)]
        for name, row in out.items()
    }


def _inside(model: np.ndarray) -> np.ndarray:
    """Normalise the law over the slot's own values; nan for contexts that give them no probability."""
    inside = model.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(model, inside, out=np.full(model.shape, np.nan), where=inside > 0))


def slot_values(sums: dict[str, list[float | None]]) -> dict[str, float]:
    """Means over the contexts whose law is defined. `diversity`: Simpson diversity over its true value; `drift`: squared
    distance from the true law over that same value; `survivors`: values with p > 1/(2 N) for N training documents."""
    row = {name: np.array([v for v in numbers if v is not None]) for name, numbers in sums.items()}
    if not len(row["leak"]):
        return {}
    of_truth = row.pop("diversity_true")
    row.pop("documents", None)
    row |= {name: row[name] / of_truth for name in ("diversity", "drift")}
    return {name: float(numbers.mean()) for name, numbers in row.items()}


def slot_divergence(
    model: np.ndarray, truth: np.ndarray, bands: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """KL(truth || model) of the slot, nats, mean over contexts, and the part of each band; empty if it is infinite.
    Shapes as in `slot_sums`."""
    law = _inside(model)
    if not (law > 0).all():
        return {}
    lost = truth * np.log(truth / law)
    parts = {f"kl_{name}": float(np.where(bands == i, lost, 0).sum(axis=1).mean()) for i, name in enumerate(names)}
    return {"kl": float(lost.sum(axis=1).mean()), **parts}


def recall_sums(probability: np.ndarray, right: np.ndarray, seen: np.ndarray) -> dict[str, dict[str, float]]:
    """Count facts, probability of the right value and right answers, by how often each fact was stated.

    Args:
        probability: (facts,) that the model gives to the right value.
        right: (facts,) bool, true where that is its most likely word.
        seen: (facts,) statements of each fact in generation 0's training text.
    """
    bucket = np.searchsorted([low for low, _ in SEEN], seen, side="right") - 1

    def count(weights: np.ndarray) -> np.ndarray:
        return np.bincount(bucket, weights=weights, minlength=len(SEEN))

    rows = {"facts": np.ones(len(seen)), "probability": probability, "right": right.astype(np.float64)}
    totals = {name: count(row) for name, row in rows.items()}
    return {name: {key: float(total[i]) for key, total in totals.items()} for i, (_, name) in enumerate(SEEN)}


def recall_values(sums: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means per bucket, without empty buckets."""
    full = {name: part for name, part in sums.items() if part["facts"]}
    values = {f"recall/{name}": part["probability"] / part["facts"] for name, part in full.items()}
    return values | {f"recall_accuracy/{name}": part["right"] / part["facts"] for name, part in full.items()}


def edit_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Levenshtein distance of each pair of rows over the length of the longer one, float64 (pairs,); 0 for two empty rows.

    Args:
        first, second: (pairs, places) integer symbols, padded with -1.
    """
    places = np.arange(first.shape[1] + 1)
    lengths, others = (first >= 0).sum(axis=1), (second >= 0).sum(axis=1)
    row = np.tile(places, (len(first), 1))  # from the empty string to every prefix of the second
    edits = np.where(lengths == 0, others, 0)
    for i in range(first.shape[1]):
        best = row + 1
        best[:, 1:] = np.minimum(best[:, 1:], row[:, :-1] + (first[:, i, None] != second))
        row = np.minimum.accumulate(best - places, axis=1) + places  # one more symbol inserted costs 1
        edits = np.where(lengths == i + 1, row[np.arange(len(row)), others], edits)
    return np.asarray(edits / np.maximum(np.maximum(lengths, others), 1))


def expression_sums(values: Sequence[bool | None], symbols: np.ndarray) -> dict[str, float]:
    """Count documents that should be expressions.

    Args:
        values: value of each document; None if it is no expression.
        symbols: (documents, places) integer symbols, padded with -1.
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
    """Shares of documents that are expressions (`syntax`), true ones (`correct`) and distinct (`distinct`); `edit_distance`:
    mean distance of neighbours, which are independent draws, in [0, 1]."""
    values = {name: sums[name] / sums["documents"] for name in ("syntax", "correct", "distinct")}
    return values | ({"edit_distance": sums["edit_distance"] / sums["pairs"]} if sums["pairs"] else {})


def answer_sums(classes: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Count documents by the class of their answer.

    Args:
        classes: (documents,) index into `names`, or -1 for an answer that cannot be read.
    """
    counts = np.bincount(classes.astype(np.int64) + 1, minlength=len(names) + 1)
    by_class = dict(zip(("unreadable", *names), counts.astype(np.float64).tolist(), strict=True))
    return {"documents": float(len(classes)), **by_class}


def answer_values(sums: dict[str, float]) -> dict[str, float]:
    """Shares of documents with the correct answer, with the hack, and without an answer that can be read."""
    return {name: sums[name] / sums["documents"] for name in ("correct", "hack", "unreadable")}
