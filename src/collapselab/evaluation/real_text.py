"""The model on held-out real text: the loss of every scored token, and what is derived from it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from collapselab.config import EvaluationConfig, RunConfig, UserError
from collapselab.corpus.prepared import Corpus, Tokens
from collapselab.evaluation.contexts import NextTokens
from collapselab.metrics.likelihood import frequency_sums, frequency_values, likelihood_sums, likelihood_values, windows
from collapselab.metrics.next_token import next_token_values
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes, out_of_memory

BATCH_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}  # of one evaluation batch
LOGIT_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # float32 logits that exist at a time
CPU_ROWS = 512  # of logits at a time on a CPU: they are still in its cache when softmax and argmax read them


def held_out(corpus: Corpus, settings: EvaluationConfig) -> tuple[np.ndarray, np.ndarray]:
    """The scored stream and the bytes of its tokens. The split begins with a separator: kept as the prefix, or not."""
    tokens: Tokens = corpus.split(settings.split)
    first = 0 if settings.prefix == "bos" else 1
    stop = None if settings.tokens is None else settings.tokens + 1
    return tokens.ids[first:stop], tokens.nbytes[first:stop]


def fitting(rows: int, processes: Processes) -> int:
    """`rows`, or as many as are left of them where the memory of the device ran out before."""
    return max(1, rows >> processes.halvings)


def halve(error: RuntimeError, most: int, tokens: int, processes: Processes, console: Console) -> None:
    """After an error in a batch: `fitting` is halved from here on, in this process.

    Args:
        most: rows of the batch, or of logits at a time where they are more, before any halving.
        tokens: in one row.

    Raises:
        UserError: one row at a time is too much.
        RuntimeError: the error, where it is not about memory.
    """
    if not out_of_memory(error):
        raise error
    if fitting(most, processes) == 1:
        raise UserError(
            f"evaluation: {processes.device.type} memory is too small for one window of {tokens} tokens; lower "
            "evaluation.context (or training.block), take a smaller model, free the device, or set device=cpu"
        ) from None
    processes.halvings += 1
    share = 2**processes.halvings
    console.say(f"evaluation: out of {processes.device.type} memory; goes on with 1/{share} of a batch at a time")


def halved(processes: Processes) -> dict[str, dict[str, int]]:
    """What belongs into `sums` where batches were halved: `evaluation_batch`, with the number of times (the most of any
    process). The last bits of a loss depend on it. All processes take part."""
    most = max(processes.all_gather(processes.halvings))
    return {"evaluation_batch": {"halved": most}} if most else {}


def token_losses(
    model: LanguageModel,
    stream: np.ndarray,
    context: int,
    stride: int,
    precision: str,
    processes: Processes,
    console: Console,
    title: str = "eval",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`window_losses` over a stream in windows of `context` tokens that begin every `stride` tokens."""
    plan = windows(len(stream), context, stride)
    return window_losses(model, stream, plan, precision, processes, console, title)


