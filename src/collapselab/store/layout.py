"""The run directory: stages talk through files.

runs/<name>/arm=<arm>/seed=<n>/gen_000/{mixture,train,samples,eval}/
runs/<name>/shared/<digest>/seed=<n>/gen_000/        stages of generation 0 that several arms start from
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from collapselab.config import UserError, digest
from collapselab.store.checks import metrics, number, reading, refuse_strange, text, whole
from collapselab.store.folders import SCHEMA, manifest_of, read_published, write_json, write_text
from collapselab.store.seals import COPY, IDENTITY, parse, parsed, plain_bytes, recorded, sealed, text_holds, unsealed

Gives = Literal["set", "model", "text", "scores"]
GIVES: dict[str, Gives] = {
    "mixture": "set", "train": "model", "samples": "text", "reference": "scores", "eval": "scores"
}  # fmt: skip
"""The stages in the order in which they are made, and what each gives. How they are made: chain/stages.py."""
ONCE = ("reference",)  # made with generation 0, for the chain as a whole
STAGES = tuple(name for name in GIVES if name not in ONCE)
"""The stages of every generation."""


def stages_of(generation: int) -> list[str]:
    """The stages that are made with a generation, in their order."""
    return [name for name in GIVES if generation == 0 or name not in ONCE]


class Chain:
    """Paths of one chain's directory, and which of its stages are published.

    For the stages of generation 0 and the reference that other arms have too, the chain's identity has the digest under
    which they lie in the run's `shared/`; `shared.json` repeats it for readers.
    """

    def __init__(self, root: Path):
        self.root = root
        self.shared: dict[str, Path] = {}
        with suppress(UserError):  # who opens the chain says what is wrong with its identity
            if (known := recorded(root)) is not None:
                self.use_shared(known.facts.get("shared", {}))
                return
        if (data := plain_bytes(root / "shared.json")) is not None:
            self.use_shared(parsed(data))

    def use_shared(self, digests: dict[str, str]) -> None:
        """Takes the named stages of generation 0 from the run's shared folders. Raises UserError for a strange digest."""
        for name, value in digests.items() if isinstance(digests, dict) else [("", digests)]:
            if name not in GIVES or not re.fullmatch(r"[0-9a-f]{32}", str(value)):
                raise UserError(f"{self.root / 'shared.json'}: not written by this lab; restore it or use another name")
            self.shared[name] = run_root(self.root) / "shared" / value / self.root.name

    def generation(self, index: int) -> Path:
        return self.root / f"gen_{index:03d}"

    def stage(self, index: int, name: str) -> Path:
        """Where a stage lies."""
        home = self.shared.get(name, self.root) if index == 0 or name in ONCE else self.root
        return home / name if name in ONCE else home / f"gen_{index:03d}" / name

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

    def at_work(self, finished: int) -> tuple[int, str]:
        """(finished generations, the stage at work) by which manifests are there, looking on from what was known."""
        while (self.stage(finished, "eval") / "manifest.json").is_file():
            finished += 1
        for name in STAGES:
            if not (self.stage(finished, name) / "manifest.json").is_file():
                return finished, name
        return self.at_work(finished)  # its last stage was published between the two looks

    def rescored(self, index: int, scores: str, name: str) -> Path:
        """Where later scores lie, beside and never instead of what was published: `eval` of a generation, `reference`."""
        if name in ONCE:
            return self.root / "rescored" / scores / name
        return self.generation(index) / "rescored" / scores

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
            with reading(path := stages["eval"] / "row.json"):
                row = _checked(row, g, path)
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
        return [_checked(row, generation, path) for generation, row in enumerate(rows)]


def _checked(row: Any, generation: int, path: Path) -> dict[str, Any]:
    """A row that was read. Raises UserError for another schema, ValueError and its like for what is no row."""
    if row["schema"] != SCHEMA:
        raise UserError(f"{path}: schema {row['schema']!r} is not {SCHEMA}, the one this version reads")
    if whole(row["generation"]) != generation:
        raise ValueError(f"generation {row['generation']} stands in the place of {generation}")
    number(row["real_share"])
    return {**row, "metrics": metrics(row["metrics"])}


