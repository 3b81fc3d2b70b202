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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from collapselab.config import UserError, digest, first_line
from collapselab.guards import BROKEN, metrics, number, reading, refuse_strange, whole
from collapselab.identity import IDENTITY, json_text, parsed, plain_bytes, recorded, sealed, text_holds, unsealed

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


def write_bytes(path: Path, data: bytes) -> None:
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


def parse(text: str) -> Any:
    """JSON in the strict sense. Raises ValueError for NaN and Infinity, which this lab never writes, and for whole numbers
    of thousands of digits; RecursionError for depths that nothing needs."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    return json.loads(text, parse_constant=refuse)


def is_sealed(value: dict[str, Any]) -> bool:
    """Whether a value is as `sealed` gave it; one of an older version, without a seal, is taken as it is."""
    return "seal" not in value or sealed(value) == value


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
        manifest: dict[str, Any] = parse(path.read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            return None, f"manifest.json has schema {manifest['schema']!r}, this version reads {SCHEMA}"
        number(manifest["time"]["seconds"])
        strange = [value for value in manifest["inputs"].values() if not isinstance(value, str)]
        if strange or not is_sealed(manifest) or manifest["digest"] != _digest_of(manifest["files"]):
            return None, "manifest.json is damaged"
        for name, entry in manifest["files"].items() if check != "nothing" else ():
            if Path(name).is_absolute():
                return None, "manifest.json is damaged"
            if name not in manifest.get("pruned", ()) and (wrong := _flaw(stage / name, entry, check)):
                return None, f"{name} {wrong}"
        return manifest, ""
    except FileNotFoundError:
        return None, "manifest.json is missing"
    except (OSError, *BROKEN):
        return None, "manifest.json is damaged"


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
    amend(stage, pruned=sorted(names))
    for name in names:
        (stage / name).unlink(missing_ok=True)


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
        """({number: folder} of the valid parts, ascending; what is wrong with the others, in words).

        Args:
            more: what else the parts must be made from.
        """
        found, wrong = {}, []
        for path in sorted(self.folder.glob("[0-9]*")):
            manifest, flaw = examine(path)
            if manifest is None:
                wrong.append(f"{path}: {flaw}; not used")
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

    For the stages of generation 0 and the reference that other arms have too, the chain's identity has the digest under
    which they lie in the run's `shared/`; `shared.json` repeats it for readers.
    """

    def __init__(self, root: Path):
        self.root = root
        self.shared: dict[str, Path] = {}
        with suppress(UserError):  # who opens the chain says what is wrong with its identity
            if (known := recorded(root)) is not None and known.is_sealed:
                self.share(known.facts.get("shared", {}))
                return
        if (data := plain_bytes(root / "shared.json")) is not None:
            self.share(parsed(data))

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
            scored, path = manifests["eval"], stages["eval"] / "row.json"
            if (
                scored is None
                or "row.json" not in scored["files"]
                or _flaw(path, scored["files"]["row.json"], "digests")
            ):
                return rows
            row = _row(path, g)
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
    with reading(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    for at, line in enumerate(filter(None, lines), 1):
        try:
            rows.append(parse(line))
        except (ValueError, RecursionError):
            raise UserError(f"{path}, line {at}: not valid JSON; continue the run to have it rebuilt") from None
    with reading(path):
        for generation, row in enumerate(rows):
            _checked(row, generation, path)
    return rows


def _row(path: Path, generation: int) -> dict[str, Any]:
    """A generation's line of metrics.jsonl as its evaluation left it."""
    row = read_json(path)
    with reading(path):
        return _checked(row, generation, path)


def _checked(row: Any, generation: int, path: Path) -> dict[str, Any]:
    """A row that was read. Raises UserError for another schema, ValueError and its like for what is no row."""
    if row["schema"] != SCHEMA:
        raise UserError(f"{path}: schema {row['schema']!r} is not {SCHEMA}, the one this version reads")
    if whole(row["generation"]) != generation:
        raise ValueError(f"generation {row['generation']} stands in the place of {generation}")
    number(row["real_share"])
    metrics(row["metrics"])
    return dict(row)


class NoRunError(UserError):
    """There is no run in this folder."""


def find_chains(run: Path) -> list[Path]:
    """Chain directories of a run (or the chain itself), in a fixed order.

    Raises NoRunError where there is none, UserError where one holds strange things or settings that it was not run with."""
    try:
        is_chain = (run / "config.yaml").is_file() or (run / IDENTITY).is_file()
        found = {p.parent for name in ("config.yaml", IDENTITY) for p in run.glob(f"arm=*/seed=*/{name}")}
    except OSError as error:
        raise UserError(f"{run}: cannot be read ({error.strerror}); check the path") from None
    chains = [run] if is_chain else sorted(found)
    if not chains:
        raise NoRunError(f"{run}: no run here; give the directory that `collapselab run` printed")
    for chain in chains:
        _readable(chain)
    return chains


def run_root(chain: Path) -> Path:
    """The run directory that a chain belongs to."""
    chain = chain.absolute()
    return chain.parent.parent if chain.name.startswith("seed=") else chain


def _readable(chain: Path) -> None:
    """Raises UserError where a chain's folder holds strange things, or settings that are not those it was run with."""
    refuse_strange(chain, run_root(chain))
    path = chain / "config.yaml"
    if (data := plain_bytes(path)) is None:
        raise UserError(f"{path}: gone; continue the run to have it written again")
    known = None
    with suppress(UserError):  # who opens the chain says what is wrong with its identity
        known = recorded(chain)
    if known is not None and known.is_sealed and not text_holds(data):
        raise UserError(
            f"{path}: damaged, or edited; continue the run to have it written again (settings are changed in a copy)"
        )


def batch_of(path: Path) -> int | None:
    """The sampling batch that a batch.json holds; None where there is none, or it is damaged."""
    data = plain_bytes(path)
    older = parsed(data)  # without a seal
    kept = older if isinstance(older, dict) and older.keys() == {"batch_size"} else unsealed(data)
    batch = (kept or {}).get("batch_size")
    return batch if type(batch) is int and batch >= 1 else None


def keep_batch(path: Path, batch: int) -> None:
    """Writes a batch.json."""
    write_json(path, sealed({"batch_size": batch}))
