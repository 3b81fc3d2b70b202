"""Shards of a corpus: documents are split, tokenised, counted, compared between splits, and streamed to raw arrays."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import CorpusConfig, UserError
from collapselab.corpus.passages import Passages, share_left
from collapselab.corpus.pieces import PIECE, RUN, pieces
from collapselab.corpus.sources import SPLITS, Source, Split, document_key, split_of
from collapselab.corpus.tokenizers import Tokenizer, train_bpe
from collapselab.store.folders import write_json

OVERLAP_LEAST = 64  # characters: shorter documents (headings, rules) may occur in two splits
OVERLAP_SHARE = 0.01  # share of the held-out lines that may occur in the training text (boilerplate)


def tokenise(source: Source, config: CorpusConfig, tokenizer: Tokenizer | None, out: Path) -> None:
    """Write one tokenised corpus into `out`: for each split `.ids.bin`, `.bytes.bin` and `.starts.bin` (see `Tokens`),
    the training split's token counts, corpus.json, and the tokenizer if it is trained here (`tokenizer` None).
    Raises UserError if there is no training text, or if held-out text occurs in it."""
    if tokenizer is None:
        training = (piece for split, text in _divided(source, config) if split == "train" for piece in pieces(text))
        tokenizer = train_bpe(training, config.vocab_size)
        tokenizer.save(out / "tokenizer")
    dtype = np.uint16 if tokenizer.size <= 1 << 16 else np.uint32
    writers = {name: _Writer(out, name, dtype, tokenizer) for name in SPLITS}
    # In undivided sources equal documents fall into one split; in drawn ones they may occur in several.
    copies = _Copies(config.source) if source.splits != (None,) and not source.drawn else None
    passages = _shared(source, config) if config.shared_passages == "remove" and not source.drawn else None
    text_digest: dict[str, int] = dict.fromkeys(SPLITS, 0)
    read: Counter[str] = Counter(documents=0, blank=0)
    try:
        # The source's own held-out splits come first, so that training text can be compared with them.
        for name, texts in _batches(_divided(source, config, read)):
            if copies is not None:
                copies.add(name, texts)
            if passages is not None and name != "train":
                texts = passages.cut(name, texts)
            for text, document in zip(texts, encode(tokenizer, texts), strict=True):
                key = int.from_bytes(document_key(text), "big")
                text_digest[name] = (text_digest[name] * 31 + key) % (1 << 128)
                writers[name].add(document)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers["train"].documents:
        raise UserError(
            f"corpus.source={config.source!r}: all of its documents fell to the held-out splits or are empty; "
            f"use more text{smaller_documents(source, config)}"
        )
    if copies is not None:
        copies.check()
    writers["train"].counts.tofile(out / "train.counts.bin")
    write_json(
        out / "corpus.json",
        {
            "source": config.source,
            "read": source.listing | dict(read),
            "text_digest": {name: f"{value:032x}" for name, value in text_digest.items()},
            "tokenizer": {"name": tokenizer.name, "digest": tokenizer.digest, "separator": tokenizer.separator},
            "dtype": np.dtype(dtype).name,
            "splits": {
                name: {"documents": w.documents, "tokens": w.tokens, "bytes": w.bytes} for name, w in writers.items()
            },
            "split": "by the source" if source.splits != (None,) else "by a digest of each document",
            "shared_passages": None if source.drawn else _shared_facts(out, dtype, tokenizer, passages),
        },
    )


def _shared_facts(out: Path, dtype: Any, tokenizer: Tokenizer, passages: Passages | None) -> dict[str, Any]:
    """Passages removed from each held-out split, and the share of shared 50-token windows that is left."""
    training = memory_map(out / "train.ids.bin", dtype)
    facts = {}
    for name in ("valid", "test"):
        ids, starts = memory_map(out / f"{name}.ids.bin", dtype), memory_map(out / f"{name}.starts.bin", np.int64)
        left = share_left(ids, starts, training, tokenizer.size)
        facts[name] = (passages.removed[name] if passages else {}) | {"left": left}
    return facts


def memory_map(path: Path, dtype: Any) -> np.ndarray:
    """Memory map of a file's numbers; an empty array for an empty file, which cannot be mapped."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _divided(source: Source, config: CorpusConfig, read: Counter[str] | None = None) -> Iterator[tuple[Split, str]]:
    """Every document with its split, without blank ones; splits that the source lacks are cut from train.

    Args:
        read: counter of documents, and of blank ones.
    """
    read = Counter() if read is None else read
    held_out_first: tuple[Split | None, ...] = ("test", "valid", "train", None)
    for split in [s for s in held_out_first if s in source.splits]:
        for text in source.read(split):
            if not text.strip():
                read["blank"] += 1
                continue
            read["documents"] += 1
            if split in ("test", "valid"):
                yield split, text
                continue
            valid = 0.0 if "valid" in source.splits else config.valid_share
            test = 0.0 if "test" in source.splits else config.test_share
            yield split_of(document_key(text), valid, test), text


