"""Simulators of the laws' processes, many chains at once (torch), to test the closed forms.

A chain holds N documents as category numbers, not K counts: a new document copies a random document of the previous training
set (its ancestor). These are N draws of the empirical law, for N gathers where a multinomial over K categories costs K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from collapselab.theory.discrete import split
from collapselab.theory.pipeline import History

CHUNK = 500  # chains at once, so that their counts (K numbers per chain) stay near the cache

Moments = dict[str, np.ndarray]
"""Mean and standard error over chains by generation: float64 (2, generations) for each name."""


# --- training sets, as category numbers -----------------------------------------------------------------------------------


class Truth:
    """Sampler of p* by the alias method (Walker 1977): two random numbers and two gathers for any K."""

    def __init__(self, p: np.ndarray, generator: torch.Generator):
        self.p, self.generator = torch.as_tensor(p, dtype=torch.float64), generator
        self.diversity = float(1 - (self.p**2).sum())
        count = len(p)
        level, other = p * count, np.arange(count)
        small, large = [i for i in range(count) if level[i] < 1], [i for i in range(count) if level[i] >= 1]
        level = level.copy()
        while small and large:
            low, high = small.pop(), large[-1]
            other[low] = high
            level[high] -= 1 - level[low]
            if level[high] < 1:
                small.append(large.pop())
        for i in small + large:  # left over by rounding
            level[i] = 1
        self.level, self.other = torch.as_tensor(level, dtype=torch.float32), torch.as_tensor(other)

    def draw(self, chains: int, documents: int) -> Tensor:
        """Draw documents, int64 (chains, documents)."""
        column = torch.randint(len(self.p), (chains, documents), generator=self.generator)
        stays = torch.rand(chains, documents, generator=self.generator) < self.level[column]
        return torch.where(stays, column, self.other[column])

    def resample(self, ids: Tensor, documents: int) -> Tensor:
        """Draw from the empirical law of `ids`: int64 (chains, documents)."""
        return ids.gather(1, torch.randint(ids.shape[1], (len(ids), documents), generator=self.generator))


def mixture(truth: Truth, chains: int, shares: Sequence[float], documents: Sequence[int]) -> Iterator[Tensor]:
    """Yield the training sets of each generation; each document is real with probability alpha."""
    ids = truth.draw(chains, documents[0])
    yield ids
    for share, size in zip(shares[1:], documents[1:], strict=True):
        ids = truth.resample(ids, size)
        if share > 0:
            real = torch.rand(ids.shape, generator=truth.generator) < share
            ids[real] = truth.draw(1, int(real.sum()))[0]
        yield ids


def stratified(
    truth: Truth, chains: int, shares: Sequence[float], documents: int, reuse: bool = False
) -> Iterator[Tensor]:
    """Yield training sets of which exactly alpha N documents, rounded at random, are real: fresh, or (`reuse`) the first ones
    of generation 0."""
    first = ids = truth.draw(chains, documents)
    yield ids
    for share in shares[1:]:
        whole, rest = split(share, documents)
        count = whole + (torch.rand(chains, 1, generator=truth.generator) < rest).long()
        real = first if reuse else truth.draw(chains, documents)
        ids = torch.where(torch.arange(documents) < count, real, truth.resample(ids, documents))
        yield ids


def pipeline(truth: Truth, chains: int, history: History) -> Iterator[Tensor]:
    """Yield training sets of the lab's pipeline with the counts of one context (History with one column)."""
    real, synthetic, written = (a[:, 0].tolist() for a in (history.real, history.synthetic, history.written))
    first = pool = ids = truth.draw(chains, real[0])
    yield ids
    for g in range(1, len(real)):
        if history.regime == "replace":
            old = first[:, : real[g]] if history.reuse else truth.draw(chains, real[g])
            ids = torch.cat([old, truth.resample(ids, synthetic[g])], 1)
        else:
            pool = torch.cat([pool, truth.resample(ids, written[g - 1])], 1)
            ids = pool
            if history.regime == "accumulate_subsample":
                order = torch.rand(pool.shape, generator=truth.generator).argsort(1)
                ids = pool.gather(1, order[:, : real[g] + synthetic[g]])
        yield ids


# --- measurements on them ---------------------------------------------------------------------------------------------------


