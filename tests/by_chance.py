"""The experiments of fixed_share and kazdan by chance: counts alone, written without anything of the lab.

Towns are equally likely, goods follow a Zipf law in each; every generation writes one document for each document of
generation 0, in that one's town. The bounds in configs/papers/ are the mean of such runs plus and minus four standard errors of a
mean over the entry's seeds.
"""

from __future__ import annotations

import numpy as np

TOWNS, GOODS, DOCUMENTS = 256, 64, 2560
LAW = np.arange(1, GOODS + 1.0) ** -1 / np.sum(np.arange(1, GOODS + 1.0) ** -1)
DIVERSITY = 1 - np.sum(LAW**2)


def chain(regime: str, share: float, generations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(diversity, drift) over the truth's diversity by generation, means over the towns that have a document."""
    draw = np.random.default_rng(seed)

    def real(count: int) -> np.ndarray:
        """(2, count): towns and goods."""
        return np.stack([draw.integers(TOWNS, size=count), draw.choice(GOODS, size=count, p=LAW)])

    first = data = real(DOCUMENTS)
    pool, diversity, drift = first, [], []
    for _ in range(generations + 1):
        counts = np.zeros((TOWNS, GOODS))
        np.add.at(counts, tuple(data), 1)
        known = counts[counts.sum(1) > 0]
        model = known / known.sum(1, keepdims=True)
        diversity.append((1 - np.sum(model**2, 1)).mean() / DIVERSITY)
        drift.append(np.sum((model - LAW) ** 2, 1).mean() / DIVERSITY)
        reach = counts.cumsum(1)[first[0]]
        goods = (reach <= (draw.random(DOCUMENTS) * reach[:, -1])[:, None]).sum(1).clip(0, GOODS - 1)
        written = np.stack([first[0], goods])
        pool = np.concatenate([pool, written], 1)
        if regime == "replace":
            count = round(share * DOCUMENTS)
            data = np.concatenate([real(count), written[:, draw.permutation(DOCUMENTS)[count:]]], 1)
        else:
            data = pool if regime == "accumulate" else pool[:, draw.permutation(pool.shape[1])[:DOCUMENTS]]
    return np.array(diversity), np.array(drift)
