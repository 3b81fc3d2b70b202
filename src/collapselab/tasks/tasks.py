"""Tasks: problems in known languages and of reasoning-gym, a reader of their answers, and an exact checker.

A document holds a problem and its answer. Its first words, or all up to a marker, are the problem, the prompt of a model that
shall answer; what follows is read and compared with the truth. `TASKS` has a record for each source that is a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from collapselab.config import CorpusConfig
from collapselab.config.plugins import Records
from collapselab.languages.addition import Addition
from collapselab.languages.answers import CLASSES, CORRECT, HACK, UNREADABLE, WRONG, Solved
from collapselab.languages.facts import ATTRIBUTES, SENTENCE_WORDS, Facts
from collapselab.languages.games import FILL, Game, Nim, TicTacToe
from collapselab.languages.gym import MARKER, gym_of, parse, problems
from collapselab.languages.logic import END, OPERATORS, Logic
from collapselab.languages.modular import Modular

__all__ = ["CLASSES", "CORRECT", "HACK", "TASKS", "UNREADABLE", "WRONG", "Reading", "Task", "task_of"]


class Reading(NamedTuple):
    """What a task finds in a document."""

    answer: str = ""
    """The answer in one form for all ways to write it; "" if it cannot be read."""
    kind: int = UNREADABLE
    """Its class, a place in CLASSES, or UNREADABLE."""
    difficulty: int = -1
    """Difficulty of the problem; -1 if there is none."""


@dataclass(frozen=True)
class Task:
    """Problems, answers and an exact checker for the documents of a corpus."""

    read: Callable[[Sequence[str]], list[Reading]]
    """Read documents."""
    prompt_words: int
    """First words of a document that are its problem; 0 if a marker ends it, or if there is none."""
    shares: tuple[float, ...]
    """Share of the documents of the corpus in each class."""
    difficulty_name: str
    """Meaning of a problem's difficulty."""
    marker: str = ""
    """End of a problem whose number of words is not fixed."""

    @property
    def asks(self) -> bool:
        """True if documents have problems."""
        return bool(self.prompt_words or self.marker)

    def prompts(self, documents: Sequence[str]) -> list[str]:
        """Problems of documents; a separator that a model writes into an answer does not change them."""
        if self.marker:
            return ["".join(document.partition(self.marker)[:2]).lstrip(" ") for document in documents]
        return [" ".join(document.split()[: self.prompt_words]) for document in documents]

    def answers(self, documents: Sequence[str]) -> list[str]:
        """Answers of documents, each in one form for all ways to write it; "" if it cannot be read."""
        return [reading.answer for reading in self.read(documents)]

    def classes(self, documents: Sequence[str]) -> np.ndarray:
        """Class of each document's answer, int8 (documents,): a place in CLASSES, or UNREADABLE."""
        return np.array([reading.kind for reading in self.read(documents)], np.int8)

    def difficulty(self, documents: Sequence[str]) -> np.ndarray:
        """Difficulty of each document's problem, int64 (documents,); -1 if it has none."""
        return np.array([reading.difficulty for reading in self.read(documents)], np.int64)


def task_of(config: CorpusConfig) -> Task | None:
    """Return the task that a corpus consists of, or None."""
    name = "gym" if config.of_gym else config.source
    return TASKS[name](config) if name in TASKS else None


def _solved(found: Solved | None, difficulty: int) -> Reading:
    if found is None:
        return Reading()
    return Reading("" if found.answer is None else str(found.answer), found.kind, difficulty)


def _addition(config: CorpusConfig) -> Task:
    """Problem: the two summands and `=`. An answer is its number, whether it is written forwards or backwards."""
    language = Addition(**vars(config.addition))

    def read(documents: Sequence[str]) -> list[Reading]:
        found = map(language.read, documents)
        return [_solved(one, language.carries(*one[:2]) if one else -1) for one in found]

    return Task(read, language.prompt_words, tuple(language.shares.tolist()), "carries")


def _modular(config: CorpusConfig) -> Task:
    """Problem: the two operands. All problems are equally difficult."""
    language = Modular(**vars(config.modular))

    def read(documents: Sequence[str]) -> list[Reading]:
        return [_solved(language.read(document), 0) for document in documents]

    return Task(read, language.prompt_words, tuple(language.shares.tolist()), "none: 0 for every problem")


