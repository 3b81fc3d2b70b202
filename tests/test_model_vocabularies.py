"""A model and a tokenizer of different sizes: one rule for run, eval, sample and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import one_process, quiet, samples_of, small_config
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from collapselab.chain.opening import open_corpus
from collapselab.chain.run import run
from collapselab.config import SamplingConfig
from collapselab.corpus import tokenizers
from collapselab.corpus.tokenizers import bytes_tokenizer, load_tokenizer
from collapselab.models.network import fitted, load
from collapselab.sampling.draw import uniforms
from collapselab.sampling.engine import Engine
from collapselab.sampling.plain import write_batch
from collapselab.sampling.sampler import Sampler
from collapselab.sampling.weights import Weights

HOLES = [7, 257, 258, 259]  # 7 is a control character, which English text does not have


def with_holes(folder: Path) -> None:
    """The bytes tokenizer without one of its bytes, and with a token far behind the others."""
    bytes_tokenizer().save(folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = state["model"]["vocab"]
    kept = {token: number for token, number in vocabulary.items() if number not in HOLES}
    state["model"]["vocab"] = kept | {"far": 260}
    (folder / "tokenizer.json").write_text(json.dumps(state))


def network(family: str, vocab: int) -> Any:
    torch.manual_seed(0)
    if family == "gpt2":
        net: Any = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=64, n_embd=16, n_layer=1, n_head=2))
    else:
        net = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=1, max_position_embeddings=64, model_type=family,
            )
        )  # fmt: skip
    with torch.no_grad():  # ids that are no token are what it likes best
        net.get_output_embeddings().weight *= 10
    return net


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of 300 entries for a tokenizer of 257 tokens, whose ids reach 260."""
    network(request.param, 300).save_pretrained(tmp_path / "model")
    with_holes(tmp_path / "model")
    return tmp_path / "model"


def test_a_tokenizer_knows_its_holes(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.size == 261 and tokenizer.unused == HOLES
    assert bytes_tokenizer().unused == []


@pytest.mark.parametrize("sampler", ["engine", "plain"])
@pytest.mark.parametrize("options", [{}, {"top_k": 200}, {"top_p": 0.99, "repetition_penalty": 1.2}])
def test_ids_that_are_no_token_are_not_sampled(folder: Path, sampler: str, options: dict[str, Any]) -> None:
    model = fitted(load(str(folder), pad=64), load_tokenizer(str(folder)))
    prompts = np.full((64, 1), 65)
    if sampler == "engine":
        config = small_config(sampling__precision="fp32", **{f"sampling__{k}": v for k, v in options.items()})
        written = Sampler(config, one_process(), quiet()).writer(model, 1, 1, 40, 64)(prompts, 0)
    else:
        u = uniforms(1, range(64), range(1, 41))
        written = write_batch(model, prompts, u, SamplingConfig(**options), torch.device("cpu"))
    assert len(np.unique(written)) > 100
    assert not np.isin(written, HOLES).any() and written.max() < 261


def test_a_gpus_step_does_not_see_them_either(folder: Path) -> None:
    """Triton's kernels; without a GPU its interpreter runs them."""
    model = fitted(load(str(folder), pad=64), load_tokenizer(str(folder)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = Engine(Weights(model, 4, device, torch.float32), 2, SamplingConfig(), kernels=True)
    seen: list[torch.Tensor] = []
    engine.write(np.full((2, 1), 65), 1, 0, lambda logits: seen.append(logits[:, :261].cpu().clone()))
    kept = torch.tensor([i not in HOLES for i in range(261)])
    assert len(seen) == 3
    assert all((logits[:, ~kept] == -torch.inf).all() and logits[:, kept].isfinite().all() for logits in seen)


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A small corpus, as the value of corpus.source."""
    words = np.random.default_rng(0).choice(["a", "rare", "fall", "of", "all", "words", "but", "one"], 6000)
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(part) for part in words.reshape(200, 30)))
    return f"path:{tmp_path / 'text.txt'}"


def test_run_and_eval_have_one_perplexity(folder: Path, text: str, tmp_path: Path, lab: Any) -> None:
    """Of the same weights, over the tokens that there are: computed here once more from the file."""
    config = small_config(
        runs_dir=str(tmp_path / "runs"), generations=0, model__pretrained=str(folder), training__lr=1e-9,
        corpus__tokenizer=None, corpus__source=text, corpus__document="paragraph", mixing__tokens=1024,
        evaluation__tokens=None, evaluation__sample_tokens=None,
    )  # fmt: skip
    path, rows = run(config)
    said = {}
    for name, model in (("before", folder), ("published", path / "gen_000" / "train")):
        code, out, err = lab("eval", str(model), "--run", str(path))
        assert code == 0, err
        said[name] = json.loads(out)["real/perplexity"]
    assert said["published"] == pytest.approx(rows[0]["metrics"]["real/perplexity"], rel=1e-6)
    assert said["before"] == pytest.approx(said["published"], rel=1e-4)
    corpus = open_corpus(config, one_process())
    net, kept = AutoModelForCausalLM.from_pretrained(folder), [i for i in range(261) if i not in HOLES]
    ids = torch.from_numpy(corpus.valid.ids[: 4 * 32].astype(np.int64)).view(4, 32)
    with torch.inference_mode():
        logits = net(ids).logits
        model = fitted(load(str(folder)), corpus.tokenizer)
        ours = model.logits(ids).log_softmax(-1)[..., kept]
    assert torch.allclose(ours, logits[..., kept].log_softmax(-1), atol=1e-4)
    written = samples_of(path / "gen_000" / "samples")
    assert not np.isin(written, HOLES).any() and written.max() < 261


def test_a_hole_is_neither_trained_nor_written_by_others(folder: Path, text: str, tmp_path: Path) -> None:
    config = small_config(
        runs_dir=str(tmp_path / "runs"), generations=1, model__pretrained=str(folder), model__start="previous",
        corpus__tokenizer=None, corpus__source=text, corpus__document="paragraph", mixing__tokens=1024,
        evaluation__tokens=None, evaluation__sample_tokens=None,
    )  # fmt: skip
    path, _ = run(config)
    for generation in range(2):
        net = AutoModelForCausalLM.from_pretrained(path / f"gen_{generation:03d}" / "train")
        assert net.config.vocab_size == 261 and net.generation_config.suppress_tokens == HOLES
        text = net.generate(
            torch.full((16, 1), 65), do_sample=True, max_new_tokens=24, eos_token_id=None, pad_token_id=0
        )
        assert not np.isin(text.numpy(), HOLES).any()


def test_a_model_smaller_than_its_tokenizer_is_one_line(tmp_path: Path, lab: Any) -> None:
    network("gpt2", 200).save_pretrained(tmp_path / "model")
    tokenizers.bytes_tokenizer().save(tmp_path / "model")
    config = small_config(runs_dir=str(tmp_path / "runs"), generations=0)
    path, _ = run(config)
    for arguments in (
        ("eval", str(tmp_path / "model"), "--run", str(path)),
        ("run", f"--model.pretrained={tmp_path / 'model'}", "--name=small", "--training.block=32", "--device=cpu"),
    ):
        code, _, said = lab(*arguments)
        assert code == 2 and said.count("\n") == 1 and len(said) <= 300
        assert "its tokenizer has 257 tokens, the model only 200" in said
