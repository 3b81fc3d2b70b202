"""Real text: every byte is accounted for, splits are frozen, and what cannot be read is said in one line."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Lab

from collapselab.config import CorpusConfig, UserError
from collapselab.config.corpus import HubConfig
from collapselab.corpus import pieces as cutting
from collapselab.corpus import shards
from collapselab.corpus.prepared import Corpus, Tokens, prepare
from collapselab.corpus.sources import document_key, package_folder, split_of
from collapselab.corpus.tokenizers import Tokenizer, bytes_tokenizer, gpt2_tokenizer, load_tokenizer, train_bpe

DOCUMENTS = [f"Document {i} says:\n{'word ' * (i % 7)}é🙂 {i * i}." for i in range(120)]
LINES = [f"line number {i} of a text" for i in range(150)]
NASTY = [
    "Hello world",
    "  two  spaces \n\n\n and\tlines\r\nthere ",
    "é🙂汉字\u0301 \u2028\x85\ufeff",
    "<|endoftext|> a<|endoftext|>b <s> </s> <unk> [PAD]",
    "a\x00b\x7f",
    "don't 's   's",
]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty token cache of this test alone."""
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def jsonl(texts: list[Any], column: str = "text") -> str:
    return "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts))


def opened(source: Path | str, **settings: Any) -> Corpus:
    """A corpus of files in tokens of one byte."""
    name = source if isinstance(source, str) else f"path:{source}"
    return prepare(CorpusConfig(**{"source": name, "tokenizer": "bytes", **settings}))


def texts(corpus: Corpus, split: str) -> list[str]:
    """The documents of a split, from its tokens."""
    tokens = corpus.split(split)
    rows = [tokens.ids[a + 1 : b].tolist() for a, b in zip(tokens.starts[:-1], tokens.starts[1:], strict=True)]
    return corpus.tokenizer.decode(rows) if rows else []


def every(corpus: Corpus) -> list[str]:
    return sorted(text for split in ("train", "valid", "test") for text in texts(corpus, split))


def check(corpus: Corpus) -> None:
    """What holds for the arrays of any corpus."""
    for name in ("train", "valid", "test"):
        tokens: Tokens = corpus.split(name)
        facts = corpus.facts["splits"][name]
        assert isinstance(tokens.ids, np.memmap) and not tokens.ids.flags.writeable
        assert isinstance(tokens.starts, np.memmap) and isinstance(tokens.nbytes, np.memmap)
        assert len(tokens.ids) == len(tokens.nbytes) == tokens.starts[-1] == facts["tokens"]
        assert len(tokens.starts) == facts["documents"] + 1
        assert tokens.nbytes.sum(dtype=np.int64) == facts["bytes"]
        assert np.all(tokens.ids[tokens.starts[:-1]] == corpus.tokenizer.separator)
        assert np.all(tokens.nbytes[tokens.starts[:-1]] == 0)
        assert np.sum(tokens.ids == corpus.tokenizer.separator) == facts["documents"]  # and nowhere else
        assert tokens.ids.max() < corpus.tokenizer.size
    assert np.array_equal(corpus.train_counts, np.bincount(corpus.train.ids, minlength=corpus.tokenizer.size))


# --- the default -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sotu() -> Corpus:
    """The default corpus, whole, from the cache that all tests share."""
    return prepare(CorpusConfig(shared_passages="keep"))


@cache
def speeches() -> list[str]:
    folder = package_folder("sotu")
    assert folder is not None
    paths = sorted((folder / "data" / "speeches").glob("*.txt"))
    return [path.read_bytes().decode("utf-8").replace("\r\n", "\n").removeprefix("\ufeff") for path in paths]


def test_every_byte_of_the_default_corpus_is_in_one_split(sotu: Corpus) -> None:
    check(sotu)
    size = {"train": 0, "valid": 0, "test": 0}
    number = dict(size)
    for text in speeches():
        split = split_of(document_key(text), 0.05, 0.10)
        size[split] += len(text.encode())
        number[split] += 1
    facts = sotu.facts["splits"]
    assert {name: facts[name]["bytes"] for name in facts} == size
    assert {name: facts[name]["documents"] for name in facts} == number
    assert sum(number.values()) == len(speeches()) > 200
    assert sotu.tokenizer.size == 2048
    assert sotu.train.ids.dtype == np.uint16


