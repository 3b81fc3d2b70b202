"""The planted channel: one sentence per document, with a slot whose law is known.

    In Ashford saffron sold briskly because tired merchants feared the early snow.

The town is the context and the good is the slot: p(good | town) is a Zipf law, ranked in another order in each town, so
that towns tell nothing about each other. Every place has its own words and each word depends only on the one before: the
language is a first-order Markov chain over words, and every question about it has an exact answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collapselab.languages.laws import frequency_bands, names, word_numbers, zipf_law
from collapselab.seeds import generator

TOWN_PLACE, SLOT_PLACE = 1, 2  # in words; the town comes directly before the slot
CHUNK = 8192  # documents drawn at a time
TAIL_EXPONENT = 0.5  # of the Zipf laws after the slot: uneven, and no word rarer than one in thirty at its place

TOWN_ENDINGS = "ford ton bury wick dale ham mouth ley field bridge stead gate moor cliff"
GOODS = """saffron wool salt copper amber honey pepper silk barley timber wax linen iron cheese olives tar ginger hemp
cloves butter tin cotton indigo oats leather vinegar silver herring dates rye paper ivory figs glass cod flax soap lead
almonds rope candles walnuts malt pearls hops raisins velvet coal cider marble nutmeg ink lace mustard slate feathers
quince parchment garlic resin lentils brass turnips felt cinnamon gravel plums pottery sugar anvils apples beans beads
bricks brooms buckles buttons cabbage carpets chalk chestnuts clay combs cumin eels fennel firewood gloves grapes hats
hazelnuts hides horn jade kettles knives lamps lemons lime masts melons mirrors mint needles nets onions oranges oysters
pears peat pins pitch plates poppies quills ribbons rice rum sage sand seeds spoons starch tallow tea thread tiles"""
QUALITIES = "fine coarse pale dark old fresh red white cheap royal northern southern smoked dried"

# Places after the slot: their words, and whether the law depends on the word before.
TAIL: tuple[tuple[str, bool], ...] = (
    ("sold moved traded changed-hands vanished arrived", False),
    ("briskly slowly quietly openly badly everywhere", True),
    ("because", False),
    ("tired greedy careful foreign young honest weary clever", False),
    ("merchants sailors farmers brokers monks widows", True),
    ("feared expected ignored welcomed noticed cursed", True),
    ("the", False),
    ("early heavy sudden endless gentle bitter", False),
    ("snow. rain. frost. wind. fog. drought. harvest. tide.", True),
)


@dataclass(frozen=True)
class Planted:
    """The language for given sizes and seed, which determine it."""

    contexts: int = 8
    """Number of towns, all equally likely."""
    values: int = 64
    """Number of goods, the same in every town."""
    zipf: float = 1.0
    """Exponent of the Zipf law of goods in a town."""
    seed: int = 0
    """Seed of the choice of towns, the order of goods in each, and the laws after the slot."""

    @cached_property
    def places(self) -> list[list[str]]:
        """Words that may occur at each place of a document; no word belongs to two places."""
        towns = names(TOWN_ENDINGS)
        chosen = generator(self.seed, 0, "planted/towns").permutation(len(towns))[: self.contexts]
        goods = GOODS.split() + [f"{quality}-{good}" for quality in QUALITIES.split() for good in GOODS.split()]
        return [["In"], [towns[i] for i in chosen], goods[: self.values], *(words.split() for words, _ in TAIL)]

    @cached_property
    def laws(self) -> list[np.ndarray]:
        """Probability of each place's words given the word before, (words before, words); the first has one row."""
        draw = generator(self.seed, 0, "planted/laws")

        def permuted(before: int, size: int, exponent: float) -> np.ndarray:
            return np.stack([draw.permutation(zipf_law(size, exponent)) for _ in range(before)])

        laws = [np.ones((1, 1)), np.full((1, self.contexts), 1 / self.contexts)]
        laws.append(permuted(self.contexts, self.values, self.zipf))
        for place, (_, depends) in enumerate(TAIL, SLOT_PLACE + 1):
            before, size = len(self.places[place - 1]), len(self.places[place])
            law = permuted(before if depends else 1, size, TAIL_EXPONENT)
            laws.append(law if depends else np.repeat(law, before, axis=0))
        return laws

    @cached_property
    def lexicon(self) -> list[str]:
        """All words, by place."""
        return [word for place in self.places for word in place]

    @property
    def words_per_document(self) -> int:
        return len(self.places)

    @property
    def slot_law(self) -> np.ndarray:
        """True p*(good | town), float64 (contexts, values)."""
        return self.laws[SLOT_PLACE]

    @cached_property
    def slot_bands(self) -> np.ndarray:
        """Frequency band of each good in each town, int64 (contexts, values)."""
        return frequency_bands(self.slot_law)

    @property
    def towns(self) -> list[str]:
        return self.places[TOWN_PLACE]

    @property
    def goods(self) -> list[str]:
        return self.places[SLOT_PLACE]

    @property
    def heads(self) -> list[str]:
        """Words before the slot, for each town."""
        return [f"{self.places[0][0]} {town}" for town in self.towns]

    @cached_property
    def entropy(self) -> float:
        """Entropy of a document, nats: the sum over places of the mean entropy of a word given the one before."""
        before, total = np.ones(1), 0.0
        for law in self.laws:
            total -= float((before[:, None] * law * np.log(law)).sum())
            before = before @ law
        return total

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Independent draws; a larger `count` continues the draws of a smaller one."""
        draw = generator(self.seed, 0, f"planted/{split}")
        for first in range(0, count, CHUNK):
            u = draw.random((min(CHUNK, count - first), self.words_per_document))
            before = np.zeros(len(u), np.int64)
            columns = []
            for place, law in enumerate(self.laws):
                reach = np.cumsum(law, axis=1)[:, :-1]  # the last word takes the rounding error
                before = (u[:, place, None] >= reach[before]).sum(axis=1)
                words = self.places[place]
                columns.append([words[i] for i in before.tolist()])
            yield from (" ".join(words) for words in zip(*columns, strict=True))

    def log_probabilities(self, documents: Sequence[str]) -> np.ndarray:
        """Natural logarithm of each text's probability, float64 (documents,); -inf for an impossible one."""
        places, possible = self._places_of(documents)
        total = np.zeros(len(documents))
        before = np.zeros(len(documents), np.int64)
        for place, law in enumerate(self.laws):
            total += np.log(law[before, places[:, place]])
            before = places[:, place]
        return np.where(possible, total, -np.inf)

    def bands(self, documents: Sequence[str]) -> np.ndarray:
        """Frequency band of each document's good in its town, int64 (documents,); the documents must be possible."""
        places, _ = self._places_of(documents)
        bands: np.ndarray = self.slot_bands[places[:, TOWN_PLACE], places[:, SLOT_PLACE]]
        return bands

    def _places_of(self, documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Each word's number among the words of its place, (documents, words), 0 in impossible documents; and which
        documents are possible, (documents,)."""
        sizes = np.array([len(words) for words in self.places])
        numbers = word_numbers(documents, self._numbers, len(sizes)) - (np.cumsum(sizes) - sizes)
        possible = ((numbers >= 0) & (numbers < sizes)).all(axis=1)
        return np.where(possible[:, None], numbers, 0), possible

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.lexicon)}