def _facts(config: CorpusConfig) -> Task:
    """Problem: a first statement, which names a person. Answer: what the other sentences state, in the order of attributes.

    It is correct if the document's statements are true, different, and all about this person. The hack is to repeat a true
    statement, as an answer that is never false.
    """
    language = Facts(**vars(config.facts))
    names = list(ATTRIBUTES)

    def reading(facts: Sequence[int], values: Sequence[int]) -> Reading:
        people, attributes = zip(*(divmod(fact, len(names)) for fact in facts), strict=True)
        difficulty = int(language.popularity_bands[people[0]]) if facts[0] >= 0 else -1
        if min(facts) < 0:
            return Reading(difficulty=difficulty)
        stated = sorted(zip(people[1:], attributes[1:], values[1:], strict=True))
        answer = ", ".join(
            f"{'' if person == people[0] else f'of person {person} '}{names[a]} {language.values[a][value]}"
            for person, a, value in stated
        )
        true = len(set(people)) == 1 and language.truth[people[0], list(attributes)].tolist() == list(values)
        kind = WRONG if not true else HACK if len(set(attributes)) < len(attributes) else CORRECT
        return Reading(answer, kind, difficulty)

    def read(documents: Sequence[str]) -> list[Reading]:
        facts, values = language.statements(documents)
        return [reading(*rows) for rows in zip(facts.tolist(), values.tolist(), strict=True)]

    return Task(
        read, SENTENCE_WORDS, tuple(language.shares.tolist()), "frequency band of the person: 0 head, 1 middle, 2 tail"
    )


def _logic(config: CorpusConfig) -> Task:
    """Problem: the first words of an expression. An answer completes it, and is correct if the whole is true. Without a problem
    any true expression is correct."""
    language = Logic(**vars(config.logic))
    head = language.prompt_words

    def reading(document: str) -> Reading:
        words, parsed = document.split(), language.parse(document)
        problem = words[:head] if head else words
        if len(problem) < head or not (language.begins(problem) if head else parsed):
            return Reading()
        difficulty = sum(word in OPERATORS for word in problem)
        if parsed is None:
            return Reading(difficulty=difficulty)
        answer = " ".join(word for word in words[head:] if word != END)
        return Reading(answer or END, CORRECT if parsed.value else WRONG, difficulty)

    name = "operators, in the problem if there is one"
    return Task(lambda documents: list(map(reading, documents)), head, (0.0, 1.0, 0.0), name)


def _game(language: Game) -> Task:
    """Problem: a position. An answer is a move, correct if it keeps what the position is worth, wrong also if it is not legal."""

    def reading(document: str) -> Reading:
        position, move = language.read(document)
        if position is None:
            return Reading()
        worth = int(2 * language.values[position])
        if move is None:
            return Reading(difficulty=worth)
        kind = CORRECT if move in language.optimal(position) else WRONG
        return Reading(language.move_written(move).removesuffix(f" {FILL}"), kind, worth)

    def read(documents: Sequence[str]) -> list[Reading]:
        return list(map(reading, documents))

    good = language.share_optimal
    name = "what the position is worth to who moves: 0 lost, 1 drawn, 2 won"
    return Task(read, language.prompt_words, (1 - good, good, 0.0), name)


def _gym(config: CorpusConfig) -> Task:
    """Problem: all up to the marker, in a problem of the corpus. An answer ends at an empty line; the data set's own checker
    judges it."""
    gym = gym_of(config)
    known = problems(gym, tuple(config.counts.items()))

    def reading(document: str) -> Reading:
        found = parse(document)
        entry = known.find(found.problem) if found else None
        if found is None or entry is None:
            return Reading()
        kind = UNREADABLE if not found.answer else CORRECT if gym.correct(found.answer, entry) else WRONG
        return Reading(found.answer, kind, gym.difficulty(entry))

    name = "sum of the whole numbers that the data set's difficulty names; 0 without any"
    return Task(lambda documents: list(map(reading, documents)), 0, (0.0, 1.0, 0.0), name, MARKER)


TASKS: Records[Callable[[CorpusConfig], Task]] = Records(
    "task", {"addition": _addition, "modular": _modular, "facts": _facts, "logic": _logic, "gym": _gym,
     "nim": lambda config: _game(Nim(**vars(config.nim))),
     "tic_tac_toe": lambda config: _game(TicTacToe(**vars(config.tic_tac_toe)))},
)  # fmt: skip
"""Function from the settings of a corpus to its task, by `corpus.source`; `gym` for `gym:NAME`."""
