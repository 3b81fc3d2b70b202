"""Memory: a batch that is too large for it is split, and a long chain needs no more of it than a short one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import one_process, small_config

from collapselab.chain.run import run
from collapselab.config import UserError
from collapselab.evaluation import real_text, under_first
from collapselab.evaluation.contexts import NextTokens
from collapselab.metrics.likelihood import windows
from collapselab.models.network import LanguageModel, new
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import out_of_memory
from collapselab.store.folders import read_json

ROOT = Path(__file__).parents[1]
CONTEXT = 16


def short_of_memory(monkeypatch: pytest.MonkeyPatch, windows: int, rows: int) -> None:
    """From here on a model takes at most so many windows, and gives at most so many rows of logits, at a time."""

    def limited(work, most):
        def call(model: LanguageModel, given: torch.Tensor) -> torch.Tensor:
            if (
                torch.is_inference_mode_enabled() and len(given) > most
            ):  # the training of a chain is not what runs short
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(given)} rows.")
            return work(model, given)

        return call

    monkeypatch.setattr(LanguageModel, "features", limited(LanguageModel.features, windows))
    monkeypatch.setattr(LanguageModel, "head", limited(LanguageModel.head, rows))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return new(small_config().model, vocab=257, separator=256, block=CONTEXT, seed=1)


def losses(model: LanguageModel, console: Console) -> tuple:
    """Losses and the shapes of next-token distributions of 40 windows and a shorter one, and what is to be recorded."""
    stream = np.random.default_rng(1).integers(0, 256, 40 * CONTEXT + 5).astype(np.uint16)
    plan, processes = windows(len(stream), CONTEXT, CONTEXT), one_process()
    shapes = NextTokens(plan)
    scored = real_text.window_losses(model, stream, plan, "fp32", processes, console, observer=shapes)
    return *scored, shapes.sums(processes), real_text.halved(processes)


# Both are split; the logits alone, in the middle of a batch of which a part was shown already; the windows alone.
@pytest.mark.parametrize("most, chunk", [(3, 10), (40, 100), (5, 512)])
def test_a_batch_that_is_too_large_is_split_and_scores_the_same(model, monkeypatch, tmp_path, most, chunk) -> None:
    expected = losses(model, Console(log=tmp_path / "whole.log"))
    assert expected[-1] == {} and not (tmp_path / "whole.log").exists()
    short_of_memory(monkeypatch, most, chunk)
    found = losses(model, Console(log=tmp_path / "events.log"))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    np.testing.assert_array_equal(found[2], expected[2])
    assert found[3]["contexts"] == expected[3]["contexts"] and found[3] == pytest.approx(expected[3], rel=1e-6)
    times = found[4]["evaluation_batch"]["halved"]
    assert times >= 1 and (tmp_path / "events.log").read_text().count("out of cpu memory") == times


def test_one_window_that_is_too_large_is_said_in_one_line(model, monkeypatch) -> None:
    short_of_memory(monkeypatch, 0, 512)
    with pytest.raises(UserError, match=r"one window of 16 tokens; lower evaluation\.context"):
        losses(model, Console(speaks=False))


def test_other_errors_are_not_taken_for_it(model, monkeypatch) -> None:
    def broken(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(LanguageModel, "features", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        losses(model, Console(speaks=False))


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."),
            False,
        ),  # a smaller batch would not be supported either
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory."), False),
    ],
)
def test_out_of_memory_has_several_names(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_out_of_memory_is_what_torch_itself_raises() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)  # an EiB
    assert out_of_memory(raised.value)


def test_states_are_the_same_where_memory_is_short(model, monkeypatch, tmp_path) -> None:
    stream = np.random.default_rng(2).integers(0, 256, 640).astype(np.uint16)
    places = [(i, i + CONTEXT) for i in range(0, 640, CONTEXT)]
    console = Console(log=tmp_path / "events.log")
    expected = under_first.mean_states(model, stream, places, "fp32", one_process(), console)
    work = type(model.net.base_model).forward

    def limited(net, input_ids, **options):
        if len(input_ids) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(net, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model.net.base_model), "forward", limited)
    processes = one_process()
    found = under_first.mean_states(model, stream, places, "fp32", processes, console)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    times = real_text.halved(processes)["evaluation_batch"]["halved"]
    assert (512 >> times) <= 7 and (tmp_path / "events.log").read_text().count("memory") == times


def test_a_chain_records_that_it_evaluated_in_smaller_batches(monkeypatch, tmp_path) -> None:
    """The same values but for the last bits, and `evaluation_batch` among the sums; without a split there is none."""
    config = small_config(runs_dir=str(tmp_path), generations=0)
    whole, (expected,) = run(config)
    short_of_memory(monkeypatch, 5, 512)
    split, (found,) = run(small_config(runs_dir=str(tmp_path), generations=0, name="split"))
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)
    for stage in ("reference", "gen_000/eval"):
        before, after = (read_json(path / stage / "eval.json") for path in (whole, split))
        assert set(after["sums"]) - set(before["sums"]) == {"evaluation_batch"}
        assert after["sums"]["evaluation_batch"]["halved"] > 1 and before["protocol"] == after["protocol"]


# --- host memory ------------------------------------------------------------------------------------------------------

CHAIN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers import small_config
from collapselab.chain.run import run
from collapselab.runtime.console import Console

def private():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Anonymous")).split()[1])

say = Console.say
def watched(console, text):
    if text.startswith("generation "):
        print(private(), flush=True)
    say(console, text)
Console.say = watched
run(small_config(runs_dir=sys.argv[2], **json.loads(sys.argv[3])))
"""


def kilobytes(folder: Path, **changes) -> list[int]:
    """Memory of a chain's process after each generation that belongs to it alone (no file stands behind it)."""
    keys = {
        "generations": 50, "model__layers": 1, "model__width": 16, "training__block": 16, "mixing__tokens": 256,
        "evaluation__tokens": 128,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CHAIN, str(ROOT / "tests"), str(folder), json.dumps(keys | changes)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux counts memory there")
@pytest.mark.parametrize("regime", ["replace", pytest.param("accumulate", marks=pytest.mark.slow)])
def test_fifty_generations_need_no_more_memory_than_ten(regime) -> None:
    """What grows is a row of metrics per generation, some 30 KB of 330 MB."""
    changes = {} if regime == "replace" else {"mixing__regime": regime, "mixing__start": 0.9, "mixing__ratio": 0.9}
    shared_memory = Path("/dev/shm")  # half of the seconds would be those of a disk
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        found = kilobytes(Path(folder), **changes)
    assert len(found) == 51
    assert max(found[40:]) < 1.05 * found[10], found
