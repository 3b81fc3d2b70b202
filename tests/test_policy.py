"""Policies: chains that learn from rewards for their own answers, their steps recounted, and the floors that end them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Lab
from safetensors.torch import load_file

from collapselab.config import PolicyConfig
from collapselab.learning import policy
from collapselab.learning.answers import Answers, joined, pairs, summary
from collapselab.learning.policy import PolicyTrainer
from collapselab.store.layout import Chain, read_metrics

TASK = (
    *("run", "--progress=false", "--name=p", "--generations=1", "--corpus.source=modular", "--corpus.documents=1000"),
    *("--corpus.modular.operands=4", "--corpus.modular.modulus=8", "--mixing.unit=documents", "--training.block=7"),
    *("--mixing.tokens=3500", "--mixing.schedule=constant", "--mixing.start=0", "--sampling.prompt=real_prefix"),
    *(
        "--sampling.prompt-tokens=5",
        "--model.layers=1",
        "--model.width=16",
        "--model.heads=2",
        "--model.start=previous",
    ),
    *("--training.lr=0.01", "--training.weight-decay=0", "--evaluation.prefix=bos", "--evaluation.tokens=700"),
    *("--evaluation.self-bleu-samples=0", "--evaluation.overlap=false", "--evaluation.reference-tokens=0"),
    *("--judging.judges=[answer]", "--policy.steps=4", "--policy.prompts=6", "--policy.samples=5"),
)


def learned(lab: Lab, runs: Path, *asked: str) -> tuple[Path, list[dict[str, float]]]:
    """Run a chain of one policy generation; return it and the rows of its log."""
    code, _, err = lab(*TASK, f"--runs-dir={runs}", *asked)
    assert code == 0, err
    chain = runs / "p" / "arm=main" / "seed=1"
    return chain, [json.loads(row) for row in (chain / "gen_001" / "train" / "log.jsonl").read_text().splitlines()]


def weights(chain: Path, generation: int) -> dict[str, torch.Tensor]:
    return load_file(chain / f"gen_00{generation}" / "train" / "model.safetensors")


OBJECTIVES = {
    "reinforce": ("--training.objective=reinforce",),
    "rloo": ("--training.objective=rloo", "--policy.drop-flat=true"),
    "grpo": ("--training.objective=grpo", "--policy.kl=0.1", "--policy.estimator=exact", "--policy.reference=previous"),
    "grpo, unscaled, inner steps": ("--training.objective=grpo", "--policy.scaled=false", "--policy.inner=3", "--policy.lr=0.03"),
    "dpo": ("--training.objective=dpo", "--policy.kl=0.1", "--policy.prompts=20"),
    "dpo, anchored": ("--training.objective=dpo", "--policy.kl=0.1", "--policy.rejected=first", "--policy.prompts=20"),
    "tuned": ("--training.objective=grpo", "--training.tune=true"),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_its_steps_and_says_what_it_saw(name: str, lab: Lab, tmp_path: Path) -> None:
    chain, rows = learned(lab, tmp_path, *OBJECTIVES[name])
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        prompts = 20 if name.startswith("dpo") else 6  # so many that in no step every group is flat
        assert row["tokens"] == prompts * 5 * 2 * (2 if "anchored" in name else 1)
        assert 0 <= row["flat"] <= 1 and row["entropy"] > 0 and row["kl"] > -1e-6 and row["reward"] == row["gold"]
        if "anchored" not in name:  # pairs of two writers
            assert row["writer_gap"] < 1e-5 and row["writer_ratio"] == pytest.approx(1, abs=1e-5)
    assert (rows[0]["kl"] < 1e-6) == (name != "tuned"), "generation 0 is the reference, and the start but for tuning"
    assert rows[-1]["kl"] > 0
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(chain, 0).values(), weights(chain, 1).values(), strict=True)
    )
    assert any(abs(row["ratio"] - 1) > 1e-4 for row in rows) == ("inner" in name)
    assert any(row["clipped"] > 0 for row in rows) == ("inner" in name)
    assert ("margin" in rows[0]) == name.startswith("dpo")
    ledger = json.loads((chain / "gen_001" / "mixture" / "mixture.json").read_text())["tokens"]
    shown = sum(source["shown"] for source in ledger.values())
    assert shown == (3500 if name == "tuned" else 0), "the training set is a source of prompts alone"
    facts = json.loads((chain / "gen_001" / "train" / "collapselab.json").read_text())
    assert facts["written"] == sum(row["tokens"] for row in rows) and facts["policy_steps"] == 4


def test_answers_are_the_writers_own_and_a_step_is_the_gradient(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of reinforce, again from what was written: -sum of (r - mean) ln p over tokens; Adam's first step is its sign."""
    seen: list[Answers] = []
    step = PolicyTrainer._policy_step

    def watched(self: Any, ask: Any, number: int, *rest: Any) -> dict[str, float]:
        def kept(*asked: Any) -> Answers:
            seen.append(ask(*asked))
            return seen[-1]

        return step(self, kept, number, *rest)

    monkeypatch.setattr(PolicyTrainer, "_policy_step", watched)
    lr = 1e-3
    chain, rows = learned(
        lab, tmp_path, "--training.objective=reinforce", "--policy.steps=1", f"--policy.lr={lr}", "--training.clip=0"
    )
    (answers,) = seen
    assert (answers.ids[:, :5].reshape(6, 5, 5) == answers.ids[::5, None, :5]).all() and answers.head == 5
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(chain / "gen_000" / "train")
    ids = torch.from_numpy(answers.ids)
    logp = net(ids).logits[:, 4:-1].log_softmax(-1).gather(2, ids[:, 5:, None])[..., 0]
    np.testing.assert_allclose(logp.detach().numpy(), answers.logp, atol=1e-5)
    gain = torch.tensor(answers.reward - answers.reward.mean(), dtype=torch.float32)
    (-(gain[:, None] * logp).sum() / logp.numel()).backward()
    norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
    assert rows[0]["grad_norm"] == 0 and norm > 1e-3  # not measured without clipping
    after = weights(chain, 1)
    for key, value in net.named_parameters():
        clear = value.grad.abs() > 1e-5
        moved = (after[key] - value.detach())[clear] if key in after else torch.zeros(0)
        if len(moved):
            torch.testing.assert_close(moved, -lr * value.grad[clear].sign(), rtol=0.02, atol=1e-7)