def settled(path: Path) -> Path:
    """The path of a run, a chain or a folder of runs with `..`, links and `~` resolved, once and for all: names and parents
    of what it returns are those of the folders themselves. A relative path stays relative where it can."""
    with suppress(RuntimeError):  # `~` of a user that is not known: a folder of that name
        path = path.expanduser()
    try:
        found, here = Path(os.path.realpath(path)), Path.cwd()
    except ValueError:  # it holds a NUL: who reads the settings says so
        return path
    if path.is_absolute() or not found.is_relative_to(here):
        return found
    inside = found.relative_to(here)
    return inside if inside.parts and not inside.parts[0].startswith("seed=") else found  # a chain's parent has its arm


class NoRunError(UserError):
    """There is no run in this folder."""


def find_chains(run: Path) -> list[Path]:
    """Chain directories of a run (or the chain itself), settled, in a fixed order.

    Raises NoRunError where there is none, UserError where one holds strange things or settings that it was not run with."""
    if run.is_symlink() or run.parent.is_symlink():  # the run itself may be a link, its arms and seeds may not
        refuse_strange(run, run_root(run))
    named, run = run, settled(run)
    try:
        is_chain = (run / "config.yaml").is_file() or (run / IDENTITY).is_file()
        found = {p.parent for name in ("config.yaml", IDENTITY) for p in run.glob(f"arm=*/seed=*/{name}")}
    except OSError as error:
        raise UserError(f"{run}: cannot be read ({error.strerror}); check the path") from None
    chains = [run] if is_chain else sorted(found)
    if not chains:
        raise NoRunError(f"{named}: no run here; give the directory that `collapselab run` printed")
    for chain in chains:
        _readable(chain)
    return chains


def run_root(chain: Path) -> Path:
    """The run directory that a chain belongs to: itself where it is none, or was taken out of its run."""
    chain = chain.absolute()
    return chain.parent.parent if chain.name.startswith("seed=") and chain.parent.name.startswith("arm=") else chain


def parent_of(chain: Path, fork: dict[str, Any]) -> Path:
    """Where the parent of a fork is now: as it was named, as it is seen from the fork, or in the fork's own folder of runs,
    whichever is the chain that was forked; as it was named where none is.

    Args:
        fork: what the chain's identity records of it.
    """
    with reading(chain / "fork.json"):
        named = Path(text(fork["name"]))
        seen = chain / text(fork["path"])
        beside = run_root(chain).parent.joinpath(*named.parts[-3:])
    for place in (named, seen, beside):
        with suppress(UserError, OSError):  # a damaged one, or another's
            if (known := recorded(place)) is not None and digest(known.facts["config"]) == fork.get("parent"):
                return settled(place)
    return named


def keys_of_place(settings: Path) -> dict[str, str]:
    """`runs_dir`, `name` and `arm` by where a chain's config.yaml or an experiment's experiment.yaml lies now, those that
    the file itself may no longer have right; none for any other file.

    Args:
        settings: a file that settings are read from.
    """
    folder = settled(settings.parent).absolute()
    root = run_root(folder)
    if settings.name == "config.yaml" and root != folder and any((folder / n).is_file() for n in (IDENTITY, COPY)):
        runs, arm = settings.parent / "../../..", {"arm": folder.parent.name.removeprefix("arm=")}
    elif settings.name == "experiment.yaml" and any(folder.glob("arm=*/seed=*")):
        runs, arm = settings.parent / "..", {}
    else:
        return {}
    return {"runs_dir": str(settled(runs)), "name": root.name} | arm


def _readable(chain: Path) -> None:
    """Raises UserError where a chain's folder holds strange things, or settings that are not those it was run with."""
    refuse_strange(chain, run_root(chain))
    path = chain / "config.yaml"
    if (data := plain_bytes(path)) is None:
        raise UserError(f"{path}: gone; continue the run to have it written again")
    if not text_holds(data):
        recorded(chain)  # where its identity is no better, that is said
        raise UserError(
            f"{path}: damaged, or edited; continue the run to have it written again (settings are changed in a copy)"
        )


def batch_of(path: Path) -> int | None:
    """The sampling batch that a batch.json holds; None where there is none, or it is damaged."""
    batch = (unsealed(plain_bytes(path)) or {}).get("batch_size")
    return batch if type(batch) is int and batch >= 1 else None


def keep_batch(path: Path, batch: int) -> None:
    """Writes a batch.json."""
    write_json(path, sealed({"batch_size": batch}))
