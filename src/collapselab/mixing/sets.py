"""Training sets of generations, with an exact ledger of their sources.

A training set is a list of blocks, each given by its source (REAL, or the generation that wrote it) and its place in
that source. The text itself stays in the corpus's memory map and in the samples folders. The regime chooses the blocks
(mixing/regimes.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapselab.config import RunConfig, UserError
from collapselab.config.schedules import real_share
from collapselab.corpus.prepared import Tokens
from collapselab.mixing.regimes import REGIMES, Inputs, Outlook, blocks_of
from collapselab.mixing.sources import NAME, PROMPTS, REAL, generation_of, is_real, name_of, stand_in
from collapselab.seeds import batch_order, generator
from collapselab.store.checks import number, reading, whole
from collapselab.store.folders import read_json, write_bytes, write_json
from collapselab.store.layout import Chain

# --- real text in blocks --------------------------------------------------------------------------------------------


def blocks_available(tokens: Tokens, config: RunConfig) -> int:
    """Count the real blocks in the training split: packed blocks, or documents of exactly one block each.

    Raises UserError if `mixing.unit=documents` and a document has another length.
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
    """Blocks of generation 0's training set."""
    return available if config.mixing.tokens is None else config.mixing.tokens // config.training.block


def sample_budget(config: RunConfig, available: int) -> int:
    """Tokens a generation writes, prompts included."""
    return config.sampling.tokens or set_size(config, available) * config.training.block


def real_order(config: RunConfig, available: int) -> np.ndarray:
    """Real blocks in this chain's order, int64 (available,): generation 0's, then those of later real shares; an all-real
    control takes its replacements for samples from the end."""
    return generator(config.seed, 0, "real_order").permutation(available)


def controlled(blocks: np.ndarray, order: np.ndarray, written: int) -> np.ndarray:
    """Replace every written block by a real one of its own, never shown in this chain before (all-real control).

    Args:
        blocks: int64 (blocks, 2), as a regime chose them. order: see `real_order`. written: blocks that a generation writes.
    """
    out, rows = blocks.copy(), ~is_real(blocks[:, 0])
    source, place = blocks[rows].T
    out[rows] = np.stack([stand_in(source), order[len(order) - 1 - source * written - place]], axis=1)
    return out


class Past(NamedTuple):
    """Existing training sets of a chain, or of the parent of a new fork."""

    shares: list[float]
    """Real share of each."""
    blocks: list[int]
    """Size of each."""
    used: int
    """Real blocks that they have shown."""


def set_blocks(config: RunConfig, available: int, past: list[int]) -> list[int]:
    """Blocks in the training sets of generations 0 to the last; `past`: those of existing sets."""
    sizes = list(past) or [set_size(config, available)]
    for g in range(len(sizes), config.generations + 1):
        sizes.append(REGIMES[config.mixing.regime].size(outlook(config, available, g, sizes[-1])))
    return sizes


def outlook(config: RunConfig, available: int, generation: int, before: int) -> Outlook:
    """Outlook on a generation before the chain runs; `before`: blocks of the previous training set."""
    size, written = set_size(config, available), sample_budget(config, available) // config.training.block
    share = real_share(config.mixing, generation, config.generations)
    return Outlook(config.mixing, generation, size, before, written, share, config.seed)


# --- the stage --------------------------------------------------------------------------------------------------------


