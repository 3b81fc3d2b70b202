"""Published processes without a network: many chains simulated at once, beside their law.

An entry names one in its section `simulation`. Each is a pure function of its parameters and a seed and returns numbers by
generation: measured (a mean over chains), `law_...` (exact), `bound_...` (as published) and `z_...` (measured minus law, in
standard errors). A new process is such a function and a line in `PROCESSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from collapselab.config import UserError
from collapselab.config.keys import nearest
from collapselab.config.values import check
from collapselab.theory import discrete, gaussian, regression, tails
from collapselab.theory import simulate as by_chance
from collapselab.theory.parameters import LawParameters
from collapselab.theory.survivors import binomial, kept

Quantities = dict[str, np.ndarray]
"""float64 (generations + 1,) for each name."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of the processes; each process takes some of them."""

    generations: int = 50
    """Last generation; generation g is fit number g + 1 (of `forgetting`: round g, and 0 is the original corpus)."""
    documents: int = 100
    """Samples that each fit learns from (`forgetting`: tokens of a corpus)."""
    chains: int = 2000
    """Independent chains that are averaged."""
    share: float = 0.0
    """Probability that a sample of a later generation is real and fresh, [0, 1]."""
    level: float = 0.1
    """gaussian: the deviation, over the truth's, whose chance of being exceeded is measured; above 0."""
    regime: Literal["replace", "accumulate"] = "replace"
    """regression: each fit on the labels of the fit before alone, or on all labels so far."""
    dimension: int = 10
    """regression: number of inputs; documents must be dimension + 2 or more."""
    sigma: float = 1.0
    """regression: standard deviation of the labels' noise, above 0."""
    categories: int = 20
    """discrete: size of the alphabet."""
    zipf: float = 1.0
    """discrete: the truth is proportional to rank^-zipf."""
    count: int = 1
    """forgetting: occurrences of the word in the original corpus, 1 to documents."""

    def __post_init__(self) -> None:
        check(self.chains >= 2, "chains", self.chains, "must be 2 or more; a standard error needs two chains")
        check(self.documents >= 2, "documents", self.documents, "must be 2 or more")
        check(0 <= self.share <= 1, "share", self.share, "must lie in [0, 1]")
        check(0 < self.level < float("inf"), "level", self.level, "must be above 0")
        check(self.sigma > 0, "sigma", self.sigma, "must be above 0")
        remedy = f"must lie between 1 and documents={self.documents}"
        check(1 <= self.count <= self.documents, "count", self.count, remedy)
        shared = {field.name for field in fields(LawParameters)} - {"share", "regime"}
        LawParameters(**{key: value for key, value in vars(self).items() if key in shared})  # its ranges hold here too

    @property
    def shares(self) -> list[float]:
        """Real share of each generation's samples; 1 for generation 0."""
        return [1.0] + [self.share] * self.generations


def simulate(process: dict[str, Any], seed: int) -> Quantities:
    """Run a process.

    Args:
        process: its name as `process`, and its parameters, as in {process: gaussian, documents: 100, generations: 50}.
        seed: 0 or more; the same seed gives the same numbers.

    Returns:
        float64 (generations + 1,) for each quantity.

    Raises:
        UserError: an unknown process or parameter, or a value that cannot be; one line.
    """
    name = process.get("process")
    if name not in PROCESSES:
        problem = "process: name one" if name is None else f"process={name!r}: no such process"
        raise UserError(f"{problem}{nearest(str(name), PROCESSES)}; there are: {', '.join(PROCESSES)}")
    uses, run = PROCESSES[name]
    given = {key: value for key, value in process.items() if key != "process"}
    for key, value in given.items():
        if key not in uses:
            raise UserError(f"{key}={value!r}: the process {name} does not take it; it takes {', '.join(uses)}")
        given[key] = _typed(key, value)
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed={seed!r}: must be a whole number, 0 or more")
    return run(Parameters(**given), seed)


def _typed(key: str, value: Any) -> Any:
    """Return the value in its parameter's type. Raises UserError."""
    kind = get_type_hints(Parameters)[key]
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value in get_args(kind) and not isinstance(value, bool):
        return value
    expected = {int: "a whole number", float: "a number"}.get(kind) or f"one of {', '.join(get_args(kind))}"
    raise UserError(f"{key}={value!r}: must be {expected}")


