"""The optimiser's run: what it is given, in which order, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time

import numpy as np
import pytest
import torch
from helpers import one_process, quiet, small_config
from test_mixing import mix, tokens_of

from collapselab.chain.run import run
from collapselab.config import ModelConfig, TrainingConfig, UserError
from collapselab.corpus.prepared import Tokens
from collapselab.evaluation.generation import masked_shares
from collapselab.learning.log import learning_rate, write_log
from collapselab.learning.trainer import Loss, Trainer
from collapselab.mixing.sets import TrainingSet
from collapselab.models import network as modeling
from collapselab.models.network import true_state, weights_digest
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.seeds import batch_order
from collapselab.store.layout import Chain
from collapselab.store.unfinished import Unfinished


def model(config, vocab: int = 61, seed: int = 0):
    return modeling.new(config.model, vocab=vocab, separator=vocab - 1, block=config.training.block, seed=seed)


def small_text(count: int = 32 * 80) -> Tokens:
    tokens = tokens_of(count)
    return Tokens((np.random.default_rng(0).zipf(1.5, count) % 61).astype(np.uint16), tokens.starts, tokens.nbytes)


def prepared(tmp_path, **changes):
    config = small_config(**{"mixing__tokens": 32 * 21, **changes})
    chain, text = Chain(tmp_path), small_text()
    if not chain.stage(0, "mixture").exists():
        mix(config, chain, 0, text)
    return config, TrainingSet(config, chain, 0, text)


def trained(config, data):
    trainer = Trainer(config, one_process(), quiet())
    facts = trainer.train(model(config), data, 0)
    return trainer.model, facts


def test_batches_are_a_function_of_seed_generation_and_place() -> None:
    order = batch_order(3, 2, 10, 35)
    assert (batch_order(3, 2, 10, 12) == order[:12]).all()
    for epoch in range(3):
        assert sorted(order[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert not (batch_order(3, 1, 10, 35) == order).all() and not (batch_order(4, 2, 10, 35) == order).all()


def test_learning_rate_courses() -> None:
    at = lambda s, **kw: learning_rate(TrainingConfig(lr=1.0, min_lr_ratio=0.2, **kw), s, 110)  # noqa: E731
    assert [at(s, warmup_steps=10) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert at(10, warmup_steps=10) == pytest.approx(1.0)
    assert at(60, warmup_steps=10) == pytest.approx(0.2 + 0.8 * 0.5)  # cosine, half way
    assert at(60, warmup_steps=10, schedule="linear") == pytest.approx(0.2 + 0.8 * 0.5)
    assert at(35, warmup_steps=10, schedule="linear") == pytest.approx(0.2 + 0.8 * 0.75)
    assert at(35, warmup_steps=10) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert at(109, warmup_steps=10, schedule="constant") == 1.0


def test_the_optimiser_gets_what_the_ledger_says(tmp_path) -> None:
    config, data = prepared(tmp_path, training__tokens=32 * 50, training__loss_on_last=7)
    _, facts = trained(config, data)
    assert facts["steps"] == math.ceil(50 / 8)
    assert facts["shown"] == 32 * 50 and facts["in_loss"] == 7 * 50
    data.ledger["real"]["loss"] += 1
    with pytest.raises(RuntimeError, match="ledger"):
        trained(config, data)


def test_training_is_a_plain_adamw_loop(tmp_path) -> None:
    """Against the obvious loop, written out: same batches, same loss, same weights."""
    config, data = prepared(tmp_path, training__epochs=2, training__warmup_steps=3, training__clip=0.5)
    ours, facts = trained(config, data)
    plain = model(config)
    settings = config.training
    groups = [
        {"params": [p for p in plain.net.parameters() if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in plain.net.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, fused=True)
    plain.net.train()
    order, losses = batch_order(config.seed, 0, 21, 42), []
    for step in range(6):
        ids = torch.from_numpy(data[order[step * 8 : step * 8 + 8]])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, 6)
        logits = plain.net(ids).logits[..., :61]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.net.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert [row["loss"] for row in facts["log"]] == pytest.approx(losses, rel=1e-5)
    for a, b in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_accumulation_changes_nothing_but_rounding(tmp_path) -> None:
    runs = [trained(*prepared(tmp_path, training__accumulation=n, training__epochs=2)) for n in (1, 3)]
    losses = [[row["loss"] for row in facts["log"]] for _, facts in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path) -> None:
    config, data = prepared(tmp_path)
    digests = [modeling.weights_digest(trained(config, data)[0]) for _ in range(2)]
    other = modeling.weights_digest(trained(dataclasses.replace(config, seed=2), data)[0])
    assert digests[0] == digests[1] != other


def test_loss_on_the_last_tokens_ignores_the_others(tmp_path) -> None:
    config, data = prepared(tmp_path, training__loss_on_last=1, training__epochs=1, training__batch_size=21)
    _, facts = trained(config, data)
    ids = torch.from_numpy(data[batch_order(config.seed, 0, 21, 21)])
    fresh = model(config)
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(fresh.logits(ids)[:, -2], ids[:, -1])
    assert facts["log"][0]["loss"] == pytest.approx(float(expected), rel=1e-5)


# --- truncated cross-entropy ------------------------------------------------------------------------------------------


def sure(config, times: float = 150.0):
    """A model that is sure of some tokens: its head times `times`."""
    lm = model(config)
    with torch.no_grad():
        lm.net.get_output_embeddings().weight.mul_(times)
    return lm


def by_hand(lm, ids, first: int, below: float):
    """Truncated cross-entropy target by target: (sum, targets left out, all targets)."""
    total, left, count = torch.zeros((), dtype=torch.float64), 0, 0
    laws = lm.net(ids).logits[..., : lm.vocab].double().softmax(-1)
    for row in range(len(ids)):
        for place in range(first, ids.shape[1]):
            probability = laws[row, place - 1, ids[row, place]]
            count += 1
            if probability > below:
                left += 1
            else:
                total = total - probability.log()
    return total, left, count


@pytest.mark.parametrize(("below", "first"), [(0.99, 1), (0.5, 1), (0.5, 25), (1e-6, 1)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_truncated_cross_entropy_and_its_gradient_target_by_target(below: float, first: int, family: str) -> None:
    config = small_config(model__family=family)
    ours, plain = sure(config), sure(config)
    ids = torch.from_numpy(np.asarray(small_text().ids[: 3 * 32], np.int64)).reshape(3, 32)
    # Half of the targets are what the model holds most likely.
    with torch.no_grad():
        for place in range(1, 32, 2):
            ids[:, place] = ours.logits(ids)[:, place - 1].argmax(-1)
    loss, masked, its_loss, whole = Loss(ours, first, "cpu", "fp32", below)(ids)
    expected, left, count = by_hand(plain, ids, first, below)
    assert 0 < left < count
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert masked.item() == left and (its_loss + loss).item() == pytest.approx(whole.item(), rel=1e-5)
    assert whole.item() == pytest.approx(Loss(ours, first, "cpu", "fp32")(ids).item(), rel=1e-5)
    loss.backward()
    expected.backward()
    for a, b in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-4 * float(b.grad.abs().max()))


class TwoTokens(torch.nn.Module):
    """Logits (0, 0) everywhere, plus what is asked for: each of two tokens has probability 1/2."""

    def __init__(self, logit: float = 0.0):
        super().__init__()
        self.net, self.logit = torch.nn.Linear(1, 1), torch.nn.Parameter(torch.tensor(logit))

    def features(self, ids):
        return torch.zeros(*ids.shape, 2) + torch.stack([torch.zeros_like(self.logit), self.logit])

    def head(self, features):
        return features


def test_a_target_at_the_threshold_itself_stays_in_the_loss() -> None:
    ids = torch.zeros(1, 5, dtype=torch.int64)

    def of(below, logit=0.0):
        return Loss(TwoTokens(logit), 1, "cpu", "fp32", below)(ids).reshape(-1)[0].item()

    assert of(0.5) == of(1.0) == of(None) == pytest.approx(4 * math.log(2))
    assert of(0.49999) == 0.0
    assert of(1 - 4e-5, -10.0) == of(None, -10.0) == pytest.approx(4 * math.exp(-10.0), rel=1e-2)  # 4.5e-5 are missing
    assert of(1 - 5e-5, -10.0) == 0.0
    assert math.isnan(of(0.5, math.nan)) and math.isnan(of(0.5, math.inf))  # what is broken is not left out


def test_without_a_threshold_the_loss_is_the_usual_one_to_the_bit() -> None:
    config = small_config()
    ids = torch.from_numpy(np.asarray(small_text().ids[: 3 * 32], np.int64)).reshape(3, 32)
    lm = sure(config)
    usual = torch.nn.functional.cross_entropy(
        lm.head(lm.features(ids)[:, :-1].flatten(0, 1)), ids[:, 1:].flatten(), reduction="sum"
    )
    assert torch.equal(Loss(lm, 1, "cpu", "fp32")(ids), usual)
    assert torch.equal(Loss(lm, 1, "cpu", "fp32", None)(ids), usual)


def test_left_out_targets_count_in_the_denominator_and_the_ledger_however_a_step_is_divided(tmp_path) -> None:
    options = {"training__loss_below": 0.05, "training__batch_size": 21, "training__loss_on_last": 20}
    found = []
    for parts in (1, 3):
        config, data = prepared(tmp_path, training__accumulation=parts, training__epochs=20, **options)
        lm, facts = trained(config, data)
        assert facts["in_loss"] == 20 * 21 * 20 == data.ledger["real"]["loss"]
        found.append([row["loss"] for row in facts["log"]])
        assert all(0 <= row["masked_targets"] <= 1 and 0 <= row["masked_loss"] < 1 for row in facts["log"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    ids = torch.from_numpy(data[np.arange(21)])
    total, left, count = by_hand(lm, ids, 12, 0.05)
    assert left > 0 and count == 20 * 21
    again = Trainer(config, one_process(), quiet()).train(lm, data, 0)
    assert again["log"][0]["loss"] == pytest.approx(float(total) / count, rel=1e-4)
    assert again["log"][0]["masked_targets"] == pytest.approx(left / count, rel=1e-5)
    write_log(again["log"], tmp_path / "log.jsonl")
    shares = masked_shares(tmp_path / "log.jsonl")
    assert shares["training/masked_targets"] == pytest.approx(np.mean([row["masked_targets"] for row in again["log"]]))
    write_log([{"step": 0, "loss": 1.0}], tmp_path / "log.jsonl")
    assert masked_shares(tmp_path / "log.jsonl") == {}  # of a chain made before they were noted
    _, whole = trained(*prepared(tmp_path, training__epochs=20, **(options | {"training__loss_below": None})))
    assert whole["last_loss"] > 1.1 * found[0][-1]


def test_a_step_of_left_out_targets_alone_changes_nothing(tmp_path) -> None:
    config, data = prepared(tmp_path, training__loss_below=1e-9, training__weight_decay=0.0)
    lm, facts = trained(config, data)
    assert {row["loss"] for row in facts["log"]} == {0.0}
    assert weights_digest(lm) == weights_digest(model(config))


def test_truncation_is_one_graph_with_the_rest_of_the_step() -> None:
    config = small_config(model__layers=1)
    lm = sure(config)
    ids = torch.from_numpy(np.asarray(small_text().ids[: 2 * 32], np.int64)).reshape(2, 32)
    module = Loss(lm, 1, "cpu", "fp32", 0.05)
    whole = torch.compile(module, fullgraph=True, dynamic=False, backend="eager")
    assert whole(ids).tolist() == pytest.approx(module(ids).tolist(), rel=1e-6)
    torch._dynamo.reset()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path) -> None:
    config, data = prepared(
        tmp_path, training__lr=1e30, training__weight_decay=0.0, training__clip=0.0, training__epochs=4
    )
    with pytest.raises(UserError, match=r"step \d+ of \d+ \(learning rate .*try a lower lr"):
        trained(config, data)


def test_padding_gets_no_gradient(tmp_path) -> None:
    config, data = prepared(tmp_path, training__epochs=2)
    lm, _ = trained(config, data)
    weight = lm.net.get_input_embeddings().weight
    assert weight.shape[0] == 64 and (weight[61:] == 0).all() and (weight[:61] != 0).any()


def test_dropout_is_off_unless_asked(tmp_path) -> None:
    config = ModelConfig(layers=1, width=32, heads=2, context=32)
    net = modeling.new(config, vocab=61, separator=60, block=32, seed=0).net
    assert (net.config.resid_pdrop, net.config.embd_pdrop, net.config.attn_pdrop) == (0, 0, 0)
    asked = modeling.new(dataclasses.replace(config, dropout=0.2), vocab=61, separator=60, block=32, seed=0).net
    assert asked.config.resid_pdrop == asked.config.attn_pdrop == 0.2
    net.config.resid_pdrop = 0.1
    net.save_pretrained(tmp_path)
    assert modeling.load(str(tmp_path)).net.config.resid_pdrop == 0
    assert modeling.load(str(tmp_path), dropout=0.3).net.config.resid_pdrop == 0.3


def test_a_head_with_a_bias_is_published_at_its_true_size(tmp_path) -> None:
    from transformers import AutoModelForCausalLM, PhiConfig, PhiForCausalLM

    from collapselab.corpus.tokenizers import bytes_tokenizer

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    PhiForCausalLM(PhiConfig(vocab_size=257, max_position_embeddings=32, **small)).save_pretrained(tmp_path / "phi")
    plain, padded = (modeling.load(str(tmp_path / "phi"), pad=n) for n in (1, 64))
    assert plain.parameters == padded.parameters == sum(p.numel() for p in plain.net.parameters())
    assert modeling.weights_digest(plain) == modeling.weights_digest(padded)
    modeling.publish(padded, bytes_tokenizer(), tmp_path / "out", {})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.config.vocab_size == 257 and torch.equal(again.lm_head.bias, plain.net.lm_head.bias)


def test_a_last_update_that_is_not_finite_is_not_published(tmp_path) -> None:
    """One step only: its loss is finite, the weights after it are not, and no later loss would tell."""
    config, data = prepared(
        tmp_path, training__lr=1e39, training__weight_decay=0.0, training__clip=0.0, training__tokens=32 * 8
    )
    with pytest.raises(UserError, match=r"training\.lr=1e\+39: weights are not finite after step 0 of 1"):
        trained(config, data)


# --- one trainer for all generations ---------------------------------------------------------------------------------


def test_a_used_trainer_is_as_good_as_a_new_one(tmp_path) -> None:
    """Weights copied in place, optimiser emptied in place: to the bit what a fresh process would train."""
    config, data = prepared(tmp_path, training__epochs=2)
    used = Trainer(config, one_process(), quiet())
    used.train(model(config, seed=7), data, 1)
    places = [p.data_ptr() for p in used.model.net.parameters()]
    first, again = model(config), model(config)
    facts = used.train(first, data, 0)
    fresh = Trainer(config, one_process(), quiet())
    assert fresh.train(again, data, 0)["log"] == facts["log"]
    assert modeling.weights_digest(used.model) == modeling.weights_digest(fresh.model)
    assert places == [p.data_ptr() for p in used.model.net.parameters()]
    assert modeling.weights_digest(first) == modeling.weights_digest(model(config))  # start weights are left alone


@pytest.mark.parametrize("change", [{"attention": "eager"}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_options_that_change_how_but_not_what(tmp_path, family: str, change: dict) -> None:
    """Other kernels, other memory, the same losses; and the option does reach the network."""
    options = {f"training__{key}": value for key, value in change.items()}
    usual, facts = trained(*prepared(tmp_path, model__family=family))
    config, data = prepared(tmp_path, model__family=family, **options)
    other, more = trained(config, data)
    assert [row["loss"] for row in more["log"]] == pytest.approx([row["loss"] for row in facts["log"]], rel=1e-4)
    assert other.net.config._attn_implementation == change.get("attention", "sdpa")
    assert other.net.base_model.gradient_checkpointing == change.get("gradient_checkpointing", False)
    assert usual.net.config._attn_implementation == "sdpa" and not usual.net.base_model.gradient_checkpointing


def test_pure_bf16_has_bf16_weights_and_optimiser_and_is_published_so(tmp_path) -> None:
    from safetensors.torch import load_file

    from collapselab.corpus.tokenizers import bytes_tokenizer
    from collapselab.runtime.parallel import Processes

    config, data = prepared(tmp_path, training__precision="bf16_pure", training__epochs=3)
    trainer = Trainer(config, Processes("cpu", "bf16_pure"), quiet())
    facts = trainer.train(model(config), data, 0)
    assert {p.dtype for p in trainer.model.net.parameters()} == {torch.bfloat16}
    moments = [state["exp_avg"].dtype for state in trainer.optimizer.state.values()]
    assert moments and set(moments) == {torch.bfloat16}
    _, exact = trained(*prepared(tmp_path, training__epochs=3))
    assert facts["log"][0]["loss"] == pytest.approx(exact["log"][0]["loss"], rel=0.02)
    assert facts["last_loss"] < facts["log"][0]["loss"] and facts["last_loss"] != exact["last_loss"]
    modeling.publish(trainer.model, bytes_tokenizer(), tmp_path / "out", {})
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    again = modeling.load(str(tmp_path / "out"), pad=64)
    assert torch.equal(again.net.transformer.wpe.weight, trainer.model.net.transformer.wpe.weight.float())


def test_pure_bf16_trains_the_model_that_it_publishes(tmp_path) -> None:
    """Rotary angles are no weights: rounded to bf16 they would move far places, and come back exact from the file."""
    from collapselab.corpus.tokenizers import bytes_tokenizer
    from collapselab.runtime.parallel import Processes

    config, data = prepared(tmp_path, training__precision="bf16_pure", model__family="llama", model__context=512)
    trainer = Trainer(config, Processes("cpu", "bf16_pure"), quiet())
    trainer.train(model(config), data, 0)
    modeling.publish(trainer.model, bytes_tokenizer(), tmp_path / "out", {})
    again = modeling.load(str(tmp_path / "out"), pad=64)
    ours, theirs = (m.net.model.rotary_emb.inv_freq for m in (trainer.model, again))
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles on a CPU with g++, which is not here")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_compiled_step_has_causal_attention_without_a_mask(tmp_path, family: str) -> None:
    """A mask would keep a GPU from its flash kernel."""
    calls = []

    def look(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        for node in graph.graph.nodes:
            if node.target is torch.nn.functional.scaled_dot_product_attention:
                calls.append((node.kwargs.get("attn_mask"), node.kwargs.get("is_causal")))
        return graph

    config, data = prepared(tmp_path, training__compile=True, model__family=family)
    trainer = Trainer(config, one_process(), quiet())
    trainer.begin(model(config))
    torch._dynamo.reset()
    trainer.module.compile(backend=look, dynamic=False)
    facts = trainer.train(model(config), data, 0)
    assert calls == [(None, True)] * 2  # one for each layer
    _, plain = trained(*prepared(tmp_path, model__family=family))
    assert [row["loss"] for row in facts["log"]] == pytest.approx([row["loss"] for row in plain["log"]], rel=1e-4)
    torch._dynamo.reset()


def test_a_sliding_window_keeps_its_mask(tmp_path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config, data = prepared(tmp_path, training__compile=True)
    net = MistralForCausalLM(
        MistralConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=61, sliding_window=4,
        )
    )  # fmt: skip
    trainer = Trainer(config, one_process(), quiet())
    trainer.begin(modeling.LanguageModel(net, 61))
    assert trainer.model.net.config._attn_implementation == net.config._attn_implementation == "sdpa"
    ids = torch.from_numpy(data[np.arange(2)])
    with torch.no_grad():
        assert torch.allclose(trainer.model.logits(ids), net(ids).logits, atol=1e-5)


@pytest.mark.parametrize(("batch", "accumulation", "rows"), [(8, 3, 3), (64, 6, 11), (8, 1, 8), (3, 3, 1)])
def test_the_compiled_size_is_the_usual_one(batch: int, accumulation: int, rows: int) -> None:
    config = small_config(training__batch_size=batch, training__accumulation=accumulation, training__compile=True)
    trainer = Trainer(config, one_process(), quiet())
    trainer.begin(model(config))
    assert trainer.compiled_rows == rows


def test_autocast_keeps_float32_weights(tmp_path) -> None:
    from collapselab.runtime.parallel import Processes

    config, data = prepared(tmp_path, training__precision="bf16")
    trainer = Trainer(config, Processes("cpu", "bf16"), quiet())
    facts = trainer.train(model(config), data, 0)
    _, exact = trained(*prepared(tmp_path))
    assert {p.dtype for p in trainer.model.net.parameters()} == {torch.float32}
    losses = [[row["loss"] for row in f["log"]] for f in (facts, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles on a CPU with g++, which is not here")
def test_the_compiled_step_is_compiled_once_for_all_generations(tmp_path) -> None:
    config, data = prepared(tmp_path, training__compile=True, model__layers=1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer = Trainer(config, one_process(), quiet())
    facts = trainer.train(model(config), data, 0)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 1
    trainer.train(model(config, seed=3), data, 1)  # the last batch is short in each: it is not worth a compilation
    trainer.train(model(config), data, 0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    _, plain = trained(*prepared(tmp_path, model__layers=1))
    assert [row["loss"] for row in facts["log"]] == pytest.approx([row["loss"] for row in plain["log"]], rel=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("asked", [True, None])
def test_where_nothing_can_be_compiled(tmp_path, capsys, asked) -> None:
    """A compiler that is not there: an error where compiling was asked for, a line where it was left to the lab."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    config, data = prepared(tmp_path, training__compile=asked, model__layers=1)
    trainer = Trainer(config, one_process(), Console(bars=False))
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        if asked:
            with pytest.raises(UserError, match=r"training\.compile=True: torch cannot compile here"):
                trainer.train(model(config), data, 0)
        else:
            trainer.begin(model(config))
            trainer.module.compile(dynamic=False)  # as it is on a GPU
            trainer.compiled_rows = config.training.batch_size
            facts = trainer.train(model(config), data, 0)
            assert capsys.readouterr().err.count("not compiled") == 1
            _, plain = trained(*prepared(tmp_path, model__layers=1))
            assert facts["log"] == plain["log"]
    torch._dynamo.reset()


