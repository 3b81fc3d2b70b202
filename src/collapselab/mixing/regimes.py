"""Regimes of mixing: records that choose a generation's training blocks and answer what the lab asks about that.

A new regime is a record in `REGIMES`, plus its name and its own settings in config/generations.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from collapselab.config import MixingConfig, UserError
from collapselab.config.plugins import Records
from collapselab.mixing.sources import REAL
from collapselab.seeds import generator


@dataclass(frozen=True)
class Outlook:
    """Facts about the training set of generation `generation` >= 1 that are known before the chain runs."""

    config: MixingConfig
    generation: int
    size: int
    """Blocks of generation 0's training set."""
    before: int
    """Blocks of the previous training set."""
    written: int
    """Blocks that each generation writes."""
    share: float | None
    seed: int

    def count(self, share: float, of: int) -> int:
        """Whole blocks in a share of `of` blocks."""
        return real_blocks(share, of, self.seed, self.generation)


@dataclass(frozen=True)
class Inputs(Outlook):
    """Inputs from which a regime chooses the blocks."""

    real_order: np.ndarray
    """Real blocks of the corpus in this chain's order; the first `size` were generation 0's."""
    real_used: int
    """Number of blocks of `real_order` shown by earlier generations."""
    sampled: list[int]
    """Whole blocks in the samples of generations 0 .. generation - 1."""
    previous: Callable[[], np.ndarray] = lambda: np.empty((0, 2), np.int64)
    """Function that reads the blocks of the previous training set."""

    def draw(self, purpose: str) -> np.random.Generator:
        return generator(self.seed, self.generation, purpose)

    def pool(self, generation: int) -> np.ndarray:
        """All blocks that an earlier generation wrote, in order, int64 (blocks, 2)."""
        return blocks_of(generation, np.arange(self.sampled[generation]))


def blocks_of(source: int, places: np.ndarray) -> np.ndarray:
    """Blocks at given places of a source, int64 (blocks, 2)."""
    return np.stack([np.full(len(places), source, np.int64), np.asarray(places, np.int64)], axis=1)


# --- which blocks -----------------------------------------------------------------------------------------------------


def replace(inputs: Inputs) -> np.ndarray:
    """Real blocks by the schedule, the rest from the previous generation. Raises UserError if either runs out."""
    count = inputs.count(inputs.share or 0.0, inputs.size)
    first = inputs.real_used if inputs.config.real == "fresh" else 0
    newest = inputs.pool(inputs.generation - 1)
    if first + count > len(inputs.real_order) or inputs.size - count > len(newest):
        raise UserError(
            f"mixing.tokens: generation {inputs.generation} needs {count} real and {inputs.size - count} written blocks, "
            f"but {len(inputs.real_order) - first} and {len(newest)} are left; fork with a smaller real share"
        )
    written = newest[inputs.draw("mixture").permutation(len(newest))[: inputs.size - count]]
    return np.concatenate([blocks_of(REAL, inputs.real_order[first : first + count]), written])


def accumulate(inputs: Inputs) -> np.ndarray:
    """Combine generation 0's real blocks and every earlier generation's samples (Gerstgrasser et al. 2024)."""
    parts = [inputs.pool(g) for g in range(inputs.generation)]
    return np.concatenate([blocks_of(REAL, inputs.real_order[: inputs.size]), *parts])


def accumulate_subsample(inputs: Inputs) -> np.ndarray:
    """`size` blocks drawn without replacement from those of `accumulate` (Kazdan et al. 2025)."""
    pool = accumulate(inputs)
    return pool[np.sort(inputs.draw("mixture").permutation(len(pool))[: inputs.size])]


def keep_real(inputs: Inputs) -> np.ndarray:
    """Combine generation 0's real blocks and those of the previous generation (Drayson et al. 2025, partially synthetic)."""
    return np.concatenate([blocks_of(REAL, inputs.real_order[: inputs.size]), inputs.pool(inputs.generation - 1)])


