"""Atomic files and published folders, each complete or absent. A folder exists only with its manifest.

It is written under a temporary name next to its place, flushed, and renamed; its `manifest.json` (sizes and digests of its
files, digests of its inputs) is written last and carries a seal.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from collapselab.config import UserError, digest, first_line
from collapselab.store.checks import BROKEN, number
from collapselab.store.seals import json_text, parse, sealed

SCHEMA = 1


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically: it has its old or its new content, even after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError naming the file if it is missing or invalid."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this a run directory?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({first_line(error)[:200]}); remove it to have it rebuilt") from None


@contextmanager
def publishing(place: Path, *, inputs: dict[str, str], shared: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; on a clean exit it appears atomically at `place` with a manifest, else it is removed.

    Args:
        shared: other processes may publish the same content at the same time (a cache); the first one wins.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with beside(place) if shared else _partial(place) as temporary:
        yield temporary
        manifest = {
            "schema": SCHEMA,
            "stage": place.name,
            **_flushed(temporary),
            "inputs": inputs,
            "time": {"seconds": round(time.perf_counter() - started, 3)},
        }
        write_json(temporary / "manifest.json", sealed(manifest))
        with alone_in(place.parent) if shared else nullcontext():
            if shared and manifest_of(place) is not None:
                return
            if place.exists():
                shutil.rmtree(place)
            put_in_place(temporary, place)


@contextmanager
def _partial(place: Path) -> Iterator[Path]:
    """Temporary folder of `place`, to which only this process writes."""
    temporary = place.with_name(f".{place.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # frees the space on a full disk


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """Make a folder of this process next to `place`, to be moved there, else removed at the end. Folders left by dead processes
    are removed first."""
    prefix = f".{place.name[:100]}."
    for left in place.parent.glob(f"{glob.escape(prefix)}*partial"):
        with suppress(OSError), alone_in(left, 0):
            shutil.rmtree(left)
    with ExitStack() as hold:
        temporary = place
        while temporary == place or not temporary.exists():  # removed as a dead process's before it was locked
            temporary = place.with_name(f"{prefix}{os.getpid()}-{os.urandom(4).hex()}.partial")
            temporary.mkdir()
            with suppress(FileNotFoundError):
                hold.enter_context(alone_in(temporary))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, place: Path) -> bool:
    """Move a folder to its place; return False if that exists already."""
    try:
        temporary.replace(place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    flush(place.parent)
    return True


@contextmanager
def alone_in(folder: Path, wait: float = 60.0) -> Iterator[None]:
    """Hold the system's lock of a folder; does nothing on a file system without such locks.

    Raises BlockingIOError if another process keeps it for `wait` seconds; with 0, OSError if there are no locks."""
    handle, ends = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise BlockingIOError(errno.EWOULDBLOCK, "another process writes there", str(folder)) from None
                time.sleep(0.02)
            except OSError:
                if not wait:
                    raise
                break
        yield
    finally:
        os.close(handle)


def _flushed(folder: Path) -> dict[str, Any]:
    """Flush every file of a folder to disk; return their sizes and digests, and the digest of all."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(1) as flusher:  # in parallel with the digests
        flushed = flusher.map(flush, paths)
        files: dict[str, dict[str, Any]] = {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paths
        }
        list(flushed)  # raises its errors
    return {"files": files, "digest": _digest_of(files)}


def _digest_of(files: dict[str, dict[str, Any]]) -> str:
    return digest({name: entry["sha256"] for name, entry in files.items()})


Check = Literal["digests", "sizes", "nothing"]


def manifest_of(stage: Path, *, check: Check = "digests") -> dict[str, Any] | None:
    """Manifest of a published stage; None if it is missing or any file differs in size or digest."""
    return examine(stage, check=check)[0]