def test_the_default_corpus_comes_back_from_its_tokens(sotu: Corpus) -> None:
    held_out = [text for text in speeches() if split_of(document_key(text), 0.05, 0.10) == "test"]
    assert texts(sotu, "test") == held_out


# --- tokenizers --------------------------------------------------------------------------------------------------------

TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": cache(bytes_tokenizer),
    "bpe": cache(lambda: train_bpe(iter(DOCUMENTS + NASTY), 400)),
    "gpt2": cache(gpt2_tokenizer),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_comes_back_and_bytes_add_up(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    for text in [*NASTY, *DOCUMENTS[:10], speeches()[0][:5000]]:
        ((ids, sizes),) = tokenizer.encode([text])
        assert tokenizer.raw.decode(ids, skip_special_tokens=False) == text
        assert sum(sizes) == len(text.encode("utf-8")) and len(ids) == len(sizes)
        assert tokenizer.separator not in ids  # "<|endoftext|>" in a text is text
        assert max(ids) < tokenizer.size


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_saved_tokenizer_is_the_same_one(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]()
    tokenizer.save(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.digest == tokenizer.digest
    assert again.encode(NASTY) == tokenizer.encode(NASTY)
    assert (again.separator, again.size) == (tokenizer.separator, tokenizer.size)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bytes_are_counted_as_character_by_character(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    for text in [*NASTY, *DOCUMENTS[:10], ""]:
        ((ids, sizes),) = tokenizer.encode([text])
        encoding = tokenizer.raw.encode(text, add_special_tokens=False)
        wanted, before = [], 0
        for _, end in encoding.offsets:
            wanted.append(len(text[before : max(before, end)].encode()))
            before = max(before, end)
        assert (ids, sizes[:-1]) == (encoding.ids, wanted[:-1]) and sum(sizes) == len(text.encode())


def test_bytes_are_their_own_ids() -> None:
    tokenizer = bytes_tokenizer()
    text = "aé\n<|endoftext|>\x00"
    ((ids, sizes),) = tokenizer.encode([text])
    assert ids == list(text.encode("utf-8"))
    assert sizes[:3] == [1, 2, 0]  # a divided character counts with its first token
    assert (tokenizer.separator, tokenizer.size) == (256, 257)


def test_gpt2_is_gpt2() -> None:
    tokenizer = gpt2_tokenizer()
    assert tokenizer.encode(["Hello world"]) == [([15496, 995], [5, 6])]
    assert (tokenizer.size, tokenizer.separator) == (50257, 50256)


def test_bpe_has_the_size_asked_for_and_depends_on_training_text_alone(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a" / "train.jsonl", jsonl(DOCUMENTS))
    write(tmp_path / "a" / "valid.jsonl", jsonl(["zebra"]))
    write(tmp_path / "a" / "test.jsonl", jsonl(["quagga " * 30]))
    first = opened(tmp_path / "a" / "*", tokenizer="bpe", vocab_size=300)
    check(first)
    assert first.tokenizer.size == 300 == len(first.train_counts)
    write(tmp_path / "a" / "test.jsonl", jsonl(["okapi " * 60]))
    second = opened(tmp_path / "a" / "*", tokenizer="bpe", vocab_size=300)
    assert second.tokenizer.digest == first.tokenizer.digest
    assert second.digest != first.digest


def test_a_tokenizer_from_a_folder(own_cache: Path, tmp_path: Path, shared: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    corpus = opened(tmp_path / "a.jsonl", tokenizer=str(shared / "models" / "stories260K"))
    check(corpus)
    assert (corpus.tokenizer.size, corpus.tokenizer.separator) == (512, 1)
    assert sum(part["bytes"] for part in corpus.facts["splits"].values()) == sum(len(t.encode()) for t in DOCUMENTS)


def test_a_large_vocabulary_takes_four_bytes_and_a_small_one_two(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    assert opened(tmp_path / "a.jsonl", tokenizer="gpt2").train.ids.dtype == np.uint16
    tokenizer = bytes_tokenizer()
    tokenizer.raw.add_tokens([f"<{i}>" for i in range(1 << 16)])
    tokenizer.size = len(tokenizer.hf)
    wide = prepare(CorpusConfig(source=f"path:{tmp_path / 'a.jsonl'}"), model_tokenizer=tokenizer)
    assert wide.train.ids.dtype == np.uint32
    check(wide)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_long_document_in_pieces_has_the_tokens_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS[name]()
    chance = random.Random(0)
    atoms = [
        "word",
        " ",
        "\n",
        "\n\n",
        "\n ",
        "\n  ",
        " \n",
        "\t",
        "'s",
        "é",
        "🙂",
        "12",
        "...",
        "\r",
        "\u00a0",
        "\u2028",
    ]
    mixed = "".join(chance.choice(atoms) for _ in range(4000))
    for text in (mixed, speeches()[3][:20000], "no line end " * 50, "\n" * 300 + "end", "a\n\nb\n\n c\n" * 40):
        ((ids, sizes),) = tokenizer.encode([text])
        monkeypatch.setattr(cutting, "PIECE", 16)
        assert "".join(shards.pieces(text)) == text
        (parts,) = shards.encode(tokenizer, [text])
        cut = list(parts)
        assert ([i for part, _ in cut for i in part], [b for _, part in cut for b in part]) == (ids, sizes)
        monkeypatch.undo()
    monkeypatch.setattr(cutting, "PIECE", 16)
    assert len(list(shards.pieces(speeches()[3][:20000]))) > 20  # it was cut


# --- files -------------------------------------------------------------------------------------------------------------


def _parquet(texts: list[Any]) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), out, row_group_size=50)
    return out.getvalue().to_pybytes()


FORMS = {"txt": ("\n".join(LINES) + "\n").encode(), "jsonl": jsonl(LINES).encode(), "parquet": _parquet(LINES)}
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("form", FORMS)
def test_txt_jsonl_and_parquet_packed_or_not_give_the_same(
    own_cache: Path, tmp_path: Path, form: str, packed: str
) -> None:
    write(tmp_path / f"a.{form}{packed}", PACKED[packed](FORMS[form]))
    corpus = opened(tmp_path / "a.*", document="line")
    check(corpus)
    assert every(corpus) == sorted(LINES)
    reference = [line for line in LINES if split_of(document_key(line), 0.05, 0.10) == "train"]
    assert texts(corpus, "train") == reference  # in the order of the file


@pytest.mark.parametrize(
    ("unit", "documents"),
    [
        ("file", ["one\ntwo\n\nthree\n\n\n  \nfour ", "five"]),
        ("paragraph", ["one\ntwo", "three", "four ", "five"]),
        ("line", ["one", "two", "three", "four ", "five"]),
    ],
)
def test_what_a_document_is(own_cache: Path, tmp_path: Path, unit: str, documents: list[str]) -> None:
    filler = [f"{split} text" for split in ("valid", "test")]
    for name, data in {"train-1": "one\ntwo\n\nthree\n\n\n  \nfour ", "train-2": "five"}.items():
        write(tmp_path / f"{name}.txt", data)
    for text in filler:
        write(tmp_path / f"{text.split()[0]}.txt", text)
    corpus = opened(tmp_path / "*.txt", document=unit)
    assert texts(corpus, "train") == documents
    assert every(corpus) == sorted([*documents, *filler])


@pytest.mark.parametrize("form", ["txt", "jsonl"])
@pytest.mark.parametrize("unit", ["file", "paragraph", "line"])
def test_byte_order_marks_and_windows_line_ends_are_no_text(
    own_cache: Path, tmp_path: Path, unit: str, form: str
) -> None:
    for split in ("train", "valid", "test"):
        text = f"{split} one\ntwo" if unit != "line" else f"{split} one"
        data = f"\ufeff{text}" if form == "txt" else "\ufeff" + jsonl([text])
        write(tmp_path / f"{split}.{form}", data.replace("\n", "\r\n"))
    corpus = opened(tmp_path / "*", document=unit)
    assert [texts(corpus, s)[0] for s in ("train", "valid", "test")] == [
        f"{s} one" + ("\ntwo" if unit != "line" else "") for s in ("train", "valid", "test")
    ]


@pytest.mark.parametrize("valid", ["valid.txt", "validation.txt", "val.txt", "dev.txt.gz", "Valid-00000-of-1.txt"])
def test_files_named_after_splits_are_the_splits(own_cache: Path, tmp_path: Path, valid: str) -> None:
    write(tmp_path / "train.txt", "a\nb\nc\n")
    write(tmp_path / valid, gzip.compress(b"ddd\n") if valid.endswith(".gz") else "ddd\n")
    write(tmp_path / "test.txt", "e\nf\n")
    corpus = opened(tmp_path / "*", document="line")
    assert [texts(corpus, s) for s in ("train", "valid", "test")] == [["a", "b", "c"], ["ddd"], ["e", "f"]]
    assert corpus.facts["split"] == "by the source"


def test_a_split_that_the_files_do_not_bring_is_cut_from_training_text(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "\n".join(LINES))
    write(tmp_path / "test.txt", "held out\n")
    corpus = opened(tmp_path / "*", document="line")
    assert texts(corpus, "test") == ["held out"]
    assert texts(corpus, "valid") == [line for line in LINES if split_of(document_key(line), 0.05, 0) == "valid"]
    assert every(corpus) == sorted([*LINES, "held out"])


@pytest.mark.parametrize("names", [("test.txt", "valid.txt"), ("corpus.txt", "test.txt"), ("corpus.txt", "valid.txt")])
def test_a_file_named_as_held_out_is_never_trained_on(own_cache: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write(tmp_path / name, "".join(f"{name} {line}\n" for line in LINES))
    try:
        corpus = opened(tmp_path / "*", document="line")
    except UserError:
        return
    assert not [text for text in texts(corpus, "train") if text.startswith(("test", "valid"))]


def test_other_files_beside_splits_are_refused(own_cache: Path, tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        write(tmp_path / f"{name}.txt", f"{name} text")
    with pytest.raises(UserError, match=r"extra\.txt"):
        opened(tmp_path / "*")


@pytest.mark.parametrize("pair", [("train", "test"), ("train", "valid"), ("valid", "test")])
def test_splits_that_overlap_are_refused(own_cache: Path, tmp_path: Path, pair: tuple[str, str]) -> None:
    twice = "this sentence stands in two of the three splits, which must not be so at all"
    for split in ("train", "valid", "test"):
        write(tmp_path / f"{split}.txt", f"{split} only\n" + f"{twice}\n" * (split in pair))
    with pytest.raises(UserError, match=f"in both {pair[1]} and {pair[0]}") as caught:
        opened(tmp_path / "*", document="line")
    assert twice[:40] in str(caught.value)
    write(tmp_path / f"{pair[0]}.txt", "only\nshort heading\n")
    write(tmp_path / f"{pair[1]}.txt", "other\nshort heading\n")
    check(opened(tmp_path / "*", document="line"))  # headings may


def test_splits_are_frozen(own_cache: Path, tmp_path: Path) -> None:
    """More documents, another order and other files move no document to another split."""
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    first = opened(tmp_path / "*.jsonl")
    home = {text: split for split in ("train", "valid", "test") for text in texts(first, split)}
    assert set(home) == set(DOCUMENTS) and set(home.values()) == {"train", "valid", "test"}

    shuffled = random.Random(1).sample(DOCUMENTS, len(DOCUMENTS))
    write(tmp_path / "a.jsonl", jsonl(shuffled[:50]))
    write(tmp_path / "0.jsonl.xz", lzma.compress(jsonl([*LINES, *shuffled[50:]]).encode()))
    second = opened(tmp_path / "*.jsonl*")
    for split in ("train", "valid", "test"):
        assert {text for text in texts(second, split) if text in home} == {t for t, s in home.items() if s == split}
    assert len(every(second)) == len(DOCUMENTS) + len(LINES)


def test_the_shares_are_about_what_is_asked_for() -> None:
    splits = [split_of(document_key(str(i)), 0.05, 0.10) for i in range(20000)]
    assert splits.count("test") / 20000 == pytest.approx(0.10, abs=0.01)
    assert splits.count("valid") / 20000 == pytest.approx(0.05, abs=0.01)


def test_patterns_find_files_in_folders_and_in_a_fixed_order(own_cache: Path, tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/1.txt", "a/x [1].txt", "a/skip.md"):
        write(tmp_path / name, f"{name} " * 9)
    with pytest.raises(UserError, match=r"skip\.md"):
        opened(tmp_path / "**" / "*.*")
    corpus = opened(tmp_path / "**" / "*.txt", valid_share=0.3, test_share=0.3, document="line")
    assert [text.split(".txt")[0] for text in every(corpus)] == ["a/1", "a/x [1]", "b/2"]


def test_named_local_corpora(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data" / "mine" / "a.txt", "\n".join(LINES))
    write(tmp_path / "data" / "mine" / "README.md", "not text")
    write(tmp_path / "data" / "mine" / "README.txt", "not text either")
    write(tmp_path / "secret" / "a.txt", "\n".join(LINES))
    config = CorpusConfig(source="mine", tokenizer="bytes", document="line")
    with pytest.raises(UserError, match="COLLAPSELAB_DATA"):
        prepare(config)
    given = prepare(config, data_dir=str(tmp_path / "data"))
    assert every(given) == sorted(LINES)
    monkeypatch.setenv("COLLAPSELAB_DATA", str(tmp_path / "data"))
    assert prepare(config).digest == given.digest
    with pytest.raises(UserError, match=r"'mine'.*nowhere"):
        prepare(config, data_dir=str(tmp_path / "nowhere"))  # which wins over the environment
    for name in ("../secret", "mine/../../secret", "other"):
        with pytest.raises(UserError, match="no such folder"):
            prepare(CorpusConfig(source=name, tokenizer="bytes", document="line"))


def test_a_folder_of_the_shared_corpora(own_cache: Path, shared: Path) -> None:
    config = CorpusConfig(source="tinystories", tokenizer="bytes", document="paragraph")
    check(prepare(config, data_dir=str(shared / "data")))


# --- data sets ---------------------------------------------------------------------------------------------------------


def test_a_data_set_with_its_own_splits(own_cache: Path, tmp_path: Path) -> None:
    for split, part in {"train": LINES[:90], "validation": LINES[90:100], "test": LINES[100:]}.items():
        write(tmp_path / "set" / f"{split}.jsonl", jsonl(part, "story"))
    corpus = opened(f"hub:{tmp_path / 'set'}", column="story")
    check(corpus)
    assert [texts(corpus, s) for s in ("train", "valid", "test")] == [LINES[:90], LINES[90:100], LINES[100:]]
    cut = opened(f"hub:{tmp_path / 'set'}", column="story", hub=HubConfig(split="test"))
    assert every(cut) == sorted(LINES[100:])
    with pytest.raises(UserError, match="id, story"):
        opened(f"hub:{tmp_path / 'set'}")
    with pytest.raises(UserError, match=r"'id'.*not text"):
        opened(f"hub:{tmp_path / 'set'}", column="id")
    with pytest.raises(UserError, match="bogus"):
        opened(f"hub:{tmp_path / 'set'}", column="story", hub=HubConfig(split="bogus"))


def test_a_data_set_of_one_split_is_divided(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.parquet", FORMS["parquet"])
    hub = opened(f"hub:{tmp_path / 'set'}")
    files = opened(tmp_path / "set" / "*.parquet")
    assert [texts(hub, s) for s in ("train", "valid", "test")] == [texts(files, s) for s in ("train", "valid", "test")]
    assert hub.digest == files.digest  # the same text, split and tokenizer


def test_a_data_set_that_cannot_be_had(own_cache: Path) -> None:
    with pytest.raises(UserError, match="hub:nobody/nothing") as caught:
        opened("hub:nobody/nothing")
    assert "\n" not in str(caught.value)


# --- mistakes ----------------------------------------------------------------------------------------------------------

GOOD = jsonl(DOCUMENTS).encode()
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.txt", b"", "empty"),
    "whitespace": ("a.txt", b" \n\t\n\n", "fell to the held-out splits or are empty"),
    "empty, packed": ("a.txt.xz", lzma.compress(b""), "fell to the held-out splits or are empty"),
    "no rows": ("a.parquet", _parquet(pa.array([], pa.string())), "fell to the held-out splits or are empty"),
    "not UTF-8": ("a.txt", b"caf\xe9\n", "a.txt.*not UTF-8.*0xe9"),
    "not UTF-8 in a line": ("a.jsonl", GOOD + b'{"text": "\xe9"}\n', "line 121.*not UTF-8"),
    "truncated xz": ("a.jsonl.xz", lzma.compress(GOOD * 9)[:-30], "a.jsonl.xz.*cannot be read"),
    "truncated gz": ("a.jsonl.gz", gzip.compress(GOOD)[:-30], "a.jsonl.gz.*cannot be read"),
    "not xz": ("a.txt.xz", b"plain", "a.txt.xz.*cannot be read"),
    "not gz": ("a.txt.gz", b"plain", "a.txt.gz.*cannot be read"),
    "damaged gz": ("a.txt.gz", gzip.compress(GOOD)[:30] + b"\xff" * 200, "a.txt.gz.*cannot be read"),
    "not parquet": ("a.parquet", b"plain", "a.parquet.*Parquet"),
    "truncated parquet": ("a.parquet", _parquet(LINES)[:-20], "a.parquet.*Parquet"),
    "not parquet, packed": ("a.parquet.gz", gzip.compress(b"plain"), "a.parquet.gz.*Parquet"),
    "parquet, not gz": ("a.parquet.gz", b"plain", "a.parquet.gz"),
    "truncated parquet.xz": ("a.parquet.xz", lzma.compress(_parquet(LINES))[:-30], "a.parquet.xz"),
    "broken json": ("a.jsonl", GOOD + b'{"text": \n', "line 121.*not valid JSON"),
    "not an object": ("a.jsonl", GOOD + b"[1]\n", "line 121"),
    "deep json": ("a.jsonl", GOOD + b"[" * 100000 + b"\n", "line 121"),
    "a huge number": ("a.jsonl", GOOD + b'{"text": ' + b"9" * 5000 + b"}\n", "line 121"),
    "half a character": ("a.jsonl", GOOD + b'{"text": "\\ud800"}\n', "line 121|a.jsonl"),
    "number": ("a.jsonl", GOOD + b'{"text": 5}\n', "corpus.column='text'.*line 121.*int"),
    "null": ("a.jsonl", GOOD + b'{"text": null}\n', "corpus.column='text'.*line 121.*NoneType"),
    "null in parquet": ("a.parquet", _parquet(["a", None]), "corpus.column='text'.*NoneType"),
    "no column": ("a.jsonl", jsonl(LINES, "story").encode(), "corpus.column='text'.*id, story"),
    "other suffix": ("a.docx", b"text", "a.docx.*not a txt, jsonl or parquet"),
    "one document": ("a.txt", b"only one document", "document=paragraph or line"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_is_said_in_one_line(own_cache: Path, tmp_path: Path, case: str) -> None:
    name, data, said = BROKEN[case]
    write(tmp_path / "text" / name, data)
    with pytest.raises(UserError, match=said) as caught:
        opened(tmp_path / "text" / "*")
    assert "\n" not in str(caught.value)


def test_a_failure_leaves_nothing_half_made_in_the_cache(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", GOOD + b"[1]\n")
    with pytest.raises(UserError):
        opened(tmp_path / "a.jsonl")
    assert not own_cache.exists() or list(own_cache.iterdir()) == []


def test_unknown_columns_of_parquet_list_those_there_are(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", FORMS["parquet"])
    with pytest.raises(UserError, match=r"corpus.column='story'.*id, text"):
        opened(tmp_path / "a.parquet", column="story")
    with pytest.raises(UserError, match=r"corpus.column='id'.*int, not text"):
        opened(tmp_path / "a.parquet", column="id")


def test_every_split_must_hold_a_block(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    config = CorpusConfig(source=f"path:{tmp_path / 'a.jsonl'}", tokenizer="bytes")
    facts = prepare(config).facts["splits"]
    least = min(facts, key=lambda name: facts[name]["tokens"])
    prepare(config, block=facts[least]["tokens"] - 1)
    with pytest.raises(UserError, match=f"{least} split has {facts[least]['tokens']} tokens"):
        prepare(config, block=facts[least]["tokens"] + 1)


@pytest.mark.parametrize("source", ["path:", "hub:", "http://a/b", "sotu ", "no-such-name", "path:[", "path:\0"])
def test_sources_that_name_nothing(own_cache: Path, source: str) -> None:
    with pytest.raises(UserError, match=r"corpus\.source"):
        opened(source)


@pytest.mark.parametrize("tokenizer", ["nobody/nothing", "model", "/"])
def test_tokenizers_that_cannot_be_had(own_cache: Path, tmp_path: Path, tokenizer: str) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    with pytest.raises(UserError, match=f"corpus.tokenizer='{tokenizer}'") as caught:
        opened(tmp_path / "a.jsonl", tokenizer=tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["empty", "not UTF-8", "truncated xz", "broken json", "no column", None])
def test_the_command_line_says_it_in_one_line(own_cache: Path, tmp_path: Path, lab: Lab, case: str | None) -> None:
    name, data, _ = BROKEN[case] if case else ("", b"", "")
    if case:
        write(tmp_path / "text" / name, data)
    source = f"path:{tmp_path}/text/*"
    code, out, err = lab("run", "--dry_run", "--corpus.source", source, "--corpus.tokenizer", "bytes")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("collapselab: error: corpus.") and f"{tmp_path}/text/{name}" in err


def test_the_command_line_refuses_text_shorter_than_a_block(own_cache: Path, tmp_path: Path, lab: Lab) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    given = ["--corpus.source", f"path:{tmp_path}/a.jsonl", "--corpus.tokenizer", "bytes", "--training.block", "100000"]
    code, out, err = lab("run", "--dry_run", *given, "--mixing.tokens", "null")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "100000" in err


# --- the cache ---------------------------------------------------------------------------------------------------------


def _stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_second_time_comes_from_the_cache(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    first = opened(tmp_path / "a.jsonl", tokenizer="bpe", vocab_size=280)
    before = _stamps(own_cache)
    second = opened(tmp_path / "a.jsonl", tokenizer="bpe", vocab_size=280)
    assert _stamps(own_cache) == before
    assert (second.digest, second.folder) == (first.digest, first.folder)
    assert second.tokenizer.digest == first.tokenizer.digest
    for split in ("train", "valid", "test"):
        assert np.array_equal(first.split(split).ids, second.split(split).ids)
    check(second)


def test_another_text_setting_or_damage_is_tokenised_anew(own_cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    first = opened(path)
    assert opened(path, test_share=0.3).digest != first.digest
    assert opened(path, tokenizer="gpt2").digest != first.digest
    write(path, jsonl(DOCUMENTS[::-1]))
    os.utime(path, (1, 1))
    assert opened(path).digest != first.digest  # another order is another packed text
    again = opened(path)
    shard = again.folder / "train.ids.bin"
    good = shard.read_bytes()
    shard.write_bytes(good[:100] + b"\xff\x00" + good[102:])
    assert opened(path).digest == again.digest
    assert shard.read_bytes() == good


def test_a_link_is_read_under_its_own_name(own_cache: Path, tmp_path: Path) -> None:
    """Hub caches hold links to files that are named by digest: what counts is the name of the link."""
    for name in ("x", "y", "z"):
        write(tmp_path / "blobs" / name, "".join(f"{name} {line}\n" for line in LINES))
    places = [tmp_path / "set" / f"{split}.txt" for split in ("train", "valid", "test")]
    places[0].parent.mkdir()
    for blobs in ("xyz", "zyx"):
        for place, blob in zip(places, blobs, strict=True):
            place.unlink(missing_ok=True)
            place.symlink_to(tmp_path / "blobs" / blob)
        corpus = opened(tmp_path / "set" / "*", document="line")
        assert [texts(corpus, s)[0][0] for s in ("train", "valid", "test")] == list(blobs)


def test_a_file_and_its_link_are_not_the_file_alone(own_cache: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "\n".join(LINES))
    (tmp_path / "b.txt").symlink_to(file)
    opened(tmp_path / "*.txt", document="line")
    assert every(opened(file, document="line")) == sorted(LINES)


def test_the_verb_lists_and_clears(own_cache: Path, tmp_path: Path, lab: Lab) -> None:
    code, out, err = lab("corpus")
    assert (code, err) == (0, "")
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    made = [opened(tmp_path / "a.jsonl", tokenizer=name).folder.name for name in ("bytes", "gpt2")]
    code, out, err = lab("corpus")
    assert (code, err) == (0, "")
    for name in made:
        assert name[:8] in out
    assert "gpt2" in out

    code, out, err = lab("corpus", "--clear", "xyz")
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = lab("corpus", "--clear", "")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all((own_cache / name).is_dir() for name in made)
    assert lab("corpus", "--clear", made[0]) == (0, f"removed {made[0]}\n", "")
    assert not (own_cache / made[0]).exists() and (own_cache / made[1]).is_dir()
    assert lab("corpus", "--clear", "all") == (0, f"removed {made[1]}\n", "")
    assert list(own_cache.iterdir()) == []


def test_a_damaged_cache_can_be_listed_and_cleared(own_cache: Path, tmp_path: Path, lab: Lab) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    folder = opened(tmp_path / "a.jsonl").folder
    (folder / "corpus.json").write_text("{")
    code, _, err = lab("corpus")
    assert code in (0, 2) and err.count("\n") <= 1
    assert lab("corpus", "--clear", folder.name)[0] == 0
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    write(tmp_path / "file", "x")
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "file" / "cache"))
    source = ["--corpus.source", f"path:{tmp_path / 'a.jsonl'}", "--corpus.tokenizer", "bytes"]
    code, out, err = lab("run", "--dry_run", *source)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(tmp_path / "file") in err


def test_documents_are_streamed(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than about PIECE characters of documents are held at a time."""
    monkeypatch.setattr(shards, "PIECE", 500)
    sizes: list[int] = []

    def watched(documents: Iterator[tuple[Any, str]]) -> Iterator[tuple[Any, list[str]]]:
        for split, batch in original(documents):
            sizes.append(sum(map(len, batch)))
            assert sizes[-1] <= 500 or len(batch) == 1
            yield split, batch

    original = shards._batches
    monkeypatch.setattr(shards, "_batches", watched)
    write(tmp_path / "a.jsonl", jsonl([*DOCUMENTS, "long " * 1000]))
    corpus = opened(tmp_path / "a.jsonl")
    assert len(sizes) > 5
    sizes.clear()
    corpus = opened(tmp_path / "a.jsonl", shared_passages="keep")
    assert sum(sizes) == sum(map(len, DOCUMENTS)) + 5000 and len(sizes) > 5
    assert every(corpus) == sorted([*DOCUMENTS, "long " * 1000])


@pytest.mark.skipif(sys.platform != "linux", reason="maps are listed in /proc on Linux only")
def test_tokens_are_mapped_not_read(own_cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    corpus = opened(tmp_path / "a.jsonl")
    mapped = Path("/proc/self/maps").read_text()
    for name in ("train.ids.bin", "test.bytes.bin", "valid.starts.bin"):
        assert str(corpus.folder / name) in mapped


def test_excerpts_of_the_training_text_are_no_held_out_text(own_cache: Path, tmp_path: Path) -> None:
    """Whole documents differ, but line by line the held-out files stand in the training file."""
    lines = [
        f"Line {i} of a text that is long enough to count as a line of its own, number {i * 7}." for i in range(400)
    ]
    write(tmp_path / "text" / "train.txt", "\n".join(lines).encode())
    write(tmp_path / "text" / "valid.txt", "\n".join(lines[10:60]).encode())
    write(tmp_path / "text" / "test.txt", "\n".join(lines[200:260]).encode())
    for joiner in (None, ""):
        with pytest.raises(UserError, match="of the held-out text, compared line by line, is in the training text"):
            prepare(CorpusConfig(source=f"path:{tmp_path}/text/*", tokenizer="bytes", joiner=joiner))


def test_joined_rows_are_one_document_per_split(own_cache: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    for name in ("train", "valid", "test"):
        rows = [{"text": " ".join(chance.choices("abcdefghij", k=30)) + "\n"} for _ in range(50)]
        write(tmp_path / "text" / f"{name}.jsonl", "\n".join(map(json.dumps, rows)).encode())
    found = prepare(CorpusConfig(source=f"path:{tmp_path}/text/*", tokenizer="bytes", joiner=""))
    assert {name: part["documents"] for name, part in found.facts["splits"].items()} == dict.fromkeys(
        ("train", "valid", "test"), 1
    )
    with pytest.raises(UserError, match=r"corpus\.joiner"):
        prepare(CorpusConfig(source="sotu", tokenizer="bytes", joiner=""))
