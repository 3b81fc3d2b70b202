"""Layout of the run directory, through whose files the stages communicate.

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
from collapselab.store.checks import interval, metrics, number, reading, refuse_links, text, whole
from collapselab.store.folders import SCHEMA, manifest_of, read_published, write_json, write_text
from collapselab.store.seals import COPY, IDENTITY, parse, parsed, plain_bytes, recorded, sealed, text_holds, unsealed

Gives = Literal["set", "model", "text", "curated", "scores"]
GIVES: dict[str, Gives] = {
    "mixture": "set", "train": "model", "samples": "text", "judged": "curated", "reference": "scores", "eval": "scores"
}  # fmt: skip
"""The stages in the order in which they are made, and the result of each. How they are made: chain/stages.py."""
ONCE = ("reference",)  # made with generation 0, for the chain as a whole
OPTIONAL = ("judged",)  # made if the settings ask for it (`judging.judges`)


def is_judged(identity: dict[str, Any]) -> bool:
    """Return True if the keys of an identity put judges between samples and later sets (as `RunConfig.judged`)."""
    asked = identity.get("judging.judges") or identity.get("judging.keep") == "edit"
    return bool(asked) and identity.get("sampling.source") != "real"


class Chain:
    """Paths in one chain's directory, and its published stages.

    For stages of generation 0 and the reference shared with other arms, the chain's identity holds the digest that names
    their folder in the run's `shared/`; `shared.json` repeats it for readers.
    """

    def __init__(self, root: Path):
        self.root = root
        self.shared: dict[str, Path] = {}
        self.judged = False
        with suppress(UserError):  # a damaged identity is reported when the chain is opened
            if (record := recorded(root)) is not None:
                self.judged = is_judged(record.facts["config"])
                self.use_shared(record.facts.get("shared", {}))
                return
        if (data := plain_bytes(root / "shared.json")) is not None:
            self.use_shared(parsed(data))

    def use_shared(self, digests: dict[str, str]) -> None:
        """Redirect the named stages of generation 0 to the run's shared folders. Raises UserError for an invalid digest."""
        for name, value in digests.items() if isinstance(digests, dict) else [("", digests)]:
            if name not in GIVES or not re.fullmatch(r"[0-9a-f]{32}", str(value)):
                raise UserError(f"{self.root / 'shared.json'}: not written by this lab; restore it or use another name")
            self.shared[name] = run_root(self.root) / "shared" / value / self.root.name

    def stages(self, generation: int) -> list[str]:
        """Stages that are made with a generation, in order."""
        left = (*(ONCE if generation else ()), *(() if self.judged else OPTIONAL))
        return [name for name in GIVES if name not in left]

    @property
    def text(self) -> str:
        """Stage whose text later generations receive."""
        return "judged" if self.judged else "samples"

    def generation(self, index: int) -> Path:
        return self.root / f"gen_{index:03d}"

    def stage(self, index: int, name: str) -> Path:
        """Folder of a stage."""
        home = self.shared.get(name, self.root) if index == 0 or name in ONCE else self.root
        return home / name if name in ONCE else home / f"gen_{index:03d}" / name

    @property
    def batch_file(self) -> Path:
        """File of the chosen sampling batch size; arms that share samples share it."""
        return self.shared.get("samples", self.root) / "batch.json"

    def digest_of(self, index: int, name: str) -> str:
        """Digest of a published stage. Raises UserError if it is not published."""
        manifest = manifest_of(self.stage(index, name), check="nothing")
        if manifest is None:
            raise UserError(f"{self.stage(index, name)}: not published; continue the run to make it")
        return str(manifest["digest"])

    def with_weights(self) -> list[int]:
        """Finished generations whose weights were not pruned."""
        manifests = {g: manifest_of(self.stage(g, "train"), check="nothing") for g in self.finished()}
        return [g for g, manifest in manifests.items() if manifest is not None and not manifest.get("pruned")]

    def need_weights(self, generations: list[int], what: str) -> None:
        """Refuse finished generations whose weights were pruned; `what`: option and value that needs them, for the message."""
        kept = self.with_weights()
        pruned = [g for g in generations if g in self.finished() and g not in kept]
        if pruned:
            raise UserError(
                f"{what}: {self.root} has pruned the weights of generations {', '.join(map(str, pruned))}; it keeps those of "
                f"{', '.join(map(str, kept))}; "
                "choose one of these, or run a chain with retain=all"
            )

    def finished(self) -> list[int]:
        """List the generations whose last stage is published, ascending, up to the first gap."""
        done: list[int] = []
        while manifest_of(self.stage(len(done), "eval"), check="nothing") is not None:
            done.append(len(done))
        return done

    def at_work(self, finished: int) -> tuple[int, str]:
        """(finished generations, stage at work), determined from manifests from a known lower bound `finished` on."""
        while (self.stage(finished, "eval") / "manifest.json").is_file():
            finished += 1
        for name in self.stages(max(1, finished)):
            if not (self.stage(finished, name) / "manifest.json").is_file():
                return finished, name
        return self.at_work(finished)  # its last stage was published between the two looks

    def rescored(self, index: int, scores: str, name: str) -> Path:
        """Folder of a re-scoring's `eval` of a generation or `reference`, next to the published one."""
        if name in ONCE:
            return self.root / "rescored" / scores / name
        return self.generation(index) / "rescored" / scores

    def rows(self, scores: str | None = None) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl from the published evaluations, up to the first missing or damaged one; `scores`: name of a
        re-scoring to read instead.
        """
        rows: list[dict[str, Any]] = []
        while True:
            g = len(rows)
            stages = {s: self.stage(g, s) for s in self.stages(max(1, g))} | (
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
        """Rewrite metrics.jsonl as a whole: never a torn or a duplicate line."""
        path = (self.root / "rescored" / scores if scores else self.root) / "metrics.jsonl"
        write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))

    def metrics_flaw(self, rows: list[dict[str, Any]]) -> str:
        """Message if metrics.jsonl contradicts the evaluations it was made from; empty if it agrees, or lacks only the row that
        a killed process could not write."""
        path = self.root / "metrics.jsonl"
        if not path.exists():
            return f"{path} is missing; rebuilt" if len(rows) > 1 else ""
        try:
            lines = [row | {"time": {}} for row in read_metrics(self.root)]
        except (UserError, OSError, ValueError, TypeError):
            return f"{path} is damaged; rebuilt"
        agree = all(a == b | {"time": {}} for a, b in zip(lines, rows, strict=False))
        return "" if agree and len(lines) >= len(rows) - 1 else f"{path} is not what was written; rebuilt"


def read_metrics(chain: Path) -> list[dict[str, Any]]:
    """Read the rows of a chain's metrics.jsonl."""
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
    """Validate a row. Raises UserError for another schema, an error of `checks.BROKEN` for an invalid row."""
    if row["schema"] != SCHEMA:
        raise UserError(f"{path}: schema {row['schema']!r} is not {SCHEMA}, the one this version reads")
    if whole(row["generation"]) != generation:
        raise ValueError(f"generation {row['generation']} instead of {generation}")
    number(row["real_share"])
    checked: dict[str, Any] = {**row, "metrics": metrics(row["metrics"])}
    if "intervals" in row:  # older rows have none
        checked["intervals"] = {key: interval(pair) for key, pair in row["intervals"].items()}
        if not checked["intervals"].keys() <= checked["metrics"].keys():
            raise ValueError("an interval of a metric that the row lacks")
    return checked


