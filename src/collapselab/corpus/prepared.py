"""Real text: documents in, memory-mapped tokens out.

`prepare` opens the source, divides its documents into train, valid and test, tokenises them once into a cache keyed by
digests, and returns a `Corpus` of memory maps, which may be larger than memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import CorpusConfig, UserError, digest
from collapselab.corpus.cache import bytes_below, remove_leftovers
from collapselab.corpus.files import Digests, cache_root, describe_skipped
from collapselab.corpus.shards import memory_map, smaller_documents, tokenise
from collapselab.corpus.sources import SPLITS, Source, open_source
from collapselab.corpus.tokenizers import Tokenizer, bytes_tokenizer, gpt2_tokenizer, load_tokenizer, words_tokenizer
from collapselab.languages import language_of
from collapselab.runtime.console import Console
from collapselab.store.folders import examine, publishing, read_json

FORMAT = 4  # of the cached shards; raise it when their meaning changes
VERIFY_LIMIT = 2 << 30  # bytes of the largest cached corpus whose digests are checked at each start (a second per GB)


@dataclass(frozen=True)
class Tokens:
    """One split as memory maps."""

    ids: np.ndarray
    """(tokens,) uint16 or uint32: separator, document, separator, document, ..."""
    starts: np.ndarray
    """(documents + 1,) int64: place of each document's separator, and the end."""
    nbytes: np.ndarray
    """(tokens,) uint32: UTF-8 bytes of text that each token accounts for; 0 for separators."""


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus."""

    folder: Path
    digest: str
    """Digest of text, split and tokenizer."""
    train_digest: str
    """Digest of the training text and the tokenizer."""
    tokenizer: Tokenizer
    train: Tokens
    valid: Tokens
    test: Tokens
    train_counts: np.ndarray
    """(vocabulary,) int64: occurrences of each token in the training split."""
    facts: dict[str, Any]
    """Documents, tokens and bytes per split, and their origin (corpus.json)."""

    def split(self, name: str) -> Tokens:
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def prepare(
    config: CorpusConfig, *, data_dir: str | None = None, model_tokenizer: Tokenizer | None = None, block: int = 2
) -> Corpus:
    """Open the corpus, tokenising it first if the cache does not hold it. Raises UserError for missing, empty or unreadable
    text, a split without text, and overlapping splits.

    Args:
        model_tokenizer: the pretrained model's own, used if `corpus.tokenizer` is null.
        block: every split must hold more tokens than this.
    """
    digests = Digests()
    source = open_source(config, data_dir, digests)
    language = language_of(config)
    chosen = config.tokenizer or (
        "model" if model_tokenizer else "words" if language else "bytes" if config.drawn else "bpe"
    )
    if chosen == "model" and model_tokenizer is None:
        raise UserError("corpus.tokenizer='model': needs model.pretrained; set that, or name a tokenizer")
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
        remove_leftovers()
        size = bytes_below(folder, "*.bin")
        manifest, flaw = examine(folder, check="digests" if size < VERIFY_LIMIT else "sizes")
        console = Console(speaks=int(os.environ.get("RANK", "0")) == 0)
        if flaw:
            console.say(f"{folder}: {flaw}; tokenising the text again")
        if manifest is None:
            if source.listing.get("skipped"):
                console.say(f"corpus.source={config.source!r}: {describe_skipped(source.listing['skipped'])}")
            with publishing(folder, inputs={}, shared=True) as out:
                tokenise(source, config, tokenizer, out)
                if open_source(config, data_dir, digests).fingerprint != source.fingerprint:
                    raise UserError(f"corpus.source={config.source!r}: changed while it was read; start again")
        digests.save()
    except OSError as error:
        raise UserError(
            f"COLLAPSELAB_CACHE={cache_root()}: cannot be written ({error.strerror}); name another folder"
        ) from None
    corpus = _open(folder, tokenizer)
    corpus.facts["read"] |= source.listing  # the skipped files may differ from those at tokenisation
    _check_lengths(corpus, source, config, block)
    return corpus


def _check_lengths(corpus: Corpus, source: Source, config: CorpusConfig, block: int) -> None:
    for name in SPLITS:
        have = len(corpus.split(name).ids)
        if have <= block:  # one more token is needed: the separator at the start of a split
            more = "raise corpus.documents" if source.drawn else "use more text" + smaller_documents(source, config)
            removed = (corpus.facts["shared_passages"] or {}).get(name, {}).get("bytes", 0)
            if removed > corpus.facts["splits"][name]["bytes"]:
                more = f"{removed:,} bytes of it also occur in other splits and were cut out (corpus.shared_passages); {more}"
            raise UserError(
                f"corpus.source={config.source!r}: the {name} split has {have} tokens, too few for one block of {block}; "
                f"{more}, or a shorter training.block"
            )


def _named_tokenizer(name: str) -> Tokenizer | None:
    if name == "bpe":
        return None  # trained on the training split
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
            memory_map(folder / f"{name}.ids.bin", facts["dtype"]),
            memory_map(folder / f"{name}.starts.bin", np.int64),
            memory_map(folder / f"{name}.bytes.bin", np.uint32),
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