def _beside(name: str, law: np.ndarray, chains: Tensor) -> Quantities:
    """Return the mean over `chains`, float64 (generations, chains), its law, and their distance in standard errors."""
    moments = by_chance.moments(by_chance.sums(chains), chains.shape[1])
    return {name: moments[0], f"law_{name}": law, f"z_{name}": by_chance.z_scores(law, moments)}


def _share(name: str, law: np.ndarray, chains: Tensor) -> Quantities:
    """Return the share of true `chains`, bool (generations, chains), its law, and their distance in standard errors.

    The errors are the law's, and at least one chain: a share of 0 has no spread of its own.
    """
    share = chains.double().mean(1).numpy()
    error = np.sqrt(law * (1 - law) / chains.shape[1] + chains.shape[1] ** -2.0)
    return {name: share, f"law_{name}": law, f"z_{name}": (share - law) / error}


# --- the processes ----------------------------------------------------------------------------------------------------


def gaussian_refit(p: Parameters, seed: int) -> Quantities:
    """Refit N(0, 1) to its own samples by maximum likelihood (dividing by n).

    `variance` E sigma^2 and `drift` E mu^2 with their laws; `median_log_deviation`: of ln sigma. Without real samples also
    `deviation` E sigma: each fit multiplies sigma by sqrt(chi^2_{n-1} / n), so its law is (E of that)^t; and `exceeds`,
    the share of chains with sigma > level, beside `bound_exceeds` = exp(-t / 4n) / level (Suresh et al. 2024).
    """
    found = by_chance.gaussian(p.shares, p.documents, False, p.chains, seed)
    variance, drift = gaussian.maximum_likelihood(p.shares, p.documents)
    out = _beside("variance", variance, found["variance"]) | _beside("drift", drift, found["mean"] ** 2)
    return out | _deviations(p, found["variance"], p.documents)


def gaussian_unbiased(p: Parameters, seed: int) -> Quantities:
    """Refit N(0, 1) to its own samples, dividing by n - 1, without real samples. E sigma^2 stays 1 but is carried by ever
    fewer chains, so means of logs and medians are measured instead.

    `log_variance` E ln sigma^2, `median_log_deviation`, `drift` E mu^2 (law t/n, without bound), `deviation` and `exceeds` as
    above; `risk` E [mu^2 + (sigma - 1)^2], the squared Wasserstein distance to the truth, whose law t/n + 2 - 2 E sigma
    begins as `published_risk` = 3 t / 2n (the leading terms of Shumailov et al. 2024).
    """
    found = by_chance.gaussian([1.0] + [0.0] * p.generations, p.documents, True, p.chains, seed)
    law = gaussian.unbiased(p.documents, p.generations + 1)
    out = _beside("log_variance", law["log_variance"], found["variance"].log())
    out |= _beside("drift", law["drift"], found["mean"] ** 2) | _deviations(p, found["variance"], p.documents - 1)
    risk = found["mean"] ** 2 + (found["variance"].sqrt() - 1) ** 2
    out |= _beside("risk", law["drift"] + 2 - 2 * out["law_deviation"], risk)
    return out | {"published_risk": 1.5 * law["drift"]}


def _deviations(p: Parameters, variance: Tensor, divisor: int) -> Quantities:
    deviation, t = variance.sqrt(), np.arange(1, p.generations + 2.0)
    out = {"median_log_deviation": deviation.log().median(1).values.numpy()}
    if p.share:
        return out
    half = p.documents / 2
    step = np.exp(gammaln(half) - gammaln(half - 0.5)) * np.sqrt(2 / divisor)  # E sqrt(chi^2_{n-1} / divisor)
    exceeds = (deviation > p.level).double().mean(1).numpy()
    bound = np.minimum(1, np.exp(-t / (4 * p.documents)) / p.level)
    return out | _beside("deviation", step**t, deviation) | {"exceeds": exceeds, "bound_exceeds": bound}