# --- in the middle: checkpoints, and memory that is short ----------------------------------------------------------------


class EndedError(Exception):
    """Stands for whatever ends a process in the middle of training."""


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model__dropout": 0.2},
        {"training__accumulation": 4, "training__precision": "bf16_pure"},
        {"model__family": "llama", "model__tie_embeddings": False, "training__epochs": 3},
    ],
    ids=["plain", "dropout", "bf16_pure", "llama"],
)
def test_training_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(tmp_path, change: dict) -> None:
    config, data = prepared(tmp_path, **{"training__checkpoint_steps": 2, "training__epochs": 4, **change})
    whole, facts = trained(config, data)
    unfinished = Unfinished(tmp_path / "train", {"mixture": "m"})

    class EndsAfter(Trainer):
        last = 0

        def _gradients(self, parts, scale):
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == self.last:
                raise EndedError
            return super()._gradients(parts, scale)

    precision = config.training.precision if config.training.precision != "auto" else "fp32"
    processes = Processes("cpu", precision)
    for last in (6, 2):  # the second ends before it has written another one
        EndsAfter.last = last
        with pytest.raises(EndedError):
            EndsAfter(config, processes, quiet()).train(model(config), data, 0, unfinished)
    found, wrong = unfinished.parts()
    assert sorted(found) == [2, 4] and not wrong
    trainer = Trainer(config, processes, quiet())
    again = trainer.train(model(config), data, 0, unfinished)
    if precision == "fp32":
        assert again == facts and weights_digest(trainer.model) == weights_digest(whole)
    plain = Trainer(config, processes, quiet())
    assert plain.train(model(config), data, 0) == again
    assert weights_digest(plain.model) == weights_digest(trainer.model)


