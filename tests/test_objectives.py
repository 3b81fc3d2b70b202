"""Objectives of policies: values by hand, gradients beside ones written in numpy, what must change nothing; and every check fails
when the module is broken in a named way."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from collapselab.learning import objectives

NAN = math.nan
KINDS = ("reinforce", "rloo", "grpo")
GROUPS = np.array([7, 7, 7, 7, 3, 3, 3, 9])
REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 0.5, NAN, 2.0, 4.0])


def close(found: Any, expected: Any, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=atol)


def exactly(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- advantages -----------------------------------------------------------------------------------------------------


def check_reinforce_by_hand(o: ModuleType) -> None:
    """Seven verdicts with sum 8.5; a group of one has an advantage, the whole batch being the group."""
    mean = 8.5 / 7
    expected = np.array([1 - mean, -mean, -mean, 1 - mean, 0.5 - mean, 0, 2 - mean, 4 - mean])
    found = o.advantages(REWARDS, GROUPS, "reinforce")
    close(found, expected)
    assert found.dtype == np.float64 and found.shape == (8,)
    close(o.advantages(REWARDS, GROUPS, "reinforce", scaled=True), expected / (np.nanstd(REWARDS, ddof=1) + 1e-4))


def check_rloo_by_hand(o: ModuleType) -> None:
    """[1, 0, 0, 1]: the others of a 1 have the mean 1/3. [.5, 2]: each is compared with the other. Alone: nothing."""
    close(o.advantages(REWARDS, GROUPS, "rloo"), [2 / 3, -2 / 3, -2 / 3, 2 / 3, -1.5, 0, 1.5, 0])


def check_grpo_by_hand(o: ModuleType) -> None:
    close(o.advantages(REWARDS, GROUPS, "grpo"), [0.5, -0.5, -0.5, 0.5, -0.75, 0, 0.75, 0])
    four, two = 0.5 / (math.sqrt(1 / 3) + 1e-4), 0.75 / (math.sqrt(1.125) + 1e-4)
    close(o.advantages(REWARDS, GROUPS, "grpo", scaled=True), [four, -four, -four, four, -two, 0, two, 0])


def check_a_better_sample_has_the_larger_advantage(o: ModuleType) -> None:
    rewards = np.random.default_rng(1).normal(size=24)
    groups = np.repeat(np.arange(4), 6)
    for kind in KINDS:
        for scaled in (False, True):
            found = o.advantages(rewards, groups, kind, scaled=scaled)
            assert abs(found.sum()) < 1e-12
            for group in range(4):
                assert (np.argsort(found[groups == group]) == np.argsort(rewards[groups == group])).all()


def check_a_constant_changes_nothing(o: ModuleType) -> None:
    """Added to the rewards of a group, each its own; reinforce bears one constant for the whole batch only."""
    rewards = np.random.default_rng(2).integers(0, 8, 30) / 4
    groups = np.random.default_rng(3).integers(0, 6, 30)
    own = np.array([0.0, 3.0, -1.5, 64.0, 0.25, -8.0])[groups]
    for scaled in (False, True):
        for kind in ("rloo", "grpo"):
            kept, moved = (o.advantages(r, groups, kind, scaled=scaled) for r in (rewards, rewards + own))
            close(moved, kept)
            assert np.abs(kept).max() > 0.5
        plain, moved, uneven = (
            o.advantages(r, groups, "reinforce", scaled=scaled) for r in (rewards, rewards + 5, rewards + own)
        )
        close(moved, plain)
        assert np.abs(uneven - plain).max() > 0.5


def check_an_abstention_is_no_reward_of_0(o: ModuleType) -> None:
    """A prompt's abstentions change no other advantage, wherever they stand; a 0 in their place would."""
    more = np.concatenate([[NAN], REWARDS, [NAN, NAN]])
    groups = np.concatenate([[7], GROUPS, [3, 50]])
    for kind in KINDS:
        for scaled in (False, True):
            alone = o.advantages(REWARDS, GROUPS, kind, scaled=scaled)
            found = o.advantages(more, groups, kind, scaled=scaled)
            close(found[1:9], alone, atol=0)
            assert (found[[0, 9, 10]] == 0).all() and np.isfinite(found).all()
            zeros = o.advantages(np.nan_to_num(more), groups, kind, scaled=scaled)
            assert np.abs(zeros[1:9] - alone).max() > 0.1
        assert not o.in_loss(more, groups, kind, drop_flat=False)[[0, 6, 9, 10]].any()
        assert o.in_loss(more, groups, kind, drop_flat=False).sum() == 7
    assert (
        o.flat_groups(more, groups) == o.flat_groups(REWARDS, GROUPS) == 1 / 3
    )  # the prompt without a verdict is none


