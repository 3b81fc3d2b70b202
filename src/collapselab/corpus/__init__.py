"""Real text: documents in, memory-mapped tokens out.

`prepare` finds the source, divides its documents into train, valid and test, tokenises them once into a cache that is
keyed by digests, and returns a `Corpus` of memory maps: a corpus larger than memory works.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import CorpusConfig, UserError, digest
from collapselab.corpus.sources import SPLITS, Source, Split, document_key, open_source, split_of
from collapselab.corpus.tokenizers import (
    Tokenizer,
    bytes_tokenizer,
    gpt2_tokenizer,
    load_tokenizer,
    train_bpe,
)
from collapselab.rundir import manifest_of, publishing, read_json, write_json

FORMAT = 2  # of the cached shards; raise it when their meaning changes
PIECE = 1 << 20  # characters: longer documents are tokenised in pieces that end at a line's end
CUT = re.compile(r"(?:\n|(?<=\n) )(?=\S)")
OVERLAP_LEAST = 64  # characters: shorter documents (headings, rules) may stand in two splits


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
    config: CorpusConfig, *, data_dir: str | None = None, model_tokenizer: Tokenizer | None = None, block: int = 2
) -> Corpus:
    """Opens the corpus, tokenising it first where the cache does not hold it.

    Args:
        model_tokenizer: the pretrained model's own, used where `corpus.tokenizer` is null.
        block: every split must hold more tokens than this.

    Raises:
        UserError: missing, empty or unreadable text, no text left for a split, overlapping splits.
    """
    source = open_source(config, data_dir)
    chosen = config.tokenizer or ("model" if model_tokenizer else "bpe")
    if chosen == "model" and model_tokenizer is None:
        raise UserError("corpus.tokenizer='model': there is no model.pretrained to take it from")
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
    if manifest_of(folder, check="sizes") is None:  # digests of a large corpus would take minutes at every start
        try:
            with publishing(folder, inputs={}, shared=True) as out:
                _tokenise(source, config, tokenizer, out)
        except OSError as error:
            where = cache_root()
            raise UserError(
                f"COLLAPSELAB_CACHE={where}: cannot be written ({error.strerror}); name another folder"
            ) from None
    corpus = _open(folder, tokenizer)
    for name in SPLITS:
        have = len(corpus.split(name).ids)
        if have <= block:  # one token more, for the separator that a split begins with
            raise UserError(
                f"corpus.source={config.source!r}: the {name} split has {have} tokens, too few for one block of {block}; "
                "use more text, or corpus.document=paragraph or line for more documents, or a shorter training.block"
            )
    return corpus


def _named_tokenizer(name: str) -> Tokenizer | None:
    """None for `bpe`, which is trained on the training split."""
    if name == "bpe":
        return None
    if name == "bytes":
        return bytes_tokenizer()
    return gpt2_tokenizer() if name == "gpt2" else load_tokenizer(name)


def _tokenise(source: Source, config: CorpusConfig, tokenizer: Tokenizer | None, out: Path) -> None:
    if tokenizer is None:
        tokenizer = train_bpe(_training_texts(source, config), config.vocab_size)
        tokenizer.save(out / "tokenizer")
    dtype = np.uint16 if tokenizer.size <= 1 << 16 else np.uint32
    counts = np.zeros(tokenizer.size, np.int64)
    writers = {name: _Writer(out, name, dtype, tokenizer.separator) for name in SPLITS}
    brings_splits = source.splits != (None,)  # otherwise equal documents fall to the same split
    held_out: dict[bytes, Split] = {}
    text_digest: dict[str, int] = dict.fromkeys(SPLITS, 0)
    try:
        # Held-out splits first: their documents are remembered, and training text is compared with them.
        for name, texts in _batches(_divided(source, config)):
            for text, (ids, sizes) in zip(texts, _encode(tokenizer, texts), strict=True):
                key = document_key(text)
                text_digest[name] = (text_digest[name] * 31 + int.from_bytes(key, "big")) % (1 << 128)
                if brings_splits and len(text) >= OVERLAP_LEAST and held_out.get(key, name) != name:
                    raise UserError(
                        f"corpus.source={config.source!r}: a document stands in both {held_out[key]} and {name} "
                        f"({text[:40]!r}...); remove it from one of them"
                    )
                if brings_splits and name != "train":
                    held_out[key] = name
                writers[name].add(ids, sizes)
                if name == "train":
                    counts += np.bincount(np.asarray([*ids, tokenizer.separator]), minlength=tokenizer.size)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers["train"].documents:
        raise UserError(
            f"corpus.source={config.source!r}: all of its documents fell to the held-out splits or are empty; "
            "use more text, or corpus.document=paragraph or line"
        )
    counts.tofile(out / "train.counts.bin")
    write_json(
        out / "corpus.json",
        {
            "source": config.source,
            "text_digest": {name: f"{value:032x}" for name, value in text_digest.items()},
            "tokenizer": {"name": tokenizer.name, "digest": tokenizer.digest, "separator": tokenizer.separator},
            "dtype": np.dtype(dtype).name,
            "splits": {
                name: {"documents": w.documents, "tokens": w.tokens, "bytes": w.bytes} for name, w in writers.items()
            },
            "split": "by the source" if source.splits != (None,) else "by a digest of each document",
        },
    )


def _divided(source: Source, config: CorpusConfig) -> Iterator[tuple[Split, str]]:
    """Every document with its split. Empty documents are left out. What a source does not bring is cut from train."""
    brought = set(source.splits)
    held_out_first: tuple[Split | None, ...] = ("test", "valid", "train", None)
    for split in [s for s in held_out_first if s in brought]:
        for text in source.read(split):
            if not text.strip():
                continue
            if split in ("test", "valid"):
                yield split, text
                continue
            valid = 0.0 if "valid" in brought else config.valid_share
            test = 0.0 if "test" in brought else config.test_share
            yield split_of(document_key(text), valid, test), text


def _training_texts(source: Source, config: CorpusConfig) -> Iterator[str]:
    return (text for split, text in _divided(source, config) if split == "train")


def _batches(documents: Iterator[tuple[Split, str]]) -> Iterator[tuple[Split, list[str]]]:
    """Consecutive documents of one split, about PIECE characters at a time."""
    held: list[str] = []
    current: Split = "test"
    for split, text in documents:
        if held and (split != current or sum(map(len, held)) + len(text) > PIECE or len(held) >= 1024):
            yield current, held
            held = []
        current = split
        held.append(text)
    if held:
        yield current, held


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    if len(texts) > 1 or len(texts[0]) <= PIECE:
        return tokenizer.encode(texts)
    ids: list[int] = []
    sizes: list[int] = []
    for piece in _pieces(texts[0]):
        for more_ids, more_sizes in tokenizer.encode([piece]):
            ids += more_ids
            sizes += more_sizes
    return [(ids, sizes)]


def _pieces(text: str) -> Iterator[str]:
    """Cuts a long text before the last white space of a line's end, where byte-level pre-tokenisers cut anyway: the
    tokens are those of the whole. (A tokenizer that puts a space before each text adds it at each cut.)"""
    start = 0
    while start < len(text):
        cut = CUT.search(text, start + PIECE)
        stop = cut.start() if cut else len(text)
        yield text[start:stop]
        start = stop


class _Writer:
    """Appends documents to one split's shard files."""

    def __init__(self, out: Path, name: Split, dtype: Any, separator: int):
        self.ids = (out / f"{name}.ids.bin").open("wb")
        self.sizes = (out / f"{name}.bytes.bin").open("wb")
        self.starts_path = out / f"{name}.starts.bin"
        self.dtype, self.separator = dtype, separator
        self.starts = array("q", [0])
        self.bytes = 0

    @property
    def documents(self) -> int:
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        return self.starts[-1]

    def add(self, ids: list[int], sizes: list[int]) -> None:
        self.ids.write(np.asarray([self.separator, *ids], self.dtype).tobytes())
        self.sizes.write(np.asarray([0, *sizes], np.uint32).tobytes())
        self.starts.append(self.starts[-1] + len(ids) + 1)
        self.bytes += sum(sizes)

    def close(self) -> None:
        self.ids.close()
        self.sizes.close()
        np.asarray(self.starts, np.int64).tofile(self.starts_path)


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
    for folder in sorted(cache_root().glob("*")):
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
