"""Text under generation 0's published model: its likelihood and its hidden states."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch

from collapselab.config import RunConfig, UserError
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.real_text import BATCH_TOKENS, check_finite, fitting, halve, window_losses
from collapselab.evaluation.rows import Place, first_tokens, held_out_pieces
from collapselab.metrics.embeddings import mauve, vendi
from collapselab.metrics.likelihood import sequence_sums, sequence_values
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes


def reference_nll(
    gen0: LanguageModel,
    config: RunConfig,
    stream: np.ndarray,
    places: list[Place],
    head: int,
    separator: int,
    processes: Processes,
    console: Console,
    title: str,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (sums, values) of `reference/nll...`; empty if evaluation.reference_tokens is 0. All processes take part.

    Args:
        places: of the tokens to score in `stream`; each sequence is read in a window of its own.
        head: tokens before each sequence that its window begins with; the separator at the beginning of the stream.
    """
    budget = config.evaluation.reference_tokens
    places = places if budget is None else first_tokens(places, budget)
    if not places:
        return {}, {}
    windows: list[np.ndarray] = []
    plan: list[tuple[int, int, int]] = []
    reached = 0
    for begin, end in places:
        before = stream[max(0, begin - head) : begin]
        before = before if len(before) else np.array([separator], stream.dtype)
        windows.append(np.concatenate([before, stream[begin:end]]))
        plan.append((reached, reached + len(windows[-1]), reached + len(before)))
        reached += len(windows[-1])
    precision = config.evaluation.precision
    _, nll, _ = window_losses(gen0, np.concatenate(windows), plan, precision, processes, console, title)
    check_finite(gen0, nll, config, "text under generation 0")
    impossible = int((~np.isfinite(nll)).sum())
    if impossible:  # the sum would be infinite
        share = {"tokens": float(len(nll)), "impossible": float(impossible)}
        return {"reference/nll": share}, {"reference/impossible": impossible / len(nll)}
    sums = sequence_sums(nll, np.array([end - begin for begin, end in places]))
    return {"reference/nll": sums}, {f"reference/{k}": v for k, v in sequence_values(sums).items()}


# --- embeddings -------------------------------------------------------------------------------------------------------


def check_embeddings(config: RunConfig, corpus: Corpus, budget: int) -> None:
    """Raise UserError if evaluation.embeddings needs more text than there is, or packages that are not installed."""
    sequences = config.evaluation.embeddings
    if sequences is None:
        return
    generated = budget // config.sequence_length
    pieces = len(held_out_pieces(config, corpus))
    if sequences > min(generated, pieces // 2):
        raise UserError(
            f"evaluation.embeddings={sequences}: a generation writes {generated} whole sequences and the scored half of the "
            f"{config.evaluation.split} split has {pieces}, of which comparing real with real text takes twice as many; "
            f"ask for at most {min(generated, pieces // 2)}"
        )
    missing = [name for name in ("mauve", "sklearn", "faiss") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"evaluation.embeddings={sequences}: MAUVE needs {', '.join(missing)}; run `pip install collapselab[embeddings]`"
        )


def mean_states(
    model: LanguageModel,
    stream: np.ndarray,
    places: list[Place],
    precision: str,
    processes: Processes,
    console: Console,
) -> np.ndarray:
    """Mean over the tokens of each sequence of the last layer's states (after its norm), float32 (sequences, width). Prompts
    are not read. All processes take part.

    Pillutla et al. 2021 take the last token's state of a large model. In a small model it encodes little but the next token:
    over the demo's six generations MAUVE stays within .92 .. .97 with it, and falls from .94 to .65 with the mean (500
    sequences; real against real text .97 and .96).
    """
    length = places[0][1] - places[0][0]
    rows = max(1, BATCH_TOKENS[processes.device.type] // length)
    batches = [places[i : i + rows] for i in range(0, len(places), rows)]
    model.net.to(processes.device).eval()
    cast = torch.autocast(processes.device.type, torch.bfloat16, enabled=precision == "bf16")
    states: dict[int, np.ndarray] = {}
    for index in range(processes.rank, len(batches), processes.world):
        parts: list[np.ndarray] = []
        at = 0
        while at < len(batches[index]):
            some = batches[index][at : at + fitting(rows, processes)]
            ids = torch.from_numpy(np.stack([stream[b:e] for b, e in some]).astype(np.int64))
            try:
                with torch.inference_mode(), cast:
                    output = model.net.base_model(input_ids=ids.to(processes.device), use_cache=False)
                    parts.append(output.last_hidden_state.float().mean(1).cpu().numpy())
            except RuntimeError as error:
                halve(error, rows, length, processes, console)
                continue
            at += len(some)
        states[index] = np.concatenate(parts)
    everything = {index: part for parts in processes.all_gather(states) for index, part in parts.items()}
    return np.concatenate([everything[index] for index in range(len(batches))])


def embedding_values(real: np.ndarray, text: np.ndarray) -> dict[str, float]:
    """`reference/mauve` of a text against real text, and `reference/vendi` of it, from states (sequences, width)."""
    return {"reference/mauve": mauve(real, text), "reference/vendi": vendi(text)}
