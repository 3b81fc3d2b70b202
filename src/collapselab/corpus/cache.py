"""The cache of tokenised text: list, describe and clear it."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from collapselab.config import CorpusConfig, UserError
from collapselab.corpus.files import Digests, cache_root
from collapselab.corpus.sources import open_source
from collapselab.store.folders import alone_in

GRACE = 60  # seconds after its creation in which a partial folder may not have been locked yet


def remove_leftovers() -> None:
    """Remove the unlocked partial folders that killed processes left in the cache."""
    for folder in cache_root().glob(".*.partial"):
        with suppress(OSError), alone_in(folder, 0):  # another process may remove it, or has just published it
            if time.time() - folder.stat().st_mtime >= GRACE:
                shutil.rmtree(folder)


def bytes_below(folder: Path, pattern: str = "*") -> int:
    """Total size of the files below a folder; files that another process removes meanwhile count as 0."""
    size = 0
    with suppress(FileNotFoundError):
        for path in folder.rglob(pattern):
            with suppress(FileNotFoundError):
                size += path.stat().st_size if path.is_file() else 0
    return size


def cached_corpora() -> list[dict[str, Any]]:
    """Digest, source, tokenizer, tokens and bytes on disk of every cached corpus."""
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
            except FileNotFoundError:
                continue  # another process has just removed it
            except ValueError:
                facts = {"source": "(broken)", "tokenizer": {"name": "?"}, "splits": {}}
            row = {"digest": folder.name, "source": facts["source"], "tokenizer": facts["tokenizer"]["name"]}
            tokens = sum(split["tokens"] for split in facts["splits"].values())
            rows.append(row | {"tokens": tokens, "bytes": bytes_below(folder)})
    return rows


def clear(prefix: str) -> list[str]:
    """Remove cached corpora whose digest begins with `prefix` ("all" for every one); return their digests."""
    if not prefix:
        raise UserError("clear='': give `all` or the beginning of a digest")
    doomed = [row["digest"] for row in cached_corpora() if prefix == "all" or row["digest"].startswith(prefix)]
    if not doomed and prefix != "all":
        raise UserError(f"clear={prefix!r}: no cached corpus has this prefix; `collapselab corpus` lists them")
    if prefix == "all":
        doomed += [path.name for path in cache_root().glob(".*.partial")]
        (cache_root() / ".digests.json").unlink(missing_ok=True)
    for name in doomed:
        with suppress(FileNotFoundError):  # another process has removed it
            shutil.rmtree(cache_root() / name)
    return doomed


def show(which: str, data_dir: str | None = None) -> list[dict[str, Any]]:
    """Describe what cached corpora were read from, by a prefix of the digest or by `corpus.source`. For a source that is not
    cached, list the files that it would be read from and those it would skip."""
    rows = [row for row in cached_corpora() if which and (row["digest"].startswith(which) or row["source"] == which)]
    if rows:
        return [json.loads((cache_root() / row["digest"] / "corpus.json").read_text(encoding="utf-8")) for row in rows]
    config = CorpusConfig(source=which)
    try:
        source = open_source(config, data_dir, Digests())
    except UserError as error:
        raise UserError(f"show={which!r}: no cached corpus has this prefix, and as a source: {error}") from None
    return [{"source": which, "read": source.listing}]