def mix(config: RunConfig, chain: Chain, generation: int, train: Tokens, text: str, out: Path) -> None:
    """Choose the blocks of a generation's training set; write `blocks.bin` and the ledger `mixture.json` to `out`.

    blocks.bin: int64 (blocks, 2), little-endian: source (REAL = -1, or a generation) and place in that source.
    mixture.json names the digest of every source (`text` is the corpus's), so stages made from a mixture are rebuilt
    when the text that its blocks point at changes.
    """
    available = blocks_available(train, config)
    size, block = set_size(config, available), config.training.block
    order = real_order(config, available)
    before = read_mixture(chain.stage(generation - 1, "mixture")) if generation else {"real_blocks_used": 0}
    used, share = before["real_blocks_used"], real_share(config.mixing, generation, config.generations)
    metas = {g: read_meta(chain.stage(g, chain.text)) for g in range(generation)}
    if generation == 0:
        blocks = blocks_of(REAL, order[:size])
    else:
        inputs = Inputs(
            **vars(outlook(config, available, generation, before["blocks"])), real_order=order, real_used=used,
            sampled=[meta["tokens"] // block for meta in metas.values()],
            previous=lambda: read_blocks(chain, generation - 1, train, block)[0],
        )  # fmt: skip
        name = config.mixing.regime
        blocks, wanted = REGIMES[name].choose(inputs), REGIMES[name].size(inputs)
        if len(blocks) != wanted and name not in REGIMES.own:
            raise UserError(
                f"mixing.regime={name!r}: chose {len(blocks)} blocks for generation {generation}, not the {wanted} of its size; "
                "change the plugin, or raise sampling.tokens"
            )
        if config.sampling.source == "real":
            blocks = controlled(blocks, order, sample_budget(config, available) // block)
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
            "sources": {
                name_of(s): text if is_real(s) else chain.digest_of(generation_of(s), chain.text) for s in sources
            },
            "real_share": {"asked": share, "realised": float((blocks[:, 0] == REAL).mean())},
            "real_blocks_used": max(used, size) if not fresh else used + fresh,
            "tokens": ledger(config, blocks, metas, generation),
        },
    )


def shows(config: RunConfig, blocks: int, generation: int) -> int:
    """Blocks that the optimiser sees in one generation."""
    prompts_only = config.learns_from_rewards and not config.training.tune  # learned from as text by generation 0 alone
    if config.training.skip_first if generation == 0 else prompts_only:
        return 0
    return blocks * config.epochs if config.training.tokens is None else config.training.tokens // config.training.block


def ledger(config: RunConfig, blocks: np.ndarray, metas: dict[int, Any], generation: int) -> dict[str, dict[str, int]]:
    """Tokens by source (mixing/sources.py): in the set, shown (all epochs), and in the loss.

    `prompt_...` are the tokens at the head of a sampled sequence that no model wrote.
    """
    block = config.training.block
    count = len(blocks)
    times = np.bincount(batch_order(config.seed, generation, count, shows(config, count, generation)), minlength=count)
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
        if is_real(source):
            add(name_of(source), block, block - first_target, rows)
            continue
        meta = metas[generation_of(source)]
        # The samples are one stream: token i belongs to a prompt if i modulo the sequence length is below the prompt's. A
        # block's counts depend on where in a sequence it begins, and there are few such phases.
        begins, phase = np.unique(blocks[rows, 1] * block % meta["length"], return_inverse=True)
        prompted = (begins[:, None] + places) % meta["length"] < meta["prompt_length"]
        in_prompt, prompt_loss = prompted.sum(axis=1)[phase], prompted[:, first_target:].sum(axis=1)[phase]
        if meta["prompt_length"]:
            add(PROMPTS[meta["prompt_from"]], in_prompt, prompt_loss, rows)
        add(name_of(source), block - in_prompt, block - first_target - prompt_loss, rows)
    return out