def test_a_policy_step_that_is_cut_off_ends_with_the_same_bytes(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a step: the next start goes on from the last checkpoint, also after tuning."""
    asked = (
        "--training.objective=grpo",
        "--training.tune=true",
        "--training.checkpoint-steps=2",
        "--model.dropout=0.1",
    )
    whole, _ = learned(lab, tmp_path / "whole", *asked)
    step, taken = PolicyTrainer._optimised, list[int]()

    def cut(self: Any, parts: Any) -> np.ndarray:
        found = step(self, parts)
        taken.append(len(taken))
        if len(taken) == 4:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(PolicyTrainer, "_optimised", cut)
        code, _, _ = lab(*TASK, f"--runs-dir={tmp_path / 'cut'}", *asked)
        assert code == 130
    again, _ = learned(lab, tmp_path / "cut", *asked)
    assert len(taken) == 4
    for name in ("mixture", "train", "samples", "eval"):
        assert Chain(again).digest_of(1, name) == Chain(whole).digest_of(1, name)


def test_floors_end_a_chain_and_name_its_best_generation(lab: Lab, tmp_path: Path) -> None:
    asked = (
        "--training.objective=grpo",
        "--generations=3",
        "--policy.steps=6",
        "--policy.window=2",
        "--policy.least-entropy=9",
    )
    code, _, err = lab(*TASK, f"--runs-dir={tmp_path}", *asked)
    assert code == 0, err
    chain = tmp_path / "p" / "arm=main" / "seed=1"
    assert len(read_metrics(chain)) == 2
    facts = json.loads((chain / "gen_001" / "train" / "collapselab.json").read_text())
    assert facts["policy_steps"] == 2 and facts["ended"].endswith("is below policy.least_entropy=9")
    assert "generation 1: ended after policy step 2: entropy" in err and "best generation" in err
    code, _, again = lab(*TASK, f"--runs-dir={tmp_path}", *asked)
    assert code == 0 and len(read_metrics(chain)) == 2, again


def test_floors_by_hand() -> None:
    def why(rows: list[tuple[float, float]], **settings: float) -> str:
        fake = SimpleNamespace(config=SimpleNamespace(policy=PolicyConfig(window=2, **settings)))  # type: ignore[arg-type]
        return PolicyTrainer._floor(fake, [{"entropy": e, "flat": f} for e, f in rows])  # type: ignore[arg-type]

    assert why([(0.1, 1.0)], least_entropy=0.5) == "", "fewer steps than the window"
    assert why([(0.9, 0.0), (0.2, 0.0), (0.4, 0.0)], least_entropy=0.5).startswith("entropy 0.3 nats")
    assert why([(0.9, 0.0), (0.4, 0.0)], least_entropy=0.5) == ""
    assert why([(0.9, 1.0), (0.9, 0.9)], most_flat=0.9).startswith("95% of the groups are flat")
    assert why([(0.0, 1.0), (0.0, 1.0)]) == "", "both floors are off by default"
    fake = SimpleNamespace(config=SimpleNamespace(policy=PolicyConfig(window=2, least_entropy=0.5)))
    assert PolicyTrainer._floor(fake, [{"loss": 0.0}, {"loss": 0.0}]) == "", "steps without a pair have no entropy"  # type: ignore[arg-type]


def test_a_dry_run_says_what_a_policy_writes(lab: Lab, tmp_path: Path) -> None:
    asked = ("--training.objective=dpo", "--policy.kl=0.1", "--policy.rejected=first", "--generations=2", "--dry-run")
    code, out, err = lab(*TASK, f"--runs-dir={tmp_path}", *asked)
    assert code == 0, err
    (line,) = (one for one in out.splitlines() if one.startswith("policy"))
    assert line.split(maxsplit=1)[1] == (
        "dpo: 4 steps of 6 prompts x 5 answers in each generation after 0, 480 tokens written; rewards by answer"
    )
    assert "trains on 0 to 3,500 tokens" in out and "judging " not in out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--judging.judges=[]",), "judging.judges=[]: a policy needs a giver of rewards: name a judge, as in [answer]"),
        (("--judging.keep=top_share",), "judging.keep='top_share': training.objective=grpo learns from every score"),
        (("--sampling.temperature=0.7",), "sampling.temperature=0.7: training.objective=grpo needs answers from the whole "),
        (("--sampling.top-k=5",), "sampling.top_k=5: training.objective=grpo needs answers from the whole distribution; leave 0"),
        (("--sampling.source=real",), "sampling.source='real': an all-real control has no answers of its own"),
        (("--training.objective=reinforce", "--policy.drop-flat=true"), "policy.drop_flat=True: reinforce compares the whole"),
        (("--training.objective=dpo",), "policy.kl=0.0: it is the beta of dpo: must be above 0, as in 0.1"),
        (("--policy.rejected=first",), "policy.rejected='first': only dpo has rejected answers; leave now"),
        (("--policy.samples=1",), "policy.samples=1: must be 2 or more"),
        (("--policy.clip=1",), "policy.clip=1.0: must lie in [0, 1)"),
        (("--policy.most-flat=0",), "policy.most_flat=0.0: must lie in (0, 1]"),
        (("--training.objective=likelihood", "--training.tune=true"), "training.tune=True: name an objective: reinforce, rloo"),
        (("--model.family=bigram", "--model.start=base"), "training.objective='grpo': the bigram family counts; leave likelihood"),
    ],
)  # fmt: skip
def test_settings_of_a_policy_that_do_not_fit_are_one_line(
    lab: Lab, tmp_path: Path, asked: tuple[str, ...], said: str
) -> None:
    code, _, err = lab(*TASK, f"--runs-dir={tmp_path}", "--training.objective=grpo", *asked)
    assert code == 2 and err.startswith(f"collapselab: error: {said}") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prompt_that_is_read_once_gives_the_same_answers_and_gradients(family: str) -> None:
    """Of the engine and of the trainer, beside whole sequences one by one."""
    from collapselab.config import ModelConfig, SamplingConfig
    from collapselab.models import network
    from collapselab.sampling.engine import Engine
    from collapselab.sampling.weights import Weights

    model = network.new(ModelConfig(family=family, layers=2, width=32, heads=4), vocab=20, separator=0, block=9, seed=3)
    prompts = np.random.default_rng(1).integers(1, 20, (4, 5)).repeat(3, 0)
    engine = Engine(Weights(model, 9, torch.device("cpu"), torch.float32), 12, SamplingConfig(), kernels=False)
    seen: dict[int, list[torch.Tensor]] = {1: [], 3: []}
    texts = [
        engine.write(prompts, 5, 0, lambda logits, r=repeats: seen[r].append(logits[:, :20].clone()), repeats).clone()
        for repeats in (1, 3)
    ]
    assert torch.equal(*texts)
    torch.testing.assert_close(torch.stack(seen[3]), torch.stack(seen[1]), rtol=0, atol=1e-5)
    ids, grads = torch.cat([torch.from_numpy(prompts), texts[0]], 1), []
    for repeats in (1, 3):
        model.net.zero_grad()
        logits = model.head(model.answer_features(ids, 5, repeats))
        torch.testing.assert_close(logits, model.logits(ids)[:, 4:-1], rtol=0, atol=1e-5)
        (logits.log_softmax(-1).gather(2, ids[:, 5:, None])[..., 0].sum(1) * torch.arange(12)).sum().backward()
        grads.append([p.grad.clone() for p in model.net.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


# --- pairs and figures ------------------------------------------------------------------------------------------------


def answers(reward: list[float], group: list[int], gold: list[bool] | None = None) -> Answers:
    n = len(reward)
    ids, logp = np.arange(3 * n).reshape(n, 3), np.arange(n, dtype=np.float32)[:, None].repeat(2, 1)
    return Answers(
        ids, 1, np.full(n, 3), np.array(group), np.array(reward), logp, None if gold is None else np.array(gold)
    )


def test_pairs_are_the_best_and_the_worst_of_a_prompt() -> None:
    nan = np.nan
    now = answers([1, 0, 1, 0.5, 0.5, nan, nan, 0.2], [0, 0, 0, 1, 1, 2, 2, 3])
    chosen, rejected = pairs(now, now)
    assert chosen.tolist() == [0] and rejected.tolist() == [1], "flat groups and those without a verdict make none"
    first = answers([0.9, 0.0, 0.7, 0.4, nan, 0.1, 0.1, 0.3], [0, 0, 0, 1, 1, 2, 2, 3])
    chosen, rejected = pairs(now, first)
    assert chosen.tolist() == [0, 3] and rejected.tolist() == [1, 3]
    both = joined(now, first, chosen, rejected)
    assert both.ids[:, 0].tolist() == [0, 9, 3, 9] and both.reward.tolist() == [1, 0.5, 0, 0.4]
    assert both.logp is None, "of two writers"
    own = joined(now, now, chosen, rejected)
    assert own.logp is not None and own.logp[:, 0].tolist() == [0, 3, 1, 3]


def test_the_figures_of_a_step_by_hand() -> None:
    row = summary(answers([1, 0, np.nan, 1], [0, 0, 1, 1], [True, False, False, False]), 8)
    assert row == {"abstained": 0.25, "tokens": 8, "reward": pytest.approx(2 / 3), "flat": 0.5, "gold": 0.25}
    assert "reward" not in summary(answers([np.nan] * 2, [0, 0]), 4)
    assert policy.FIGURES[0] == "loss"