def settled(path: Path) -> Path:
    """Resolve `..`, links and `~` in the path of a run, a chain or a folder of runs, so that its name and parents are those
    of the real folders. A relative path stays relative if possible."""
    with suppress(RuntimeError):  # `~` of an unknown user: a folder of that name
        path = path.expanduser()
    try:
        real, here = Path(os.path.realpath(path)), Path.cwd()
    except ValueError:  # contains a NUL: reported when settings are read
        return path
    if path.is_absolute() or not real.is_relative_to(here):
        return real
    inside = real.relative_to(here)
    return (
        inside if inside.parts and not inside.parts[0].startswith("seed=") else real
    )  # a chain's parent names its arm


class NoRunError(UserError):
    """Error: there is no run in this folder."""


def find_chains(run: Path) -> list[Path]:
    """Chain directories of a run (or the chain itself), resolved, in a fixed order.

    Raises NoRunError if there is none, UserError if one holds links, pipes or edited settings."""
    if run.is_symlink() or run.parent.is_symlink():  # only the run itself may be a link
        refuse_links(run, run_root(run))
    named, run = run, settled(run)
    try:
        is_chain = (run / "config.yaml").is_file() or (run / IDENTITY).is_file()
        folders = {p.parent for name in ("config.yaml", IDENTITY) for p in run.glob(f"arm=*/seed=*/{name}")}
    except OSError as error:
        raise UserError(f"{run}: cannot be read ({error.strerror}); check the path") from None
    chains = [run] if is_chain else sorted(folders)
    if not chains:
        raise NoRunError(f"{named}: no run here; give the directory that `collapselab run` printed")
    for chain in chains:
        _readable(chain)
    return chains