def least_squares(p: Parameters, seed: int) -> Quantities:
    """Refit least squares to its own labels: `error` E ||w_k - w*||^2, and `bound_error`, which it never exceeds if labels
    accumulate: pi^2/6 times the first fit's error (Gerstgrasser et al. 2024)."""
    numbers = (p.documents, p.dimension, p.sigma)
    law = (regression.replace if p.regime == "replace" else regression.accumulate)(*numbers, p.generations + 1)
    found = by_chance.regression(p.regime, *numbers, p.generations + 1, p.chains, seed)
    bound = np.full(p.generations + 1, regression.accumulate_bound(*numbers))
    return _beside("error", law, found) | {"bound_error": bound}


def discrete_chain(p: Parameters, seed: int) -> Quantities:
    """Fit the frequencies of a finite alphabet exactly to N draws and draw again: `r` = E H / H*, `survivors` the mean number
    of letters left, `fixed` the share of chains with a single letter, `first_wins` the share with the likeliest letter alone.
    All laws are exact: a letter's count is a Markov chain."""
    truth = np.arange(1, p.categories + 1.0) ** -p.zipf
    truth /= truth.sum()
    letters = by_chance.Truth(truth, torch.Generator().manual_seed(seed))
    measure = by_chance.Measure(letters, p.chains)
    shares = [1.0] + [0.0] * p.generations
    sizes = [p.documents] * len(shares)
    rows: dict[str, list[Tensor]] = {"r": [], "survivors": [], "fixed": [], "first_wins": []}
    for ids in by_chance.mixture(letters, p.chains, shares, sizes):
        values = measure(ids)
        alone = (ids == ids[:, :1]).all(1)
        values |= {"fixed": alone, "first_wins": alone & (ids[:, 0] == 0)}
        for key, column in rows.items():
            column.append(values[key])
    gone, whole = _counts(truth, p)
    laws = {"r": discrete.mixture(shares, p.documents), "survivors": p.categories - gone.sum(1)}
    laws |= {"fixed": whole.sum(1), "first_wins": whole[:, 0]}
    out: Quantities = {}
    for key, column in rows.items():
        out |= (_beside if key in ("r", "survivors") else _share)(key, laws[key], torch.stack(column))
    return out


def _counts(truth: np.ndarray, p: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """P(a letter has count 0), P(it has count N), by generation: float64 (generations + 1, categories)."""
    count = binomial(p.documents, truth[:, None])
    step, ends = kept(p.documents, p.documents), []
    for _ in range(p.generations + 1):
        ends.append(count[:, [0, -1]])
        count = count @ step
    both = np.asarray(ends)
    return both[..., 0], both[..., 1]


def forgetting(p: Parameters, seed: int) -> Quantities:
    """Follow a word with `count` occurrences in a corpus of N tokens; each later corpus is N draws from the one before:
    `survives`, the share of chains that have it after k rounds; law 1 - q_k^count (`theory.tails`, Poisson); and
    `bound_survives` = 1 - exp(-count / k), from below (Suresh et al. 2024). `forgotten` is 1 - survives."""
    draw = np.random.default_rng(seed)
    count, rows = np.full(p.chains, p.count), []
    for g in range(p.generations + 1):
        if g:
            count = draw.binomial(p.documents, count / p.documents)
        rows.append(count > 0)
    k = np.arange(1, p.generations + 1)
    law = np.append(1.0, 1 - tails.lost(p.generations) ** p.count)
    out = _share("survives", law, torch.as_tensor(np.asarray(rows)))
    bound = np.append(1.0, -np.expm1(-p.count / k))
    return out | {"bound_survives": bound, "forgotten": 1 - out["survives"]}


COMMON = ("generations", "documents", "chains")
PROCESSES: dict[str, tuple[tuple[str, ...], Callable[[Parameters, int], Quantities]]] = {
    "gaussian": ((*COMMON, "share", "level"), gaussian_refit),
    "gaussian_unbiased": ((*COMMON, "level"), gaussian_unbiased),
    "regression": ((*COMMON, "regime", "dimension", "sigma"), least_squares),
    "discrete": ((*COMMON, "categories", "zipf"), discrete_chain),
    "forgetting": ((*COMMON, "count"), forgetting),
}
