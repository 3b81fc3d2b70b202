"""Problems of the package reasoning-gym, whose data sets have exact checkers of their own (Stojanovski et al. 2025).

             Calculate 7 * 3 - 4.
    Answer: 17

A document is a problem and its answer, each in a field of equal length in all documents, so that with a token per byte a
problem is a prompt. Spaces before a problem and line ends behind an answer fill the fields; an empty line ends an answer. The
text has no known distribution: such a corpus is a task without a law.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from collapselab.config import CorpusConfig, UserError, first_line
from collapselab.config.keys import nearest
from collapselab.seeds import derive

MARKER, END = "\nAnswer: ", "\n\n"
SPLITS = ("train", "valid", "test")
CHUNK = 4096  # problems of one seed of the package, which takes 32 bits and adds a problem's number to it
LOOK = 50  # problems measured if one does not fit

RUNS_CODE = "its checker would run an answer as code"
VARIES = "its problems or answers differ from process to process"
SILENT = "it has no answers of its own"
LAX = "its checker calls wrong answers correct"
REFUSED = {
    **dict.fromkeys(("binary_matrix", "countdown", "intermediate_integration", "n_queens"), RUNS_CODE),
    **dict.fromkeys(("polynomial_multiplication", "puzzle24", "simple_integration", "spiral_matrix"), RUNS_CODE),
    "string_insertion": RUNS_CODE,
    **dict.fromkeys(("codeio", "isomorphic_strings", "knight_swap", "list_functions", "ransom_note"), VARIES),
    "word_ladder": VARIES,
    **dict.fromkeys(("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"), SILENT),
    **dict.fromkeys(("complex_arithmetic", "game_of_life_halting"), LAX),
    "coin_flip": "its checker does not return for some answers",
    "composite": "it mixes other data sets",
}
"""Data sets of version 0.1.25 that cannot be used, and why."""


class Parsed(NamedTuple):
    """Problem of a document, and its answer; "" without one that ends."""

    problem: str
    answer: str


def parse(document: str) -> Parsed | None:
    """Divide a document at its marker; None if it has none."""
    problem, marker, rest = document.partition(MARKER)
    answer, end, _ = rest.partition(END)
    return Parsed(problem.lstrip(" "), answer if end else "") if marker else None


@lru_cache(maxsize=8)
def data_set(name: str, options: str, seed: int) -> Any:
    """Open a data set of the package. Raises UserError for options that it does not accept."""
    from reasoning_gym.factory import DATASETS, create_dataset

    asked = json.loads(options)
    known = {part.name for part in dataclasses.fields(DATASETS[name][1])} - {"seed", "size"}
    for key in asked.keys() - known:
        raise UserError(f"corpus.gym.options: gym:{name} has no option {key!r}{nearest(key, sorted(known))}")
    try:
        return create_dataset(name, **asked, seed=seed, size=CHUNK)
    except Exception as error:  # assertions, types, missing files: the package has no kind of its own
        raise UserError(
            f"corpus.gym.options={asked}: gym:{name} refuses them ({first_line(error)[:150]}); change them"
        ) from None


@dataclass(frozen=True)
class Gym:
    """A data set for given options, lengths and seed, which determine its documents."""

    name: str
    options: str
    """JSON."""
    problem: int
    """Bytes of a problem's field."""
    answer: int
    """Bytes of an answer's field."""
    seed: int
    package: str
    """Version of the package."""

    def entry(self, split: str, number: int) -> dict[str, Any]:
        """Make a problem of a split's stream, with its answer and what its checker reads. Streams of one seed are disjoint."""
        chunk, place = divmod(number, CHUNK)
        begin = (derive(self.seed, 0, "gym") + len(SPLITS) * chunk + SPLITS.index(split)) % (2**32 // CHUNK)
        try:
            made: dict[str, Any] = data_set(self.name, self.options, begin * CHUNK)[place]
        except UserError:
            raise
        except Exception as error:  # of a generator
            raise UserError(
                f"corpus.source='gym:{self.name}': fails at problem {number} of {split} ({first_line(error)[:150]}); set other "
                "corpus.gym.options"
            ) from None
        return made

    def correct(self, answer: str, entry: dict[str, Any]) -> bool:
        """Ask the data set's checker, whose full score alone is correct; one that fails has not understood the answer."""
        try:
            return bool(data_set(self.name, self.options, 0).score_answer(answer, entry) == 1)
        except UserError:
            raise
        except Exception:  # a checker's own kinds, for text that it does not expect
            return False

    def difficulty(self, entry: dict[str, Any]) -> int:
        """Difficulty in an entry's metadata, or the sum of the whole numbers there that it names; 0 if the package has none."""
        data, given = entry["metadata"], entry["metadata"].get("difficulty") or {}
        if isinstance(given, dict):
            return sum(data[key] for key in given if type(data.get(key)) is int)
        return int(given)

    def usable(self, entry: dict[str, Any]) -> bool:
        """Return True if a document with this problem is read as the problem and a correct answer: in a few data sets one of
        a thousand is not."""
        answer = entry["answer"]
        if not isinstance(answer, str) or parse("".join(_parts(entry).values())) != _read(entry):
            return False
        return answer != "" and self.correct(answer, entry)

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Documents of a split; a larger `count` continues those of a smaller one."""
        return (self.document(entry, split) for entry in Stream(self, split, count))

    def document(self, entry: dict[str, Any], split: str) -> str:
        """Write a document. Raises UserError if a part does not fit its field."""
        parts = _parts(entry)
        room: dict[str, int] = {key: getattr(self, key) - len(text.encode()) for key, text in parts.items()}
        for key, left in room.items():
            if left < 0:
                size = len(parts[key].encode())
                longest = max(size, *(len(_parts(one)[key].encode()) for one in Stream(self, split, LOOK)))
                raise UserError(
                    f"corpus.gym.{key}={getattr(self, key)}: one of {split} takes {size} bytes (its first {LOOK}: up to "
                    f"{longest}); raise it, or set corpus.gym.options for shorter ones"
                )
        return " " * room["problem"] + parts["problem"] + parts["answer"] + "\n" * room["answer"]


def _parts(entry: dict[str, Any]) -> dict[str, str]:
    return {"problem": entry["question"] + MARKER, "answer": f"{entry['answer']}{END}"}


def _read(entry: dict[str, Any]) -> Parsed:
    return Parsed(entry["question"].lstrip(" "), entry["answer"])


class Stream(Iterator[dict[str, Any]]):
    """The first `count` usable problems of a split. Unlike a generator it continues after an exception, as of a time limit."""

    def __init__(self, gym: Gym, split: str, count: int):
        self.gym, self.split, self.count = gym, split, count
        self.number = self.given = 0

    def __next__(self) -> dict[str, Any]:
        while self.given < self.count:
            entry = self.gym.entry(self.split, self.number)
            usable = self.gym.usable(entry)
            self.number += 1
            if usable:
                self.given += 1
                return entry
            if self.number >= LOOK and not self.given:
                raise UserError(
                    f"corpus.source='gym:{self.gym.name}': the checker accepts the answer of none of the first {LOOK} problems; "
                    "set other corpus.gym.options, or take another data set"
                )
        raise StopIteration


class Problems:
    """The problems of a corpus by their text, made again in order until one is found."""

    def __init__(self, gym: Gym, counts: tuple[tuple[str, int], ...]):
        self.streams = [Stream(gym, split, count) for split, count in counts]
        self.found: dict[str, dict[str, Any]] = {}

    def find(self, problem: str) -> dict[str, Any] | None:
        """Return the entry of a problem; None if the corpus does not have it."""
        for stream in self.streams:
            while problem not in self.found and (entry := next(stream, None)) is not None:
                self.found.setdefault(_read(entry).problem, entry)
        return self.found.get(problem)


@cache
def problems(gym: Gym, counts: tuple[tuple[str, int], ...]) -> Problems:
    """Return the problems of a corpus, once per process."""
    return Problems(gym, counts)


def gym_of(config: CorpusConfig) -> Gym:
    """Return the data set that `corpus.source=gym:NAME` names. Raises UserError if it, or the package, is missing."""
    name, settings = config.source.removeprefix("gym:"), config.gym
    try:
        package = version("reasoning-gym")
    except PackageNotFoundError:
        raise UserError(
            f"corpus.source={config.source!r}: needs the package reasoning-gym; run `pip install collapselab[gym]`"
        ) from None
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        remedy = nearest(name, DATASETS) or f"; name one of its {len(DATASETS)}, such as basic_arithmetic"
        raise UserError(f"corpus.source={config.source!r}: reasoning-gym has no such data set{remedy}")
    if name in REFUSED:
        raise UserError(f"corpus.source={config.source!r}: {REFUSED[name]}; take another data set")
    options = json.dumps(settings.options, sort_keys=True)
    return Gym(name, options, settings.problem, settings.answer, settings.seed, package)
