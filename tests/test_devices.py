"""What a GPU would show, as far as it can be held without one (the rest: scripts/stub_card, scripts/gpu_check.sh)."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import one_process, quiet, small_config
from torch._subclasses.fake_tensor import FakeTensorMode

from collapselab.chain import plan
from collapselab.config import ModelConfig, UserError
from collapselab.experiments import local
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.run import slots_and_gpus
from collapselab.learning.trainer import Loss
from collapselab.models import families
from collapselab.models import network as modeling
from collapselab.runtime import errors, memory, parallel
from collapselab.runtime.parallel import Processes, environment, unused_gpu
from collapselab.sampling import room, sampler
from collapselab.sampling.weights import packed

GB = 10**9


@pytest.fixture(autouse=True)
def arithmetic_as_before():
    yield
    parallel.strict_arithmetic(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch says that there is a GPU, and accelerate takes it; returns what is asked of it."""
    asked: list[str] = []
    state = SimpleNamespace(device=torch.device("cuda"), process_index=0, num_processes=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(parallel, "Accelerator", lambda **_: state)
    for name in ("reset_peak_memory_stats", "get_device_name", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))
    return asked


def test_deterministic_is_strict_and_is_taken_back(a_card) -> None:
    """With a warning alone torch would keep the backward pass of attention that is not deterministic."""
    Processes("cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert (
        not torch.utils.deterministic.fill_uninitialized_memory and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    )
    Processes("cuda")
    assert not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory


def test_an_operation_that_torch_refuses_then_is_one_line(a_card, tmp_path) -> None:
    processes = Processes("cuda", deterministic=True)
    refused = pytest.raises(UserError, match=r"^deterministic=True: torch refuses an operation \(put_ does not")
    with refused as said, errors.one_line_errors(tmp_path, processes):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert len(str(said.value)) <= 300 and "\n" not in str(said.value)


def test_each_chain_of_a_process_has_a_peak_of_its_own(a_card) -> None:
    for _ in range(2):
        Processes("cuda")
    assert a_card == ["reset_peak_memory_stats"] * 2


def test_a_gpu_that_is_not_computed_on_is_not_asked(monkeypatch, a_card) -> None:
    """Its name would cost a context there, and batches on a CPU are forked afterwards."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert environment()["cuda"] is None
    huge = ModelConfig(width=1 << 20, layers=100)
    with pytest.raises(UserError, match="in 5 copies"):
        families.check_size(huge, vocab=100, context=8)
    with pytest.raises(UserError, match="GB of memory"):
        memory.check_memory(1 << 60, "key", 1, "it", on_device=True)
    assert a_card == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="in 2 copies"):
        families.check_size(huge, vocab=100, context=8)
    environment()
    assert a_card == ["get_device_name"]


@pytest.mark.parametrize(
    ("built", "driver", "hidden", "said"),
    [
        (
            "13.0",
            True,
            None,
            "was built for CUDA 13.0 and sees no usable GPU (its driver may be too old, see nvidia-smi)",
        ),
        ("13.0", False, None, "was built for CUDA 13.0 and sees no usable GPU (no NVIDIA driver is here)"),
        (None, True, None, "an NVIDIA driver is here, but torch"),
        (None, False, None, None),
        ("13.0", True, "", None),
        ("13.0", True, "-1", None),
    ],
)
def test_a_gpu_that_cannot_be_used_is_said(monkeypatch, tmp_path, built, driver, hidden, said) -> None:
    (tmp_path / ("nvidiactl" if driver else "null")).touch()
    monkeypatch.setattr(parallel, "Path", lambda place: tmp_path / os.path.relpath(place, "/dev"))
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES") if hidden is None else monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = unused_gpu()
    assert (found is None) == (said is None)
    if said is not None:
        assert said in found and len(found) <= 300 and "\n" not in found
    assert Processes("auto").unused_gpu == found and Processes("cpu").unused_gpu is None


def test_a_run_and_a_dry_run_say_it_once(lab, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    small = ["--runs_dir", str(tmp_path), "--corpus.tokenizer", "bytes", "--mixing.tokens", "512", "--generations", "0"]
    small += ["--model.layers", "1", "--model.width", "16", "--model.heads", "2", "--training.block", "16"]
    small += ["--evaluation.tokens", "128"]
    code, out, err = lab("run", *small, "--dry_run")
    assert code == 0 and (out + err).count("sees no usable GPU") == 1
    code, out, err = lab("run", *small)
    assert code == 0 and (out + err).count("sees no usable GPU") == 1
    (events,) = tmp_path.glob("*/events.log")
    assert events.read_text().count("sees no usable GPU") == 1


class OnACard(torch.Tensor):
    """Says that it lies on a GPU, where nothing can be made here."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_rotary_angles_are_made_on_the_cpu_wherever_the_model_lies() -> None:
    """A chain in one go has its model on the GPU by then, one that goes on has just read it."""
    config = ModelConfig(family="llama", layers=1, width=32, heads=2)
    model = modeling.new(config, vocab=61, separator=60, block=16, seed=0)
    rope = model.net.model.rotary_emb
    angle = torch.outer(torch.arange(16).float(), rope.inv_freq)
    expected = torch.cat([angle.cos(), angle.sin()], 1) * rope.attention_scaling
    assert torch.equal(packed(model, 16).turns, expected) and expected.dtype == torch.float32
    rope.inv_freq = rope.inv_freq.as_subclass(OnACard)
    found = packed(model, 16).turns
    assert type(found) is torch.Tensor and torch.equal(found, expected)


