"""Seeds are derived, never shared.

Every random choice of a chain comes from `derive(chain seed, generation, stage, index)`. Arm and run names do not
enter, so that two arms of one seed share generation 0 and are paired.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, generation: int, stage: str, index: int = 0) -> int:
    """A 64-bit seed that depends on all four parts and on nothing else."""
    text = f"{seed}/{generation}/{stage}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, generation: int, stage: str, index: int = 0) -> np.random.Generator:
    """A counter-based generator (Philox 4x64; Salmon et al. 2011) keyed by the derived seed."""
    return np.random.Generator(np.random.Philox(key=derive(seed, generation, stage, index)))


def batch_order(seed: int, generation: int, items: int, shows: int) -> np.ndarray:
    """Which item the optimiser sees at each of `shows` places: whole epochs, each a permutation of its own.

    A function of seed and generation alone, so batch k can be made without having made batch k - 1.
    Returns int64 of shape (shows,).
    """
    epochs = -(-shows // items)
    passes = [generator(seed, generation, "batch_order", epoch).permutation(items) for epoch in range(epochs)]
    return np.concatenate(passes)[:shows] if passes else np.empty(0, np.int64)
