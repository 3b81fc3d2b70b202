"""Tables of the laws of judges: filters, votes and policy gradients."""

from __future__ import annotations

import numpy as np

from collapselab.config import UserError
from collapselab.theory import finite, gradient, neutral, selection, verified, votes
from collapselab.theory.parameters import LawParameters
from collapselab.theory.table import Table


def by_filter(p: LawParameters) -> Table:
    right = selection.filtered(np.array([1 - p.prior, p.prior]), np.array([p.fpr, p.tpr]), p.generations + 1)[:, 1]
    columns = {
        "correct": right,
        "accepted": right * p.tpr + (1 - right) * p.fpr,
        "gain": selection.filter_gain(right, p.tpr, p.fpr),
    }
    return Table(columns, {"youden": p.tpr - p.fpr, "breaks_down_at": verified.threshold(p.tpr, p.fpr)})


def hack(p: LawParameters) -> Table:
    accept = np.asarray(p.accept)
    start = np.array([1 - p.prior - p.hacks, p.prior, p.hacks])
    right = np.array([0.0, 1.0, 0.0])
    if p.samples:
        model = finite.hack_tables(start, accept, p.samples, p.generations)
    else:
        model = selection.anchored(start, accept, [1.0] + [p.anchor] * p.generations, right)
    facts: dict[str, float | None] = {
        "peak_t": selection.hack_peak(start, accept),
        "critical_anchor": selection.critical_anchor(accept, right),
    }
    if p.anchor:
        facts["limit"] = selection.anchor_limit(accept, p.anchor)
    return _three(model, p, facts)


def _three(model: np.ndarray, p: LawParameters, facts: dict[str, float | None]) -> Table:
    return Table({"correct": model[:, 1], "hack": model[:, 2], "accepted": model @ np.asarray(p.accept)}, facts)


def biased_verifier(p: LawParameters) -> Table:
    if abs(p.offset - p.centre) - p.radius > 30 * p.sigma:
        raise UserError(
            f"offset={p.offset}: the verifier would accept nothing; start within 30 sigma of what it accepts"
        )
    theta = verified.means(p.offset, p.centre, p.radius, p.sigma, p.generations)
    return Table({"parameter": theta, "error": np.abs(theta)}, {"limit": p.centre})


def _beta(p: LawParameters) -> tuple[np.ndarray, np.ndarray, float]:
    """P(right) of questions with two answers, their weights, and P(the plurality is right)."""
    from scipy.special import betainc

    a, b = p.spread * p.prior, p.spread * (1 - p.prior)
    if min(a, b) == 0:
        raise UserError(f"prior={p.prior}: if all answers agree there is no vote to learn from; give 0 < prior < 1")
    return *selection.beta_questions(a, b), float(betainc(b, a, 0.5))


def self_reward(p: LawParameters) -> Table:
    right, weights, plurality = _beta(p)
    answers = np.stack([right, 1 - right], 1)
    columns = selection.self_reward(answers, 0, p.gain, p.attempts, p.generations + 1, weights)
    return Table(columns, {"plurality_correct": plurality})


def self_consistency(p: LawParameters) -> Table:
    right, weights, plurality = _beta(p)
    columns = votes.two_answers(right, p.votes, [p.rate] * p.generations, p.attempts, weights)
    return Table(columns, {"plurality_correct": plurality})


def rad(p: LawParameters) -> Table:
    errors = (1 - p.tpr, p.fpr, p.eta, p.group)
    wrong = gradient.rad(1 - p.prior, np.arange(p.generations + 1.0), *errors)
    return Table({"wrong": wrong, "change": gradient.rad_rate(wrong, *errors)}, {"youden": p.tpr - p.fpr})


def hack_gradient(p: LawParameters) -> Table:
    start = np.array([1 - p.prior - p.hacks, p.prior, p.hacks])
    model = gradient.classes(start, np.asarray(p.accept), np.arange(p.generations + 1.0), p.eta, p.group)
    facts: dict[str, float | None] = {
        "overtakes_t": gradient.overtaking(start, p.accept, p.eta, p.group),
        "critical_hacks": gradient.critical_mass(start, p.accept, p.generations, p.eta, p.group),
        "overtakes_t_filter": gradient.filter_overtaking(start, p.accept),
    }
    return _three(model, p, facts)


def neutral_drift(p: LawParameters) -> Table:
    right, weights, _ = _beta(p)
    pace = neutral.pace(p.eta, p.votes)
    return Table(neutral.two_answers(right, pace, p.generations, p.attempts, weights), {"pace": pace})