@pytest.mark.parametrize("prompt", [1, 256])
def test_a_batch_leaves_room_for_reading_its_prompts(monkeypatch, prompt: int) -> None:
    """GPT-2 124M in float32 on a card of 16 GB: the pass over prompts of 256 tokens takes gigabytes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = modeling.LanguageModel(GPT2LMHeadModel(GPT2Config()), 50257)
    kind = {"sampling__prompt": "real_prefix", "sampling__prompt_tokens": prompt} if prompt > 1 else {}
    config = small_config(
        sampling__batch_size=None, sampling__precision="fp32", sampling__length=512, training__block=512, **kind
    )
    processes = one_process()
    processes.device = torch.device("cuda")
    numbers = {"mem_get_info": (16 * GB, 17 * GB), "memory_reserved": 0, "max_memory_allocated": 0}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    batch = sampler.Sampler(config, processes, quiet())._fitting(model, 512, 10**6)
    tokens = min(batch * (prompt - 1), 1 << 17)
    held = 4 * 2 * 3072 * tokens  # the first product of the feed-forward layer and its GELU alone
    assert batch * room.row_bytes(model, 512, "fp32") + held + 4 * model.parameters <= 16 * GB
    assert batch >= 192


@pytest.mark.parametrize(
    ("asked", "gpus", "count"), [(3, ["0"], 1), (3, ["0", "1"], 2), (1, ["0", "1"], 1), (2, [], 2)]
)
def test_a_gpu_has_one_worker_at_most(monkeypatch, capsys, asked: int, gpus: list[str], count: int) -> None:
    """Two would each take most of the memory that they find."""
    monkeypatch.setattr(local, "gpus", lambda: gpus)
    arm = {"arms": {"main": small_config(device="auto")}, "changes": {"main": []}, "baseline": None}
    assert slots_and_gpus(Experiment(seeds=[1, 2, 3, 4], **arm).chains(), asked) == (count, gpus)
    said = capsys.readouterr().err
    assert (f"--workers={asked}" in said) == (count < asked) and said.count("\n") <= 1
    arm["arms"] = {"main": small_config(device="cpu")}
    chains = Experiment(seeds=[1, 2, 3, 4], **arm).chains()
    assert slots_and_gpus(chains, asked) == (asked, [])  # a card that none of them uses


def test_heads_that_share_keys_are_repeated_where_torch_has_no_fused_kernel(monkeypatch) -> None:
    """On CUDA in float32; here both ways are asked for the same numbers."""
    config = ModelConfig(family="llama", layers=2, width=32, heads=4, kv_heads=2)
    model = modeling.new(config, vocab=61, separator=60, block=16, seed=0)
    ids = torch.arange(48).view(3, 16)
    with torch.no_grad():
        expected = model.net(ids).logits
        model.without_mask()
        assert torch.equal(model.net(ids).logits, expected)
        seen: list[tuple[int, int]] = []
        monkeypatch.setattr(modeling, "_unfused", lambda q, k: seen.append((q.shape[1], k.shape[1])) or True)
        torch.testing.assert_close(model.net(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert seen == [(4, 2)] * 2
    monkeypatch.undo()
    with FakeTensorMode():
        on = [torch.empty(1, heads, 8, 8, device="cuda") for heads in (4, 2)]
        assert modeling._unfused(*on) and not modeling._unfused(on[0], on[0])
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
        assert not modeling._unfused(*on)
        monkeypatch.undo()
        assert not modeling._unfused(on[0].bfloat16(), on[1].bfloat16()) and not modeling._unfused(
            on[0].cpu(), on[1].cpu()
        )


@pytest.mark.parametrize("beams", [1, 2])
def test_the_plain_sampler_leaves_cudnn_out(monkeypatch, beams: int) -> None:
    """It would make a plan for every length of the cache."""
    from collapselab.config import SamplingConfig
    from collapselab.sampling.plain import beam_batch, write_batch

    assert torch.backends.cuda.cudnn_sdp_enabled()
    model = modeling.new(ModelConfig(layers=1, width=16, heads=2), vocab=61, separator=60, block=16, seed=0)
    logits, used = modeling.LanguageModel.logits, []

    def watched(self, *arguments, **named):
        used.append((torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        return logits(self, *arguments, **named)

    monkeypatch.setattr(modeling.LanguageModel, "logits", watched)
    for _ in range(2):
        if beams > 1:
            beam_batch(model, np.zeros((2, 1), np.int64), 3, beams, torch.device("cpu"))
        else:
            write_batch(model, np.zeros((2, 1), np.int64), np.zeros((2, 3)), SamplingConfig(), torch.device("cpu"))
    assert len(used) >= 6 and set(used) == {(False, True)} and torch.backends.cuda.cudnn_sdp_enabled()


def test_a_dry_run_takes_the_steps_of_training(monkeypatch, tmp_path) -> None:
    """The trainer's own: its precision, and its micro-batches where memory is short."""
    weights, rows, forward = set(), [], Loss.forward

    def short_of_memory(self, ids_BT):
        weights.update(p.dtype for p in self.net.parameters())
        rows.append(len(ids_BT))
        if len(ids_BT) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, ids_BT)

    monkeypatch.setattr(Loss, "forward", short_of_memory)
    found = plan.plan(small_config(runs_dir=str(tmp_path), training__precision="bf16_pure"))
    assert weights == {torch.bfloat16} and rows[0] == 8 and set(rows[1:]) == {4}
    assert all(rate > 0 for rate in found["rates"].values())


