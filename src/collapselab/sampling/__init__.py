"""How a generation writes its text: prompts, fixed tiles, shards, and a note on degenerate output.

Sequences run in tiles of a fixed number of rows, the last one padded, each tile on one CPU thread: in float32 on a CPU
the text is therefore the same for any number of threads and processes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collapselab.config import RunConfig
from collapselab.console import Console
from collapselab.mixing import TrainingSet
from collapselab.modeling import LanguageModel
from collapselab.parallel import Processes
from collapselab.rundir import write_bytes, write_json
from collapselab.sampling.draw import uniforms
from collapselab.sampling.plain import write_tile
from collapselab.seeds import generator

SHARD_TOKENS = 1 << 22


def make_prompts(
    config: RunConfig, generation: int, text: TrainingSet | None, sequences: int, separator: int
) -> np.ndarray:
    """The stored head of every sequence, int64 (sequences, P); P = 0 for `bos`, or 1 where sequences are documents.

    `real_prefix` takes the head of each block of `text` once, in random order, before any is taken again;
    `first_token` takes a token at a random place.
    """
    if config.sampling.prompt == "bos" or text is None:
        return np.full((sequences, config.prompt_length), separator, np.int64)
    draw = generator(config.seed, generation, "prompts")
    if config.sampling.prompt == "first_token":
        rows, places = draw.integers(len(text), size=sequences), draw.integers(text.block, size=sequences)
        return np.stack([text[rows[i : i + 1]][0, places[i]] for i in range(sequences)]).reshape(sequences, 1)
    passes = [draw.permutation(len(text)) for _ in range(-(-sequences // len(text)))]
    return text[np.concatenate(passes)[:sequences]][:, : config.prompt_length].copy()


def sample(
    model: LanguageModel,
    config: RunConfig,
    generation: int,
    text: TrainingSet | None,
    budget: int,
    *,
    separator: int,
    ends: list[int],
    out: Path,
    processes: Processes,
    console: Console,
) -> None:
    """Writes exactly `budget` tokens (prompts included) as token shards and meta.json into `out`.

    Args:
        text: what prompts are drawn from; None for `bos`.
        separator: the token a `bos` prompt consists of (stored only where a sequence is a whole document).
        ends: ids that count as end-of-text in the note on degenerate output.
    """
    length, head = config.sequence_length, config.prompt_length
    tile = config.sampling.tile
    sequences = -(-budget // length)
    tiles = -(-sequences // tile)
    prompts = make_prompts(
        config, generation, text, tiles * tile, separator
    )  # the last tile is padded with whole sequences
    dtype = np.dtype("<u2" if model.vocab <= 1 << 16 else "<u4")
    model.net.to(processes.device).eval()

    def write(index: int) -> np.ndarray:
        rows = range(index * tile, (index + 1) * tile)
        read = prompts[rows.start : rows.stop] if head else np.full((tile, 1), separator, np.int64)
        new = write_tile(
            model, read, uniforms(config.seed, generation, rows, length - head), config.sampling, processes.device
        )
        return np.concatenate([prompts[rows.start : rows.stop], new], 1).astype(dtype)

    per_shard = max(1, SHARD_TOKENS // (tile * length))
    names: list[str] = []
    kept, notes = 0, _Degenerate(ends)
    with console.bar(f"gen {generation} sample", budget) as bar:
        for first in range(0, tiles, per_shard):
            here = list(range(first, min(first + per_shard, tiles)))
            mine = _in_threads(write, here[processes.rank :: processes.world], processes.device, bar, tile * length)
            written = {index: rows for part in processes.collect(mine) for index, rows in part.items()}
            rows_SL = np.concatenate([written[index] for index in here])[: sequences - first * tile]
            if processes.is_main:
                notes.look_at(rows_SL[:, head:])
                flat = rows_SL.reshape(-1)[: budget - kept]
                kept += len(flat)
                names.append(f"tokens-{len(names):05d}.bin")
                write_bytes(out / names[-1], flat.tobytes())
    if processes.is_main:
        whole, rest = divmod(budget, length)
        meta = {
            "tokens": budget,
            "generated": whole * (length - head) + max(0, rest - head),
            "sequences": sequences,
            "length": length,
            "prompt_length": head,
            "prompt_from": "separator" if config.sampling.prompt == "bos" else config.sampling.prompt_from,
            "dtype": dtype.str,
            "vocab": model.vocab,
            "shards": names,
            "sampling": asdict(config.sampling),
            "degenerate": notes.counts,
        }
        write_json(out / "meta.json", meta)
        notes.tell(console, generation, sequences)
    processes.barrier()


def _in_threads(write: Any, indices: list[int], device: torch.device, bar: Any, tokens: int) -> dict[int, np.ndarray]:
    """{tile: rows}. On a CPU each tile runs on one thread and tiles run side by side: twice as fast for small models
    as dividing each small product between threads, and the text does not depend on how many there are."""
    done = {}
    if device.type != "cpu":
        for index in indices:
            done[index] = write(index)
            bar.update(tokens)
        return done
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for index, rows in zip(indices, pool.map(write, indices), strict=True):
                done[index] = rows
                bar.update(tokens)
    finally:
        torch.set_num_threads(threads)
    return done


class _Degenerate:
    """Counts sequences that are one token over and over, or nothing but end-of-text: reported, never hidden."""

    def __init__(self, ends: list[int]):
        self.ends = ends
        self.counts = {"one_token_repeated": 0, "all_end_of_text": 0, "end_of_text_tokens": 0}

    def look_at(self, rows_SN: np.ndarray) -> None:
        same = (rows_SN == rows_SN[:, :1]).all(1)
        end = np.isin(rows_SN, self.ends)
        self.counts["one_token_repeated"] += int((same & ~end.all(1)).sum())
        self.counts["all_end_of_text"] += int(end.all(1).sum())
        self.counts["end_of_text_tokens"] += int(end.sum())

    def tell(self, console: Console, generation: int, sequences: int) -> None:
        for name in ("one_token_repeated", "all_end_of_text"):
            if self.counts[name]:
                console.say(
                    f"note: generation {generation}: {self.counts[name]} of {sequences} samples are degenerate ({name})"
                )