def examine(stage: Path, *, check: Check = "digests") -> tuple[dict[str, Any] | None, str]:
    """Check a published stage: (manifest, "") if valid, (None, flaw) if damaged, (None, "") if there is none. Pruned files
    are no damage."""
    if not stage.exists():
        return None, ""
    path = stage / "manifest.json"
    try:
        manifest: dict[str, Any] = parse(path.read_text(encoding="utf-8"))
        if manifest["stage"] != stage.name:
            return None, f"manifest.json is that of {str(manifest['stage'])[:40]!r}"
        if manifest["schema"] != SCHEMA:
            return None, f"manifest.json has schema {manifest['schema']!r}, this version reads {SCHEMA}"
        number(manifest["time"]["seconds"])
        is_valid = all(isinstance(value, str) for value in manifest["inputs"].values())
        if not is_valid or sealed(manifest) != manifest or manifest["digest"] != _digest_of(manifest["files"]):
            return None, "manifest.json is damaged"
        for name, entry in manifest["files"].items() if check != "nothing" else ():
            if name not in manifest.get("pruned", ()) and (flaw := _flaw(stage, name, entry, check)):
                return None, f"{name} {flaw}"
        if check != "nothing" and (unexpected := _unexpected_files(stage, manifest["files"])):
            return None, f"{unexpected[0]} does not belong there"
        return manifest, ""
    except FileNotFoundError:
        return None, "manifest.json is missing"
    except (OSError, *BROKEN):
        return None, "manifest.json is damaged"


def intact(stage: Path, inputs: dict[str, str] | None = None) -> Path:
    """Return the folder of a published stage. Raises UserError if it is missing, damaged or made from other inputs."""
    manifest = manifest_of(stage)
    if manifest is None or (inputs is not None and manifest["inputs"] != inputs):
        raise UserError(f"{stage}: missing, damaged or out of date; continue the run to rebuild it")
    return stage


def read_published(stage: Path, name: str) -> Any:
    """Read a JSON file of a stage; None if the stage is not published or the file is damaged."""
    manifest = manifest_of(stage, check="nothing")
    whole = (
        manifest is not None
        and name in manifest["files"]
        and not _flaw(stage, name, manifest["files"][name], "digests")
    )
    return read_json(stage / name) if whole else None


def _unexpected_files(stage: Path, files: dict[str, Any]) -> list[str]:
    """Files that were not published, without hidden ones: a library that opens the folder might read them."""
    names = (path.relative_to(stage).as_posix() for path in stage.rglob("*") if not path.is_dir() or path.is_symlink())
    expected = {*files, "manifest.json"}
    return sorted(name for name in names if name not in expected and not name.rpartition("/")[2].startswith("."))


def _flaw(stage: Path, name: str, entry: dict[str, Any], check: Check) -> str:
    """Flaw of a file of a stage; empty if there is none. Its name must not lead out of the stage, whose own path is the
    user's choice."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return "is outside of its stage"
    path = stage / name
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a plain file"
    if status.st_size != entry["bytes"]:
        return f"has {status.st_size} bytes instead of {entry['bytes']}"
    return "has other content than was written" if check == "digests" and sha256_of(path) != entry["sha256"] else ""


def amend(stage: Path, **entries: Any) -> None:
    """Set entries of a published manifest that do not define the stage, such as its pruned files."""
    path = stage / "manifest.json"
    manifest = manifest_of(stage, check="nothing")
    if manifest is None:
        raise UserError(f"{stage}: not published; continue the run to make it")
    made_at = path.stat().st_mtime_ns
    write_json(path, sealed(manifest | entries))
    os.utime(path, ns=(made_at, made_at))


def prune(stage: Path, names: list[str]) -> None:
    """Remove files of a published stage on purpose; the manifest lists them first, lest they count as damage."""
    if (manifest_of(stage, check="nothing") or {}).get("pruned") != sorted(names):
        amend(stage, pruned=sorted(names))
    for name in names:
        (stage / name).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove temporary files of killed processes below a folder to which nobody else writes."""
    for path in [*folder.rglob(".*.partial"), *folder.rglob("train.again")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.rglob(".*.tmp"):
        path.unlink()
