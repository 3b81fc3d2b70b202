"""Files and folders that are whole or not there. A folder exists when its manifest says so.

It is written under a temporary name beside its place, flushed, and renamed; its `manifest.json` (sizes and digests of its
files, digests of what it was made from) is written last and carries a seal.
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
    """Have the disk take a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Atomic: the file has its old content or the new one, also after a power cut."""
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
    """Raises UserError that names the file when it is missing or broken."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this a run directory?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not valid JSON ({first_line(error)[:200]}); remove it to have it made again"
        ) from None


@contextmanager
def publishing(place: Path, *, inputs: dict[str, str], shared: bool = False) -> Iterator[Path]:
    """Yields a temporary folder; on a clean exit its files appear at `place`, all at once, under a manifest. Otherwise
    nothing is left of it.

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
    """The folder that becomes `place`, which this process alone writes to."""
    temporary = place.with_name(f".{place.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new folder beside `place` that is this process's own, to be moved there; removed in the end where it was not. What
    processes that died have left of such folders is removed first."""
    prefix = f".{place.name[:100]}."
    for left in place.parent.glob(f"{glob.escape(prefix)}*partial"):
        with suppress(OSError), alone_in(left, 0):
            shutil.rmtree(left)
    with ExitStack() as hold:
        temporary = place
        while temporary == place or not temporary.exists():  # taken for a dead one's, before it was held
            temporary = place.with_name(f"{prefix}{os.getpid()}-{os.urandom(4).hex()}.partial")
            temporary.mkdir()
            with suppress(FileNotFoundError):
                hold.enter_context(alone_in(temporary))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, place: Path) -> bool:
    """Moves a folder to its place; False where something is there already, which stays."""
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
    """Holds the system's lock of a folder; on a file system without such locks nothing is held.

    Raises BlockingIOError where another process has it for longer than `wait` seconds; with 0, OSError for no locks too."""
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
    """Has the disk take every file of a folder; returns their sizes and digests, and the digest of all."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(1) as flusher:  # the disk works while the digests are computed
        flushed = flusher.map(flush, paths)
        files: dict[str, dict[str, Any]] = {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paths
        }
        list(flushed)  # raises what went wrong there
    return {"files": files, "digest": _digest_of(files)}


def _digest_of(files: dict[str, dict[str, Any]]) -> str:
    return digest({name: entry["sha256"] for name, entry in files.items()})


Check = Literal["digests", "sizes", "nothing"]


def manifest_of(stage: Path, *, check: Check = "digests") -> dict[str, Any] | None:
    """The manifest of a published stage, or None where it is missing or any file differs in size or digest."""
    return examine(stage, check=check)[0]


def examine(stage: Path, *, check: Check = "digests") -> tuple[dict[str, Any] | None, str]:
    """(manifest, "") of a published stage; (None, what is wrong with which file) of a damaged one; (None, "") where there
    is none. What was pruned on purpose is no damage."""
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
        strange = [value for value in manifest["inputs"].values() if not isinstance(value, str)]
        if strange or sealed(manifest) != manifest or manifest["digest"] != _digest_of(manifest["files"]):
            return None, "manifest.json is damaged"
        for name, entry in manifest["files"].items() if check != "nothing" else ():
            if name not in manifest.get("pruned", ()) and (wrong := _flaw(stage, name, entry, check)):
                return None, f"{name} {wrong}"
        if check != "nothing" and (alien := _strangers(stage, manifest["files"])):
            return None, f"{alien[0]} does not belong there"
        return manifest, ""
    except FileNotFoundError:
        return None, "manifest.json is missing"
    except (OSError, *BROKEN):
        return None, "manifest.json is damaged"


def intact(stage: Path, inputs: dict[str, str] | None = None) -> Path:
    """The folder of a published stage. Raises UserError where it is missing or damaged, or was made from other inputs."""
    manifest = manifest_of(stage)
    if manifest is None or (inputs is not None and manifest["inputs"] != inputs):
        raise UserError(f"{stage}: missing, damaged or out of date; continue the run to have it made again")
    return stage


def read_published(stage: Path, name: str) -> Any:
    """A JSON file of a stage, or None where the stage is not published or the file is not what was written."""
    manifest = manifest_of(stage, check="nothing")
    whole = (
        manifest is not None
        and name in manifest["files"]
        and not _flaw(stage, name, manifest["files"][name], "digests")
    )
    return read_json(stage / name) if whole else None


def _strangers(stage: Path, files: dict[str, Any]) -> list[str]:
    """Files that nobody published there, hidden ones left out: a library that is given the folder may read them."""
    found = (path.relative_to(stage).as_posix() for path in stage.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(
        n for n in found if n not in files and n != "manifest.json" and not n.rpartition("/")[2].startswith(".")
    )


def _flaw(stage: Path, name: str, entry: dict[str, Any], check: Check) -> str:
    """What is wrong with a file of a stage; empty where nothing is. Only its name in the manifest may not lead elsewhere:
    the path of the stage is the user's."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return "is outside of its stage"
    path = stage / name
    try:
        found = path.lstat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    if found.st_size != entry["bytes"]:
        return f"has {found.st_size} bytes instead of {entry['bytes']}"
    return "has other content than was written" if check == "digests" and sha256_of(path) != entry["sha256"] else ""


def amend(stage: Path, **entries: Any) -> None:
    """Sets entries of a published manifest that are no part of what the stage is: what was pruned, say."""
    path = stage / "manifest.json"
    manifest = manifest_of(stage, check="nothing")
    if manifest is None:
        raise UserError(f"{stage}: not published; continue the run to have it made")
    made = path.stat().st_mtime_ns
    write_json(path, sealed(manifest | entries))
    os.utime(path, ns=(made, made))  # when the stage was made


def prune(stage: Path, names: list[str]) -> None:
    """Removes files of a published stage on purpose; the manifest says so first, so that it is never taken for damage."""
    if (manifest_of(stage, check="nothing") or {}).get("pruned") != sorted(names):
        amend(stage, pruned=sorted(names))
    for name in names:
        (stage / name).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Removes what killed processes left below a folder that nobody else writes to: what never came to its place."""
    for path in [*folder.rglob(".*.partial"), *folder.rglob("train.again")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.rglob(".*.tmp"):
        path.unlink()
