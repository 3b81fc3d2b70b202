"""Objectives of policies as pure functions: advantages of samples, the loss of a batch with its figures, preferences, entropy.

A reward is what a judge gave a sample, NaN where it abstained. A group are the samples of one prompt. B sequences of T tokens
have log-probabilities in nats, each token's given the tokens before it; `written` says which of them the policy wrote. All
means are over the written tokens of the whole batch, each of equal weight, whatever the length of its sequence.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["reinforce", "rloo", "grpo"]
Figures = dict[str, Tensor]

LEAST = 1e-4
"""Added to a standard deviation that divides."""


def advantages(rewards: np.ndarray, groups: np.ndarray, kind: Kind, *, scaled: bool = False) -> np.ndarray:
    """Return the advantage of each sample, float64 (n,) in the unit of the rewards: its reward minus a baseline.

    A sample whose judge abstained has no advantage (0) and enters no baseline; `in_loss` leaves it out. A group that is flat
    (`flat_groups`) gives 0 exactly. An advantage per sequence weighs all of its tokens.

    Args:
        rewards: float (n,), finite or NaN. groups: (n,), equal for the same prompt.
        kind: of the baseline. reinforce: the mean of the batch, which is one group (Williams 1992). rloo: the mean of the other
            samples of the group (Kool et al. 2019; Ahmadian et al. 2024). grpo: the mean of the group (Shao et al. 2024).
        scaled: divide by the group's standard deviation + LEAST; no unit is left. The deviation is that of the samples
            themselves (divisor n - 1), as torch and TRL have it.
    """
    judged, place, counts, flat = _grouped(rewards, _of(kind, groups))
    filled, others = np.where(judged, rewards, 0.0).astype(np.float64), np.maximum(counts - 1, 1)
    mean = np.bincount(place, filled) / np.maximum(counts, 1)
    out = np.where(judged & ~flat[place], filled - mean[place], 0.0)
    deviation = np.sqrt(np.bincount(place, out**2) / others)
    if kind == "rloo":
        out *= (counts / others)[place]  # r - mean of the others = n / (n - 1) (r - mean of all)
    return out / (deviation + LEAST)[place] if scaled else out


def flat_groups(rewards: np.ndarray, groups: np.ndarray) -> float:
    """Return the share of flat groups, of those with a verdict: one verdict, or all equal, so that nothing is compared. NaN
    without any verdict."""
    _, _, counts, flat = _grouped(rewards, groups)
    return float(flat[counts > 0].mean()) if counts.any() else float("nan")


def in_loss(rewards: np.ndarray, groups: np.ndarray, kind: Kind, *, drop_flat: bool) -> np.ndarray:
    """Return which samples count in the loss, bool (n,): those with a verdict, and with `drop_flat` in a group that is not
    flat. What does not count has no tokens in the denominator (`written & in_loss[:, None]`): with `drop_flat` the rest of the
    batch weighs more, without it a batch of flat groups takes a smaller step."""
    judged, place, _, flat = _grouped(rewards, _of(kind, groups))
    return judged & ~flat[place] if drop_flat else judged


def _of(kind: Kind, groups: np.ndarray) -> np.ndarray:
    """Return the groups that a baseline is taken over."""
    return np.zeros_like(groups) if kind == "reinforce" else groups


def _grouped(rewards: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(verdict or not (n,), place of its group (n,), verdicts of each group (g,), flat or not (g,))."""
    judged = ~np.isnan(rewards)
    place = np.unique(groups, return_inverse=True)[1].ravel()
    counts = np.bincount(place, judged)
    low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(low, place[judged], rewards[judged])
    np.maximum.at(high, place[judged], rewards[judged])
    return (
        judged,
        place,
        counts,
        ~(high > low),
    )  # compared, not subtracted: a variance of equal numbers may round to more than 0


def written_mask(first: Tensor, end: Tensor, length: int) -> Tensor:
    """Return which tokens the policy wrote, bool (B, length): from `first` (B,) on, and before `end` (B,), which counts the
    token that ends a sequence as written. From lengths alone: a token's value says nothing about who wrote it."""
    places = torch.arange(length, device=first.device)
    return (places >= first[:, None]) & (places < end[:, None])