class TrainingSet:
    """Blocks of a published mixture, read from the corpus and the samples on demand."""

    def __init__(self, config: RunConfig, chain: Chain, generation: int, train: Tokens):
        folder = chain.stage(generation, "mixture")
        self.block = config.training.block
        self.ledger = read_mixture(folder)["tokens"]
        self.blocks, self._streams = read_blocks(chain, generation, train, self.block)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of the given blocks, int64 (len(rows), block)."""
        out = np.empty((len(rows), self.block), np.int64)
        for i, (source, place) in enumerate(self.blocks[rows].tolist()):
            out[i] = self._streams[source][place * self.block : (place + 1) * self.block]
        return out


# --- published files, possibly untrusted ----------------------------------------------------------------------------


def read_mixture(folder: Path) -> dict[str, Any]:
    """Read the parts of mixture.json that others use: blocks, realised real share, real blocks used, ledger."""
    path = folder / "mixture.json"
    facts = read_json(path)
    with reading(path):
        share = number(facts["real_share"]["realised"])
        if not 0 <= share <= 1 or not all(NAME.fullmatch(source) for source in facts["tokens"]):
            raise ValueError(
                "the real share is outside [0, 1], or a source is neither real text, a generation nor a prompt"
            )
        tokens = {
            s: {key: whole(entry[key]) for key in ("set", "shown", "loss")} for s, entry in facts["tokens"].items()
        }
        used, blocks = whole(facts["real_blocks_used"]), whole(facts["blocks"], 1)
    return {"blocks": blocks, "real_share": {"realised": share}, "real_blocks_used": used, "tokens": tokens}


def read_blocks(
    chain: Chain, generation: int, train: Tokens, block: int, streams: dict[int, np.ndarray] | None = None
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Read the blocks of a generation's training set, int64 (blocks, 2), and the tokens of each of their sources.

    Args:
        streams: tokens of every possible source, if they are open already.

    Raises UserError if a block lies outside its source, or comes from this or a later generation.
    """
    path = chain.stage(generation, "mixture") / "blocks.bin"
    with reading(path):
        blocks = np.fromfile(path, "<i8").reshape(-1, 2)
        sources = np.unique(blocks[:, 0]).tolist()
        if not sources or sources[0] <= stand_in(generation) or sources[-1] >= generation:
            raise ValueError(f"blocks of generation {generation} come from real text or earlier generations")

    def text_of(source: int) -> np.ndarray:
        if is_real(source):
            return train.ids if streams is None else streams[REAL]
        g = generation_of(source)
        return read_samples(chain.stage(g, chain.text)) if streams is None else streams[g]

    tokens = {source: text_of(source) for source in sources}
    with reading(path):
        for source, stream in tokens.items():
            places = blocks[blocks[:, 0] == source, 1]
            if places.min() < 0 or places.max() >= len(stream) // block:
                raise ValueError(f"a block lies outside {name_of(source)}")
    return blocks, tokens


def read_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json of a samples folder. Raises UserError if its values are impossible."""
    path = folder / "meta.json"
    meta = read_json(path)
    with reading(path):
        whole(meta["prompt_length"], 0, whole(meta["length"], 1) - 1)
        whole(meta["vocab"], 1)
        if whole(meta["tokens"], meta["prompt_length"] + 1) > whole(meta["sequences"], 1) * meta["length"]:
            raise ValueError("more tokens than its sequences can hold")
        if meta["prompt_from"] not in PROMPTS:
            raise ValueError("prompts come from real text, the previous set, or the separator")
        for count in meta["degenerate"].values():
            whole(count)
        named = all(re.fullmatch(r"tokens-\d{5}\.bin", name) for name in meta["shards"])
        if meta["dtype"] not in ("<u2", "<u4") or not named:
            raise ValueError("shards hold <u2 or <u4 and are named tokens-00000.bin")
    return dict(meta)


def read_samples(folder: Path) -> np.ndarray:
    """Read all tokens of a samples folder in order; a single shard is memory-mapped. Raises UserError if a token is outside
    the vocabulary, or their number is not that of meta.json."""
    meta = read_meta(folder)
    with reading(folder):
        parts = [np.memmap(folder / name, meta["dtype"], "r") for name in meta["shards"]]
        stream = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(stream) != meta["tokens"] or stream.max() >= meta["vocab"]:
            raise ValueError(f"{len(stream)} tokens, meta.json says {meta['tokens']} below {meta['vocab']}")
    return stream
