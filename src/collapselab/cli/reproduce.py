"""Rerun published results, compare them with the papers, and keep the verdicts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapselab.cli.common import make_options, print_table, quiet
from collapselab.cli.experiment import read_experiment
from collapselab.config import UserError
from collapselab.config.corpus import LANGUAGES
from collapselab.config.keys import run_keys

if TYPE_CHECKING:
    from collapselab.experiments.experiment import Experiment
    from collapselab.reproduce.entries import Entry
    from collapselab.reproduce.verdicts import Verdict


def main(arguments: list[str]) -> int:
    options = make_options("reproduce")
    options.add_positional("name", "names of entries to rerun; --list shows them", nargs="*")
    options.add_switch("list", "list the entries with costs and verdicts, and stop")
    options.add_switch("all", "rerun every entry")
    options.add("seeds", list[int] | None, None, "seeds, as in [11, 12, 13]; null means the entry's own")
    options.add("workers", int, 2, "chains run at once")
    options.add("papers", str, "configs/papers", "folder of the entries")
    options.add("out", str, "results", "folder to keep the verdicts in, under NAME/ for each entry")
    options.add("data_dir", str | None, None, "directory of named local corpora; null means $COLLAPSELAB_DATA")
    options.add("runs_dir", str, "runs", "directory that holds the runs")
    options.add("device", str, "auto", "where to compute: auto, cpu or cuda")
    parsed = options.parse(options.gather(arguments))
    from collapselab.reproduce import entries
    from collapselab.runtime.console import inert

    folder, out = Path(parsed.papers), Path(parsed.out)
    names = entries.names(folder)
    if parsed.list:
        _list([entries.read(folder, name) for name in names], out)
        return 0
    if parsed.all == bool(parsed.name):
        raise UserError("reproduce: name one or more entries, or give --all; --list shows them")
    if parsed.workers < 1:
        raise UserError(f"--workers={parsed.workers}: must be 1 or more")
    seeds = parsed.seeds
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0):
        raise UserError(f"--seeds={seeds}: give one or more, each once and 0 or more, as in [11, 12, 13]")
    chosen = [entries.read(folder, name) for name in (names if parsed.all else dict.fromkeys(parsed.name))]
    experiments = {entry.name: _experiment(entry, seeds, parsed) for entry in chosen}  # read all before running any
    quiet()
    verdicts = []
    for number, entry in enumerate(chosen, 1):
        of = f"[{number}/{len(chosen)}] " if len(chosen) > 1 else ""
        print(inert(f"{of}{entry.name}: {entry.title} ({entry.cite}; {entry.cost})"), flush=True)
        verdicts.append(_one(entry, experiments[entry.name], seeds, parsed, out))
    if len(verdicts) > 1:
        _table([[v.entry.name, v.entry.title, v.entry.cost, v.word] for v in verdicts])
    return 1 if any(verdict.word == "FAIL" or verdict.unfinished for verdict in verdicts) else 0


def _experiment(entry: Entry, seeds: list[int] | None, parsed: Any) -> Experiment | None:
    """Read the entry's experiment; with seeds other than its own, under another run name."""
    if entry.simulation is not None:
        return None
    line = ["--config", str(entry.path)]
    keys = run_keys().keys() - {"name"}  # this verb's options that are keys of a run
    line += [f"--{key}={value}" for key, value in vars(parsed).items() if key in keys and value is not None]
    if seeds is not None and seeds != entry.seeds:
        line += [f"--seeds={seeds}", f"--name={entry.name}-seeds={'-'.join(map(str, seeds))}"]
    return read_experiment(line)[0]


def _one(entry: Entry, asked: Experiment | None, seeds: list[int] | None, parsed: Any, out: Path) -> Verdict:
    """Run one entry; keep and show its verdict."""
    from collapselab.reproduce import results
    from collapselab.reproduce import verdicts as reproduce
    from collapselab.runtime.console import inert

    mine = entry.seeds if seeds is None else seeds
    try:
        verdict = reproduce.reproduce(entry, asked, mine, parsed.workers)
    except UserError as error:  # the other entries still run
        verdict = reproduce.Verdict(entry, "NOT RUN", mine, str(error), unfinished=True)
    command = ["collapselab", "reproduce", entry.name]
    plugins = next(iter(asked.arms.values())).plugins if asked is not None else []
    command += [part for plugin in plugins for part in ("--plugin", plugin["name"])]
    command += ["--seeds", str(seeds)] if verdict.seeds != entry.seeds else []
    local = asked is not None and ":" not in (source := next(iter(asked.arms.values())).corpus.source)
    command += ["--data-dir", "DIR"] if local and source not in (*LANGUAGES, "sotu") else []
    place = results.write(verdict, out, shlex.join(command), parsed.workers if asked is not None else None)
    kept = results.record(verdict, "", None)
    rows = [
        [one["says"], one["published"] or "–", results.ours(one), one["bound"], "yes" if one["holds"] else "NO"]
        for one in (*kept["criteria"], *kept.get("power", []))
    ]
    if rows:
        print_table(
            f"{entry.name}: {verdict.word}", ["criterion", "published", "ours", "bound", "holds"], rows, ("criterion",)
        )
    print(
        inert(f"{entry.name}: {verdict.word}" + (f" ({verdict.reason})" if verdict.reason else f", kept in {place}")),
        flush=True,
    )
    return verdict


def _list(chosen: list[Entry], out: Path) -> None:
    from collapselab.reproduce import results

    rows = []
    for entry in chosen:
        kept = results.read(out / entry.name)
        word = "–" if kept is None else kept["verdict"]
        if kept is not None and kept["entry_digest"] != entry.digest:
            word += " (the entry has changed since)"
        rows.append([entry.name, entry.title, entry.cost, word])
    _table(rows)


def _table(rows: list[list[str]]) -> None:
    columns = ["name", "what must show", "cost", "verdict"]
    print_table("published results", columns, rows, left=tuple(columns))