def check_flat_groups_give_0_exactly(o: ModuleType) -> None:
    """.1 six times has a variance of 2e-34 in floating point, and .3 alone has none."""
    rewards, groups = np.array([0.1] * 6 + [0.3, 0.0, 1.0]), np.array([1] * 6 + [2, 4, 4])
    assert (rewards[:6] - rewards[:6].sum() / 6).any()
    for kind in ("rloo", "grpo"):
        for scaled in (False, True):
            found = o.advantages(rewards, groups, kind, scaled=scaled)
            assert (found[:7] == 0).all() and (found[7:] != 0).all()
    assert o.flat_groups(rewards, groups) == 2 / 3
    assert o.flat_groups(np.array([1.0, NAN, 1.0, 0.0]), np.array([1, 1, 2, 2])) == 0.5  # one verdict of two samples
    assert o.flat_groups(rewards[7:], groups[7:]) == 0 and math.isnan(o.flat_groups(np.array([NAN]), np.array([1])))
    assert (o.advantages(np.ones(4), np.arange(4), "reinforce", scaled=True) == 0).all()


def check_flat_groups_are_dropped_on_request(o: ModuleType) -> None:
    rewards = np.array([1.0, 1.0, 0.0, 1.0, NAN, 1.0])
    groups = np.array([1, 1, 2, 2, 2, 3])
    for kind in ("rloo", "grpo"):
        assert o.in_loss(rewards, groups, kind, drop_flat=False).tolist() == [True, True, True, True, False, True]
        assert o.in_loss(rewards, groups, kind, drop_flat=True).tolist() == [False, False, True, True, False, False]
    # A flat prompt has advantages under reinforce, whose group is the batch.
    assert o.in_loss(rewards, groups, "reinforce", drop_flat=True).tolist() == [True, True, True, True, False, True]
    # The same gradient over fewer tokens: dropping weighs the rest more, here by 5 / 2.
    gain = torch.tensor(o.advantages(rewards, groups, "grpo"))
    logp, all_written = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True), torch.ones(6, 3, dtype=torch.bool)
    slopes = []
    for drop in (False, True):
        counted = all_written & torch.tensor(o.in_loss(rewards, groups, "grpo", drop_flat=drop))[:, None]
        loss, _ = o.policy_loss(logp, logp.detach(), gain, counted)
        slopes.append(torch.autograd.grad(loss, logp)[0].numpy())
    close(slopes[0][2], 0.5 / 15)
    close(slopes[1], slopes[0] * 15 / 6)


# --- the loss of a policy -------------------------------------------------------------------------------------------


