"""The run directory: stages talk through files, and a stage folder exists when its manifest says so.

    runs/<name>/arm=<arm>/seed=<n>/gen_000/{mixture,train,samples,eval}/
    runs/<name>/shared/<digest>/seed=<n>/gen_000/        stages of generation 0 that several arms start from

A stage is written into a temporary folder beside its place, flushed, and renamed; its `manifest.json` (sizes and
digests of its files, digests of its inputs) is written last. A folder without a valid manifest does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from collapselab.config import UserError, digest

SCHEMA = 1
COST_SHARE = 0.05  # of the time that may go into checkpoints
STAGES = ("mixture", "train", "samples", "eval")
SHARED_STAGES = (*STAGES, "reference")


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Atomic: the file has its old content or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises UserError that names the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this a run directory?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); remove it to have it made again") from None


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The value with a digest of itself, by which `is_sealed` finds any change."""
    rest = {key: entry for key, entry in value.items() if key != "seal"}
    return rest | {"seal": digest(rest)}


def is_sealed(value: dict[str, Any]) -> bool:
    """Whether a value is as `sealed` gave it; one of an older version, without a seal, is taken as it is."""
    return "seal" not in value or sealed(value) == value


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON file that was written sealed. Raises UserError that names it where it is missing or was changed."""
    value = read_json(path)
    if not isinstance(value, dict) or not is_sealed(value):
        raise UserError(f"{path}: damaged; restore it, or remove it to have it made again")
    return value


@contextmanager
def publishing(place: Path, *, inputs: dict[str, str], shared: bool = False) -> Iterator[Path]:
    """Yields a temporary folder; on a clean exit its files appear at `place`, all at once, under a manifest. Otherwise
    nothing is left of it.

    Args:
        shared: other processes may publish the same content at the same time (a cache); the first one wins.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if shared:
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    else:
        temporary = place.with_name(f".{place.name}.partial")
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
    started = time.perf_counter()
    try:
        yield temporary
        manifest = {
            "schema": SCHEMA,
            "stage": place.name,
            **_flushed(temporary),
            "inputs": inputs,
            "time": {"seconds": round(time.perf_counter() - started, 3)},
        }
        write_json(temporary / "manifest.json", sealed(manifest))
        if shared and manifest_of(place) is not None:
            shutil.rmtree(temporary)
            return
        if place.exists():
            shutil.rmtree(place)
        temporary.replace(place)
        _sync_directory(place.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
        raise


def _flushed(folder: Path) -> dict[str, Any]:
    """Has the disk take every file of a folder; returns their sizes and digests, and the digest of all."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(1) as flusher:  # the disk works while the digests are computed
        flushed = flusher.map(_flush, paths)
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
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            return None, f"manifest.json has schema {manifest['schema']!r}, this version reads {SCHEMA}"
        if not is_sealed(manifest) or manifest["digest"] != _digest_of(manifest["files"]):
            return None, "manifest.json is damaged"
        for name, entry in manifest["files"].items() if check != "nothing" else ():
            if name not in manifest.get("pruned", ()) and (wrong := _flaw(stage / name, entry, check)):
                return None, f"{name} {wrong}"
        if check != "nothing" and (strange := _strangers(stage, manifest["files"])):
            return None, f"{strange[0]} does not belong there"
        if not isinstance(manifest["inputs"], dict):
            return None, "manifest.json is damaged"
        return manifest, ""
    except FileNotFoundError:
        return None, "manifest.json is missing"
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None, "manifest.json is damaged"


def read_published(stage: Path, name: str) -> Any:
    """A JSON file of a stage, or None where the stage is not published or the file is not what was written."""
    manifest = manifest_of(stage, check="nothing")
    whole = (
        manifest is not None
        and name in manifest["files"]
        and not _flaw(stage / name, manifest["files"][name], "digests")
    )
    return read_json(stage / name) if whole else None


def _strangers(stage: Path, files: dict[str, Any]) -> list[str]:
    """Files that nobody published there, hidden ones left out: a library that is given the folder may read them."""
    found = (path.relative_to(stage).as_posix() for path in stage.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(
        n for n in found if n not in files and n != "manifest.json" and not n.rpartition("/")[2].startswith(".")
    )


def _flaw(path: Path, entry: dict[str, Any], check: Check) -> str:
    """What is wrong with a file of a stage; empty where nothing is."""
    if ".." in path.parts:
        return "lies elsewhere"
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


class Unfinished:
    """What a stage has made before it is published: numbered parts beside its place, each whole under a manifest.

    Args:
        place: of the stage. inputs: what it is made from; parts that were made from something else do not exist.
    """

    def __init__(self, place: Path, inputs: dict[str, str]):
        self.folder = place.with_name(f"{place.name}.unfinished")
        self.inputs = inputs
        self.at = time.monotonic()  # when the last part was written, or the stage begun
        self.cost = 0.0  # seconds that this took

    def parts(self, more: dict[str, str] | None = None) -> tuple[dict[int, Path], list[str]]:
        """({number: folder} of the valid parts, ascending; what was wrong with others, in words). Those are removed: they
        would count among the parts that may be kept.

        Args:
            more: what else the parts must be made from.
        """
        found, wrong = {}, []
        for path in sorted(self.folder.glob("[0-9]*")):
            manifest, flaw = examine(path)
            if manifest is None:
                wrong.append(f"{path}: {flaw}; not used, removed")
                shutil.rmtree(path)
            elif manifest["inputs"] == self.inputs | (more or {}):
                found[int(path.name)] = path
        return found, wrong

    def due(self, seconds: float | None) -> bool:
        """Whether `seconds` have passed since the last part, and twenty times what writing it took."""
        return seconds is not None and time.monotonic() - self.at >= max(seconds, self.cost / COST_SHARE)

    @contextmanager
    def write(self, number: int, more: dict[str, str] | None = None, *, keep: int | None = None) -> Iterator[Path]:
        """Publishes a part.

        Args:
            keep: parts that may lie there at a time, this one among them; the lowest numbers go first.
        """
        started = time.monotonic()
        place = self.folder / f"{number:010d}"
        others = [path for path in sorted(self.folder.glob("[0-9]*")) if path != place]
        for path in others[: max(0, len(others) - keep + 1)] if keep is not None else []:
            shutil.rmtree(path)
        with publishing(place, inputs=self.inputs | (more or {})) as out:
            yield out
        self.at = time.monotonic()
        self.cost = self.at - started

    def clear(self) -> None:
        """Removes all parts: the stage is published, or was begun anew."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


class Chain:
    """Paths of one chain's directory, and which of its stages are published.

    `shared.json` names, for the stages of generation 0 and the reference that other arms have too, the digest under
    which they lie in the run's `shared/`.
    """

    def __init__(self, root: Path):
        self.root = root
        self.shared: dict[str, Path] = {}
        if (root / "shared.json").is_file():
            self.share(read_json(root / "shared.json"))

    def share(self, digests: dict[str, str]) -> None:
        """Takes the named stages of generation 0 from the run's shared folders. Raises UserError for a strange digest."""
        for name, value in digests.items() if isinstance(digests, dict) else [("", digests)]:
            if name not in SHARED_STAGES or not re.fullmatch(r"[0-9a-f]{32}", str(value)):
                raise UserError(f"{self.root / 'shared.json'}: not written by this lab; restore it or use another name")
            self.shared[name] = run_root(self.root) / "shared" / value / self.root.name

    def generation(self, index: int) -> Path:
        return self.root / f"gen_{index:03d}"

    def stage(self, index: int, name: str) -> Path:
        """Where a stage lies; `reference` belongs to the chain as a whole."""
        home = self.shared.get(name, self.root) if index == 0 or name == "reference" else self.root
        return home / name if name == "reference" else home / f"gen_{index:03d}" / name

    @property
    def batch_file(self) -> Path:
        """Keeps the sampling batch that was chosen: arms that share samples write all of theirs alike."""
        return self.shared.get("samples", self.root) / "batch.json"

    def digest_of(self, index: int, name: str) -> str:
        """Digest of a published stage; raises UserError where there is none."""
        manifest = manifest_of(self.stage(index, name), check="nothing")
        if manifest is None:
            raise UserError(f"{self.stage(index, name)}: not published; continue the run to have it made")
        return str(manifest["digest"])

    def with_weights(self) -> list[int]:
        """Finished generations whose weights were not pruned."""
        found = {g: manifest_of(self.stage(g, "train"), check="nothing") for g in self.finished()}
        return [g for g, manifest in found.items() if manifest is not None and not manifest.get("pruned")]

    def need_weights(self, generations: list[int], what: str) -> None:
        """Raises UserError where the weights of a finished generation were pruned.

        Args:
            what: asked for them, for the message: an option and its value.
        """
        kept = self.with_weights()
        gone = [g for g in generations if g in self.finished() and g not in kept]
        if gone:
            named, ours = (", ".join(map(str, found)) for found in (gone, kept))
            raise UserError(
                f"{what}: {self.root} has pruned the weights of generations {named}; it keeps those of {ours}; "
                "choose one of these, or run a chain with retain=all"
            )

    def finished(self) -> list[int]:
        """Generations whose last stage is published, ascending, without a gap."""
        done: list[int] = []
        while manifest_of(self.stage(len(done), "eval"), check="nothing") is not None:
            done.append(len(done))
        return done

    def rescored(self, index: int, scores: str, name: str) -> Path:
        """Where later scores lie, beside and never instead of what was published: `eval` of a generation, `reference`."""
        home = self.root / "rescored" / scores if name == "reference" else self.generation(index) / "rescored"
        return home / (name if name == "reference" else scores)

    def rows(self, scores: str | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl as the published evaluations have them, to the first generation that has none or a
        damaged one.

        Args:
            scores: name of later scores, whose rows are meant.
        """
        rows: list[dict[str, Any]] = []
        while True:
            g = len(rows)
            stages = {s: self.stage(g, s) for s in STAGES} | (
                {"eval": self.rescored(g, scores, "eval")} if scores else {}
            )
            manifests = {name: manifest_of(folder, check="nothing") for name, folder in stages.items()}
            row = read_published(stages["eval"], "row.json")
            if row is None:
                return rows
            row["arm"] = self.root.parent.name.removeprefix("arm=")
            row["time"] = {f"{name}_seconds": m["time"]["seconds"] for name, m in manifests.items() if m}
            rows.append(row)

    def write_metrics(self, rows: list[dict[str, Any]], scores: str | None = None) -> None:
        """Writes metrics.jsonl anew: never a torn or a double line."""
        path = (self.root / "rescored" / scores if scores else self.root) / "metrics.jsonl"
        write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))

    def metrics_flaw(self, rows: list[dict[str, Any]]) -> str:
        """How metrics.jsonl contradicts the evaluations it was made from; empty where it does not, or only lacks what a
        process that was killed could not write any more."""
        path = self.root / "metrics.jsonl"
        if not path.exists():
            return f"{path} is missing; made again" if len(rows) > 1 else ""
        try:
            found = [row | {"time": {}} for row in read_metrics(self.root)]
        except (UserError, OSError, ValueError, TypeError):
            return f"{path} is damaged; made again"
        agree = all(a == b | {"time": {}} for a, b in zip(found, rows, strict=False))
        return "" if agree and len(found) >= len(rows) - 1 else f"{path} is not what was written; made again"


def read_metrics(chain: Path) -> list[dict[str, Any]]:
    """The lines of a chain's metrics.jsonl."""
    path = chain / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; no generation is finished yet, or this is not a run")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            raise UserError(f"{path}, line {number}: not valid JSON; continue the run to have it rebuilt") from None
    if rows and rows[0].get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {rows[0].get('schema')!r} is not {SCHEMA}, the one this version reads")
    return rows


def find_chains(run: Path) -> list[Path]:
    """Chain directories of a run (or the chain itself), in a fixed order; raises UserError where there is none."""
    if (run / "config.yaml").is_file():
        return [run]
    chains = sorted(path.parent for path in run.glob("arm=*/seed=*/config.yaml"))
    if not chains:
        raise UserError(f"{run}: no run here; give the directory that `collapselab run` printed")
    return chains


def run_root(chain: Path) -> Path:
    """The run directory that a chain belongs to."""
    chain = chain.absolute()
    return chain.parent.parent if chain.name.startswith("seed=") else chain