def policy_loss(
    logp_BT: Tensor,
    old_BT: Tensor,
    advantage: Tensor,
    written_BT: Tensor,
    *,
    clip: float = 0.0,
    kl_BT: Tensor | None = None,
    beta: float = 0.0,
    tokens: int | None = None,
) -> tuple[Tensor, Figures]:
    """Return the loss to minimise, a scalar, and figures without gradient.

    The clipped surrogate of each token (Schulman et al. 2017, eq. 7): -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), where
    ratio = exp(logp - old); plus `beta` times the penalty. Per token over all written tokens of the batch, as in the module's
    docstring: neither per sequence as in Shao et al. (2024) nor per possible length. Without written tokens the loss is 0.

    Figures: `ratio` (mean), `clipped` (share of the tokens whose gradient the clip took away), `kl` (mean in nats, if given).

    Args:
        logp_BT: of the policy that learns, at the tokens that stand there. old_BT: of the policy that wrote them, no gradient.
        advantage: (B,), or (B, T) for one per token. written_BT: bool; elsewhere nothing is read.
        clip: 0 turns it off. kl_BT: `kl_k3` or `kl_exact` against a reference; with `beta` 0 a figure only.
        tokens: written tokens of the whole batch, if this is a part of it: losses and figures of the parts then add up.
    """
    gain_BT = (advantage[:, None] if advantage.ndim == 1 else advantage).to(logp_BT.dtype)
    ratio_BT = (logp_BT - old_BT).masked_fill(~written_BT, 0.0).exp()
    free_BT = ratio_BT * gain_BT
    least_BT = torch.minimum(free_BT, ratio_BT.clamp(1 - clip, 1 + clip) * gain_BT) if clip else free_BT
    loss = -_mean(least_BT, written_BT, tokens)
    figures = {
        "ratio": _mean(ratio_BT.detach(), written_BT, tokens),
        "clipped": _mean((least_BT < free_BT).to(free_BT.dtype), written_BT, tokens),
    }
    if kl_BT is not None:
        kl = _mean(kl_BT, written_BT, tokens)
        figures["kl"] = kl.detach()
        loss = loss + beta * kl if beta else loss
    return loss, figures


def kl_k3(logp_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """Return r - 1 - ln r of each token, r = reference / policy at the token that stands there: (B, T) in nats, never below 0
    (k3 in Schulman 2020, "Approximating KL divergence"; Shao et al. 2024, eq. 4).

    On tokens that the policy wrote its mean is KL(policy || reference). Its gradient there is that of KL(reference || policy):
    the draw itself has no gradient.
    """
    log_BT = reference_BT - logp_BT
    return torch.expm1(log_BT) - log_BT


def kl_exact(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """Return KL(policy || reference) of the next token's whole distribution at each place: (B, T) in nats, with its gradient.

    Args:
        logits_BTV, reference_BTV: of policy and reference, finite; at place t those that predict token t.
    """
    log_BTV = logits_BTV.log_softmax(-1)
    return (log_BTV.exp() * (log_BTV - reference_BTV.log_softmax(-1))).sum(-1)


def entropy(logits_BTV: Tensor, written_BT: Tensor, tokens: int | None = None) -> Tensor:
    """Return the mean entropy of the next token over the written places: a scalar in nats, of the whole distribution at
    temperature 1.

    Args:
        logits_BTV: finite; at place t those that predict token t. written_BT, tokens: as in `policy_loss`.
    """
    log_BTV = logits_BTV.log_softmax(-1)
    return -_mean((log_BTV.exp() * log_BTV).sum(-1), written_BT, tokens)


def _mean(values_BT: Tensor, written_BT: Tensor, tokens: int | None) -> Tensor:
    count = written_BT.sum() if tokens is None else torch.as_tensor(tokens)
    return values_BT.masked_fill(~written_BT, 0.0).sum() / count.clamp(min=1)


def dpo_loss(
    chosen_B: Tensor, rejected_B: Tensor, chosen_reference_B: Tensor, rejected_reference_B: Tensor, beta: float
) -> tuple[Tensor, Figures]:
    """Return the loss of preferences (Rafailov et al. 2023, eq. 7), a scalar: the mean over pairs of
    -ln sigmoid(beta (ln chosen / reference - ln rejected / reference)); and figures without gradient.

    Figures: `margin`, the mean of what the sigmoid takes, in nats of reward; `ranked`, the share of pairs with a positive one.

    Args:
        chosen_B, rejected_B: log-probability of each written sequence under the policy, summed over its written tokens, (B,).
        chosen_reference_B, rejected_reference_B: the same under the reference, no gradient.
        beta: how dear distance from the reference is, above 0.
    """
    margin_B = beta * ((chosen_B - chosen_reference_B) - (rejected_B - rejected_reference_B))
    seen_B = margin_B.detach()
    return -F.logsigmoid(margin_B).mean(), {"margin": seen_B.mean(), "ranked": (seen_B > 0).to(seen_B.dtype).mean()}
