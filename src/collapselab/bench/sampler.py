"""The sampling bench: tokens per second of the engine and of its alternatives, and the engine's parity."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from collapselab.bench import obvious
from collapselab.bench.run import Case, Limits, Row, chosen, limits, measured
from collapselab.config import MixingConfig, ModelConfig, RunConfig, SamplingConfig, TrainingConfig
from collapselab.models import network as modeling
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.sampling.draw import uniforms
from collapselab.sampling.engine import Engine
from collapselab.sampling.plain import write_batch
from collapselab.sampling.sampler import Sampler
from collapselab.sampling.side_by_side import side_by_side
from collapselab.sampling.weights import Weights, shape_of

QUIET = Console(speaks=False)


@dataclasses.dataclass(frozen=True)
class Size:
    """A GPT-2 with random weights."""

    name: str
    layers: int
    width: int
    heads: int
    vocab: int

    def config(self, context: int) -> ModelConfig:
        return ModelConfig(layers=self.layers, width=self.width, heads=self.heads, context=context)

    def model(self, context: int, pad: int = 64) -> modeling.LanguageModel:
        config = dataclasses.replace(self.config(context), pad_vocabulary=pad)
        return modeling.new(config, vocab=self.vocab, separator=0, block=context, seed=0)

    def flops(self, context: int) -> float:
        """Return the FLOP of one trained token: 6 N + 12 layers width context (Chowdhery et al. 2022, app. B)."""
        weights = 12 * self.layers * self.width**2 + self.vocab * self.width
        return 6.0 * weights + 12.0 * self.layers * self.width * context


SMALL = [Size("2 layers, 64 wide", 2, 64, 2, 2048), Size("4 layers, 128 wide", 4, 128, 4, 2048)]
GPT2 = Size("GPT-2 124M", 12, 768, 12, 50257)


def sampling(device: torch.device, repeats: int, only: int | None, ours_alone: bool) -> Iterator[Case]:
    """Measure ancestral samples: on a CPU with equal batch sizes for all rows, on a GPU with several for each."""
    cuda = device.type == "cuda"
    ceiling = limits(device)
    plan = [(GPT2, length) for length in (128, 512, 1024)] if cuda else [(size, 128) for size in SMALL]
    for size, length in chosen(plan, only):
        yield _sampling(size, length, device, repeats, ceiling, ours_alone)


def _sampling(size: Size, length: int, device: torch.device, repeats: int, ceiling: Limits, ours_alone: bool) -> Case:
    cuda = device.type == "cuda"
    model, plain = size.model(length), size.model(length, pad=1)
    dtype = torch.bfloat16 if cuda else torch.float32
    plain.net.to(device, dtype)
    tried = {128: [256, 1024, 4096], 512: [256, 1024], 1024: [256]}  # larger ones take a quarter of an hour each
    batches = tried[length] if cuda else [128]
    config = RunConfig(
        model=size.config(length), training=TrainingConfig(block=length), sampling=SamplingConfig(length=length),
        mixing=MixingConfig(tokens=length), device="cuda" if cuda else "cpu",
    )  # fmt: skip
    rows: list[Row] = []
    sizes: list[int] = []
    for batch in [] if ours_alone else batches:
        sequences = batch if cuda else 4 * batch
        prompts = np.zeros((sequences, 1), np.int64)
        ids, amount = torch.from_numpy(prompts).to(device), sequences * (length - 1)

        def reference(batch: int = batch, sequences: int = sequences, prompts: np.ndarray = prompts) -> None:
            for i in range(0, sequences, batch):
                u = uniforms(0, range(i, i + batch), range(1, length))
                write_batch(plain, prompts[i : i + batch], u, SamplingConfig(), device)

        def theirs(batch: int = batch, ids: torch.Tensor = ids) -> None:
            obvious.generate(plain.net, ids, length, batch)

        if batch == batches[0]:
            sizes.append(batch)
            rows.append(measured(f"reference (plain loop), batch {batch}", reference, amount, device, repeats))
        sizes.append(batch)
        rows.append(measured(f"transformers generate, batch {batch}", theirs, amount, device, repeats))
    sampler = Sampler(config, Processes(config.device), QUIET)
    for batch in [sampler.batch_size(model, length, 1 << 20)] if cuda else [batches[0], batches[0] // 2]:
        sequences = batch if cuda else 4 * batches[0]
        start = np.zeros((batch, 1), np.int64)
        sampler = Sampler(config, Processes(config.device), QUIET)

        def ours(
            batch: int = batch, sequences: int = sequences, start: np.ndarray = start, sampler: Sampler = sampler
        ) -> None:
            write = sampler.writer(model, 0, 1, length - 1, batch)
            several = list(range(sequences // batch))
            dict(side_by_side(lambda i: write(start, i * batch), several, device))

        row = measured(f"ours, batch {batch}", ours, sequences * (length - 1), device, repeats)
        rows.append(row)
        sizes.append(batch)
    sampler.release()  # its batch fills a GPU, and parity needs memory
    # Bytes that a step must move: half a cache on average, logits once each way, weights once.
    for row, batch in zip(rows, sizes, strict=True):
        step = shape_of(model).cache_bytes(length, dtype) / 2 * batch + 2 * 4 * batch * size.vocab
        moved = step + model.parameters * dtype.itemsize
        row.share = None if row.rate is None else moved * row.rate / batch / ceiling.copy
    return Case(
        f"Sampling {length} tokens, {size.name}", rows, limit="copy bandwidth", parity=parity(model, length, device)
    )


def parity(model: modeling.LanguageModel, length: int, device: torch.device) -> dict[str, object]:
    """Compare the engine with full passes of the network in float32; without parity a speed does not count."""
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    rows = 16
    seen: list[torch.Tensor] = []
    weights = Weights(model, length, device, dtype)
    drawn = Engine(weights, rows, SamplingConfig(), kernels=cuda)
    start = np.arange(rows, dtype=np.int64).reshape(rows, 1)
    new = drawn.write(start, 1, 0, lambda logits: seen.append(logits[:, : model.vocab].clone()))
    text = torch.cat([torch.from_numpy(start).to(device), new.clone()], 1)
    ours = torch.stack(seen, 1).float()
    net = modeling.LanguageModel(copy.deepcopy(model.net).to(device).eval(), model.vocab)
    with torch.inference_mode():
        full = net.logits(text)[:, :-1].float()
        logp = ours.double().log_softmax(-1)
        score = logp.gather(-1, text[:, 1:, None])[..., 0] - (logp.exp() * logp).sum(-1)
        greedy = Engine(weights, rows, SamplingConfig(top_k=1), kernels=cuda)
        best: list[torch.Tensor] = []
        argmax = greedy.write(start, 1, 0, lambda logits: best.append(logits[:, : model.vocab].argmax(-1)))
        equal = float((torch.stack(best, 1) == argmax).double().mean())
        beside = net.logits(torch.cat([text[:, :1], argmax], 1))[:, :-1].argmax(-1)
    worst, off = (ours - full).abs().max() / full.abs().max(), score.mean() / (score.std() / score.numel() ** 0.5)
    return {
        "largest error of a logit, as a share of the largest logit": float(worst),
        "greedy tokens equal to the engine's own argmax": equal,
        "greedy tokens equal to float32 transformers": float((beside == argmax).double().mean()),
        "mean log-probability + entropy, in standard errors": float(off),
    }
