"""Real text: documents in, memory-mapped tokens out.

`prepare` finds the source, divides its documents into train, valid and test, tokenises them once into a cache that is
keyed by digests, and returns a `Corpus` of memory maps: a corpus larger than memory works.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import CorpusConfig, UserError, digest
from collapselab.console import Console
from collapselab.corpus.shards import tokenise
from collapselab.corpus.sources import SPLITS, open_source
from collapselab.corpus.tokenizers import (
    Tokenizer,
    bytes_tokenizer,
    gpt2_tokenizer,
    load_tokenizer,
    words_tokenizer,
)
from collapselab.folders import examine, publishing, read_json
from collapselab.languages import language_of

FORMAT = 2  # of the cached shards; raise it when their meaning changes
VERIFY_LIMIT = 2 << 30  # bytes of a cached corpus whose digests are checked at each start (about a second per GB)


def cache_root() -> Path:
    """COLLAPSELAB_CACHE, or collapselab in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("COLLAPSELAB_CACHE") or Path(base) / "collapselab")


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
    """A tokenised corpus. `digest` covers text, split and tokenizer."""

    folder: Path
    digest: str
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
    config: CorpusConfig,
    *,
    data_dir: str | None = None,
    model_tokenizer: Tokenizer | None = None,
    block: int = 2,
    tries: int = 10,
) -> Corpus:
    """Opens the corpus, tokenising it first where the cache does not hold it.

    Args:
        model_tokenizer: the pretrained model's own, used where `corpus.tokenizer` is null.
        block: every split must hold more tokens than this.
        tries: looks at a cache that other processes are repairing.

    Raises:
        UserError: missing, empty or unreadable text, no text left for a split, overlapping splits.
    """
    source = open_source(config, data_dir)
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
            "tokenizer": tokenizer.digest if tokenizer else ["bpe", config.vocab_size],
        }
    )[:32]
    folder = cache_root() / key
    try:
        size = sum(path.stat().st_size for path in folder.glob("*.bin"))
        manifest, flaw = examine(folder, check="digests" if size < VERIFY_LIMIT else "sizes")
        if flaw:
            Console(speaks=int(os.environ.get("RANK", "0")) == 0).say(f"{folder}: {flaw}; tokenised again")
        if manifest is None:
            with publishing(folder, inputs={}, shared=True) as out:
                tokenise(source, config, tokenizer, out)
    except OSError as error:
        replaced = error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY) and cache_root().is_dir()
        if replaced and tries > 1:  # another process has just made a damaged one again
            time.sleep(0.05)
            return prepare(config, data_dir=data_dir, model_tokenizer=model_tokenizer, block=block, tries=tries - 1)
        raise UserError(
            f"COLLAPSELAB_CACHE={cache_root()}: cannot be written ({error.strerror}); name another folder"
        ) from None
    corpus = _open(folder, tokenizer)
    for name in SPLITS:
        have = len(corpus.split(name).ids)
        if have <= block:  # one token more, for the separator that a split begins with
            more = (
                "raise corpus.documents"
                if source.drawn
                else "use more text, or corpus.document=paragraph or line for more documents"
            )
            raise UserError(
                f"corpus.source={config.source!r}: the {name} split has {have} tokens, too few for one block of {block}; "
                f"{more}, or a shorter training.block"
            )
    return corpus


def _named_tokenizer(name: str) -> Tokenizer | None:
    """None for `bpe`, which is trained on the training split."""
    if name == "bpe":
        return None
    if name == "bytes":
        return bytes_tokenizer()
    return gpt2_tokenizer() if name == "gpt2" else load_tokenizer(name)


def _map(path: Path, dtype: Any) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _open(folder: Path, tokenizer: Tokenizer | None) -> Corpus:
    facts = read_json(folder / "corpus.json")
    if tokenizer is None:
        tokenizer = load_tokenizer(str(folder / "tokenizer"))
        tokenizer.name = facts["tokenizer"]["name"]

    def tokens(name: str) -> Tokens:
        return Tokens(
            _map(folder / f"{name}.ids.bin", facts["dtype"]),
            _map(folder / f"{name}.starts.bin", np.int64),
            _map(folder / f"{name}.bytes.bin", np.uint32),
        )

    return Corpus(
        folder=folder,
        digest=digest([facts["text_digest"], facts["tokenizer"]["digest"]]),
        tokenizer=tokenizer,
        train=tokens("train"),
        valid=tokens("valid"),
        test=tokens("test"),
        train_counts=np.fromfile(folder / "train.counts.bin", np.int64),
        facts=facts,
    )


def cached() -> list[dict[str, Any]]:
    """What lies in the cache: digest, source, tokenizer, tokens and bytes on disk, one dict per corpus."""
    rows = []
    try:
        folders = sorted(cache_root().glob("*"))
    except OSError as error:
        raise UserError(
            f"COLLAPSELAB_CACHE={cache_root()}: cannot be read ({error.strerror}); name another folder"
        ) from None
    for folder in folders:
        if not folder.name.startswith(".") and (folder / "corpus.json").is_file():
            try:
                facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
            except ValueError:
                facts = {"source": "(broken)", "tokenizer": {"name": "?"}, "splits": {}}
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            tokens = sum(split["tokens"] for split in facts["splits"].values())
            rows.append(
                {
                    "digest": folder.name,
                    "source": facts["source"],
                    "tokenizer": facts["tokenizer"]["name"],
                    "tokens": tokens,
                    "bytes": size,
                }
            )
    return rows


def clear(prefix: str) -> list[str]:
    """Removes cached corpora whose digest begins with `prefix` ("all" for every one); returns their digests."""
    if not prefix:
        raise UserError("clear='': give `all` or the beginning of a digest")
    doomed = [row["digest"] for row in cached() if prefix == "all" or row["digest"].startswith(prefix)]
    if not doomed and prefix != "all":
        raise UserError(f"clear={prefix!r}: no cached corpus begins so; `collapselab corpus` lists them")
    doomed += [path.name for path in cache_root().glob(".*.partial")] if prefix == "all" else []
    for name in doomed:
        shutil.rmtree(cache_root() / name)
    return doomed
