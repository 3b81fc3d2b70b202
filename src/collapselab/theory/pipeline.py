"""Diversity law of the pipeline as it was run: of its regime and its actual documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class History:
    """Documents of each context in a chain's training sets so far: int64 arrays (generations, contexts)."""

    regime: str
    """`replace`, `accumulate` or `accumulate_subsample`, as in `mixing.regime`."""
    reuse: bool
    """`replace` only: real documents of later generations repeat the first ones of generation 0."""
    real: np.ndarray
    """Real documents in the training set."""
    synthetic: np.ndarray
    """Synthetic documents in the training set."""
    written: np.ndarray
    """Documents that the generation wrote (its samples)."""


def diversity(history: History) -> np.ndarray:
    """r = E[H] / H* of an exact learner given these counts, float64 (generations, contexts); the drift is 1 - r.

    drift + r = 1 in every regime: E p_t = p*, as every document of a training set has the law p* (it is real, or a draw of a
    model that has this mean, or drawn blindly from a pool of such). Then E ||p_t - p*||^2 = E ||p_t||^2 - ||p*||^2 =
    H* - E H(p_t). `discrete` derives the same from ancestors.

    The mean is over documents given their counts by context; under accumulate_subsample also over the split of a draw into
    real and synthetic documents. A context without documents has no model: nan at that generation, and later for as long as
    its documents come from an undefined model.

    Raises:
        ValueError: an unknown regime.
    """
    laws = {
        "replace": _reuse if history.reuse else _replace,
        "accumulate": _accumulate,
        "accumulate_subsample": _accumulate_subsample,
    }
    if history.regime not in laws:
        raise ValueError(f"regime {history.regime!r}: must be one of {', '.join(laws)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        return laws[history.regime](history)


def _replace(history: History) -> np.ndarray:
    """r for n_r fresh real documents and n_s draws of p_{t-1}: E H' = 1 - E ||q||^2 - (n_r H* + n_s E H)/N^2 with
    q = (n_r p* + n_s p_{t-1})/N, and 1 - E ||q||^2 = [1 - (n_s/N)^2] H* + (n_s/N)^2 E H."""
    out, r = [], np.full(history.real.shape[1], np.nan)
    for real, synthetic in zip(history.real, history.synthetic, strict=True):
        total = real + synthetic
        before = np.where(synthetic > 0, r, 0.0)
        share = synthetic / total
        r = 1 - share**2 * (1 - before) - (real + synthetic * before) / total**2
        out.append(r)
    return np.asarray(out)


def _reuse(history: History) -> np.ndarray:
    """r if the real documents of generation t are the first n_r of generation 0's.

    With x_t = p_t - p*, e_n the empirical law of the first n documents, m_t = E ||x_t||^2 / H* and
    c_t(n) = E <x_t, e_n - p*> / H*: E <e_a - p*, e_b - p*> = H* / max(a, b), because one set contains the other. From
    p_t = (n_r e_{n_r} + n_s phat)/N, phat the law of n_s draws of p_{t-1}:

        m_t    = [n_r + 2 n_r n_s c_{t-1}(n_r) + n_s^2 m_{t-1} + n_s (1 - m_{t-1})] / N^2
        c_t(n) = [n_r / max(n_r, n) + n_s c_{t-1}(n)] / N.
    """
    contexts = np.arange(history.real.shape[1])
    drift = np.full(len(contexts), np.nan)
    cross = np.full((len(history.real), len(contexts)), np.nan)  # c_t(n) for the n_r of every generation
    out = []
    for g, (real, synthetic) in enumerate(zip(history.real, history.synthetic, strict=True)):
        total = real + synthetic
        before = np.where(synthetic > 0, drift, 0.0)
        shared = np.where((synthetic > 0) & (real > 0), cross[g], 0.0)
        noise = synthetic * (1 - before)
        drift = (real + 2 * real * synthetic * shared + synthetic**2 * before + noise) / total**2
        both = np.where(real > 0, real / np.maximum(real, history.real), 0.0)
        cross = (both + np.where(synthetic > 0, synthetic * cross, 0.0)) / total
        out.append(1 - drift)
    return np.asarray(out)


def _accumulate(history: History) -> np.ndarray:
    """r if w documents drawn from the M before are added to them: r' = r [1 - w / (M + w)^2]."""
    total = history.real + history.synthetic
    added = np.diff(total, axis=0, prepend=0)
    return np.asarray(np.cumprod(np.where(total > 0, 1 - added / total**2.0, np.nan), axis=0))


def _accumulate_subsample(history: History) -> np.ndarray:
    """r of a model of n documents drawn without replacement from the pool of M, which then gets w draws of that model:

    m  = U + (1 - U)(M - n) / (n (M - 1))
    U' = [M^2 U + 2 M w U + w^2 m + w (1 - m)] / (M + w)^2.
    """
    size = history.real[0].astype(float)
    pool = 1 / size
    out = []
    for real, synthetic, written in zip(history.real, history.synthetic, history.written, strict=True):
        drawn = real + synthetic
        spread = (size - drawn) / (drawn * np.maximum(1, size - 1))
        model = np.where(drawn > 0, pool + (1 - pool) * spread, np.nan)
        out.append(1 - model)
        grown = size**2 * pool + 2 * size * written * pool + written * (written - 1) * model + written
        pool = np.where(written > 0, grown / (size + written) ** 2, pool)
        size = size + written
    return np.asarray(out)
