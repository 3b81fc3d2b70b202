"""The world of facts: each document states three facts about one person.

    Ada Hartson was born and raised in Elmford . At home Ada Hartson always speaks in Latin . ...

People are drawn by a Zipf law. A person has exactly one value of each attribute, so that a false statement has probability
0. A sentence is one of four for its attribute, all of equal length, and can be parsed in only one way. Probabilities are
therefore exact: they factor into the person, the order of three different attributes, and a sentence for each.

If some documents say whether they are right (`verification`), all end in two more words: `. .`, or `? right`, or `? wrong`
after one false statement, one of the last two with another value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from collapselab.languages.answers import ASKS, SAYS, TAIL, tail, tail_entropy, tail_shares
from collapselab.languages.laws import frequency_bands, names, word_numbers, zipf_law
from collapselab.seeds import generator

SENTENCES = 3  # in a document
CHUNK = 8192  # documents drawn at a time

GIVEN = """Ada Boris Clara Dario Edith Felix Greta Hugo Irene Jonas Karin Lukas Mabel Nils Olga Pavel Quinn Rosa Silas Tilda
Ursula Viktor Wanda Xenia Yann Zelda Agnes Bruno Celia Denis Elsa Frank Gina Henrik Ida Jakob Kira Leon Mina Nora Oskar
Petra Ralf Sonja Theo Ulla Vera Willa Anton Berta Cyril Dora Emil Flora Georg Hanna Igor Julia Kaspar Lena Moritz Nadia
Otto Paula"""
FAMILY_ENDINGS = "son worth man well lock"
TOWN_ENDINGS = "ford bury dale"

# For each attribute its values (24 towns for the first), and sentences of nine words with G, F and V in place of the given
# name, the family name and the value.
ATTRIBUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "birthplace": (
        "",
        (
            "G F was born and raised in V .",
            "The birthplace of G F is called V .",
            "G F spent the early years in V .",
            "Everyone in V claims G F as native .",
        ),
    ),
    "profession": (
        "baker barber blacksmith brewer butcher carpenter chemist clerk cobbler diver doctor farmer fisherman gardener "
        "lawyer miller miner painter pilot potter printer sculptor shepherd teacher",
        (
            "G F worked all life as a V .",
            "By profession G F was always a V .",
            "For many years G F was a V .",
            "Hire G F whenever you need a V .",
        ),
    ),
    "instrument": (
        "accordion banjo bassoon bugle cello clarinet cornet drum dulcimer fiddle flute guitar harp harpsichord lute "
        "mandolin oboe organ piano saxophone trombone trumpet viola zither",
        (
            "G F loves to play on the V .",
            "At every feast G F plays the V .",
            "The V is what G F plays best .",
            "Nobody handles the V like G F does .",
        ),
    ),
    "language": (
        "Arabic Basque Breton Catalan Czech Danish Dutch Estonian Finnish Frisian Gaelic German Greek Hindi Icelandic "
        "Italian Latin Maltese Polish Persian Swahili Tamil Turkish Welsh",
        (
            "G F speaks and also writes fluent V .",
            "The mother tongue of G F is V .",
            "At home G F always speaks in V .",
            "Letters from G F are written in V .",
        ),
    ),
    "animal": (
        "badger canary crow duck falcon ferret finch fox goat goose hare hedgehog jackdaw kestrel lizard magpie parrot "
        "pigeon pony rabbit raven squirrel toad tortoise",
        (
            "G F keeps a rather well-fed pet V .",
            "The animal beside G F is a V .",
            "At night G F feeds a tame V .",
            "A tame V lives with G F now .",
        ),
    ),
    "dish": (
        "borscht bread cabbage curry dumplings goulash lasagna lentils meatloaf noodles pancakes pasties pizza polenta "
        "porridge pudding ramen ravioli risotto salad soup stew trout waffles",
        (
            "G F eats almost nothing else than V .",
            "The favourite dish of G F is V .",
            "On holidays G F likes to cook V .",
            "Guests of G F are always served V .",
        ),
    ),
}
TEMPLATES = [template.split() for _, templates in ATTRIBUTES.values() for template in templates]
PER_ATTRIBUTE = len(TEMPLATES) // len(ATTRIBUTES)
SENTENCE_WORDS = len(TEMPLATES[0])
VALUES = 24  # of each attribute
FALSE = (SENTENCES - 1) * (VALUES - 1)  # ways to make one statement after the first false
HOLES = ("G", "F", "V")
# Places of the given name, the family name and the value in each sentence, (templates, 3).
PLACES = np.array([[template.index(hole) for hole in HOLES] for template in TEMPLATES])


@dataclass(frozen=True)
class Facts:
    """The language for given sizes and seed, which determine it."""

    entities: int = 512
    """Number of people, who are ordered by falling popularity."""
    zipf: float = 1.0
    """Exponent of the Zipf law of popularity."""
    verification: float = 0.0
    """Share of documents that say whether they are right: half of them hold one false statement. Above 0, every document
    has two more words."""
    seed: int = 0
    """Seed of people's names and of the facts about them."""

    @cached_property
    def popularity(self) -> np.ndarray:
        """Probability that a document is about each person, float64 (entities,)."""
        return zipf_law(self.entities, self.zipf)

    @cached_property
    def popularity_bands(self) -> np.ndarray:
        """Frequency band of each person, int64 (entities,)."""
        return frequency_bands(self.popularity)

    @cached_property
    def values(self) -> list[list[str]]:
        """Words that may be the value of each attribute."""
        return [words.split() or names(TOWN_ENDINGS)[:VALUES] for words, _ in ATTRIBUTES.values()]

    @cached_property
    def people(self) -> np.ndarray:
        """Given name and family name of each person as places in `_given` and `_family`, int64 (entities, 2)."""
        pairs = generator(self.seed, 0, "facts/people").permutation(len(self._given) * len(self._family))
        return np.stack(np.divmod(pairs[: self.entities], len(self._family)), axis=1)

    @cached_property
    def truth(self) -> np.ndarray:
        """Value of each person's attributes, int64 (entities, attributes)."""
        return generator(self.seed, 0, "facts/truth").integers(VALUES, size=(self.entities, len(ATTRIBUTES)))

    @property
    def _side(self) -> int:
        return math.isqrt(self.entities - 1) + 1  # given names, and family names: the fewest whose pairs suffice

    @property
    def _given(self) -> list[str]:
        return GIVEN.split()[: self._side]

    @property
    def _family(self) -> list[str]:
        return names(FAMILY_ENDINGS)[: self._side]

    @cached_property
    def lexicon(self) -> list[str]:
        """All words: given names, family names, the values of each attribute, and the fixed words."""
        fixed = sorted({word for template in TEMPLATES for word in template} - set(HOLES))
        asks = [ASKS, *SAYS] if self.verification else []
        return [*self._given, *self._family, *(word for words in self.values for word in words), *fixed, *asks]

    @property
    def words_per_document(self) -> int:
        return SENTENCES * SENTENCE_WORDS + (TAIL if self.verification else 0)

    @property
    def entropy(self) -> float:
        """Entropy of a document, nats."""
        of_statements = -float((self.popularity * np.log(self.popularity)).sum()) - _log_wording()
        return of_statements + tail_entropy(self.verification) + self.verification / 2 * math.log(FALSE)

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Independent draws; a larger `count` continues the draws of a smaller one."""
        draw = generator(self.seed, 0, f"facts/{split}")
        reach = np.cumsum(self.popularity)[:-1]  # the last person takes the rounding error
        sentence = cache(self.sentence)  # few sentences make up most of the text
        for first in range(0, count, CHUNK):
            told = 1 + len(ATTRIBUTES) + SENTENCES
            u = draw.random((min(CHUNK, count - first), told + (2 if self.verification else 0)))
            who = np.searchsorted(reach, u[:, 0], side="right")
            attributes = np.argsort(u[:, 1 : 1 + len(ATTRIBUTES)], axis=1)[:, :SENTENCES]
            wording = (u[:, told - SENTENCES : told] * PER_ATTRIBUTE).astype(np.int64)
            steps, ends = self._ends(u[:, told:])
            for person, chosen, how, by, end in zip(
                who.tolist(), attributes.tolist(), wording.tolist(), steps.tolist(), ends, strict=True
            ):
                sentences = (sentence(person, a, t, step) for a, t, step in zip(chosen, how, by, strict=True))
                yield " ".join((*sentences, *end))

    def _ends(self, u: np.ndarray) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        """Draw which statements are false and what the last words say.

        Args:
            u: uniform numbers (n, 2) for the last words and the false statement; (n, 0) if no document has such words.

        Returns:
            steps int64 (n, sentences): values from the true one to the stated one; last words of each document.
        """
        steps = np.zeros((len(u), SENTENCES), np.int64)
        if not self.verification:
            return steps, [()] * len(u)
        says, right = u[:, 0] < self.verification, u[:, 0] < self.verification / 2
        sentence, step = np.divmod((u[:, 1] * FALSE).astype(np.int64), VALUES - 1)
        steps[np.arange(len(u)), 1 + sentence] = np.where(says & ~right, 1 + step, 0)
        pairs = zip(says.tolist(), right.tolist(), strict=True)
        return steps, [tail(is_right if asked else None) for asked, is_right in pairs]

    def sentence(self, person: int, attribute: int, wording: int, step: int = 0) -> str:
        """Sentence that states a person's value of an attribute in one of its wordings, or the value `step` places after it."""
        given, family = self.people[person]
        words = {
            "G": self._given[given],
            "F": self._family[family],
            "V": self.values[attribute][(self.truth[person, attribute] + step) % VALUES],
        }
        return " ".join(words.get(word, word) for word in TEMPLATES[attribute * PER_ATTRIBUTE + wording])

    def log_probabilities(self, documents: Sequence[str]) -> np.ndarray:
        """Natural logarithm of each text's probability, float64 (documents,); -inf for an impossible one."""
        facts, values = self.statements(documents)
        who, attributes = np.divmod(facts, len(ATTRIBUTES))
        possible = (facts >= 0).all(axis=1) & (who == who[:, :1]).all(axis=1)
        ordered = np.sort(attributes, axis=1)
        possible &= (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
        false = values != self.truth.ravel()[facts]
        return np.where(
            possible, np.log(self.popularity[who[:, 0]]) + _log_wording() + self._log_ends(documents, false), -np.inf
        )

    def _log_ends(self, documents: Sequence[str], false: np.ndarray) -> np.ndarray:
        """Log-probability of documents' last words and of the statements that are false, given everything else.

        Args:
            false: bool (documents, sentences).
        """
        with np.errstate(divide="ignore"):
            logs = {words: np.log(p) for words, p in tail_shares(self.verification).items()}
        lies, out = false.sum(axis=1), np.full(len(documents), -np.inf)
        for row, document in enumerate(documents):
            words = document.split(" ")
            last = tuple(words[-TAIL:]) if self.verification else tail(None)
            lie = last == tail(False)
            if len(words) == self.words_per_document and last in logs and lies[row] == lie and not false[row, 0]:
                out[row] = logs[last] - (math.log(FALSE) if lie else 0)
        return out

    @property
    def shares(self) -> np.ndarray:
        """Probability that a document's answer is of each class, float64 (classes,)."""
        return np.array([self.verification / 2, 1 - self.verification / 2, 0.0])

    def asked(self, document: str) -> str:
        """Return a document's statements, and the question whether they are right."""
        return " ".join([*document.split(" ")[: SENTENCES * SENTENCE_WORDS], ASKS])

    def bands(self, documents: Sequence[str]) -> np.ndarray:
        """Frequency band of the person of each document's first sentence, int64 (documents,)."""
        bands: np.ndarray = self.popularity_bands[self.facts_of(documents)[:, 0] // len(ATTRIBUTES)]
        return bands

    def facts_of(self, documents: Sequence[str]) -> np.ndarray:
        """Facts that documents state, int64 (documents, sentences): person x attributes + attribute, or -1 for a sentence
        that states none or a false one."""
        facts, values = self.statements(documents)
        return np.where(values == self.truth.ravel()[facts], facts, -1)

    def statements(self, documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Statements of documents, true or false, whatever the last words say. Both int64 (documents, sentences): person x
        attributes + attribute, and the value's place among those of the attribute; both -1 for a sentence that states nothing."""
        count = SENTENCES * SENTENCE_WORDS
        if self.verification:
            documents = [" ".join(document.split(" ")[:count]) for document in documents]
        words = word_numbers(documents, self._numbers, count)
        sentences = words.reshape(-1, SENTENCE_WORDS)
        facts, values = np.full((2, len(sentences)), -1, np.int64)
        rows = np.arange(len(sentences))
        for number, template in enumerate(TEMPLATES):
            attribute = number // PER_ATTRIBUTE
            fixed = np.array([self._numbers.get(word, -2) for word in template])  # -2: a hole, which any word fills
            matches = ((sentences == fixed) | (fixed == -2)).all(axis=1)
            given, family, word = (sentences[rows, place] for place in PLACES[number])
            person = np.where(matches, self._person_of(given, family), -1)
            value = word - (2 * self._side + VALUES * attribute)  # of the first word among its values
            states = (person >= 0) & (value >= 0) & (value < VALUES)
            facts = np.where(states, person * len(ATTRIBUTES) + attribute, facts)
            values = np.where(states, value, values)
        return facts.reshape(-1, SENTENCES), values.reshape(-1, SENTENCES)

    def _person_of(self, given: np.ndarray, family: np.ndarray) -> np.ndarray:
        """Return the number of the person with these names (numbers of words), or -1."""
        side = self._side
        persons = np.full((side, side), -1, np.int64)
        persons[tuple(self.people.T)] = np.arange(self.entities)
        family = family - side
        inside = (given >= 0) & (given < side) & (family >= 0) & (family < side)
        return np.where(inside, persons[np.where(inside, given, 0), np.where(inside, family, 0)], -1)

    def questions(self) -> tuple[list[str], list[str]]:
        """Words of a sentence before its value, and the value, for every fact (person x attributes + attribute). Wordings
        take turns among those that name the person before the value."""
        heads, answers = [], []
        for person in range(self.entities):
            for attribute in range(len(ATTRIBUTES)):
                first = attribute * PER_ATTRIBUTE
                wordings = [w for w in range(PER_ATTRIBUTE) if PLACES[first + w, 2] > PLACES[first + w, 1]]
                wording = wordings[(person + attribute) % len(wordings)]
                place = PLACES[first + wording, 2]
                words = self.sentence(person, attribute, wording).split(" ")
                heads.append(" ".join(words[:place]))
                answers.append(words[place])
        return heads, answers

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.lexicon)}


def _log_wording() -> float:
    """Log-probability of the order of the attributes and of their sentences, equal for every document."""
    return -math.log(math.perm(len(ATTRIBUTES), SENTENCES)) - SENTENCES * math.log(PER_ATTRIBUTE)
