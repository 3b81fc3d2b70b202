"""Calibration of a judge against an exact checker: TPR, FPR, J, acceptance by class, abstentions, correlation with length.

Samples of one prompt are not independent: a judge that errs by prompt errs on all of them. `groups` makes the prompts the
units of the intervals; without it every sample is one.
"""

from __future__ import annotations

import math

import numpy as np

from collapselab.config import UserError
from collapselab.metrics.intervals import correlation_interval, difference_interval, effective_trials, share_interval

CLASSES = {0: "wrong", 1: "correct", 2: "hack", -1: "unreadable"}

Sums = dict[str, dict[str, float]]


def calibration_sums(
    scores: np.ndarray,
    accepted: np.ndarray,
    classes: np.ndarray,
    lengths: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Sums:
    """Count samples and accepted ones by class; an abstention is counted as such and enters nothing else.

    Raises UserError for an accepted abstention, an infinite score, an unknown class or unequal numbers.

    Args:
        scores: (n,) float64; nan = the judge abstains.
        accepted: (n,) bool.
        classes: (n,) int8 by the exact checker: 1 correct, 0 wrong, 2 wrong in a way that the judge may be made to accept (a
            hack), -1 unreadable.
        lengths: (n,) of each sample, in tokens or characters; None: no correlation.
        groups: (n,) the prompt of each sample.

    Returns:
        Of each rate: `samples`, `count` of them, `units` that they come from, `variance` of the rate. Of `j`: `covariance` of
        TPR and FPR. Of `length_correlation`: sums of squares and products about the means, and the same.
    """
    scores, accepted, classes = np.asarray(scores, np.float64), np.asarray(accepted, bool), np.asarray(classes)
    units = np.arange(len(scores)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = {len(scores), len(accepted), len(classes), len(units), len(scores if lengths is None else lengths)}
    if len(sizes) > 1 or not len(scores):
        raise UserError(f"samples={sorted(sizes)}: give as many of scores, accepted, classes ..., at least one")
    unknown = sorted(set(np.unique(classes).tolist()) - set(CLASSES))
    if unknown:
        raise UserError(f"classes={unknown}: known are " + ", ".join(f"{n} {name}" for n, name in CLASSES.items()))
    if np.isinf(scores).any():
        raise UserError("scores: infinite; give numbers, nan where the judge abstains")
    judged = ~np.isnan(scores)
    if (accepted & ~judged).any():
        raise UserError(
            f"accepted={int((accepted & ~judged).sum())}: abstentions that are accepted; they are no verdict"
        )
    correct = classes == 1
    members = {"tpr": correct, "fpr": ~correct, "accepted": np.ones(len(scores), bool)}
    members |= {f"accepted/{name}": classes == number for number, name in CLASSES.items()}
    sums = {key: _rate_sums(mask & judged, accepted, units) for key, mask in members.items()}
    shared = _scatter(correct & judged, accepted, units) @ _scatter(~correct & judged, accepted, units)
    count = len(np.unique(units[judged]))
    sums["j"] = {"covariance": float(shared) * count / max(1, count - 1)}
    sums["abstained"] = _rate_sums(np.ones(len(scores), bool), ~judged, units)
    if lengths is not None:
        sums["length_correlation"] = _correlation_sums(scores[judged], np.asarray(lengths)[judged], units[judged])
    return sums


def _scatter(mask: np.ndarray, accepted: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Each unit's part in the error of a rate, (accepted - rate x samples) / all samples: float64 (units,)."""
    samples = mask.sum()
    rate = accepted[mask].mean() if samples else 0.0
    errors = np.bincount(units, weights=mask * (accepted - rate), minlength=int(units.max()) + 1)
    return np.asarray(errors / max(1, samples))


def _rate_sums(mask: np.ndarray, accepted: np.ndarray, units: np.ndarray) -> dict[str, float]:
    count = len(np.unique(units[mask]))
    errors = _scatter(mask, accepted, units)
    return {
        "samples": float(mask.sum()),
        "count": float(accepted[mask].sum()),
        "units": float(count),
        "variance": float(errors @ errors) * count / max(1, count - 1),
    }


def _correlation_sums(scores: np.ndarray, lengths: np.ndarray, units: np.ndarray) -> dict[str, float]:
    """Return sums about the means, and the correlation's variance from each unit's influence on it, (n,): x y - r (x^2 + y^2)
    / 2 of standardised values (Devlin et al. 1975)."""
    n = len(scores)
    x, y = (row - row.mean() if n else row for row in (scores, lengths.astype(np.float64)))
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    count, variance = len(np.unique(units)), 0.0
    if xx > 0 and yy > 0:
        x, y = x / math.sqrt(xx / n), y / math.sqrt(yy / n)
        influence = x * y - xy / math.sqrt(xx * yy) * (x**2 + y**2) / 2
        by_unit = np.bincount(units, weights=influence) / n
        variance = float(by_unit @ by_unit) * count / max(1, count - 1)
    return {"samples": float(n), "xx": xx, "yy": yy, "xy": xy, "units": float(count), "variance": variance}


def calibration_values(sums: Sums) -> dict[str, float]:
    """`tpr`: accepted / judged samples of class correct; `fpr`: of all other classes together; `j` = tpr - fpr (Youden 1950);
    `accepted`, `accepted/{class}`: the same of all and of each class; `abstained`: samples without a verdict / all;
    `length_correlation`: Pearson's of score and length. What has no samples or does not vary is left out."""
    rates = {key: part for key, part in sums.items() if part.get("samples") and "count" in part}
    values = {key: part["count"] / part["samples"] for key, part in rates.items()}
    if "tpr" in values and "fpr" in values:
        values["j"] = values["tpr"] - values["fpr"]
    length = sums.get("length_correlation")
    if length and length["xx"] > 0 and length["yy"] > 0:
        values["length_correlation"] = max(-1.0, min(1.0, length["xy"] / math.sqrt(length["xx"] * length["yy"])))
    return values


def calibration_intervals(sums: Sums, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """(low, high) of each value; nan where several samples come from one unit.

    Wilson's for rates, of as many trials as the scatter between units allows and no more than there are samples; Newcombe's
    for `j`, with the covariance of both rates; Fisher's for the correlation.
    """
    out = {}
    values = calibration_values(sums)
    for key, value in values.items():
        if key == "j":
            continue
        part = sums[key]
        if key == "length_correlation":
            out[key] = correlation_interval(value, part["variance"], part["units"], level)
            continue
        trials = part["samples"]  # every sample its own unit: no scatter to estimate
        if part["units"] < part["samples"]:
            trials = np.minimum(
                trials, effective_trials(value, part["variance"], part["units"], level)
            )  # nan stays nan
        out[key] = (math.nan, math.nan) if math.isnan(trials) else share_interval(value, float(trials), level)
    if "j" in values:
        spread = math.sqrt(sums["tpr"]["variance"] * sums["fpr"]["variance"])
        correlation = max(-1.0, min(1.0, sums["j"]["covariance"] / spread)) if spread > 0 else 0.0
        first, second = ((values[key], *out[key]) for key in ("tpr", "fpr"))
        known = not math.isnan(out["tpr"][0] + out["fpr"][0])
        out["j"] = difference_interval(first, second, correlation) if known else (math.nan, math.nan)
    return out
