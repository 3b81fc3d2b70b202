"""Comparison of a law with its simulator: mean, standard error and z of every simulated column."""

from __future__ import annotations

import numpy as np

from collapselab.config import UserError
from collapselab.theory import simulate
from collapselab.theory.laws import growing_sizes, truth
from collapselab.theory.parameters import LawParameters
from collapselab.theory.pipeline import History
from collapselab.theory.table import Table

SIMULATED = ("mixture", "pipeline", "growing", "gaussian", "regression", "drift")


def simulated(name: str, p: LawParameters, table: Table, chains: int, seed: int) -> Table:
    """Add `<column>_sim`, `_se` (its standard error) and `_z` over that many chains to a table. For a variance the mean square
    is simulated. Raises UserError for a law without a simulator."""
    estimates = _simulate(name, p, chains, seed)
    columns = dict(table.columns)
    worst = 0.0
    for key in [key for key in table.columns if key in estimates]:
        (mean, error), z = estimates[key], simulate.z_scores(table.columns[key], estimates[key])
        columns |= {f"{key}_sim": mean, f"{key}_se": error, f"{key}_z": z}
        worst = max(worst, float(np.abs(z).max()))
    return Table(columns, {**table.facts, "chains": chains, "largest_z": worst}, table.index)


def _simulate(name: str, p: LawParameters, chains: int, seed: int) -> simulate.Moments:
    shares, law = p.shares(), truth(p)
    if name == "mixture":
        sizes = [p.documents] * len(shares)
        return simulate.estimate(law, lambda t, c: simulate.mixture(t, c, shares, sizes), chains, seed)
    if name == "growing":
        shares, grown = growing_sizes(p)
        if p.growth != int(p.growth):
            raise UserError(f"growth={p.growth}: a simulated training set needs a whole number")
        sizes = grown.astype(int).tolist()
        return simulate.estimate(law, lambda t, c: simulate.mixture(t, c, shares, sizes), chains, seed)
    if name == "pipeline" and p.regime == "replace":
        reuse = p.real == "reuse"
        return simulate.estimate(law, lambda t, c: simulate.stratified(t, c, shares, p.documents, reuse), chains, seed)
    if name == "pipeline":
        counts = pooled(p)
        return simulate.estimate(law, lambda t, c: simulate.pipeline(t, c, counts), chains, seed)
    if name == "gaussian":
        both = simulate.gaussian(shares, p.documents, False, chains, seed)
        samples = {"variance": both["variance"], "drift": both["mean"] ** 2}
    elif name == "regression":
        numbers = (p.documents, p.dimension, p.sigma, p.generations + 1, chains, seed)
        samples = {regime: simulate.regression(regime, *numbers) for regime in ("replace", "accumulate")}
    elif name == "drift":
        samples = {"variance": simulate.linear_drift(shares, p.documents, p.sigma, chains, seed) ** 2}
    else:
        raise UserError(f"--simulate: {name} has no simulator; choose one of {', '.join(SIMULATED)}")
    return {key: simulate.moments(simulate.sums(values), chains) for key, values in samples.items()}


def pooled(p: LawParameters) -> History:
    """Document counts of an accumulate regime: N real documents, and N written by each generation."""
    real = np.full((p.generations + 1, 1), p.documents)
    before = p.documents * np.arange(p.generations + 1)[:, None]
    return History(p.regime, False, real, before if p.regime == "accumulate" else 0 * real, real)
