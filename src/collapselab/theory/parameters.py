"""Parameters of the laws. This module imports no library, so that the verb's help is fast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from collapselab.config import MixingConfig, UserError
from collapselab.config.schedules import real_share
from collapselab.config.values import check

SCHEDULE = ("schedule", "start", "ratio", "end", "power", "values", "floor")
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("generations top_k zipf count sigma", lambda v: 0 <= v < math.inf, "must be 0 or more"),
    ("documents agents models attempts dimension votes", lambda v: v >= 1, "must be 1 or more"),
    ("categories", lambda v: v <= 10**7, "must be at most 10000000"),
    ("generations", lambda v: v <= 20_000, "must be at most 20000"),
    (
        "samples",
        lambda v: 0 <= v <= 256,
        "must lie in [0, 256]; 0 means infinitely many",
    ),
    ("votes", lambda v: v <= 1024, "must be at most 1024"),
    ("group", lambda v: v == 0 or 2 <= v <= 1024, "must lie in [2, 1024], or be 0, which means infinitely many"),
    ("categories", lambda v: v >= 2, "must be 2 or more"),
    ("anchor noise correlation parallel", lambda v: 0 <= v <= 1, "must lie in [0, 1]"),
    ("tpr fpr top_p rate eta", lambda v: 0 < v <= 1, "must be above 0 and at most 1"),
    ("prior weight hacks", lambda v: 0 < v < 1, "must lie between 0 and 1"),
    ("min_p", lambda v: 0 <= v < 1, "must be at least 0 and below 1"),
    ("offset centre", math.isfinite, "must be a finite number"),
    ("temperature spread text_ratio growth radius", lambda v: 0 < v < math.inf, "must be above 0"),
    ("gain", lambda v: 1 <= v < math.inf, "must be 1 or more"),
)
"""Parameters, the check of their values, and the error message."""


@dataclass(frozen=True, kw_only=True)
class LawParameters:
    """Parameters of all laws; options that the chosen law does not use are refused."""

    generations: int = 50
    """Last generation; the table has generations 0 to this one. Generation g is step t = g + 1."""
    documents: int = 100
    """N: independent documents in a training set (regression: samples)."""
    schedule: Literal["constant", "geometric", "linear", "cosine", "harmonic", "power", "list"] | None = None
    """Real share alpha_g of generation g, as mixing.schedule; null means geometric."""
    start: float = 0.9
    """As mixing.start."""
    ratio: float = 0.9
    """As mixing.ratio."""
    end: float = 0.0
    """As mixing.end."""
    power: float = 1.0
    """As mixing.power."""
    values: list[float] = field(default_factory=list)
    """As mixing.values."""
    floor: float = 0.0
    """As mixing.floor."""
    regime: Literal["replace", "accumulate", "accumulate_subsample"] = "replace"
    """As mixing.regime; the accumulate regimes have no schedule."""
    real: Literal["fresh", "reuse"] = "fresh"
    """As mixing.real."""
    replacement: bool = False
    """duel: draw from the pool with replacement."""
    categories: int = 1000
    """K: categories of the truth p*."""
    zipf: float = 1.0
    """p* is proportional to rank^-zipf, 0 (uniform) or more."""
    growth: float = 5.0
    """growing: training set t has growth x t documents."""
    real_documents: float = 1.0
    """growing: real documents in each training set."""
    weight: float = 0.5
    """jumps: true probability of the atom that the chain starts on, (0, 1)."""
    count: int = 1
    """tails: occurrences of the type in generation 0's training text."""
    expected: float | None = None
    """tails: its mean occurrences in as much fresh real text; null means `count`."""
    text_ratio: float = 1.0
    """tails: length of the text examined, over that of a training set."""
    temperature: float = 0.9
    """sharpening: as sampling.temperature."""
    top_k: int = 0
    """sharpening: as sampling.top_k."""
    top_p: float = 1.0
    """sharpening: as sampling.top_p."""
    min_p: float = 0.0
    """sharpening: as sampling.min_p."""
    sigma: float = 1.0
    """regression: standard deviation of the labels' noise; drift: of the feature; biased_verifier: of the model's samples."""
    dimension: int = 10
    """regression: number of inputs d; documents must be d + 2 or more."""
    models: int = 4
    """ecosystem: number of models."""
    topology: Literal["committee", "hub", "isolated", "ring"] = "committee"
    """ecosystem: who learns from whom: all from all, all from the first, each from itself, half from a neighbour."""
    prior: float = 0.3
    """Laws of judges: share of correct answers at the start, (0, 1)."""
    tpr: float = 0.8
    """filter, rad: P(accepted | correct), (0, 1]."""
    fpr: float = 0.4
    """filter, rad: P(accepted | wrong), (0, 1]."""
    hacks: float = 0.001
    """hack, hack_gradient: share of hacks at the start; prior + hacks must be below 1."""
    accept: list[float] = field(default_factory=lambda: [0.2, 0.5, 0.6])
    """hack, hack_gradient: P(accepted) of wrong, correct and hack, rising."""
    anchor: float = 0.0
    """hack: share of real, correct answers in every later training set, [0, 1]; 0 with `samples`."""
    samples: int = 0
    """hack: samples per prompt and round of prompts that share nothing, 1 to 256; 0 means infinitely many."""
    gain: float = 1.5
    """self_reward: factor on the odds of the majority's answer per step, 1 or more."""
    spread: float = 2.0
    """Laws of votes, neutral_drift: questions have P(correct) ~ Beta(spread x prior, spread x (1 - prior)); above 0."""
    attempts: int = 8
    """self_reward, self_consistency, neutral_drift: k of pass@k."""
    votes: int = 16
    """self_consistency: answers in a group, of which the most frequent is learned; neutral_drift: answers in a group."""
    rate: float = 0.05
    """self_consistency: share of a prompt's law that a round's accepted answers replace, (0, 1]."""
    eta: float = 0.5
    """rad, hack_gradient, neutral_drift: learning rate of the logits, (0, 1]."""
    group: int = 0
    """rad, hack_gradient: answers in a group, 2 or more; 0 means infinitely many."""
    offset: float = 2.0
    """biased_verifier: the model's parameter at the start; the truth is 0."""
    centre: float = -0.5
    """biased_verifier: centre of what the verifier accepts."""
    radius: float = 1.0
    """biased_verifier: distance from the centre up to which it accepts, above 0."""
    noise: float = 0.05
    """noise: probability that a document is replaced by a uniformly random one, [0, 1]."""
    agents: int = 100
    """agents, amdahl: the table goes from 1 to this number."""
    correlation: float = 0.1
    """agents: correlation of the errors of two agents, [0, 1]."""
    parallel: float = 0.9
    """amdahl: share of the work that can be divided, [0, 1]."""

    def __post_init__(self) -> None:
        for keys, holds, remedy in RANGES:
            for key in keys.split():
                check(holds(getattr(self, key)), key, getattr(self, key), remedy)
        growth, expected, accept, values = self.growth, self.expected, self.accept, self.values
        check(0 <= self.real_documents <= growth, "real_documents", self.real_documents, f"must lie in [0, {growth=}]")
        remedy = "must be 0 or more, or null"
        check(expected is None or 0 <= expected < math.inf, "expected", expected, remedy)
        rising = len(accept) == 3 and 0 < accept[0] < accept[1] < accept[2] <= 1
        check(rising, "accept", accept, "give three rising numbers in (0, 1]: of wrong, correct and hack")
        remedy = f"prior={self.prior} and hacks must leave room for wrong answers"
        check(self.prior + self.hacks < 1, "hacks", self.hacks, remedy)
        remedy = "set samples=0: the law of finite samples has no anchor"
        check(self.samples == 0 or self.anchor == 0, "anchor", self.anchor, remedy)
        remedy = f"give one share for each of the {self.generations} generations"
        check(self.schedule != "list" or len(values) >= self.generations, "values", values, remedy)
        self.shares()

    def shares(self) -> list[float]:
        """alpha_g of generations 0 .. generations; under the accumulate regimes 1/(g + 1), the share of real text in the pool.
        Raises UserError as MixingConfig does."""
        try:
            mixing = MixingConfig(**{key: getattr(self, key) for key in (*SCHEDULE, "regime", "real")})
        except UserError as error:
            raise UserError(str(error).removeprefix("mixing.").replace("mixing.", "")) from None
        shares = [real_share(mixing, g, self.generations) for g in range(self.generations + 1)]
        return [1 / (g + 1) if share is None else share for g, share in enumerate(shares)]
