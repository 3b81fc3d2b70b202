"""Settings of a policy: a model that learns from rewards for its own answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from collapselab.config.values import needs


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Policy steps of a generation, with `training.objective` other than likelihood. A step writes answers with the present
    weights, asks `judging.judges` for their rewards, and learns from them. The optimiser's other settings are those of
    `training`."""

    steps: int = 100
    """Policy steps of a generation, each with answers of its own."""
    prompts: int = 32
    """Prompts of a step, as `sampling.prompt` chooses them."""
    samples: int = 8
    """Answers to each prompt, a group, 2 or more."""
    lr: float = 1e-4
    """Learning rate of policy steps, the same in all of them."""
    inner: int = 1
    """Optimiser steps on the answers of one step."""
    scaled: bool = True
    """Divide the advantages of a group by the standard deviation of its rewards (grpo only)."""
    drop_flat: bool = False
    """Leave out groups whose rewards are equal, so that the others weigh more (grpo and rloo); otherwise they count as 0."""
    clip: float = 0.2
    """Largest distance from 1 of the ratio of probabilities that has a gradient (PPO's clip), [0, 1); 0 switches it off. It acts
    with `inner` above 1 only, as the ratio is 1 at first."""
    kl: float = 0.0
    """Coefficient of the divergence from the reference in the loss, 0 or more; with dpo its beta, above 0."""
    estimator: Literal["k3", "exact"] = "k3"
    """Divergence per token: r - 1 - ln r of the written token (k3), or that of the whole distribution (exact)."""
    reference: Literal["first", "previous"] = "first"
    """Model that the divergence is taken from: generation 0's (first), or the one that the generation starts from."""
    rejected: Literal["now", "first"] = "now"
    """Writer of the rejected answers of dpo: the present weights, or generation 0's model (a temporal anchor)."""
    least_entropy: float = 0.0
    """End the chain when the mean entropy of the next token, in nats, is below this over `window` steps; 0: never."""
    most_flat: float = 1.0
    """End the chain when a larger share of the groups is flat over `window` steps, (0, 1]; 1: never."""
    window: int = 20
    """Steps whose mean the two floors look at."""

    def __post_init__(self) -> None:
        need = needs(self, "policy")
        for key, least in (("steps", 1), ("prompts", 1), ("samples", 2), ("inner", 1), ("window", 1)):
            need(getattr(self, key) >= least, key, f"must be {least} or more")
        need(0 < self.lr < math.inf, "lr", "must be above 0")
        need(0 <= self.clip < 1, "clip", "must lie in [0, 1)")
        for key in ("kl", "least_entropy"):
            need(0 <= getattr(self, key) < math.inf, key, "must be 0 or more")
        need(0 < self.most_flat <= 1, "most_flat", "must lie in (0, 1]")

    @property
    def answers(self) -> int:
        """Answers of a step."""
        return self.prompts * self.samples
