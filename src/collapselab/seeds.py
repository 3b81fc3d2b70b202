"""Seeds: every random choice of a chain comes from `derive(chain seed, generation, stage, index)`.

Arm and run names do not enter, so that two arms of one seed share generation 0 and are paired.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, generation: int, stage: str, index: int = 0) -> int:
    """Derive a 64-bit seed from exactly these four values."""
    text = f"{seed}/{generation}/{stage}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, generation: int, stage: str, index: int = 0) -> np.random.Generator:
    """Return a counter-based generator (Philox 4x64; Salmon et al. 2011) keyed by the derived seed."""
    return np.random.Generator(np.random.Philox(key=derive(seed, generation, stage, index)))


def batch_order(seed: int, generation: int, items: int, shows: int) -> np.ndarray:
    """Order in which the optimiser sees the items, int64 (shows,): whole epochs, each permuted independently.

    A function of seed and generation alone, so batch k can be made without batch k - 1.
    """
    epochs = -(-shows // items)
    passes = [generator(seed, generation, "batch_order", epoch).permutation(items) for epoch in range(epochs)]
    return np.concatenate(passes)[:shows] if passes else np.empty(0, np.int64)
