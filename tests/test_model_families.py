"""Any causal family that transformers builds: what is sampled, scored and published is what its whole text gives."""

from __future__ import annotations

import copy
import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import one_process, quiet, samples_of, small_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from collapselab.chain.run import run
from collapselab.config import ModelConfig, SamplingConfig, UserError
from collapselab.config import families as records
from collapselab.config.keys import run_keys
from collapselab.learning.learners import LEARNERS
from collapselab.models import families
from collapselab.models.network import LanguageModel, fitted, load, publish
from collapselab.runtime.console import Console
from collapselab.sampling.draw import draw, stream_key, truncated, uniforms
from collapselab.sampling.plain import beam_batch, cache_flaw, write_batch
from collapselab.sampling.sampler import Sampler

VOCAB, CPU = 61, torch.device("cpu")
SIZES = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
USUAL = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
OLD = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
STATE = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
LLAMA = USUAL | {"num_key_value_heads": 1, "head_dim": 8}

# Families with keys and values, with a state of their own, with both, and with nothing to hand on.
FAMILIES: dict[str, dict[str, Any]] = {
    "bamba": LLAMA | {
        "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1,
    },
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "falcon": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "falcon_mamba": STATE,
    "gemma2": LLAMA | {"sliding_window": 8},
    "gpt_neo": {
        "hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8,
        "max_position_embeddings": 64,
    },
    "gpt_neox": USUAL,
    "gpt2": OLD,
    "jamba": LLAMA | {
        "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "lfm2": LLAMA | {"layer_types": ["conv", "full_attention"]},
    "llama": LLAMA,
    "mamba": STATE,
    "mamba2": STATE | {"num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "minimax": LLAMA | {"num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"]},
    "mistral": LLAMA | {"sliding_window": 8},
    "moshi": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24, "sliding_window": 8},
    "openai-gpt": OLD,
    "opt": {
        "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    "phi": USUAL,
    "qwen2": LLAMA,
    "recurrent_gemma": LLAMA | {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 8},
    "rwkv": {"hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2},
}  # fmt: skip
NEW = 22  # tokens that are written: more than any window above


def network(family: str, **more: Any) -> Any:
    """A small network with weights so large that the context decides what comes next."""
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **FAMILIES[family], **more)).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 3 if weight.ndim > 1 else 1
    return net


def saved(net: Any, folder: Path) -> Path:
    net.save_pretrained(folder)
    return folder


def by_whole_texts(net: Any, prompts: np.ndarray, uniforms_BN: np.ndarray) -> np.ndarray:
    """The obvious loop: every token from a forward pass over all the text before it, by itself."""
    out = []
    for prompt, u_N in zip(prompts, uniforms_BN, strict=True):
        text = torch.from_numpy(prompt)[None]
        for u in u_N:
            with torch.inference_mode():
                logits = net(input_ids=text, use_cache=False).logits[:, -1, :VOCAB]
            token = draw(truncated(logits, text, SamplingConfig()), torch.tensor([u]))
            text = torch.cat([text, token[:, None]], 1)
        out.append(text[0, len(prompt) :].numpy())
    return np.stack(out)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_tokens_are_those_of_whole_texts(family: str) -> None:
    net = network(family)
    model = LanguageModel(net, VOCAB)
    for batch in range(2):  # what a batch leaves behind is not read by the next one
        prompts = np.random.default_rng(batch).integers(3, VOCAB, (4, 3))
        u = uniforms(7, range(4 * batch, 4 * batch + 4), range(3, 3 + NEW))
        written = write_batch(model, prompts, u, SamplingConfig(), CPU)
        assert (written == by_whole_texts(net, prompts, u)).all()
        assert len(np.unique(written)) > 5


@pytest.mark.parametrize(("family", "cached"), [("mamba", True), ("mistral", True), ("openai-gpt", False)])
def test_a_cache_is_used_where_it_is_right(family: str, cached: bool) -> None:
    net = network(family)
    assert (cache_flaw(LanguageModel(net, VOCAB), 3, NEW, CPU) is None) == cached


def test_a_cache_that_is_wrong_after_a_while_is_found() -> None:
    """Nothing is known of the families: a network that forgets at its 30th token is found like one that never looks."""
    net = network("gpt2")
    forward = net.forward

    def forgets(input_ids: torch.Tensor, past_key_values: Any = None, **options: Any) -> Any:
        if past_key_values is not None and past_key_values.get_seq_length() >= 30:
            past_key_values = None
        return forward(input_ids=input_ids, past_key_values=past_key_values, **options)

    net.forward = forgets
    model = LanguageModel(net, VOCAB)
    assert cache_flaw(model, 3, 20, CPU) is None
    assert str(cache_flaw(model, 3, 40, CPU)).startswith("after 34 tokens")


@pytest.mark.parametrize("family", ["mamba", "minimax", "openai-gpt", "rwkv", "gpt2"])
def test_beam_search_of_any_family_is_that_of_whole_texts(family: str) -> None:
    net = network(family)
    model = LanguageModel(net, VOCAB)
    prompts = np.random.default_rng(3).integers(3, VOCAB, (2, 3))
    beams: list[list[tuple[float, list[int]]]] = [[(0.0, prompt.tolist())] for prompt in prompts]
    for _ in range(8):
        for row, found in enumerate(beams):
            with torch.inference_mode():
                logits = net(input_ids=torch.tensor([text for _, text in found]), use_cache=False).logits[:, -1, :VOCAB]
            gains = logits.log_softmax(-1).tolist()
            longer = [
                (score + gain[token], [*text, token])
                for (score, text), gain in zip(found, gains, strict=True)
                for token in range(VOCAB)
            ]
            beams[row] = sorted(longer, key=lambda item: -item[0])[:3]
    best = [found[0][1][3:] for found in beams]
    assert beam_batch(model, prompts, 8, 3, CPU).tolist() == best


def test_it_is_said_once_that_there_is_no_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(
        sampling__batch_size=4, sampling__length=12, sampling__prompt="bos", sampling__precision="fp32"
    )
    net = network("rwkv")
    sampler = Sampler(config, one_process(), Console(bars=False))
    for generation in range(2):
        out = tmp_path / str(generation)
        out.mkdir()
        model = LanguageModel(net, VOCAB)
        sampler.sample(model, generation, None, 8 * 12, separator=1, ends=[2], out=out)
        u = uniforms(stream_key(config.seed, generation), range(8), range(1, 13))
        assert (samples_of(out).reshape(8, 12) == by_whole_texts(net, np.ones((8, 1), np.int64), u)).all()
    said = [line for line in capsys.readouterr().err.splitlines() if "cache" in line]
    assert len(said) == 1 and "RwkvForCausalLM" in said[0] and len(said[0]) <= 300


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_engine_that_computes_something_else_does_not_write(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variant of a family that nobody has named yet: here one with another scale of its attention."""
    net = network(family)
    sampler = Sampler(small_config(sampling__precision="fp32"), one_process(), Console(bars=False))
    prompts = np.random.default_rng(0).integers(3, VOCAB, (4, 3))
    u = uniforms(stream_key(1, 1), range(4), range(3, 3 + NEW))
    for writes in ("engine", "plain"):
        for module in net.modules() if writes == "plain" else []:
            if hasattr(module, "scaling"):
                module.scaling *= 3
        net = net if writes == "engine" else copy.deepcopy(net)
        written = sampler.writer(LanguageModel(net, VOCAB), 1, 3, NEW, 4)(prompts, 0)
        assert sampler.writes == writes and (written == by_whole_texts(net, prompts, u)).all()
    assert capsys.readouterr().err.count("the fast engine does not support") == 1


# --- one head, whatever the vocabulary is padded to ------------------------------------------------------------------------


def own_head(family: str, folder: Path) -> Path:
    """A model folder whose config.json ties head and embeddings, and whose file has a head of its own."""
    net = saved(network(family, tie_word_embeddings=False), folder)
    settings = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    return folder


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mistral", "gpt_neox", "mamba", "qwen2"])
def test_a_head_of_its_own_is_used_whatever_the_padding(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own_head(family, tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        right = theirs(ids).logits
    capsys.readouterr()
    for pad in (1, 64):
        model = load(str(folder), pad=pad)
        said = [line for line in capsys.readouterr().err.splitlines() if "head of its own" in line]
        assert len(said) == 1
        with torch.inference_mode():
            assert torch.allclose(model.logits(ids), right, rtol=1e-4, atol=1e-5)
            assert torch.allclose(model.head(model.features(ids)), right, rtol=1e-4, atol=1e-5)
        u = uniforms(5, range(3), range(2, 12))
        prompts = ids[:1, :2].repeat(3, 1).numpy()
        assert (write_batch(model, prompts, u, SamplingConfig(), CPU) == by_whole_texts(theirs, prompts, u)).all()
        config = small_config(sampling__precision="fp32")
        engine = Sampler(config, one_process(), quiet()).writer(model, 1, 2, 10, 3)
        u = uniforms(stream_key(config.seed, 1), range(3), range(2, 12))
        assert (engine(prompts, 0) == by_whole_texts(theirs, prompts, u)).all()


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mistral", "mamba"])
def test_what_is_published_has_the_head_that_was_used(family: str, tmp_path: Path) -> None:
    from collapselab.corpus.tokenizers import words_tokenizer

    folder = own_head(family, tmp_path / "model")
    tokenizer = words_tokenizer([str(number) for number in range(VOCAB - 1)])
    model = fitted(load(str(folder), pad=64), tokenizer)
    (tmp_path / "published").mkdir()
    publish(model, tokenizer, tmp_path / "published", {})
    ids = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        right = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        for again in (
            AutoModelForCausalLM.from_pretrained(tmp_path / "published").eval()(ids).logits,
            load(str(tmp_path / "published"), pad=64).logits(ids),
        ):
            assert torch.allclose(again, right, rtol=1e-4, atol=1e-5)


def test_a_tied_head_stays_tied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that has the one matrix twice, as some savers write it, is tied as config.json says."""
    folder = saved(network("gpt2"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    net = load(str(folder), pad=64).net
    assert net.get_output_embeddings().weight is net.get_input_embeddings().weight
    assert "head of its own" not in capsys.readouterr().err


# --- a family is a record ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", records.FAMILIES)
def test_a_record_names_what_exists(name: str) -> None:
    family = records.FAMILIES[name]
    assert hasattr(import_module(family.module), family.network) and family.learner in LEARNERS
    assert set(family.keys) <= {field.name for field in dataclasses.fields(ModelConfig)}
    assert f'"{name}"' in run_keys()["model.family"]


def test_one_record_is_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configured, counted, trained, sampled and scored, without another line of code."""

    def settings(model: ModelConfig, context: int) -> dict[str, Any]:
        return {
            "hidden_size": model.width, "intermediate_size": 4 * model.width, "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads, "max_position_embeddings": context,
            "tie_word_embeddings": model.tie_embeddings,
        }  # fmt: skip

    monkeypatch.setitem(records.FAMILIES, "gpt_neox", records.Family("GPTNeoXForCausalLM", settings, rotary=True))
    sizes = {"model__family": "gpt_neox", "model__layers": 3, "model__width": 16, "model__heads": 2}
    config = small_config(runs_dir=str(tmp_path), generations=1, **sizes)
    net = families.untrained(config.model, vocab=VOCAB, separator=0, context=32)
    assert families.parameters(config.model, vocab=VOCAB, context=32) == sum(p.numel() for p in net.parameters())
    path, rows = run(config)
    assert len(rows) == 2 and json.loads((path / "gen_001/samples/meta.json").read_text())["sampler"] == "plain"
    for key, value, remedy in (
        ("dropout", 0.1, "no dropout"),
        ("kv_heads", 1, "only the llama family"),
        ("width", 6, "even"),
    ):
        with pytest.raises(UserError, match=remedy):
            ModelConfig(family="gpt_neox", heads=2, **{"width": 16, key: value})
