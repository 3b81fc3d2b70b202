"""The training set of a generation: how much is real, where the rest comes from, and an exact ledger of both.

A training set is a list of blocks, each named by its source (REAL, or the generation that wrote it) and its place in
that source. The text itself stays where it is: in the corpus's memory map and in the samples folders.

A new regime is a function from `Inputs` to such a list, and a line in `REGIMES`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import MixingConfig, RunConfig, UserError
from collapselab.corpus import Tokens
from collapselab.rundir import Chain, read_json, write_bytes, write_json
from collapselab.schedules import real_share
from collapselab.seeds import batch_order, generator

REAL = -1


# --- regimes: which blocks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What a regime may use to choose the blocks of generation `generation` >= 1."""

    config: MixingConfig
    generation: int
    size: int
    """Blocks of a training set."""
    real_order: np.ndarray
    """Real blocks of the corpus in the order of this chain; the first `size` were generation 0's."""
    real_used: int
    """How many of `real_order` earlier generations have shown."""
    sampled: list[int]
    """Whole blocks in the samples of generations 0 .. generation - 1."""
    share: float | None
    seed: int

    def draw(self, purpose: str) -> np.random.Generator:
        return generator(self.seed, self.generation, purpose)


def _blocks(source: int, places: np.ndarray) -> np.ndarray:
    return np.stack([np.full(len(places), source, np.int64), np.asarray(places, np.int64)], axis=1)


def replace(inputs: Inputs) -> np.ndarray:
    """alpha real blocks, the rest from the generation before. Raises UserError where either runs out."""
    count = real_blocks(inputs.share or 0.0, inputs.size, inputs.seed, inputs.generation)
    first = inputs.real_used if inputs.config.real == "fresh" else 0
    if first + count > len(inputs.real_order) or inputs.size - count > inputs.sampled[-1]:
        raise UserError(
            f"mixing.tokens: generation {inputs.generation} needs {count} real and {inputs.size - count} written blocks, "
            f"{len(inputs.real_order) - first} and {inputs.sampled[-1]} are left; fork with a smaller real share"
        )
    synthetic = inputs.draw("mixture").permutation(inputs.sampled[-1])[: inputs.size - count]
    return np.concatenate(
        [_blocks(REAL, inputs.real_order[first : first + count]), _blocks(inputs.generation - 1, synthetic)]
    )


def accumulate(inputs: Inputs) -> np.ndarray:
    """Generation 0's real blocks and every earlier generation's samples (Gerstgrasser et al. 2024)."""
    parts = [_blocks(g, np.arange(blocks)) for g, blocks in enumerate(inputs.sampled)]
    return np.concatenate([_blocks(REAL, inputs.real_order[: inputs.size]), *parts])


def accumulate_subsample(inputs: Inputs) -> np.ndarray:
    """`size` blocks drawn without replacement from what `accumulate` would take (Kazdan et al. 2025)."""
    pool = accumulate(inputs)
    return pool[np.sort(inputs.draw("mixture").permutation(len(pool))[: inputs.size])]


REGIMES: dict[str, Callable[[Inputs], np.ndarray]] = {
    "replace": replace,
    "accumulate": accumulate,
    "accumulate_subsample": accumulate_subsample,
}


def real_blocks(share: float, size: int, seed: int, generation: int) -> int:
    """share x size rounded up or down at random with the right mean: a share below one block is not rounded to zero."""
    exact = share * size
    whole = math.floor(exact + 1e-9)
    return min(size, whole + int(generator(seed, generation, "real_count").random() < exact - whole - 1e-9))


# --- real text in blocks --------------------------------------------------------------------------------------------


def blocks_available(tokens: Tokens, config: RunConfig) -> int:
    """Real blocks in the training split: packed blocks, or documents of exactly one block each.

    Raises UserError where `mixing.unit=documents` and a document has another length.
    """
    block = config.training.block
    if config.mixing.unit == "documents":
        lengths = np.diff(tokens.starts)
        wrong = lengths[lengths != block]
        if len(wrong):
            raise UserError(
                f"mixing.unit='documents': every document must have training.block={block} tokens, separator included; "
                f"one has {wrong[0]}; use mixing.unit=tokens or another block"
            )
        return len(lengths)
    return len(tokens.ids) // block


