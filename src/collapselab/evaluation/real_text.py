"""The model on held-out real text: the loss of every scored token, and what is derived from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from collapselab.config import EvaluationConfig, RunConfig, UserError
from collapselab.console import Console
from collapselab.corpus import Corpus, Tokens
from collapselab.evaluation.contexts import NextTokens
from collapselab.metrics.likelihood import (
    frequency_sums,
    frequency_values,
    likelihood_sums,
    likelihood_values,
    windows,
)
from collapselab.metrics.next_token import next_token_values
from collapselab.modeling import LanguageModel
from collapselab.parallel import Processes

BATCH_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}  # of one evaluation batch
LOGIT_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # float32 logits that exist at a time
CPU_ROWS = 512  # of logits at a time on a CPU: they are still in its cache when softmax and argmax read them

# observe(places int64 (rows,), -1 where a token is not scored there, logits (rows, vocabulary))
Observe = Callable[[np.ndarray, torch.Tensor], None]


def held_out(corpus: Corpus, settings: EvaluationConfig) -> tuple[np.ndarray, np.ndarray]:
    """The scored stream and the bytes of its tokens. The split begins with a separator: kept as the prefix, or not."""
    tokens: Tokens = corpus.split(settings.split)
    first = 0 if settings.prefix == "bos" else 1
    stop = None if settings.tokens is None else settings.tokens + 1
    return tokens.ids[first:stop], tokens.nbytes[first:stop]


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
    observe: Observe | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss of every scored token of a stream, in order; the same on every process.

    Args:
        plan: (begin, end, first target) of each window, in ascending order, as `windows` gives them.
        observe: is shown the logits of every target that this process computes.

    Returns:
        places int64 (scored,), nll float32 (scored,) in nats, correct bool (scored,).
    """
    if model.counted:  # the token before is all that counts, and a search is faster than a column for every token
        from collapselab import bigram

        places = np.concatenate([np.arange(first, end) for _, end, first in plan])
        return places, *bigram.scores(model.net, stream[places - 1], stream[places])
    context = max(end - begin for begin, end, _ in plan)
    model.net.to(processes.device).eval()  # outside inference mode: its weights will be written again
    chunk = max(1, LOGIT_BYTES[processes.device.type] // (4 * model.vocab))
    rows = max(1, (BATCH_TOKENS[processes.device.type] if model.plain else chunk) // context)
    if processes.device.type == "cpu":
        chunk = min(chunk, CPU_ROWS)
    # Windows of one length go in batches of a fixed size, dealt to processes in turn.
    full = [w for w in plan if w[1] - w[0] == context]
    short = [[w] for w in plan if w[1] - w[0] != context]
    batches = [full[i : i + rows] for i in range(0, len(full), rows)] + short
    cast = torch.autocast(processes.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with console.bar(title, len(stream)) as bar:
        for batch in batches[processes.rank :: processes.world]:
            ids = torch.from_numpy(np.stack([stream[b:e] for b, e, _ in batch]).astype(np.int64)).to(processes.device)
            targets = ids[:, 1:]
            places = np.stack([np.arange(b + 1, e) for b, e, _ in batch])
            places[places < np.array([[first] for _, _, first in batch])] = -1  # an earlier window scores them
            nll, right = [], []
            with torch.inference_mode(), cast:
                features = model.features(ids[:, :-1]).flatten(0, 1)
                for i, (some, wanted) in enumerate(
                    zip(features.split(chunk), targets.flatten().split(chunk), strict=True)
                ):
                    logits = model.head(some).float()
                    if observe is not None:
                        observe(places.reshape(-1)[i * chunk : (i + 1) * chunk], logits)
                    nll.append(F.cross_entropy(logits, wanted, reduction="none"))
                    right.append(logits.argmax(-1) == wanted)
            nll_Bt, right_Bt = (torch.cat(part).view_as(targets).cpu().numpy() for part in (nll, right))
            for i, (begin, end, first) in enumerate(batch):
                keep = slice(first - begin - 1, end - begin - 1)
                found.append((np.arange(first, end), nll_Bt[i, keep], right_Bt[i, keep]))
            bar.update(sum(e - f for _, e, f in batch) * processes.world)
    everything = [item for part in processes.collect(found) for item in part]
    everything.sort(key=lambda item: int(item[0][0]))
    scored, nll_all, correct = (np.concatenate([item[k] for item in everything]) for k in range(3))
    return scored, nll_all, correct


def look_at_counts(model: LanguageModel, stream: np.ndarray, places: np.ndarray, observe: Observe) -> None:
    """Shows the logits of some targets of a table of counts, whose losses come without logits."""
    before = torch.from_numpy(stream[places - 1].astype(np.int64)).unsqueeze(1)
    observe(places, model.logits(before)[:, 0])


def check_finite(model: LanguageModel, nll: np.ndarray, config: RunConfig, text: str) -> None:
    """Raises UserError where training has diverged. Only counts give a probability of 0, and so an infinite loss."""
    if not (np.isfinite(nll) | (model.counted & np.isposinf(nll))).all():
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
    places, nll, correct = window_losses(
        model, stream, plan, settings.precision, processes, console, title, shapes.observe
    )
    if model.counted and processes.is_main:
        look_at_counts(model, stream, shapes.wanted, shapes.observe)
    check_finite(model, nll, config, "held-out text")
    sums = likelihood_sums(nll, correct, nbytes[places])
    buckets = frequency_sums(nll, corpus.train_counts[stream[places]])
    values = {f"real/{k}": v for k, v in likelihood_values(sums).items()}
    values |= {f"real/nll_by_frequency/{k}": v for k, v in frequency_values(buckets).items()}
    shape = shapes.sums(processes)
    values |= {f"real/{k}": v for k, v in next_token_values(shape).items()}
    return {"real": sums, "real/nll_by_frequency": buckets, "real/next_token": shape}, values