class Measure:
    """Measurement of diversity, drift and survivors; the memory for counts is kept between calls."""

    def __init__(self, truth: Truth, chains: int):
        self.truth = truth
        self.counts = torch.zeros(chains, len(truth.p))
        self.share = truth.p.float()

    def __call__(self, ids: Tensor) -> dict[str, Tensor]:
        """`r` = H/H*, `drift` = ||p - p*||^2/H*, `survivors`: float64 (chains,) of ids (chains, N)."""
        counts, size = self.counts[: len(ids)], ids.shape[1]
        counts.scatter_add_(1, ids, torch.ones(1).expand(ids.shape))
        own = counts.gather(1, ids)  # the count of each document's category: its sum is the sum of squared counts
        same = own.sum(1, dtype=torch.float64) / size**2
        truth = 2 * self.share[ids].sum(1, dtype=torch.float64) / size
        survivors = own.reciprocal_().sum(1, dtype=torch.float64)
        counts.scatter_(1, ids, 0.0)  # resets the touched counts only
        scale = self.truth.diversity
        return {"r": (1 - same) / scale, "drift": (same - truth + 1 - scale) / scale, "survivors": survivors}


def estimate(
    p: np.ndarray, process: Callable[[Truth, int], Iterator[Tensor]], chains: int, seed: int, chunk: int = CHUNK
) -> Moments:
    """Moments of `r`, `drift` and `survivors` over that many chains, `chunk` at a time."""
    truth = Truth(p, torch.Generator().manual_seed(seed))
    measure = Measure(truth, min(chunk, chains))
    parts: list[Moments] = []
    for start in range(0, chains, chunk):
        rows = [measure(ids) for ids in process(truth, min(chunk, chains - start))]
        parts.append({k: sums(torch.stack([row[k] for row in rows])) for k in rows[0]})
    return {key: moments(np.sum([part[key] for part in parts], axis=0), chains) for key in parts[0]}


def sums(values: Tensor) -> np.ndarray:
    """Return sum and sum of squares over the last axis: float64 (2, generations)."""
    return torch.stack([values.double().sum(-1), (values.double() ** 2).sum(-1)]).numpy()


def moments(both: np.ndarray, chains: int) -> np.ndarray:
    """Mean and its standard error from `sums`."""
    mean = both[0] / chains
    variance = np.maximum(0, both[1] / chains - mean**2) * chains / (chains - 1)
    return np.asarray([mean, np.sqrt(variance / chains)])


def z_scores(law: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(mean - law) / standard error by generation; 0 if both agree without spread."""
    gap, error = estimate[0] - law, estimate[1]
    return np.asarray(np.where(np.abs(gap) < 1e-9, 0, gap / np.where(error > 0, error, 1e-300)))


# --- Gaussian, regression, linear drift ----------------------------------------------------------------------------------------


def gaussian(shares: Sequence[float], documents: int, unbiased: bool, chains: int, seed: int) -> dict[str, Tensor]:
    """Refits of N(0, 1), by explicit samples: `mean` and `variance`, float64 (generations, chains)."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = torch.zeros(chains, 1, dtype=torch.float64), torch.ones(chains, 1, dtype=torch.float64)
    means, variances = [], []
    for share in shares:
        x = torch.randn(chains, documents, generator=generator, dtype=torch.float64)
        real = torch.rand(chains, documents, generator=generator) < share
        x = torch.where(real, x, mean + deviation * x)
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).sum(1, keepdim=True) / (documents - int(unbiased))
        deviation = variance.sqrt()
        means.append(mean[:, 0])
        variances.append(variance[:, 0])
    return {"mean": torch.stack(means), "variance": torch.stack(variances)}


def regression(
    regime: str, samples: int, dimension: int, sigma: float, generations: int, chains: int, seed: int
) -> Tensor:
    """||w_k - w*||^2 of refitted least squares, float64 (generations, chains), with w* = 0 without loss of generality."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.zeros(chains, dimension, 1, dtype=torch.float64)
    gram = torch.zeros(chains, dimension, dimension, dtype=torch.float64)
    moment, out = torch.zeros_like(w), []
    for _ in range(generations):
        x = torch.randn(chains, samples, dimension, generator=generator, dtype=torch.float64)
        y = x @ w + sigma * torch.randn(chains, samples, 1, generator=generator, dtype=torch.float64)
        keep = 1.0 if regime == "accumulate" else 0.0
        gram = keep * gram + x.mT @ x
        moment = keep * moment + x.mT @ y
        w = torch.linalg.solve(gram, moment)
        out.append((w**2).sum((1, 2)))
    return torch.stack(out)


def linear_drift(shares: Sequence[float], documents: int, sigma: float, chains: int, seed: int) -> Tensor:
    """mu by generation in mu' = (1 - alpha) mu + xi with mu* = 0: float64 (generations, chains)."""
    generator = torch.Generator().manual_seed(seed)
    mu, out = torch.zeros(chains, dtype=torch.float64), []
    for share in shares:
        mu = (1 - share) * mu + sigma / documents**0.5 * torch.randn(chains, generator=generator, dtype=torch.float64)
        out.append(mu)
    return torch.stack(out)