def _shared(source: Source, config: CorpusConfig) -> Passages:
    """Find the passages of held-out text that occur in the training text, and those of valid that occur in test."""
    passages = Passages()
    for name, texts in _batches(item for item in _divided(source, config) if item[0] != "train"):
        passages.remember(name, texts)
    for name, texts in _batches(item for item in _divided(source, config) if item[0] != "valid"):
        passages.look(texts, ("valid", "test") if name == "train" else ("valid",))
    return passages


def _batches(documents: Iterator[tuple[Split, str]]) -> Iterator[tuple[Split, list[str]]]:
    """Consecutive documents of one split, about PIECE characters at a time."""
    batch: list[str] = []
    size = 0
    current: Split = "test"
    for split, text in documents:
        if batch and (split != current or size + len(text) > PIECE or len(batch) >= 1024):
            yield current, batch
            batch, size = [], 0
        current = split
        batch.append(text)
        size += len(text)
    if batch:
        yield current, batch


Encoded = tuple[list[int], list[int]]  # ids, and the bytes that each accounts for


def encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[Iterable[Encoded]]:
    """Tokens of each document, in several parts if it is long."""
    if all(len(text) <= RUN for text in texts):
        yield from ([encoded] for encoded in tokenizer.encode(texts))
        return
    parts = [list(pieces(text)) if len(text) <= PIECE else None for text in texts]
    short = iter(tokenizer.encode([piece for cut in parts if cut is not None for piece in cut]))
    for text, cut in zip(texts, parts, strict=True):
        if cut is not None:
            yield [next(short) for _ in cut]
        else:
            yield (encoded for piece in pieces(text) for encoded in tokenizer.encode([piece]))


def smaller_documents(source: Source, config: CorpusConfig) -> str:
    """Advice on dividing the same text into more documents; empty if it cannot be."""
    finer = {"file": "paragraph or line", "paragraph": "line"}.get(config.document) if source.is_plain_text else None
    return f", or corpus.document={finer} for more documents" if finer else ""


class _Copies:
    """Documents and lines of held-out text that also occur in another split; held-out splits are added first."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.documents: dict[bytes, Split] = {}
        self.lines: dict[bytes, int] = {}
        self.total = self.shared = 0
        self.example = ""

    def add(self, split: Split, texts: list[str]) -> None:
        """Compare documents with those added before. Raises UserError for one that occurs in another split."""
        for text in texts:
            key = document_key(text)
            if len(text) >= OVERLAP_LEAST and self.documents.get(key, split) != split:
                raise UserError(
                    f"corpus.source={self.source!r}: a document occurs in both {self.documents[key]} and {split} "
                    f"({text[:40]!r}...); remove it from one of them"
                )
            if split != "train":
                self.documents[key] = split
            for line in text.splitlines():
                if len(line) >= OVERLAP_LEAST:
                    self._add_line(split, line)

    def _add_line(self, split: Split, line: str) -> None:
        key = document_key(line.strip())
        if split != "train":
            self.total += len(line)
            self.lines[key] = self.lines.get(key, 0) + len(line)
        elif key in self.lines:
            self.shared += self.lines.pop(key)
            self.example = self.example or line.strip()[:40]

    def check(self) -> None:
        """Raise UserError if more of the held-out text than boilerplate occurs in the training text."""
        share = self.shared / max(1, self.total)
        if share > OVERLAP_SHARE:
            raise UserError(
                f"corpus.source={self.source!r}: {share:.0%} of the held-out text, compared line by line, is in the "
                f"training text ({self.example!r}...); remove it from one of them"
            )


class _Writer:
    """Appends documents to one split's shard files and counts their tokens."""

    def __init__(self, out: Path, name: Split, dtype: Any, tokenizer: Tokenizer):
        self.ids = (out / f"{name}.ids.bin").open("wb")
        self.sizes = (out / f"{name}.bytes.bin").open("wb")
        self.starts_path = out / f"{name}.starts.bin"
        self.dtype, self.separator = dtype, tokenizer.separator
        self.counts = np.zeros(tokenizer.size, np.int64)
        self.starts = array("q", [0])
        self.bytes = 0
        self.buffer: list[list[int]] = []
        self.buffered = 0  # tokens

    @property
    def documents(self) -> int:
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        return self.starts[-1]

    def add(self, document: Iterable[Encoded]) -> None:
        length = 0
        for ids, sizes in chain([([self.separator], [0])], document):
            self.sizes.write(np.asarray(sizes, np.uint32).tobytes())
            self.bytes += sum(sizes)
            self.buffer.append(ids)
            self.buffered += len(ids)
            length += len(ids)
            if self.buffered >= PIECE:
                self._flush()
        self.starts.append(self.starts[-1] + length)

    def _flush(self) -> None:
        tokens = np.fromiter(chain.from_iterable(self.buffer), np.int64, self.buffered)
        self.ids.write(tokens.astype(self.dtype).tobytes())
        self.counts += np.bincount(tokens, minlength=len(self.counts))
        self.buffer, self.buffered = [], 0

    def close(self) -> None:
        self._flush()
        self.ids.close()
        self.sizes.close()
        np.asarray(self.starts, np.int64).tofile(self.starts_path)
