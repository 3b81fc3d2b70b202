"""Table of laws: statement, assumptions, source, and values by generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from collapselab.config import UserError
from collapselab.config.keys import nearest
from collapselab.theory import discrete, entropy, gaussian, judged, regression, selection, sharpening, tails
from collapselab.theory.parameters import SCHEDULE, LawParameters
from collapselab.theory.survivors import survivors
from collapselab.theory.table import Table


@dataclass(frozen=True)
class Law:
    """One law of the theory."""

    says: str
    assumes: str
    source: str
    uses: tuple[str, ...]
    """Parameters beside `generations`, which laws of the number of agents do not use."""
    table: Callable[[LawParameters], Table]


def truth(p: LawParameters) -> np.ndarray:
    """p* (K,), proportional to rank^-zipf."""
    weight = np.arange(1, p.categories + 1.0) ** -p.zipf
    return np.asarray(weight / weight.sum())


def growing_sizes(p: LawParameters) -> tuple[list[float], np.ndarray]:
    """Shares and sizes if training set t has growth x t documents, `real_documents` of them real."""
    sizes = p.growth * np.arange(1, p.generations + 2)
    return [1.0, *(p.real_documents / sizes[1:]).tolist()], sizes


def _r(r: np.ndarray, facts: Mapping[str, float] | None = None) -> Table:
    return Table({"r": r, "drift": 1 - r}, {"half_life_t": discrete.half_life(r), **(facts or {})})


def _pipeline(p: LawParameters) -> Table:
    if p.regime == "replace":
        law = discrete.stratified_reuse if p.real == "reuse" else discrete.stratified
        return _r(law(p.shares(), p.documents))
    if p.regime == "accumulate":
        limit = discrete.accumulate_limit(p.documents)
        return _r(discrete.accumulate(p.documents, p.generations + 1), {"limit": limit})
    return _r(discrete.accumulate_subsample(p.documents, p.generations + 1)[0])


def _limits(p: LawParameters) -> Table:
    shares, n = p.shares(), p.documents
    return Table(
        {
            "mixture": discrete.mixture_limit(shares, n),
            "stratified": discrete.stratified_limit(shares, n),
            "few_real": discrete.few_real_limit(n * np.asarray(shares)),
            "lower_bound": discrete.least_diversity(shares, n),
        }
    )


def _jumps(p: LawParameters) -> Table:
    shares = p.shares()
    later = [0.0, *shares[1:]]  # the chain sits on its atom from generation 0 on
    jumps = discrete.jumps(later, 2 * p.weight * (1 - p.weight))
    return Table({"held": discrete.held(later, p.documents, p.weight), "jumps": jumps})


def _duel(p: LawParameters) -> Table:
    model, pool = discrete.accumulate_subsample(p.documents, p.generations + 1, p.replacement)
    shares = [1 / (g + 1) for g in range(p.generations + 1)]
    return Table({"subsample": model, "pool": pool, "replace": discrete.mixture(shares, p.documents)})


def _entropy(p: LawParameters) -> Table:
    law, shares = truth(p), p.shares()
    h = discrete.mixture(shares, p.documents) * (1 - np.sum(law**2))
    low, high = entropy.envelope(h, p.categories)
    star = float(entropy.entropy(law))
    columns = {"diversity": h, "lower": low, "upper": np.minimum(high, np.log(p.categories))}
    columns["floor"] = entropy.floor(star, shares, p.categories, p.documents)
    bound = entropy.loss_bound(p.categories, p.documents)
    first = entropy.expected_entropy(law, p.documents)
    return Table(columns, {"truth": star, "generation_0": first, "loss_bound": bound})


def _tails(p: LawParameters) -> Table:
    shares, expected = p.shares(), float(p.count if p.expected is None else p.expected)
    kind = np.array([p.count]), np.array([expected]), p.regime, p.real == "reuse"
    rows = [tails.survival(*kind, shares[: g + 1], p.text_ratio) for g in range(len(shares))]
    columns = {"present": np.array(rows)[:, 0], "lost_without_real": tails.lost(len(shares))}
    return Table({**columns, "half_lost_at": tails.half_lost(p.documents, len(shares))})


def _survivors(p: LawParameters) -> Table:
    alive = survivors(truth(p), p.regime, p.real == "reuse", p.documents, p.shares())
    if alive is None:
        raise UserError(
            "real='reuse': no exact law for shares that change; set schedule=constant, or see the law `tails`"
        )
    return Table({"survivors": alive, "share": alive / p.categories})


def _fixation(p: LawParameters) -> Table:
    law = truth(p)
    r = discrete.mixture([1.0] + [0.0] * p.generations, p.documents)
    time = discrete.fixation_time(law, p.documents)
    return Table({"r": r}, {"fixation_time": time, "largest_atom_wins": float(law.max())})


def _sharpening(p: LawParameters) -> Table:
    law = truth(p)
    model = sharpening.bias_only(law, p.shares(), p.temperature, p.top_k, p.top_p, p.min_p)
    star = 1 - np.sum(law**2)
    alive = np.asarray((model > 0).sum(1), float)
    return Table({"r": (1 - np.sum(model**2, 1)) / star, "entropy": entropy.entropy(model), "categories": alive})


def _gaussian(p: LawParameters) -> Table:
    variance, drift = gaussian.maximum_likelihood(p.shares(), p.documents)
    return Table({"variance": variance, "drift": drift}, {"half_life_t": discrete.half_life(variance)})


def _unbiased(p: LawParameters) -> Table:
    if p.documents < 2:
        raise UserError(f"documents={p.documents}: the unbiased refit needs 2 or more")
    return Table(gaussian.unbiased(p.documents, p.generations + 1))


def _regression(p: LawParameters) -> Table:
    numbers = (p.documents, p.dimension, p.sigma)
    columns = {law.__name__: law(*numbers, p.generations + 1) for law in (regression.replace, regression.accumulate)}
    return Table(columns, {"accumulate_bound": regression.accumulate_bound(*numbers)})


def _ecosystem(p: LawParameters) -> Table:
    w = selection.topology(p.topology, p.models)
    c = selection.ecosystem(w, p.shares(), p.documents)
    each = np.diagonal(c, axis1=1, axis2=2)
    columns = {"r": 1 - each.mean(1), "r_first": 1 - each[:, 0], "r_pooled": 1 - c.mean((1, 2))}
    return Table(columns, {"effective_size": selection.effective_size(w, p.documents)})


def _by_agents(name: str, law: Callable[[np.ndarray, float], np.ndarray], p: LawParameters, share: float) -> Table:
    return Table({name: law(np.arange(1, p.agents + 1.0), share)}, index="agents")


EXACT = "an exact learner of frequencies on a finite set of categories"
PIPELINE = (*SCHEDULE, "documents", "regime", "real")
TRUTH = ("categories", "zipf")
LAWS: dict[str, Law] = {
    "mixture": Law(
        "diversity r = E[H]/H* and drift 1 - r if each document is real with probability alpha",
        EXACT, "Wright-Fisher with migration; setting of Zenil, arXiv 2601.05280", (*SCHEDULE, "documents"),
        lambda p: _r(discrete.mixture(p.shares(), p.documents)),
    ),
    "pipeline": Law(
        "diversity and drift of the lab's pipeline: exactly alpha N real documents, or accumulated ones",
        f"{EXACT}; alpha N is rounded at random with the right mean",
        "derived here; regimes of Gerstgrasser et al. 2024 and Kazdan et al. 2025", PIPELINE, _pipeline,
    ),
    "limits": Law(
        "fixed points of the diversity at each generation's share, and the bound that forces alpha -> 0 for a collapse",
        f"{EXACT}; constant share and size", "derived here", (*SCHEDULE, "documents"), _limits,
    ),
    "jumps": Law(
        "a chain on one atom: P(still there), and the mean number of jumps for N = 1 and two atoms",
        f"{EXACT}; absorbed for ever if and only if the sum of alpha is finite", "Borel and Cantelli",
        (*SCHEDULE, "documents", "weight"), _jumps,
    ),
    "growing": Law(
        "diversity if training sets grow and the number of real documents does not",
        EXACT, "derived here", ("growth", "real_documents"), lambda p: _r(discrete.mixture(*growing_sizes(p))),
    ),
    "duel": Law(
        "accumulate-subsample against replacement with the same real share 1/(g+1): opposite limits",
        EXACT, "derived here; regime of Kazdan et al. 2025", ("documents", "replacement"), _duel,
    ),
    "entropy": Law(
        "bounds on the mean Shannon entropy (nats): by the diversity, and the floor that real text holds",
        EXACT, "Jensen and Fano", (*SCHEDULE, "documents", *TRUTH), _entropy,
    ),
    "tails": Law(
        "P(a type with count c in generation 0's text occurs in text written by generation g); N is in tokens",
        f"{EXACT} (a network smooths); rare types (Poisson)", "branching process; Fisher 1930",
        (*PIPELINE, "count", "expected", "text_ratio"), _tails,
    ),
    "survivors": Law(
        "mean number of categories in the training set of each generation, exact", EXACT,
        "Wright-Fisher chain", (*PIPELINE, *TRUTH), _survivors,
    ),
    "fixation": Law(
        "without real text: mean number of steps to one atom, and the diversity on the way",
        f"{EXACT}; beyond 1,000 documents by diffusion, .2 % high", "Ewens 2004", ("documents", *TRUTH), _fixation,
    ),
    "sharpening": Law(
        "bias of temperature and truncation without sampling noise", "infinitely large training sets",
        "p0^((1/temperature)^g); top_p^g of the mass", (*SCHEDULE, "temperature", "top_k", "top_p", "min_p", *TRUTH), _sharpening,
    ),
    "drift": Law(
        "variance of the mean in linearised dynamics with constant noise", "noise sigma^2/N in every step",
        "Zenil, arXiv 2601.05280", (*SCHEDULE, "documents", "sigma"),
        lambda p: Table({"variance": discrete.linear_drift(p.shares(), p.documents, p.sigma)}),
    ),
    "gaussian": Law(
        "maximum-likelihood refit: E variance and E squared drift of the mean, over the truth's variance",
        "one dimension, each sample real with probability alpha", "setting of Shumailov et al. 2024",
        (*SCHEDULE, "documents"), _gaussian,
    ),
    "gaussian_unbiased": Law(
        "unbiased refit: the mean variance stays, the typical one dies", "one dimension, no real text after generation 0",
        "setting of Alemohammad et al. 2023", ("documents",), _unbiased,
    ),
    "regression": Law(
        "excess test error of least squares on its own labels, replaced or accumulated",
        "isotropic Gaussian inputs, fresh in every step", "Dohmatob et al. 2024; Gerstgrasser et al. 2024",
        ("documents", "dimension", "sigma"), _regression,
    ),
    "ecosystem": Law(
        "diversity of K models that learn from each other, and of their average", EXACT,
        "derived here", (*SCHEDULE, "documents", "models", "topology"), _ecosystem,
    ),
    "filter": Law(
        "share of correct answers under a filter with errors: odds x (TPR/FPR)^g",
        "random errors; infinite samples; the next model learns the accepted ones", "replicator equation",
        ("prior", "tpr", "fpr"), judged.by_filter,
    ),
    "hack": Law(
        "a filter that prefers hacks to the truth: accuracy peaks and falls, acceptance rises; few samples hack less reliably",
        "random errors; three classes; infinite samples, or `samples` of each of many prompts that share nothing",
        "replicator equation; Wright-Fisher with selection", ("prior", "hacks", "accept", "anchor", "samples"), judged.hack,
    ),
    "biased_verifier": Law(
        "a mean refitted to what a verifier accepts ends at the verifier's centre, not at the truth (0)",
        "infinite samples; one dimension", "after Yi et al., arXiv 2510.16657", ("offset", "centre", "radius", "sigma"),
        judged.biased_verifier,
    ),
    "self_reward": Law(
        "majority-vote reward tends to 1, pass@k to P(the plurality is right)",
        "a large vote; two answers per question", "derived here", ("prior", "spread", "gain", "attempts"), judged.self_reward,
    ),
    "self_consistency": Law(
        "learning the answers that agree with the most frequent of a group: pass@k to about P(the plurality is right)",
        "tables: prompts that share nothing; two answers per question", "derived here",
        ("prior", "spread", "votes", "rate", "attempts"), judged.self_consistency,
    ),
    "rad": Law(
        "share of wrong answers under GRPO with a noisy verifier: the sign of TPR - FPR decides, false negatives slow the tail",
        "random errors; two modes with one logit; small steps", "Rad et al., arXiv 2601.04411",
        ("prior", "tpr", "fpr", "eta", "group"), judged.rad,
    ),
    "hack_gradient": Law(
        "GRPO on a verifier that prefers hacks: a small mass of hacks is suppressed for a time that grows as 1/mass^2",
        "random errors; three classes with a logit each; small steps", "derived here",
        ("prior", "hacks", "accept", "eta", "group"), judged.hack_gradient,
    ),
    "neutral_drift": Law(
        "GRPO on coin-flip rewards: pass@1 stays to first order, entropy and pass@k fall", "two answers per question",
        "derived here (second order in eta)", ("prior", "spread", "votes", "eta", "attempts"), judged.neutral_drift,
    ),
    "noise": Law(
        "injected noise restores diversity, not information about the truth", f"{EXACT}; no real text after generation 0",
        "derived here", ("documents", "noise", *TRUTH),
        lambda p: Table(selection.injected(truth(p), p.noise, p.documents, p.generations + 1)),
    ),
    "agents": Law(
        "effective number of agents with correlated errors", "equal pairwise correlation", "Kish 1965 (design effect)",
        ("agents", "correlation"), lambda p: _by_agents("effective", selection.effective_agents, p, p.correlation),
    ),
    "amdahl": Law(
        "speed-up by parallel workers", "a fixed share of the work can be divided", "Amdahl 1967", ("agents", "parallel"),
        lambda p: _by_agents("speedup", selection.amdahl, p, p.parallel),
    ),
}  # fmt: skip


def find(name: str | None, given: list[str]) -> str:
    """Return the name of a law; refuse unknown names and options that the law does not use."""
    if name is None:
        raise UserError(
            "theory: name a law, as in `collapselab theory mixture`; `collapselab theory --list` lists them"
        )
    if name not in LAWS:
        raise UserError(f"theory {name!r}: no such law{nearest(name, LAWS)}; `collapselab theory --list` lists them")
    uses = used(name)
    for key in given:
        if key in LawParameters.__annotations__ and key not in uses:
            raise UserError(f"--{key}: the law {name} does not depend on it; leave it out, it uses {', '.join(uses)}")
    return name


def used(name: str) -> tuple[str, ...]:
    """Parameters that a law depends on."""
    return (*LAWS[name].uses, *(() if "agents" in LAWS[name].uses else ("generations",)))
