"""Which files are read, what is passed over, and what a file may not do: every file once, contents and not dates, bounded
memory, and a line that names what is wrong."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Lab
from test_corpus import DOCUMENTS, LINES, every, jsonl, opened, own_cache, texts, write  # noqa: F401 - a fixture

from collapselab.config import CorpusConfig, RunConfig, UserError
from collapselab.corpus import cache, pieces, readers, shards
from collapselab.corpus.prepared import prepare
from collapselab.corpus.tokenizers import gpt2_tokenizer, train_bpe
from collapselab.store.folders import alone_in

pytestmark = pytest.mark.usefixtures("own_cache")
TEXT = "\n".join(LINES)


def read(source: Path | str, **settings: Any) -> dict[str, Any]:
    facts: dict[str, Any] = opened(source, **{"document": "line"} | settings).facts["read"]
    return facts


def passed_over(found: dict[str, Any]) -> dict[str, list[str]]:
    return {reason: [Path(name).name for name in part["names"]] for reason, part in found["skipped"].items()}


# --- which files ------------------------------------------------------------------------------------------------------


def test_what_a_pattern_passes_over_is_counted_by_reason(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", TEXT)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round.txt").symlink_to(tmp_path / "round.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    os.link(tmp_path / "a.txt", tmp_path / "c.txt")
    for name in ("~$a.txt", "._a.txt", ".#a.txt"):
        write(tmp_path / name, "left by a tool")
    found = read(tmp_path / "*.txt")
    assert (found["files"], found["bytes"], found["documents"]) == (1, len(TEXT), len(LINES))
    assert passed_over(found) == {
        "link that leads nowhere": ["gone.txt", "round.txt"],
        "pipe, socket or device": ["pipe.txt"],
        "folder": ["folder.txt"],
        "the same file again": ["b.txt", "c.txt"],
        "left by an editor": ["~$a.txt"],
        "hidden": [".#a.txt", "._a.txt"],
    }


def test_what_exists_under_the_very_name_is_meant_itself(tmp_path: Path) -> None:
    write(tmp_path / "y[1].txt", "\n".join(f"mine {i}" for i in range(150)))
    write(tmp_path / "y1.txt", TEXT)
    write(tmp_path / "old[0]" / "z.txt", "\n".join(f"theirs {i}" for i in range(150)))
    write(tmp_path / "old0" / "z.txt", TEXT)
    write(tmp_path / ".secret.txt", TEXT)
    assert every(opened(tmp_path / "y[1].txt", document="line"))[0] == "mine 0"
    assert every(opened(tmp_path / "y[12].txt", document="line")) == sorted(
        LINES
    )  # a pattern where there is no such file
    assert every(opened(tmp_path / "old[0]" / "*.txt", document="line"))[0] == "theirs 0"
    assert every(opened(tmp_path / ".secret.txt", document="line")) == sorted(LINES)


def test_links_between_folders_neither_hang_nor_multiply(tmp_path: Path) -> None:
    for name in "abcdef":
        write(tmp_path / "set" / name / f"{name}.txt", "\n".join(f"{name} {line}" for line in LINES))
        for other in "abcdef":
            (tmp_path / "set" / name / f"to_{other}").symlink_to(tmp_path / "set" / other)
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    started = time.monotonic()
    found = read(tmp_path / "set" / "**" / "*.txt")
    assert time.monotonic() - started < 5
    assert (found["files"], found["documents"]) == (6, 6 * len(LINES))
    assert read(tmp_path / "set" / "**" / "**" / "*" / "**" / "*.txt")["files"] == 6


def test_hidden_folders_are_not_walked(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", TEXT)
    write(tmp_path / ".git" / "b.txt", "not text")
    found = read(tmp_path / "**" / "*.txt")
    assert (found["files"], passed_over(found)) == (1, {"hidden": [".git"]})


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "a.txt", TEXT)
    real = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"/a: cannot be listed \(Permission denied\)"):
        opened(tmp_path / "**" / "*.txt")


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_said_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "x.txt"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"no file found at .*skipped: {kind}"):
        opened(place)


def test_a_pipe_in_a_local_data_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.jsonl", jsonl(DOCUMENTS))
    os.mkfifo(tmp_path / "set" / "b.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl is a pipe"):
        opened(f"hub:{tmp_path / 'set'}")


@pytest.mark.parametrize("name", ["train.jsonl.xz", "train.csv.xz"])
def test_what_the_library_passes_over_in_a_local_data_set_is_found(tmp_path: Path, name: str) -> None:
    """It takes a damaged second member for the end of a file."""
    text = jsonl(DOCUMENTS) if "jsonl" in name else "text\n" + "".join(f"{one}\n" for one in DOCUMENTS)
    first, second = lzma.compress(text.encode()), bytearray(lzma.compress(text.encode()))
    path = write(tmp_path / "set" / name, first + bytes(second))
    opened(f"hub:{tmp_path / 'set'}")
    second[len(second) // 2] ^= 0xFF
    write(path, first + bytes(second))
    with pytest.raises(UserError, match=rf"{re.escape(name)}: cannot be read"):
        opened(f"hub:{tmp_path / 'set'}")


def test_a_local_data_set_is_held_to_the_rules_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set"
    path = write(folder / "train.jsonl", jsonl(DOCUMENTS))
    (folder / "train-again.jsonl").symlink_to(path)
    with pytest.raises(UserError, match=r"train-again\.jsonl is the same file again"):
        opened(f"hub:{folder}")
    (folder / "train-again.jsonl").unlink()
    write(path, '{"text": "a", "text": "b"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl, line 1: .* appears twice"):
        opened(f"hub:{folder}")
    write(path, jsonl(DOCUMENTS).encode("utf-16"))
    with pytest.raises(UserError, match=r"train\.jsonl.* is UTF-16"):
        opened(f"hub:{folder}")
    path.unlink()
    not_utf_8(folder / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet: holds text that is not UTF-8"):
        opened(f"hub:{folder}")
    (folder / "train.parquet").unlink()
    write(path, jsonl(["x" * 10**6]))
    monkeypatch.setattr(readers, "longest", lambda: 10**5)
    with pytest.raises(UserError, match=r"train\.jsonl.* as one document"):
        opened(f"hub:{folder}")


def test_a_parquet_value_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "longest", lambda: 10**6)
    pq.write_table(pa.table({"text": [*DOCUMENTS, "x" * 10**6]}), tmp_path / "a.parquet")
    opened(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [*DOCUMENTS, "x" * (10**6 + 1)]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet holds over .* MB as one document; split it"):
        opened(tmp_path / "a.parquet")


def test_a_data_set_on_the_hub_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a network: who is asked is said, and the library does not retry."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    began = time.process_time(), time.monotonic()
    with pytest.raises(UserError, match=r"hub:nobody/nothing.*check name, subset and network"):
        opened("hub:nobody/nothing")
    assert time.monotonic() - began[1] < 15
    assert capsys.readouterr().err.splitlines() == [
        "corpus.source='hub:nobody/nothing': no such folder here; asking the Hugging Face hub"
    ]


# --- contents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "hub"])
def test_other_contents_under_the_same_size_and_date_are_another_corpus(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "set" / "a.jsonl", jsonl(DOCUMENTS))
    os.utime(path, ns=(10**18, 10**18))
    source = f"path:{path}" if kind == "path" else f"hub:{path.parent}"
    first = opened(source)
    stamp = path.stat()
    new = write(tmp_path / "new.jsonl", jsonl(DOCUMENTS).replace("says", "tell"))
    os.utime(new, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    new.replace(path)  # as cp -p, rsync and unpacked archives do
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    second = opened(source)
    assert second.digest != first.digest and all("tell" in text for text in every(second))
    with path.open("r+b") as stream:  # in its place, the time stamp put back
        stream.write(path.read_bytes().replace(b"tell", b"says"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert opened(source).digest == first.digest


def test_a_file_that_is_as_it_was_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    monkeypatch.setattr("collapselab.corpus.files.RECENT", 0)
    first = opened(path)
    monkeypatch.setattr("collapselab.corpus.files.sha256_of", lambda path: pytest.fail(f"read {path}"))
    assert opened(path).digest == first.digest
    os.utime(path)
    with pytest.raises(pytest.fail.Exception, match=r"a\.jsonl"):
        opened(path)


def test_a_changed_file_ends_a_run_and_not_quietly(tmp_path: Path, lab: Lab) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    line = [
        "run",
        "--corpus.source",
        f"path:{path}",
        "--corpus.tokenizer",
        "bytes",
        "--runs_dir",
        str(tmp_path / "runs"),
    ]
    line += ["--model.family", "bigram", "--generations", "1", "--training.block", "16", "--mixing.tokens", "64"]
    code, _, err = lab(*line)
    assert code == 0, err
    stamp = path.stat()
    write(path, jsonl(DOCUMENTS).replace("says", "tell"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    code, _, err = lab(*line, "--generations", "2")
    assert code == 2 and "changed since the start" in err


def test_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    real = readers.read_documents

    def changing(place: Path, config: CorpusConfig) -> Any:
        yield from real(place, config)
        write(path, jsonl([*DOCUMENTS, "one more"]))

    monkeypatch.setattr("collapselab.corpus.sources.read_documents", changing)
    with pytest.raises(UserError, match="changed while it was read"):
        opened(path)
    assert not list(cache.cache_root().glob("*"))


# --- how text is written ----------------------------------------------------------------------------------------------


def xz(*members: bytes, zeros: int = 0) -> bytes:
    return (b"\0" * zeros).join(lzma.compress(member) for member in members) + b"\0" * zeros


@pytest.mark.parametrize("zeros", [0, 4, 1 << 20])
def test_every_member_of_a_packed_file_is_read(tmp_path: Path, zeros: int) -> None:
    half = TEXT.encode().index(b"line number 75")
    write(tmp_path / "a.txt.xz", xz(TEXT.encode()[:half], b"", TEXT.encode()[half:], zeros=zeros))
    assert every(opened(tmp_path / "a.txt.xz", document="line")) == sorted(LINES)
    write(
        tmp_path / "b.txt.gz", gzip.compress(TEXT.encode()[:half]) + gzip.compress(TEXT.encode()[half:]) + b"\0" * zeros
    )
    assert every(opened(tmp_path / "b.txt.gz", document="line")) == sorted(LINES)


@pytest.mark.parametrize("form", ["xz", "gz"])
def test_a_bad_byte_anywhere_in_a_later_member_is_found(tmp_path: Path, form: str) -> None:
    pack = {"xz": lzma.compress, "gz": gzip.compress}[form]
    first, second = pack(TEXT.encode()), pack(TEXT.encode()[::-1])
    places = [0, 1, 2, 3, len(second) // 2, len(second) - 1, -6]
    for place in places:
        broken = bytearray(second)
        broken[place] ^= 0xFF
        path = write(tmp_path / f"a.txt.{form}", first + bytes(broken))
        with pytest.raises(UserError, match=rf"a\.txt\.{form}: cannot be read"):
            opened(path, document="line")
    for cut in (1, 5, 11, len(second) - 1):
        with pytest.raises(UserError, match="cannot be read"):
            opened(write(path, first + second[:cut]), document="line")
    with pytest.raises(UserError, match="cannot be read"):
        opened(write(path, first + b"\0" * 5 + second[1:]), document="line")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "is UTF-16"),
        ("utf-16-le", "holds NUL bytes"),
        ("utf-16-be", "NUL"),
        ("utf-32", "is UTF-32"),
        ("utf-32-be", "NUL"),
    ],
)
@pytest.mark.parametrize("document", ["file", "line"])
@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_utf_16_is_named(tmp_path: Path, encoding: str, said: str, document: str, form: str) -> None:
    text = TEXT if form == "txt" else jsonl(LINES)
    path = write(tmp_path / f"a.{form}", text.encode(encoding))
    with pytest.raises(UserError, match=said) as caught:
        opened(path, document=document)
    assert "iconv" in str(caught.value) and f"a.{form}" in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
def test_lines_end_as_they_do_anywhere(tmp_path: Path, end: str, document: str) -> None:
    blocks = [f"block {i} begins\nand goes on" for i in range(150)]
    path = write(tmp_path / "a.txt", "\n\n".join(blocks).replace("\n", end).encode())
    if document == "file":
        for name in ("train", "valid", "test"):
            write(tmp_path / f"{name}.txt", f"{name} a\nb".replace("\n", end).encode())
        corpus = opened(tmp_path / "[tv]*.txt")
        assert [texts(corpus, name) for name in ("train", "valid", "test")] == [
            ["train a\nb"],
            ["valid a\nb"],
            ["test a\nb"],
        ]
    else:
        wanted = blocks if document == "paragraph" else [line for block in blocks for line in block.split("\n")]
        assert every(opened(path, document=document)) == sorted(wanted)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(DOCUMENTS) + '{"text": "one", "text": "two"}\n')
    with pytest.raises(UserError, match=r"line 121: not valid JSON \(the key 'text' appears twice\)"):
        opened(path)


def not_utf_8(path: Path, kind: Any = pa.string()) -> None:  # noqa: B008 - a type
    """Write a Parquet file with one value, which is not UTF-8."""
    offsets = b"".join(n.to_bytes(4 if kind == pa.string() else 8, "little") for n in (0, 3))
    column = pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe\xfd")])
    pq.write_table(pa.Table.from_arrays([column], names=["text"]), path)


def test_parquet_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    for kind in (pa.string(), pa.large_string()):
        not_utf_8(tmp_path / "a.parquet", kind)
        with pytest.raises(UserError, match=r"a\.parquet: holds text that is not UTF-8"):
            opened(tmp_path / "a.parquet")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_two_thousand_columns_make_a_short_line(tmp_path: Path, form: str) -> None:
    names = [f"{'column' * 40}_{i}" for i in range(2000)]
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        write(path, json.dumps(dict.fromkeys(names, "x")) + "\n")
    else:
        pq.write_table(pa.table({name: ["x"] for name in names}), path)
    with pytest.raises(UserError, match=r"corpus\.column='text'.*and 1,994 more") as caught:
        opened(path)
    assert len(str(caught.value)) - len(str(tmp_path)) < 300


@pytest.mark.parametrize(
    ("name", "document", "said"),
    [
        ("a.txt", "file", ", or corpus.document=paragraph or line for"),
        ("a.txt", "paragraph", ", or corpus.document=line for"),
        ("a.txt", "line", ""),
        ("a.jsonl", "file", ""),  # a line is a document, whatever corpus.document says
    ],
)
def test_no_remedy_is_named_that_is_taken_already(tmp_path: Path, name: str, document: str, said: str) -> None:
    text = "only one document"
    path = write(tmp_path / name, text if name == "a.txt" else jsonl([text]))
    with pytest.raises(UserError, match="use more text") as caught:
        opened(path, document=document)
    assert (said in str(caught.value)) if said else ("corpus.document" not in str(caught.value))


# --- bounded memory ---------------------------------------------------------------------------------------------------

MOST = 3 << 20


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LONGEST", MOST)


@pytest.mark.parametrize("packed", ["", ".xz", ".gz"])
@pytest.mark.parametrize(
    ("form", "document"), [("txt", "file"), ("txt", "paragraph"), ("txt", "line"), ("jsonl", "file")]
)
def test_one_limit_for_every_reader(tmp_path: Path, small_limit: None, form: str, document: str, packed: str) -> None:
    pack = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress}[packed]
    for size, fits in ((MOST - 100, True), (MOST + 100, False)):
        text = b"ab " * (size // 3) if document != "paragraph" else b"ab ab ab\n" * (size // 9)
        data = text if form == "txt" else b'{"text": "' + text + b'"}'
        path = write(tmp_path / f"a.{form}{packed}", pack(data))
        with pytest.raises(UserError, match="fell to the held-out|split has" if fits else "over 3 MB as one document"):
            opened(path, document=document)


@pytest.mark.parametrize("kind", ["dictionary", "delta", "page"])
def test_a_parquet_bomb_takes_no_more_memory_than_a_document(tmp_path: Path, small_limit: None, kind: str) -> None:
    path = tmp_path / "a.parquet"
    value = "x" * (1 << 20)
    rows = [value] * 2000  # 2 GB when every row has its own copy
    if kind == "dictionary":
        pq.write_table(pa.table({"text": pa.array(rows[:1]).dictionary_encode().take(pa.array([0] * 2000))}), path)
    elif kind == "delta":
        options = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
        pq.write_table(pa.table({"text": rows[:50]}), path, **options)
    else:
        pq.write_table(pa.table({"text": rows[:50]}), path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 1 << 20
    seen, taken = 0, 0
    if kind == "page":
        with pytest.raises(UserError, match="over 200 times as large unpacked"):
            list(readers.read_documents(path, CorpusConfig()))
        return
    for text in readers.read_documents(path, CorpusConfig()):
        assert text == value
        seen += 1
        taken = max(taken, pa.total_allocated_bytes())
    assert seen == (2000 if kind == "dictionary" else 50)
    assert 0 < taken < 20 << 20


def test_a_packed_parquet_bomb_does_not_fill_the_disk(tmp_path: Path, small_limit: None) -> None:
    path = write(tmp_path / "a.parquet.xz", lzma.compress(bytes(64 << 20)))
    with pytest.raises(UserError, match="over 200 times as large unpacked"):
        opened(path)


@pytest.mark.parametrize("space", [" ", ""])
def test_a_long_line_takes_a_few_bytes_for_each_of_its_own(tmp_path: Path, space: str) -> None:
    """In a process of its own, whose memory is measured: a line of 7 MB."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghij", k=6)) for _ in range(5000)]
    for name in ("train", "valid", "test"):
        size = 1_000_000 if name == "train" else 200
        write(tmp_path / f"{name}.txt", f"{name}{space or ','}" + (space or ",").join(chance.choices(words, k=size)))
    code = (
        "import resource, sys\n"
        "from collapselab.config import CorpusConfig\n"
        "from collapselab.corpus.prepared import prepare\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"prepare(CorpusConfig(source='path:{tmp_path}/*.txt', document='line', tokenizer='gpt2'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) * 1024 < 450e6  # a piece of a million characters takes most of it, a longer line no more


# --- text without white space -----------------------------------------------------------------------------------------


def test_text_without_white_space_takes_linear_time() -> None:
    text = "".join(random.Random(0).choices("ACGT", k=400_000))
    started = time.process_time()
    tokenizer = train_bpe(pieces.pieces(text), 1000)
    (parts,) = shards.encode(tokenizer, [text])
    ids = [one for part, _ in parts for one in part]
    assert time.process_time() - started < 20  # more than ten minutes in one piece
    assert tokenizer.raw.decode(ids, skip_special_tokens=False) == text and len(ids) < len(text) / 2


@pytest.mark.parametrize("kind", ["letters", "digits", "signs", "spaces", "mixed", "spaced"])
def test_pieces_are_the_text_and_none_is_long(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(pieces, "PIECE", 3000)
    alphabet = {
        "letters": "abéж",
        "digits": "0123",
        "signs": "!?-.",
        "spaces": " \n",
        "mixed": "a1!",
        "spaced": "abcd ",
    }
    text = "".join(random.Random(0).choices(alphabet[kind], k=20000))
    cut = list(pieces.pieces(text))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= (6000 if kind in ("mixed", "spaced") else pieces.RUN)
    if kind in ("mixed", "spaced"):  # the tokens of the whole
        tokenizer = gpt2_tokenizer()
        whole = tokenizer.encode([text])[0][0]
        assert [one for ids, _ in tokenizer.encode(cut) for one in ids] == whole


ANSWERED = """
import os, random, signal, threading
from collapselab.corpus import pieces
from collapselab.corpus.tokenizers import train_bpe
text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_500_000))
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    train_bpe(pieces.pieces(text), 8000)
except KeyboardInterrupt:
    os._exit(7)  # as a run ends: what the library still computes ends with the process
"""


def test_a_signal_is_answered_while_a_vocabulary_is_trained() -> None:
    """In a process of its own, for the library's thread goes on until the process ends. The training takes longer than the
    second before the signal."""
    source = str(ROOT / "src")
    done = subprocess.run([sys.executable, "-c", ANSWERED], env=os.environ | {"PYTHONPATH": source}, timeout=120)
    assert done.returncode == 7


# --- the cache and what is shown --------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_removed_and_what_is_being_made_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(DOCUMENTS))
    left, held, young = (cache.cache_root() / f".{name}.x.partial" for name in ("left", "held", "young"))
    for folder in (left, held, young):
        write(folder / "train.ids.bin", b"half")
    for folder in (left, held):
        os.utime(folder, (1, 1))
    with alone_in(held):
        opened(path)
        assert not left.exists() and held.exists() and young.exists()
    prepare(CorpusConfig(source=f"path:{path}", tokenizer="bytes"))
    assert not held.exists() and young.exists()


@pytest.mark.parametrize(
    "source",
    [
        "hub:https://alice:hunter22@host/x",
        "path:https://host/x.txt?token=hunter22",
        "hub:alice:hunter22@host/x",
        "s3://hunter22@bucket/x",
        "hub:hf_hunter22hunter22hunter22hunter22hunter22",
    ],
)
@pytest.mark.parametrize("key", ["corpus.source", "corpus.tokenizer", "model.pretrained"])
def test_a_secret_in_a_name_is_shown_and_written_nowhere(tmp_path: Path, lab: Lab, source: str, key: str) -> None:
    if key != "corpus.source" and not source.startswith("hub:h"):
        pytest.skip("the same check")
    runs = tmp_path / "runs"
    write(tmp_path / "x.yaml", f"name: x\nseeds: [1]\narms:\n  a: {{{key}: '{source}'}}\n")
    for line in (
        ["run", f"--{key}", source],
        ["run", "--dry_run", f"--{key}={source}"],
        ["experiment", "--config", str(tmp_path / "x.yaml")],
    ):
        code, out, err = lab(*line, "--runs_dir", str(runs))
        assert code == 2 and key in err and err.count("\n") == 1
        assert "hunter22" not in out + err
        assert not runs.exists()
    if key == "corpus.source":
        code, out, err = lab("corpus", "--show", source)
        assert code == 2 and "hunter22" not in out + err


@pytest.mark.parametrize("source", ["path:/data/sk-news/hf_datasets_cache/*.txt", "hub:user/name@main", "path:x@y.txt"])
def test_names_that_only_look_like_secrets_are_names(source: str) -> None:
    assert RunConfig(corpus=CorpusConfig(source=source)).corpus.source == source


def test_what_was_read_is_shown_and_recorded(tmp_path: Path, lab: Lab) -> None:
    path = write(tmp_path / "a.jsonl", jsonl([*DOCUMENTS, "  "]))
    write(tmp_path / "~$a.jsonl", "x")
    source = f"path:{tmp_path}/*.jsonl"
    code, out, err = lab("corpus", "--show", source)
    assert (code, err) == (0, "")
    (before,) = [json.loads(out)]
    assert before["read"]["files"] == 1 and "documents" not in before["read"]
    corpus = opened(source)
    facts = corpus.facts["read"]
    assert (facts["files"], facts["documents"], facts["blank"]) == (1, len(DOCUMENTS), 1)
    assert facts["bytes"] == path.stat().st_size and len(facts["digest"]) == 64
    assert facts["skipped"]["left by an editor"]["count"] == 1
    for which in (source, corpus.folder.name[:10]):
        code, out, err = lab("corpus", "--show", which)
        assert (code, err) == (0, "") and json.loads(out)["read"] == facts
    for which in ("", "nothing-such"):
        code, out, err = lab("corpus", "--show", which)
        assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, _ = lab("corpus", "--show", "planted")
    assert code == 0 and json.loads(out)["read"]["drawn"] == "planted"