def set_size(config: RunConfig, available: int) -> int:
    """Blocks in one training set."""
    return available if config.mixing.tokens is None else config.mixing.tokens // config.training.block


def sample_budget(config: RunConfig, available: int) -> int:
    """Tokens a generation writes, prompts included."""
    return config.sampling.tokens or set_size(config, available) * config.training.block


def check_supply(config: RunConfig, available: int, done: int = 0, used: int = 0) -> dict[str, Any]:
    """Real text and samples the whole chain needs and has, in tokens.

    Args:
        done: generations whose training sets exist already (a continued chain, a fork).
        used: real blocks that they have shown.

    Raises:
        UserError: real text or samples run out, said before the start.
    """
    size, block = set_size(config, available), config.training.block
    shares = [real_share(config.mixing, g, config.generations) for g in range(config.generations + 1)]
    later = [real_blocks(s, size, config.seed, g) for g, s in enumerate(shares) if g >= max(1, done) and s is not None]
    need = (used if done else size) + (sum(later) if config.mixing.real == "fresh" else 0)
    if need > available:
        most = int(available / (need / size)) * block
        raise UserError(
            f"mixing.tokens={config.mixing.tokens}: the chain needs {need * block:,} tokens of real text never shown before, "
            f"the training split has {available * block:,}; lower mixing.tokens to at most {most}, or set mixing.real=reuse"
        )
    written = sample_budget(config, available) // block
    if config.mixing.regime != "replace" and config.generations and not written:
        raise UserError(
            f"sampling.tokens={config.sampling.tokens}: less than one block of {block} tokens, so nothing would be "
            "accumulated; raise it or leave it null"
        )
    wanted = max((size - n for n in later), default=0)
    if written < wanted:
        raise UserError(
            f"sampling.tokens={config.sampling.tokens}: a generation needs {wanted * block} tokens written by the one "
            "before; raise sampling.tokens or leave it null"
        )
    return {"real_needed": need * block, "real_had": available * block, "shares": shares, "set_tokens": size * block}


# --- the stage --------------------------------------------------------------------------------------------------------