def test_a_used_trainer_goes_on_from_a_checkpoint_too(tmp_path) -> None:
    config, data = prepared(tmp_path, training__checkpoint_steps=2, training__epochs=2)
    unfinished = Unfinished(tmp_path / "train", {})
    trainer = Trainer(config, one_process(), quiet())
    facts = trainer.train(model(config), data, 0, unfinished)
    whole = weights_digest(trainer.model)
    assert max(unfinished.parts()[0]) < facts["steps"]
    assert (
        trainer.train(model(config, seed=1), data, 0, unfinished) == facts
    )  # other start weights: the checkpoint's count
    assert weights_digest(trainer.model) == whole


def test_checkpoints_come_as_often_as_asked_and_take_a_twentieth_of_the_time(tmp_path) -> None:
    unfinished = Unfinished(tmp_path / "train", {})
    assert not unfinished.due(None) and not unfinished.due(60.0) and unfinished.due(1e-9)
    with unfinished.write(1) as out:
        time.sleep(0.02)
        (out / "a").write_text("a")
    assert unfinished.cost >= 0.02
    unfinished.cost *= 10_000  # a stalled host may let seconds pass here
    assert not unfinished.due(1e-9)  # another twenty times what this one took are to pass
    unfinished.cost = 1e-6
    time.sleep(0.001)
    assert unfinished.due(1e-9)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_batch_that_does_not_fit_is_divided_and_stays_the_same_batch(
    tmp_path, monkeypatch, capsys, accumulation
) -> None:
    config, data = prepared(tmp_path, training__accumulation=accumulation)
    whole, facts = trained(config, data)
    seen, forward = [], Loss.forward

    def short_of_memory(self, ids_BT):
        seen.append(len(ids_BT))
        if len(ids_BT) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, ids_BT)

    monkeypatch.setattr(Loss, "forward", short_of_memory)
    trainer = Trainer(config, one_process(), Console(bars=False))
    again = trainer.train(model(config), data, 0)
    assert again.pop("split") == 4 // accumulation and {k: again[k] for k in ("steps", "shown", "in_loss")} == {
        k: facts[k] for k in ("steps", "shown", "in_loss")
    }
    assert max(seen[4:]) == 2 and "micro-batches are divided by" in capsys.readouterr().err
    for name, weight in true_state(trainer.model).items():
        torch.testing.assert_close(weight, true_state(whole)[name], rtol=1e-4, atol=1e-5)


