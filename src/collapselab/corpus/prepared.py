"""Real text: documents in, memory-mapped tokens out.

`prepare` finds the source, divides its documents into train, valid and test, tokenises them once into a cache that is
keyed by digests, and returns a `Corpus` of memory maps: a corpus larger than memory works.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import CorpusConfig, UserError, digest
from collapselab.corpus.cache import bytes_below, tidy
from collapselab.corpus.files import Digests, cache_root, in_words
from collapselab.corpus.shards import mapped, smaller, tokenise
from collapselab.corpus.sources import SPLITS, Source, open_source
from collapselab.corpus.tokenizers import Tokenizer, bytes_tokenizer, gpt2_tokenizer, load_tokenizer, words_tokenizer
from collapselab.languages import language_of
from collapselab.runtime.console import Console
from collapselab.store.folders import examine, publishing, read_json

FORMAT = 4  # of the cached shards; raise it when their meaning changes
VERIFY_LIMIT = 2 << 30  # bytes of a cached corpus whose digests are checked at each start (about a second per GB)


@dataclass(frozen=True)
class Tokens:
    """One split as memory maps."""

    ids: np.ndarray
    """(tokens,) uint16 or uint32: separator, document, separator, document, ..."""
    starts: np.ndarray
    """(documents + 1,) int64: where each document's separator stands, and the end."""
    nbytes: np.ndarray
    """(tokens,) uint32: UTF-8 bytes of text each token accounts for; 0 for separators."""


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus."""

    folder: Path
    digest: str
    """Of text, split and tokenizer."""
    train_digest: str
    """Of the training text and the tokenizer: what a model that was trained on it has seen."""
    tokenizer: Tokenizer
    train: Tokens
    valid: Tokens
    test: Tokens
    train_counts: np.ndarray
    """(vocabulary,) int64: occurrences of each token in the training split."""
    facts: dict[str, Any]
    """Documents, tokens and bytes per split, and where they came from."""

    def split(self, name: str) -> Tokens:
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def prepare(
    config: CorpusConfig, *, data_dir: str | None = None, model_tokenizer: Tokenizer | None = None, block: int = 2
) -> Corpus:
    """Opens the corpus, tokenising it first where the cache does not hold it.

    Args:
        model_tokenizer: the pretrained model's own, used where `corpus.tokenizer` is null.
        block: every split must hold more tokens than this.

    Raises:
        UserError: missing, empty or unreadable text, no text left for a split, overlapping splits.
    """
    digests = Digests()
    source = open_source(config, data_dir, digests)
    language = language_of(config)
    chosen = config.tokenizer or ("model" if model_tokenizer else "words" if language else "bpe")
    if chosen == "model" and model_tokenizer is None:
        raise UserError("corpus.tokenizer='model': there is no model.pretrained to take it from")
    if language and chosen == "words":
        tokenizer: Tokenizer | None = words_tokenizer(language.lexicon)
    else:
        tokenizer = model_tokenizer if chosen == "model" else _named_tokenizer(chosen)
    key = digest(
        {
            "format": FORMAT,
            "source": source.fingerprint,
            "shares": [config.valid_share, config.test_share],
            "shared_passages": config.shared_passages,
            "tokenizer": tokenizer.digest if tokenizer else ["bpe", config.vocab_size],
        }
    )[:32]
    folder = cache_root() / key
    try:
        tidy()
        size = bytes_below(folder, "*.bin")
        manifest, flaw = examine(folder, check="digests" if size < VERIFY_LIMIT else "sizes")
        console = Console(speaks=int(os.environ.get("RANK", "0")) == 0)
        if flaw:
            console.say(f"{folder}: {flaw}; tokenised again")
        if manifest is None:
            if source.listing.get("skipped"):
                console.say(f"corpus.source={config.source!r}: {in_words(source.listing['skipped'])}")
            with publishing(folder, inputs={}, shared=True) as out:
                tokenise(source, config, tokenizer, out)
                if open_source(config, data_dir, digests).fingerprint != source.fingerprint:
                    raise UserError(f"corpus.source={config.source!r}: changed while it was read; start again")
        digests.keep()
    except OSError as error:
        raise UserError(
            f"COLLAPSELAB_CACHE={cache_root()}: cannot be written ({error.strerror}); name another folder"
        ) from None
    corpus = _open(folder, tokenizer)
    corpus.facts["read"] |= source.listing  # what is passed over may differ from when it was tokenised
    _check_lengths(corpus, source, config, block)
    return corpus


def _check_lengths(corpus: Corpus, source: Source, config: CorpusConfig, block: int) -> None:
    for name in SPLITS:
        have = len(corpus.split(name).ids)
        if have <= block:  # one token more, for the separator that a split begins with
            more = "raise corpus.documents" if source.drawn else "use more text" + smaller(source, config)
            removed = (corpus.facts["shared_passages"] or {}).get(name, {}).get("bytes", 0)
            if removed > corpus.facts["splits"][name]["bytes"]:
                more = f"{removed:,} bytes of it also stand in other splits and were cut out (corpus.shared_passages); {more}"
            raise UserError(
                f"corpus.source={config.source!r}: the {name} split has {have} tokens, too few for one block of {block}; "
                f"{more}, or a shorter training.block"
            )


def _named_tokenizer(name: str) -> Tokenizer | None:
    """None for `bpe`, which is trained on the training split."""
    if name == "bpe":
        return None
    if name == "bytes":
        return bytes_tokenizer()
    return gpt2_tokenizer() if name == "gpt2" else load_tokenizer(name)


def _open(folder: Path, tokenizer: Tokenizer | None) -> Corpus:
    facts = read_json(folder / "corpus.json")
    if tokenizer is None:
        tokenizer = load_tokenizer(str(folder / "tokenizer"))
        tokenizer.name = facts["tokenizer"]["name"]

    def tokens(name: str) -> Tokens:
        return Tokens(
            mapped(folder / f"{name}.ids.bin", facts["dtype"]),
            mapped(folder / f"{name}.starts.bin", np.int64),
            mapped(folder / f"{name}.bytes.bin", np.uint32),
        )

    return Corpus(
        folder=folder,
        digest=digest([facts["text_digest"], facts["tokenizer"]["digest"]]),
        train_digest=digest([facts["text_digest"]["train"], facts["tokenizer"]["digest"]]),
        tokenizer=tokenizer,
        train=tokens("train"),
        valid=tokens("valid"),
        test=tokens("test"),
        train_counts=np.fromfile(folder / "train.counts.bin", np.int64),
        facts=facts,
    )