def mix(config: RunConfig, chain: Chain, generation: int, train: Tokens, text: str, out: Path) -> None:
    """Chooses the blocks of one generation's training set: `blocks.bin` and the ledger `mixture.json` in `out`.

    blocks.bin: int64 (blocks, 2), little-endian: source (REAL = -1, or a generation) and place in that source.
    mixture.json names the digest of every source (`text` is the corpus's), so a stage made from a mixture is made again
    when the text that the blocks point at is another one.
    """
    available = blocks_available(train, config)
    size, block = set_size(config, available), config.training.block
    order = generator(config.seed, 0, "real_order").permutation(available)
    used = read_json(chain.stage(generation - 1, "mixture") / "mixture.json")["real_blocks_used"] if generation else 0
    share = real_share(config.mixing, generation, config.generations)
    metas = {g: read_json(chain.stage(g, "samples") / "meta.json") for g in range(generation)}
    if generation == 0:
        blocks = _blocks(REAL, order[:size])
    else:
        sampled = [meta["tokens"] // block for meta in metas.values()]
        inputs = Inputs(config.mixing, generation, size, order, used, sampled, share, config.seed)
        blocks = REGIMES[config.mixing.regime](inputs)
    fresh = int((blocks[:, 0] == REAL).sum()) if config.mixing.real == "fresh" and share is not None else 0
    write_bytes(out / "blocks.bin", blocks.astype("<i8").data)
    sources = sorted(set(blocks[:, 0].tolist()))
    write_json(
        out / "mixture.json",
        {
            "generation": generation,
            "regime": config.mixing.regime if generation else "real",
            "unit": config.mixing.unit,
            "block": block,
            "blocks": len(blocks),
            "sources": {_name(g): text if g == REAL else chain.digest_of(g, "samples") for g in sources},
            "real_share": {"asked": share, "realised": float((blocks[:, 0] == REAL).mean())},
            "real_blocks_used": max(used, size) if not fresh else used + fresh,
            "tokens": ledger(config, blocks, metas, generation),
        },
    )


def _name(source: int) -> str:
    return "real" if source == REAL else f"generation_{source}"


def shows(config: RunConfig, blocks: int) -> int:
    """Blocks the optimiser is given in one generation."""
    return blocks * config.epochs if config.training.tokens is None else config.training.tokens // config.training.block


def ledger(config: RunConfig, blocks: np.ndarray, metas: dict[int, Any], generation: int) -> dict[str, dict[str, int]]:
    """Tokens by source: in the set, shown (all epochs), and in the loss.

    Sources are `real`, `generation_<g>`, and `prompt_real`, `prompt_previous` or `prompt_separator`: tokens at the head
    of a sampled sequence that no model wrote.
    """
    block = config.training.block
    times = np.bincount(
        batch_order(config.seed, generation, len(blocks), shows(config, len(blocks))), minlength=len(blocks)
    )
    first_target = block - config.training.loss_on_last if config.training.loss_on_last else 1
    places = np.arange(block)
    out: dict[str, dict[str, int]] = {}

    def add(source: str, per_block: np.ndarray | int, in_loss: np.ndarray | int, rows: np.ndarray) -> None:
        entry = out.setdefault(source, {"set": 0, "shown": 0, "loss": 0})
        entry["set"] += int(np.sum(np.broadcast_to(per_block, rows.shape)))
        entry["shown"] += int(np.sum(per_block * times[rows]))
        entry["loss"] += int(np.sum(in_loss * times[rows]))

    for source in np.unique(blocks[:, 0]).tolist():
        rows = np.flatnonzero(blocks[:, 0] == source)
        if source == REAL:
            add(_name(source), block, block - first_target, rows)
            continue
        meta = metas[source]
        # The samples are one stream: token i belongs to a prompt where i modulo the sequence length says so. A block's
        # counts depend on where in a sequence it begins, and there are few such phases.
        begins, phase = np.unique(blocks[rows, 1] * block % meta["length"], return_inverse=True)
        prompted = (begins[:, None] + places) % meta["length"] < meta["prompt_length"]
        in_prompt, prompt_loss = prompted.sum(axis=1)[phase], prompted[:, first_target:].sum(axis=1)[phase]
        if meta["prompt_length"]:
            add(f"prompt_{meta['prompt_from']}", in_prompt, prompt_loss, rows)
        add(_name(source), block - in_prompt, block - first_target - prompt_loss, rows)
    return out


class TrainingSet:
    """The blocks of a published mixture, read from the corpus and the samples as they are asked for."""

    def __init__(self, config: RunConfig, chain: Chain, generation: int, train: Tokens):
        folder = chain.stage(generation, "mixture")
        self.blocks = np.fromfile(folder / "blocks.bin", "<i8").reshape(-1, 2)
        self.block = config.training.block
        self.ledger = read_json(folder / "mixture.json")["tokens"]
        self._streams: dict[int, np.ndarray] = {REAL: train.ids}
        for source in np.unique(self.blocks[:, 0]).tolist():
            if source != REAL:
                self._streams[source] = read_samples(chain.stage(source, "samples"))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of the given blocks, int64 (len(rows), block)."""
        out = np.empty((len(rows), self.block), np.int64)
        for i, (source, place) in enumerate(self.blocks[rows].tolist()):
            out[i] = self._streams[source][place * self.block : (place + 1) * self.block]
        return out


def read_samples(folder: Path) -> np.ndarray:
    """All tokens of a samples folder, in order: a memory map where they lie in one shard."""
    meta = read_json(folder / "meta.json")
    if meta["dtype"] not in ("<u2", "<u4") or not all(
        re.fullmatch(r"tokens-\d{5}\.bin", name) for name in meta["shards"]
    ):
        raise UserError(f"{folder / 'meta.json'}: not written by this lab; remove the folder to have it made again")
    parts = [np.memmap(folder / name, meta["dtype"], "r") for name in meta["shards"]]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