def batch(seed: int = 5, B: int = 5, T: int = 6, V: int = 7) -> dict[str, np.ndarray]:
    """Logits of policy, writer and reference, tokens, advantages, and what was written: of every length from 1 on."""
    draw = np.random.default_rng(seed)
    names = ("logits", "old", "reference")
    out = {name: draw.normal(size=(B, T, V)) for name in names}
    first, end = np.array([2, 2, 1, 0, 3])[:B], np.array([3, 6, 5, 6, 5])[:B]
    places = np.arange(T)
    return out | {
        "ids": draw.integers(0, V, (B, T)),
        "gain": draw.normal(size=B),
        "first": first,
        "end": end,
        "written": (places >= first[:, None]) & (places < end[:, None]),
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits - logits.max(-1, keepdims=True)
    return top - np.log(np.exp(top).sum(-1, keepdims=True))


def at(log_BTV: Any, ids: np.ndarray) -> Any:
    rows, places = np.indices(ids.shape)
    return log_BTV[rows, places, ids]


def with_torch(o: ModuleType, b: dict[str, np.ndarray], kl: str | None, **options: Any) -> tuple[Any, Any, np.ndarray]:
    """Loss, figures and the gradient of the logits."""
    logits = torch.tensor(b["logits"], requires_grad=True)
    reference = torch.tensor(b["reference"])
    logp, old, anchor = (at(x.log_softmax(-1), b["ids"]) for x in (logits, torch.tensor(b["old"]), reference))
    kl_BT = {"k3": lambda: o.kl_k3(logp, anchor), "exact": lambda: o.kl_exact(logits, reference), None: lambda: None}[
        kl
    ]()
    loss, figures = o.policy_loss(
        logp, old, torch.tensor(b["gain"]), torch.tensor(b["written"]), kl_BT=kl_BT, **options
    )
    return loss, figures, torch.autograd.grad(loss, logits)[0].numpy()


def in_numpy(
    b: dict[str, np.ndarray], kl: str | None, clip: float, beta: float
) -> tuple[float, dict[str, float], np.ndarray]:
    """The same token by token, the gradient by hand: d ln p(a) / d logit = (is a) - p."""
    log, old, reference = (log_softmax(b[name]) for name in ("logits", "old", "reference"))
    N, loss, slope = b["written"].sum(), 0.0, np.zeros_like(log)
    clipped, ratios, kls = 0, [], []
    for i, t in zip(*np.nonzero(b["written"]), strict=True):
        a, A, p = b["ids"][i, t], b["gain"][i], np.exp(log[i, t])
        score = np.eye(len(p))[a] - p
        ratio = math.exp(log[i, t, a] - old[i, t, a])
        ratios.append(ratio)
        cut = clip > 0 and ((A > 0 and ratio > 1 + clip) or (A < 0 and ratio < 1 - clip))
        clipped += cut
        loss -= A * (1 + math.copysign(clip, A) if cut else ratio)
        slope[i, t] -= 0 if cut else A * ratio * score
        r = math.exp(reference[i, t, a] - log[i, t, a])
        distance = log[i, t] - reference[i, t]
        full = (p * distance).sum()
        kls.append(r - 1 - math.log(r) if kl == "k3" else full)
        if kl is not None:
            loss += beta * kls[-1]
            slope[i, t] += beta * ((1 - r) * score if kl == "k3" else p * (distance - full))
    figures = {"ratio": np.mean(ratios), "clipped": clipped / N} | ({"kl": np.mean(kls)} if kl else {})
    return loss / N, figures, slope / N


def check_the_gradient_is_that_of_numpy(o: ModuleType) -> None:
    b = batch()
    for kl, clip, beta in ((None, 0, 0), (None, 0.2, 0), ("k3", 0.2, 0.3), ("exact", 0.2, 0.3), ("exact", 0, 1.5)):
        loss, figures, slope = with_torch(o, b, kl, clip=clip, beta=beta)
        expected, by_hand, gradient = in_numpy(b, kl, clip, beta)
        assert figures.keys() == by_hand.keys()
        close(loss.detach(), expected)
        close(slope, gradient)
        for name, value in by_hand.items():
            close(figures[name], value)
            assert not figures[name].requires_grad
        assert 0.2 < by_hand["clipped"] < 0.8 or not clip
    _, figures, free = with_torch(o, b, "exact", clip=0.2, beta=0)  # a figure only
    close(free, in_numpy(b, None, 0.2, 0)[2])
    assert figures["kl"] > 0.5


def check_a_step_makes_the_better_sample_likelier(o: ModuleType) -> None:
    logp = torch.tensor([[math.log(0.5)], [math.log(0.5)]], requires_grad=True, dtype=torch.float64)
    gain = torch.tensor(o.advantages(np.array([1.0, 0.0]), np.array([4, 4]), "rloo"))
    loss, figures = o.policy_loss(logp, logp.detach(), gain, torch.ones(2, 1, dtype=torch.bool), clip=0.2)
    assert figures["ratio"] == 1 and figures["clipped"] == 0
    close(torch.autograd.grad(loss, logp)[0], [[-0.5], [0.5]])


def check_the_clip_by_hand(o: ModuleType) -> None:
    """Ratios 2, 2, .5, .5, 1.1 with advantages of both signs: only steps that go on outwards are cut."""
    ratio, gain = (
        exactly([[2.0, 2.0, 0.5, 0.5, 1.1]]),
        exactly([[1.0, -1.0, 1.0, -1.0, 3.0]]),
    )
    written = torch.ones(1, 5, dtype=torch.bool)
    loss, figures = o.policy_loss(ratio.log(), exactly([[0.0] * 5]), gain, written, clip=0.2)
    close(loss, -(1.2 - 2.0 + 0.5 - 0.8 + 3.3) / 5)
    close(figures["clipped"], 2 / 5)
    close(figures["ratio"], 6.1 / 5)
    loss, figures = o.policy_loss(ratio.log(), exactly([[0.0] * 5]), gain, written)
    close(loss, -(2 - 2 + 0.5 - 0.5 + 3.3) / 5)
    assert figures["clipped"] == 0


def check_tokens_weigh_the_same(o: ModuleType) -> None:
    """Sequences of 1 and 3 written tokens: not 1/2 for each sequence."""
    logp = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    written = o.written_mask(torch.tensor([1, 1]), torch.tensor([2, 4]), 4)
    loss, _ = o.policy_loss(logp, logp.detach(), torch.tensor([1.0, 2.0]), written)
    close(loss.detach(), -(1 + 3 * 2) / 4)
    close(torch.autograd.grad(loss, logp)[0], -np.array([[0, 1, 0, 0], [0, 2, 2, 2]]) / 4)
    single, gain = logp.float(), exactly([1.0, 2.0])  # advantages are float64, a network's losses are not
    assert o.policy_loss(single, single.detach(), gain, written)[0].dtype == torch.float32
    per_token = torch.tensor([[9.0, 1.0, 9.0, 9.0], [9.0, 2.0, 2.0, 2.0]])  # one advantage per token
    close(o.policy_loss(logp, logp.detach(), per_token, written)[0].detach(), loss.detach())


def check_parts_of_a_batch_add_up(o: ModuleType) -> None:
    b = batch()
    whole, figures, slope = with_torch(o, b, "k3", clip=0.1, beta=0.2)
    parts = [{name: value[rows] for name, value in b.items()} for rows in (slice(0, 2), slice(2, 5))]
    found = [with_torch(o, part, "k3", clip=0.1, beta=0.2, tokens=int(b["written"].sum())) for part in parts]
    close(sum(loss.detach() for loss, _, _ in found), whole.detach())
    close(np.concatenate([gradient for _, _, gradient in found]), slope)
    for name, value in figures.items():
        close(sum(part[name] for _, part, _ in found), value)
    logits, written = torch.tensor(b["logits"]), torch.tensor(b["written"])
    entropies = [o.entropy(logits[k], written[k], int(b["written"].sum())) for k in (slice(0, 2), slice(2, 5))]
    close(sum(entropies), o.entropy(logits, written))


def check_lengths_tell_who_wrote(o: ModuleType) -> None:
    """What stands outside the written places changes nothing, be it a policy's favourite token, the end or padding; and a written
    token counts also where it equals those."""
    b = batch()
    mask = o.written_mask(torch.tensor(b["first"]), torch.tensor(b["end"]), 6)
    assert mask.tolist() == b["written"].tolist() and mask.sum(1).tolist() == [1, 4, 4, 6, 2]
    loss, figures, slope = with_torch(o, b, "k3", clip=0.2, beta=0.1)
    for filler in (0, 6):
        other = {**b, "ids": np.where(b["written"], b["ids"], filler)}
        again, same, gradient = with_torch(o, other, "k3", clip=0.2, beta=0.1)
        assert again == loss and same == figures and (gradient == slope).all()
        constant = {**b, "ids": np.full_like(b["ids"], filler)}  # as the padding everywhere
        assert with_torch(o, constant, None)[2].any(-1).tolist() == b["written"].tolist()
    wild = {**b, "old": np.where(b["written"][..., None], b["old"], 1e4 * b["old"])}  # a ratio that overflows
    again, _, gradient = with_torch(o, wild, "k3", clip=0.2, beta=0.1)
    assert again == loss and (gradient == slope).all()


def check_a_batch_without_tokens_has_no_gradient(o: ModuleType) -> None:
    b = batch()
    b["written"] = np.zeros_like(b["written"])
    loss, figures, slope = with_torch(o, b, "exact", clip=0.2, beta=0.5)
    assert loss == 0 and not slope.any() and all(value == 0 for value in figures.values())
    assert o.entropy(torch.tensor(b["logits"]), torch.tensor(b["written"])) == 0


# --- divergences and entropy ----------------------------------------------------------------------------------------


def check_k3_by_hand(o: ModuleType) -> None:
    """r = .25 / .5: 1/2 - 1 + ln 2. r = 1: 0. r = 4: 3 - ln 4. Never below 0, and small ones are not lost to rounding."""
    found = o.kl_k3(exactly([0.5, 0.3, 0.2]).log(), exactly([0.25, 0.3, 0.8]).log())
    close(found, [math.log(2) - 0.5, 0, 3 - math.log(4)])
    tiny = o.kl_k3(torch.zeros(1), torch.tensor([1e-3]))
    assert tiny.dtype == torch.float32 and float(tiny) == pytest.approx(5.0017e-7, rel=1e-2) and float(tiny) > 0


def check_k3_has_the_mean_of_kl_and_the_gradient_of_its_reverse(o: ModuleType) -> None:
    """Both summed over all tokens with the policy's probabilities, which is the mean over what it writes."""
    b = batch()
    logits = torch.tensor(b["logits"][0, 0], requires_grad=True)
    log, reference = logits.log_softmax(-1), torch.tensor(b["reference"][0, 0]).log_softmax(-1)
    written = log.detach().exp()
    estimate = (written * o.kl_k3(log, reference)).sum()
    exact = o.kl_exact(logits[None, None], reference[None, None])[0, 0]
    close(estimate.detach(), exact.detach())
    reverse = o.kl_exact(reference[None, None], logits[None, None])[0, 0]
    slopes = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (estimate, reverse, exact)]
    close(slopes[0], slopes[1])
    assert (slopes[0] - slopes[2]).abs().max() > 0.05


