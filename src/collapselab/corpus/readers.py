"""Documents from files, one at a time: text, JSON lines and Parquet, compressed or not. One limit keeps documents, lines
and compressed files from taking more memory than the machine has."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from collapselab.config import CorpusConfig, UserError, first_line
from collapselab.runtime.memory import memory_here

FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".parquet": "parquet"}
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)
LONGEST = 1 << 30  # bytes of a document
COPIES = 16  # copies of a document that must fit into memory: bytes, characters of up to four bytes, arrays of a part
CHUNK = 1 << 20
UNPACKER_MEMORY = 1 << 30  # bytes of an .xz file's dictionary
ROWS = 1024  # rows of a Parquet column read together
BOMB = 200  # largest ratio of unpacked to packed size of a Parquet column or file larger than a document may be


def longest() -> int:
    return min(LONGEST, memory_here() // COPIES)


def format_of(path: Path) -> tuple[str | None, str]:
    """Return (format, compression) of a file name: `a.jsonl.xz` gives ("jsonl", ".xz")."""
    compression = path.suffix if path.suffix in (".xz", ".gz") else ""
    inner = path.with_suffix("") if compression else path
    return FORMATS.get(inner.suffix), compression


def read_documents(path: Path, config: CorpusConfig) -> Iterator[str]:
    """Documents of a file. Raises UserError that names the file and the place of the fault."""
    form = format_of(path)[0]
    if form == "parquet":
        yield from _read_parquet(path, config.column)
    elif form == "jsonl":
        for number, line in _lines(path, "split it"):
            if line.strip():
                yield _column_of_line(line, path, number, config.column)
    elif config.document == "file":
        yield _read_text(path)
    elif config.document == "line":
        yield from (line.rstrip("\n") for _, line in _lines(path, "break it into lines") if line.strip())
    else:
        yield from _paragraphs(path)


def check_file(path: Path, config: CorpusConfig) -> None:
    """Read a file to its end before a library loads it that says less of damaged, packed and too long text. Raises UserError."""
    form, compression = format_of(path)
    try:
        if form is not None:
            for _ in read_documents(path, config):
                pass
        elif compression:
            for _ in _unpacked(path):
                pass
    except UNREADABLE as error:
        raise _cannot_be_read(path, error) from None
    except UserError as error:
        if not str(error).startswith("corpus.column"):  # files of another subset may have other columns
            raise


def listed(names: Any) -> str:
    """List the first six names in one line, and the number of the others."""
    shown = [str(name)[:30] for name in names]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6:,} more" if len(shown) > 6 else "")


# --- bytes and lines --------------------------------------------------------------------------------------------------


class _Xz(io.RawIOBase):
    """All members of an .xz file, with zero padding between and after them. (The standard library takes a damaged second
    member for the end of the file.)"""

    def __init__(self, path: Path):
        self.file = path.open("rb")
        self.member: lzma.LZMADecompressor | None = None
        self.packed = b""
        self.members = self.zeros = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and (self.member is not None or self._next_member()):
            assert self.member is not None
            if self.member.needs_input and not self.packed:
                self.packed = self.file.read(CHUNK)
                if not self.packed:
                    raise EOFError("it is cut off")
            data, self.packed = self.member.decompress(self.packed, len(buffer)), b""
            if self.member.eof:
                self.packed, self.member = self.member.unused_data, None
        buffer[: len(data)] = data
        return len(data)

    def _next_member(self) -> bool:
        """Advance to the next member; return False at the end of the file."""
        while True:
            self.packed = self.packed or self.file.read(CHUNK)
            rest = self.packed.lstrip(b"\0") if self.members else self.packed
            self.zeros += len(self.packed) - len(rest)
            ends = not self.packed
            self.packed = rest
            if (rest or ends) and self.zeros % 4:
                raise lzma.LZMAError("zero padding between members is not a multiple of four bytes")
            if rest:
                self.member = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=UNPACKER_MEMORY)
                self.members, self.zeros = self.members + 1, 0
                return True
            if ends:
                return False


def _open(path: Path) -> IO[bytes]:
    compression = format_of(path)[1]
    if compression == ".xz":
        return io.BufferedReader(_Xz(path), CHUNK)
    if compression == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _unpacked(path: Path) -> Iterator[bytes]:
    """Content of a packed file in parts. Raises UserError if it is a bomb."""
    most, size = max(longest(), BOMB * path.stat().st_size), 0
    with _open(path) as stream:
        while part := stream.read(CHUNK):
            size += len(part)
            if size > most:
                raise UserError(f"corpus.source: {path}: over {BOMB} times as large unpacked; replace it")
            yield part


def _cannot_be_read(path: Path, error: BaseException) -> UserError:
    return UserError(f"corpus.source: {path}: cannot be read ({first_line(error)}); check or replace the file")


def _too_long(path: Path, place: str, remedy: str) -> UserError:
    return UserError(f"corpus.source: {path}{place}: over {longest() // 10**6:,} MB as one document; {remedy}")


def _decode(data: bytes, path: Path, place: str = "") -> str:
    """Decode UTF-8 with any line endings, which become `\\n`."""
    marked = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    if marked or b"\0" in data:
        kind = "UTF-32" if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") else "UTF-16"
        fault = f"is {kind}" if marked else f"holds NUL bytes (the first is byte {data.index(0)}), as {kind} does"
        raise UserError(
            f"corpus.source: {path}{place}: {fault}; convert the file to UTF-8 (iconv -f {kind.lower()} -t utf-8)"
        )
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"corpus.source: {path}{place}: not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from None


def _read_text(path: Path) -> str:
    most, data = longest(), bytearray()
    try:
        with _open(path) as stream:
            while part := stream.read(CHUNK):
                data += part
                if len(data) > most:
                    raise _too_long(path, "", "set corpus.document to paragraph or line")
    except UNREADABLE as error:
        raise _cannot_be_read(path, error) from None
    return _decode(bytes(data), path).removeprefix("\ufeff")


def _lines(path: Path, remedy: str) -> Iterator[tuple[int, str]]:
    """Read (number, line) from a text file, numbered by line ends \\n or \\r\\n."""
    most = longest()
    try:
        with _open(path) as stream:
            number = 0
            while line := stream.readline(most + 1):
                number += 1
                if len(line) > most:
                    raise _too_long(path, f", line {number}", remedy)
                start = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                text = _decode(start, path, f", line {number}")
                del line, start
                if "\n" in text[:-1]:  # lines that end in \r alone
                    yield from ((number, f"{part}\n") for part in text.removesuffix("\n").split("\n"))
                else:
                    yield number, text
    except UNREADABLE as error:
        raise _cannot_be_read(path, error) from None


def _paragraphs(path: Path) -> Iterator[str]:
    most, lines, size = longest(), list[str](), 0
    for number, line in _lines(path, "break it into lines"):
        if line.strip():
            lines.append(line)
            size += len(line)
            if size > most:
                raise _too_long(path, f", line {number}", "set corpus.document to line")
        elif lines:
            yield "".join(lines).rstrip("\n")
            lines, size = [], 0
    if lines:
        yield "".join(lines).rstrip("\n")


# --- columns ----------------------------------------------------------------------------------------------------------


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} appears twice")
    return row


def _column_of_line(line: str, path: Path, number: int, column: str) -> str:
    try:
        row = json.loads(line, object_pairs_hook=_refuse_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"corpus.source: {path}, line {number}: not valid JSON ({first_line(error)}); fix the line"
        ) from None
    if not isinstance(row, dict) or column not in row:
        have = listed(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"corpus.column={column!r}: {path}, line {number} has no such column; it has: {have}")
    return as_text(row[column], column, f"{path}, line {number}")


def as_text(value: object, column: str, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"corpus.column={column!r}: {place} holds {type(value).__name__}, not text; name another column"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"corpus.column={column!r}: {place} holds half a surrogate pair, which is not text; fix it"
        ) from None
    if "\0" in value:
        raise UserError(f"corpus.column={column!r}: {place} holds a NUL, which is not text; remove it")
    if len(value) > longest():
        raise UserError(
            f"corpus.column={column!r}: {place} holds over {longest() // 10**6:,} MB as one document; split it"
        )
    return value


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as plain:
        try:
            if format_of(path)[1]:  # Parquet is read from its end, so it is unpacked to disk first
                plain.writelines(_unpacked(path))
                plain.seek(0)
            source = plain if format_of(path)[1] else path
            table = pq.ParquetFile(source)
            if column not in table.schema_arrow.names:
                raise UserError(
                    f"corpus.column={column!r}: {path} has no such column; it has: {listed(table.schema_arrow.names)}"
                )
            rows, by_dictionary = _rows_at_once(table, column, path)
            if by_dictionary:  # a value repeated in many rows is held once, as in the file
                table = pq.ParquetFile(source, read_dictionary=[column])
            for batch in table.iter_batches(batch_size=rows, columns=[column]):
                values = batch.column(0)
                for value in values if isinstance(values, pa.DictionaryArray) else values.to_pylist():
                    yield as_text(value.as_py() if isinstance(value, pa.Scalar) else value, column, str(path))
        except UnicodeDecodeError:
            raise UserError(f"corpus.source: {path}: holds text that is not UTF-8; write the file again") from None
        except (pa.ArrowException, *UNREADABLE) as error:
            raise UserError(
                f"corpus.source: {path}: not a readable Parquet file ({first_line(error)}); replace it"
            ) from None


def _rows_at_once(table: Any, column: str, path: Path) -> tuple[int, bool]:
    """Return how many rows to unpack together, and whether by a dictionary. Where a value may repeat the previous one
    (DELTA_BYTE_ARRAY), and so be far larger than its share of the file, they are few, at the least one."""
    largest, encodings = 1, set[str]()
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema.split(".")[0] == column:
                largest = max(largest, chunk.total_uncompressed_size)
                encodings |= set(chunk.encodings)
                if chunk.total_uncompressed_size > max(longest(), BOMB * chunk.total_compressed_size):
                    raise UserError(f"corpus.source: {path}: over {BOMB} times as large unpacked; replace it")
    repeats = any("DICTIONARY" in name for name in encodings)
    if any(name.startswith("DELTA") for name in encodings):
        return (1 if repeats else max(1, min(ROWS, longest() // largest))), False
    return ROWS, repeats and str(table.schema_arrow.field(column).type) in ("string", "large_string")