def balanced(inputs: Inputs) -> np.ndarray:
    """Equal parts, to within one block, of generation 0's real text and each earlier generation (Briesch et al. 2023)."""
    draw, parts = inputs.draw("mixture"), inputs.generation + 1
    counts = np.full(parts, inputs.size // parts)
    counts[draw.permutation(parts)[: inputs.size % parts]] += 1
    real = np.sort(draw.permutation(inputs.size)[: counts[0]])
    written = [_written(inputs, draw, g, count) for g, count in enumerate(counts[1:].tolist())]
    return np.concatenate([blocks_of(REAL, inputs.real_order[real]), *written])


def incremental(inputs: Inputs) -> np.ndarray:
    """Previous training set with a random share `mixing.replaced` replaced by new samples (Briesch et al. 2023)."""
    draw, before = inputs.draw("mixture"), inputs.previous()
    count = inputs.count(inputs.config.replaced_share, len(before))
    kept = np.sort(draw.permutation(len(before))[count:])
    return np.concatenate([before[kept], _written(inputs, draw, inputs.generation - 1, count)])


def expanding(inputs: Inputs) -> np.ndarray:
    """Previous training set plus new samples, a share `mixing.added` of the first set (Briesch et al. 2023)."""
    count = inputs.count(inputs.config.added_share, inputs.size)
    return np.concatenate([inputs.previous(), _written(inputs, inputs.draw("mixture"), inputs.generation - 1, count)])


def _written(inputs: Inputs, draw: np.random.Generator, source: int, count: int) -> np.ndarray:
    """Draw `count` of a generation's blocks without replacement. Raises UserError if it wrote fewer."""
    pool = inputs.pool(source)
    if count > len(pool):
        needs = f"generation {inputs.generation} needs {count} blocks of generation {source}"
        raise UserError(f"sampling.tokens: {needs}, which wrote {len(pool)}; raise it or leave it null")
    return pool[np.sort(draw.permutation(len(pool))[:count])]


def real_blocks(share: float, size: int, seed: int, generation: int) -> int:
    """Round share x size up or down at random, without bias: a share below one block does not always become zero."""
    exact = share * size
    whole = math.floor(exact + 1e-9)
    return min(size, whole + int(generator(seed, generation, "real_count").random() < exact - whole - 1e-9))


# --- the records ------------------------------------------------------------------------------------------------------


class Needs(NamedTuple):
    """Minimum of blocks for a training set: scheduled real ones, and those written by one generation."""

    real: int = 0
    written: int = 0


def _by_schedule(outlook: Outlook) -> Needs:
    real = outlook.count(outlook.share or 0.0, outlook.size)
    return Needs(real, outlook.size - real)


def _part(share: float, of: int) -> Needs:
    return Needs(written=math.ceil(share * of - 1e-9))  # rounded up, as `real_blocks` may


class Law(NamedTuple):
    """Theoretical prediction for a regime."""

    regime: str = ""
    """Regime of `theory` that describes it; empty if none does."""
    reuse: bool = False
    """True if every set holds all of generation 0's real text, whatever `mixing.real` says."""
    none: str = ""
    """Reason why no law but sharpening (by `regime`) is derived; empty if one is."""
    no_tails: str = ""
    """Reason why there is no law for rare types."""


@dataclass(frozen=True)
class Regime:
    """Recipe for training sets of real text and text that earlier generations wrote."""

    choose: Callable[[Inputs], np.ndarray]
    """Chooses the blocks of a training set, int64 (blocks, 2): source and place in it."""
    law: Law
    size: Callable[[Outlook], int] = lambda o: o.size
    """Number of these blocks."""
    needs: Callable[[Outlook], Needs] = lambda _: Needs()
    """Minimum of blocks; nothing for a regime that takes all blocks available."""
    keys: tuple[str, ...] = ()
    """Settings of `mixing` that only it reads: those of a schedule, or shares of written text."""

    @property
    def grows(self) -> bool:
        """True if later training sets are larger than generation 0's."""
        return self.size(Outlook(MixingConfig(), 1, size=100, before=100, written=100, share=None, seed=0)) > 100


REGIMES = Records("regime", {
    "replace": Regime(
        replace, Law("replace"), needs=_by_schedule,
        keys=("schedule", "start", "ratio", "end", "power", "values", "floor", "real"),
    ),
    "accumulate": Regime(accumulate, Law("accumulate"), lambda o: o.size + o.generation * o.written),
    "accumulate_subsample": Regime(accumulate_subsample, Law("accumulate_subsample")),
    "keep_real": Regime(
        keep_real,
        Law("replace", True, "", "with mixing.regime=keep_real a training set is larger than what a generation writes"),
        lambda o: o.size + o.written,
    ),
    "balanced": Regime(
        balanced, Law("balanced", none="mixing.regime=balanced has none"), needs=lambda o: _part(0.5, o.size)
    ),
    "incremental": Regime(
        incremental, Law(none="mixing.regime=incremental has none"), lambda o: o.before,
        lambda o: _part(o.config.replaced_share, o.before), ("replaced",),
    ),
    "expanding": Regime(
        expanding, Law(none="mixing.regime=expanding has none"), lambda o: o.before + o.count(o.config.added_share, o.size),
        lambda o: _part(o.config.added_share, o.size), ("added",),
    ),
})  # fmt: skip
REGIMES.offer((MixingConfig, "regime"))