def in_order(chain: Path) -> tuple[str, int, str]:
    """Sort key of chain folders: by arm, then by the number of the seed."""
    seed = chain.name.removeprefix("seed=")
    return chain.parent.name, int(seed) if re.fullmatch("[0-9]{1,18}", seed) else 0, seed


def run_root(chain: Path) -> Path:
    """Run directory of a chain; the path itself if it is no chain or was moved out of its run."""
    chain = chain.absolute()
    return chain.parent.parent if chain.name.startswith("seed=") and chain.parent.name.startswith("arm=") else chain


def parent_of(chain: Path, fork: dict[str, Any]) -> Path:
    """Locate the parent of a fork by its recorded path, its path relative to the fork, or in the fork's own folder of runs:
    the first that is the chain that was forked, else the recorded path.

    Args:
        fork: record of the fork in the chain's identity.
    """
    with reading(chain / "fork.json"):
        named = Path(text(fork["name"]))
        relative = chain / text(fork["path"])
        sibling = run_root(chain).parent.joinpath(*named.parts[-3:])
    for place in (named, relative, sibling):
        with suppress(UserError, OSError):  # damaged, or another user's
            if (record := recorded(place)) is not None and digest(record.facts["config"]) == fork.get("parent"):
                return settled(place)
    return named


def keys_of_place(settings: Path) -> dict[str, str]:
    """`runs_dir`, `name` and `arm` from the current place of a chain's config.yaml or an experiment's experiment.yaml, since
    the file's own may be outdated; empty for any other file."""
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
    """Refuse a chain whose folder holds links or pipes, or whose settings were edited. Raises UserError."""
    refuse_links(chain, run_root(chain))
    path = chain / "config.yaml"
    if (data := plain_bytes(path)) is None:
        raise UserError(f"{path}: missing; continue the run to rewrite it")
    if not text_holds(data):
        recorded(chain)  # raises if its identity is damaged too
        raise UserError(f"{path}: damaged or edited; continue the run to rewrite it (change settings in a copy)")


def batch_of(path: Path) -> int | None:
    """Read the sampling batch size in a batch.json; None if it is missing or damaged."""
    batch = (unsealed(plain_bytes(path)) or {}).get("batch_size")
    return batch if type(batch) is int and batch >= 1 else None


def keep_batch(path: Path, batch: int) -> None:
    """Write a batch.json."""
    write_json(path, sealed({"batch_size": batch}))