def check_exact_kl_by_hand(o: ModuleType) -> None:
    """KL([1/2, 1/2], [1/4, 3/4]) = ln 2 - ln 3 / 2, and not the other direction; a constant on all logits is nothing."""
    policy, reference = exactly([[[0.0, 0.0]]]), exactly([[[0.0, math.log(3)]]])
    close(o.kl_exact(policy, reference), [[math.log(2) - math.log(3) / 2]])
    close(o.kl_exact(reference, policy), [[0.75 * math.log(3) - math.log(2)]])
    close(o.kl_exact(policy + 3, reference - 50), o.kl_exact(policy, reference))
    close(o.kl_exact(reference, reference), [[0]])


def slope_of(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient by central differences."""
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = x.copy()
        moved[place] = x[place] + step
        more = function(moved)
        moved[place] = x[place] - step
        out[place] = (more - function(moved)) / (2 * step)
    return out


def check_entropy_by_hand_and_its_gradient(o: ModuleType) -> None:
    """Places with ln 4, ln 2 and 0 nats; the last is not written."""
    logits = exactly([[[5.0, 5, 5, 5], [0, 0, -1e4, -1e4], [0, -1e4, -1e4, -1e4]]])
    close(o.entropy(logits, torch.tensor([[True, True, False]])), (math.log(4) + math.log(2)) / 2)
    close(o.entropy(logits, torch.ones(1, 3, dtype=torch.bool)), (math.log(4) + math.log(2)) / 3)
    b = batch(B=2, T=4, V=3)

    def by_numpy(x: np.ndarray) -> float:
        log = log_softmax(x)
        return float(-(np.exp(log) * log).sum(-1)[b["written"][:, :4]].mean())

    at_x = torch.tensor(b["logits"], requires_grad=True)
    found = o.entropy(at_x, torch.tensor(b["written"]))
    close(found.detach(), by_numpy(b["logits"]))
    close(torch.autograd.grad(found, at_x)[0], slope_of(by_numpy, b["logits"]), atol=1e-8)


# --- preferences ----------------------------------------------------------------------------------------------------


def check_dpo_by_hand_and_its_gradient(o: ModuleType) -> None:
    """At the reference the loss is ln 2. Margins of .1 (3 + 1) and .1 (-2 - 1)."""
    pairs = np.array(
        [[-4.0, -9.0], [-7.0, -5.0], [-7.0, -7.0], [-6.0, -6.0]]
    )  # chosen, rejected, both of the reference

    def by_numpy(x: np.ndarray) -> float:
        margins = 0.1 * ((x[0] - x[2]) - (x[1] - x[3]))
        return float(np.log1p(np.exp(-margins)).mean())

    chosen, rejected = (torch.tensor(row, requires_grad=True) for row in pairs[:2])
    loss, figures = o.dpo_loss(chosen, rejected, *torch.tensor(pairs[2:]), 0.1)
    close(loss.detach(), (math.log1p(math.exp(-0.4)) + math.log1p(math.exp(0.3))) / 2)
    close(figures["margin"], (0.4 - 0.3) / 2)
    assert figures["ranked"] == 0.5 and not figures["margin"].requires_grad
    slope = slope_of(by_numpy, pairs)[:2]
    close(torch.stack(torch.autograd.grad(loss, (chosen, rejected))), slope, atol=1e-9)
    assert (slope[0] < 0).all() and (slope[1] > 0).all()
    same = torch.tensor([-3.0])
    close(o.dpo_loss(same, same - 5, same, same - 5, 0.7)[0], math.log(2), atol=1e-7)
    assert torch.isfinite(o.dpo_loss(same - 1e6, same, same, same, 1.0)[0])


# --- all of it, whole and broken ------------------------------------------------------------------------------------

CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
MEAN = "filled - mean[place]"
MUTATIONS: list[tuple[str, Callable[[ModuleType], None], str, str]] = [
    ("an abstention counted in the mean of the batch", check_reinforce_by_hand, "np.bincount(place, judged)", "np.bincount(place)"),
    ("leave-one-out forgotten", check_rloo_by_hand, 'if kind == "rloo":', "if False:"),
    ("a standard deviation of the population", check_grpo_by_hand, "out**2) / others", "out**2) / np.maximum(counts, 1)"),
    ("sign of the advantage swapped", check_a_better_sample_has_the_larger_advantage, MEAN, "mean[place] - filled"),
    ("no baseline", check_a_constant_changes_nothing, MEAN, "filled"),
    ("an abstention has an advantage", check_an_abstention_is_no_reward_of_0, "judged & ~flat[place], f", "~flat[place], f"),
    ("flat groups told by their variance", check_flat_groups_give_0_exactly, "judged & ~flat[place], ", "judged, "),
    ("flat groups never dropped", check_flat_groups_are_dropped_on_request, " if drop_flat else judged", " if False else judged"),
    ("ratio upside down", check_the_gradient_is_that_of_numpy, "(logp_BT - old_BT)", "(old_BT - logp_BT)"),
    ("the loss maximised", check_a_step_makes_the_better_sample_likelier, "loss = -_mean", "loss = _mean"),
    ("the worse of both bounds is not taken", check_the_clip_by_hand, "torch.minimum(", "torch.maximum("),
    ("every place counted", check_tokens_weigh_the_same, "written_BT.sum() if", "(written_BT == written_BT).sum() if"),
    ("each part divided by its own tokens", check_parts_of_a_batch_add_up, "if tokens is None else", "if True else"),
    ("the token that ends a sequence left out", check_lengths_tell_who_wrote, "places < end[:, None]", "places < end[:, None] - 1"),
    ("division by no tokens", check_a_batch_without_tokens_has_no_gradient, ".clamp(min=1)", ".clamp(min=0)"),
    ("k3 by the policy over the reference", check_k3_by_hand, "reference_BT - logp_BT", "logp_BT - reference_BT"),
    (
        "k3 without its control variate",
        check_k3_has_the_mean_of_kl_and_the_gradient_of_its_reverse,
        "torch.expm1(log_BT) - log_BT",
        "-log_BT",
    ),
    ("the other direction's weights", check_exact_kl_by_hand, "(log_BTV.exp() * (log", "(reference_BTV.softmax(-1) * (log"),
    ("entropy without its sign", check_entropy_by_hand_and_its_gradient, "-_mean((log_BTV", "_mean((log_BTV"),
    ("chosen and rejected swapped", check_dpo_by_hand_and_its_gradient, "F.logsigmoid(margin_B)", "F.logsigmoid(-margin_B)"),
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_objectives(check: Callable[[ModuleType], None]) -> None:
    check(objectives)


@pytest.mark.parametrize(("name", "check", "old", "new"), MUTATIONS, ids=[m[0].replace(" ", "_") for m in MUTATIONS])
def test_a_broken_objective_is_noticed(name: str, check: Callable[[ModuleType], None], old: str, new: str) -> None:
    source = Path(objectives.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, (name, source.count(old))
    broken = ModuleType("broken")
    exec(compile(source.replace(old, new), name, "exec"), broken.__dict__)
    with pytest.raises(AssertionError):
        check(broken)


def test_every_check_has_a_mutation() -> None:
    assert {check for _, check, _, _ in MUTATIONS} == set(CHECKS)