class Compiled:
    """A backend that compiles nothing and notes the rows of each micro-batch that went through it."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, _: list) -> object:
        def run(*inputs: torch.Tensor) -> object:
            self.rows += [
                len(x) for x in inputs if isinstance(x, torch.Tensor) and x.dtype == torch.int64 and x.ndim == 2
            ]
            return graph(*inputs)

        return run


def compiled_by(trainer: Trainer, config, backend: Compiled) -> Trainer:
    trainer.begin(model(config))
    torch._dynamo.reset()
    trainer.module.compile(backend=backend, dynamic=False)
    return trainer


def test_a_chain_that_goes_on_after_memory_was_short_keeps_its_compiled_step(tmp_path, monkeypatch) -> None:
    """Uncompiled it would take more memory, and be split on; and its bits would be others."""
    forward = Loss.forward

    def short_of_memory(self, ids_BT):
        if len(ids_BT) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, ids_BT)

    monkeypatch.setattr(Loss, "forward", short_of_memory)
    changes = {"training__compile": True, "training__checkpoint_steps": 1, "model__layers": 1}
    config, data = prepared(tmp_path, training__batch_size=7, **changes)  # 21 blocks: no short batch; parts of 4 and 3
    unfinished = Unfinished(tmp_path / "train", {})
    first, second = Compiled(), Compiled()
    trainer = compiled_by(Trainer(config, one_process(), quiet()), config, first)
    facts = trainer.train(model(config), data, 0, unfinished)
    assert facts["split"] == 2 and first.rows == [4] * 3
    again = compiled_by(Trainer(config, one_process(), quiet()), config, second)
    assert again.train(model(config), data, 0, unfinished) == facts  # the last step alone was left to do
    assert second.rows == [4] and weights_digest(again.model) == weights_digest(trainer.model)
    torch._dynamo.reset()


def test_a_worker_that_meets_many_forms_of_a_step_compiles_them_all(tmp_path) -> None:
    config, _ = prepared(tmp_path, training__compile=True, model__layers=1)
    backend = Compiled()
    trainer = compiled_by(Trainer(config, one_process(), quiet()), config, backend)
    for length in range(20, 30):  # torch's own limit is 8
        trainer.module(torch.zeros(2, length, dtype=torch.int64))
    assert backend.rows == [2] * 10
    torch._dynamo.reset()


def test_a_block_that_does_not_fit_is_the_users_to_mend(tmp_path, monkeypatch) -> None:
    config, data = prepared(tmp_path)

    def no_memory(self, ids_BT):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loss, "forward", no_memory)
    with pytest.raises(
        UserError, match=r"a single block does not fit into GPU memory; set gradient_checkpointing=true"
    ):
        Trainer(config, one_process(), quiet()).train(model(config), data, 0)


def test_a_chain_says_how_much_its_truncation_leaves_out(tmp_path) -> None:
    """What a truncated cross-entropy can be judged by: `training/masked_...` in metrics.jsonl, and in no other chain's."""
    small = {"generations": 1, "model__layers": 1, "mixing__tokens": 1024, "training__epochs": 2}
    _, rows = run(small_config(runs_dir=str(tmp_path / "cut"), training__loss_below=0.005, **small))
    for row in rows:
        assert 0 < row["metrics"]["training/masked_targets"] < 1
        assert 0 < row["metrics"]["training/masked_loss"] < row["metrics"]["training/masked_targets"]
    _, rows = run(small_config(runs_dir=str(tmp_path / "whole"), **small))
    assert not any(key.startswith("training/") for key in rows[1]["metrics"])