def window_losses(
    model: LanguageModel,
    stream: np.ndarray,
    plan: list[tuple[int, int, int]],
    precision: str,
    processes: Processes,
    console: Console,
    title: str = "eval",
    observer: NextTokens | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss of every scored token of a stream, in order; the same on every process.

    Args:
        plan: (begin, end, first target) of each window, in ascending order, as `windows` gives them.
        observer: is shown the logits of every target that this process computes.

    Returns:
        places int64 (scored,), nll float32 (scored,) in nats, correct bool (scored,).
    """
    every = np.sort(np.concatenate([np.arange(first, end) for _, end, first in plan]))
    if (exact := model.scores(stream, every)) is not None:
        if observer is not None and processes.is_main:
            before = torch.from_numpy(stream[observer.wanted - 1].astype(np.int64)).unsqueeze(1)
            observer.observe(observer.wanted, model.logits(before)[:, 0])
        return every, *exact
    context, kind = max(end - begin for begin, end, _ in plan), processes.device.type
    model.net.to(processes.device).eval()  # outside inference mode: its weights will be written again
    if kind == "cuda":
        model.without_mask()
    chunk = max(1, LOGIT_BYTES[kind] // (4 * model.vocab))
    rows = max(1, (BATCH_TOKENS[kind] if model.causal else chunk) // context)
    chunk = min(chunk, CPU_ROWS) if kind == "cpu" else chunk
    batches = _batches(plan, context, rows)
    cast = torch.autocast(processes.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    found: list[tuple[int, np.ndarray, np.ndarray]] = []
    with console.bar(title, len(stream)) as bar:
        for batch in batches[processes.rank :: processes.world]:
            places = np.stack([np.arange(b + 1, e) for b, e, _ in batch])
            places[places < np.array([[first] for _, _, first in batch])] = -1  # an earlier window scores them
            at = 0
            while at < len(batch):
                part = batch[at : at + fitting(rows, processes)]
                ids = np.stack([stream[b:e] for b, e, _ in part]).astype(np.int64)
                try:
                    with torch.inference_mode(), cast:
                        nll_Bt, right_Bt = _losses(
                            model, torch.from_numpy(ids).to(processes.device), places[at : at + len(part)],
                            fitting(chunk, processes), observer,
                        )  # fmt: skip
                except RuntimeError as error:
                    halve(error, max(rows, chunk), context, processes, console)
                    continue
                for i, (begin, end, first) in enumerate(part):
                    keep = slice(first - begin - 1, end - begin - 1)
                    found.append((first, nll_Bt[i, keep], right_Bt[i, keep]))
                at += len(part)
            bar.update(sum(e - f for _, e, f in batch) * processes.world)
    parts = sorted((item for part in processes.all_gather(found) for item in part), key=lambda item: item[0])
    return every, np.concatenate([nll for _, nll, _ in parts]), np.concatenate([right for *_, right in parts])


def _batches(plan: list[tuple[int, int, int]], context: int, rows: int) -> list[list[tuple[int, int, int]]]:
    """Windows of one length in batches of a fixed size, to be dealt to processes in turn; shorter ones alone."""
    full = [w for w in plan if w[1] - w[0] == context]
    short = [[w] for w in plan if w[1] - w[0] != context]
    return [full[i : i + rows] for i in range(0, len(full), rows)] + short


def _losses(
    model: LanguageModel, ids_BT: torch.Tensor, places_Bt: np.ndarray, chunk: int, observer: NextTokens | None
) -> tuple[np.ndarray, np.ndarray]:
    """(nll float32, correct bool), each (B, T - 1), of windows of one length, with `chunk` rows of logits at a time. What
    `observer` was shown becomes -1 in `places_Bt`: a batch that is done again for want of memory is not shown twice."""
    features = model.features(ids_BT[:, :-1]).flatten(0, 1)
    wanted, places = ids_BT[:, 1:].flatten(), places_Bt.reshape(-1)  # a view
    nll, right = [], []
    for at in range(0, len(wanted), chunk):
        logits = model.head(features[at : at + chunk]).float()
        nll.append(F.cross_entropy(logits, wanted[at : at + chunk], reduction="none"))
        right.append(logits.argmax(-1) == wanted[at : at + chunk])
        if observer is not None:
            observer.observe(places[at : at + chunk].copy(), logits)
            places[at : at + chunk] = -1
    shape = places_Bt.shape
    return torch.cat(nll).view(shape).cpu().numpy(), torch.cat(right).view(shape).cpu().numpy()


def check_finite(model: LanguageModel, nll: np.ndarray, config: RunConfig, text: str) -> None:
    """Raises UserError where training has diverged. An infinite loss is none where a probability can be 0."""
    if not (np.isfinite(nll) | (model.zeros & np.isposinf(nll))).all():
        raise UserError(f"training.lr={config.training.lr}: the model's loss on {text} is not finite; try a lower lr")


def score_real_text(
    model: LanguageModel, corpus: Corpus, config: RunConfig, processes: Processes, console: Console, title: str = "eval"
) -> tuple[dict[str, Any], dict[str, float]]:
    """(sums, values) of `real/...`: NLL, perplexity, bits per byte, accuracy, NLL by training frequency, the shape of
    next-token distributions; of a bigram model `real/impossible`, the share of tokens of probability 0, in the place of
    all that it makes infinite."""
    settings = config.evaluation
    stream, nbytes = held_out(corpus, settings)
    context = settings.context or config.training.block
    plan = windows(len(stream), context, settings.stride or context)
    shapes = NextTokens(plan)
    places, nll, correct = window_losses(model, stream, plan, settings.precision, processes, console, title, shapes)
    check_finite(model, nll, config, "held-out text")
    sums = likelihood_sums(nll, correct, nbytes[places])
    buckets = frequency_sums(nll, corpus.train_counts[stream[places]])
    values = {f"real/{k}": v for k, v in likelihood_values(sums).items()}
    values |= {f"real/nll_by_frequency/{k}": v for k, v in frequency_values(buckets).items()}
    shape = shapes.sums(processes)
    values |= {f"real/{k}": v for k, v in next_token_values(shape).items()}
    found = {"real": sums, "real/nll_by_frequency": buckets, "real/next_token": shape}
    return found | halved(processes), values