def test_a_dry_run_halves_a_sampling_batch_that_does_not_fit(monkeypatch, tmp_path) -> None:
    rows, write = [], sampler.Engine.write

    def short_of_memory(self, prompts, key, first, *more):
        if any(map(callable, more)):  # the trial of the network watches its logits
            return write(self, prompts, key, first, *more)
        rows.append(len(prompts))
        if len(prompts) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(self, prompts, key, first, *more)

    monkeypatch.setattr(sampler.Engine, "write", short_of_memory)
    found = plan.plan(small_config(runs_dir=str(tmp_path)))
    assert rows[:2] == [64, 32] and rows[-1] == 16 and np.isfinite(found["rates"]["sample"])


@pytest.mark.parametrize(
    ("long", "short", "seconds"), [([0.03, 0.5, 0.031], [0.2, 0.01, 0.3], 0.02), ([0.03] * 3, [0.04] * 3, 0.04)]
)
def test_the_rate_of_a_dry_run_survives_a_noisy_clock(monkeypatch, tmp_path, long, short, seconds: float) -> None:
    """The shortest timings count; where even those of few steps are longer, no difference of two timings is trusted."""
    timings = iter([[1.0], long, short])

    def noisy(work, device, repeats: int, warm_up: int = 1) -> list[float]:
        work()
        return next(timings)[:repeats]

    monkeypatch.setattr(plan, "clock", noisy)
    config = small_config(runs_dir=str(tmp_path))
    tokens = 64 * (plan.PROBE_TOKENS - 1) * torch.get_num_threads()
    assert plan.plan(config)["rates"]["sample"] == pytest.approx(tokens / seconds)


def test_hints_of_the_compiler_and_of_the_driver_do_not_reach_the_terminal() -> None:
    code = (
        "import warnings, collapselab.runtime.parallel\n"
        "warnings.warn('TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled.')\n"
        "warnings.warn('CUDA initialization: The NVIDIA driver on your system is too old (found version 12080).')\n"
        "warnings.warn('something else')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert "something else" in done.stderr and "TensorFloat32" not in done.stderr and "too old" not in done.stderr
