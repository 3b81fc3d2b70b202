"""docs/papers.md and the tables in results/, made from the entries in configs/papers/ and the verdicts in results/.

.venv/bin/python scripts/papers_page.py            write the page
.venv/bin/python scripts/papers_page.py --check    exit with 1 if the page differs from entries and verdicts
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from collapselab.reproduce import entries, results
from collapselab.reproduce.entries import Entry

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
HEAD = """# Published results, rerun

This page is made from `configs/papers/` and `results/` by `scripts/papers_page.py`, not by hand. Each entry is a published
result with its protocol, its numbers and their sources, and the criteria by which it counts as reproduced. One command runs it,
compares, and saves the verdict:

    .venv/bin/collapselab reproduce --list
    .venv/bin/collapselab reproduce gerstgrasser            # PASS, FAIL, NO POWER or NOT RUN, and results/gerstgrasser/
    .venv/bin/collapselab reproduce gerstgrasser --seeds '[11, 12, 13]' # again, with other seeds
    .venv/bin/collapselab reproduce --all

**PASS** means that every criterion holds in the mean over seeds; the interval next to it is the 95 % t-interval over seeds (a
criterion on a mean over seeds is one number and has none). *Narrowly*: a bound lies within the interval, and other seeds may
change the verdict. A **FAIL** is kept, with the differences. **NO POWER** means that the run could not have decided either way: a
condition stated with the criteria, such as the share of the loss that a method affects at all, does not hold. **NOT RUN** names
what was missing: a GPU, a corpus (`--data-dir`), weights from a hub. Most entries are small versions for two cores, with as many
seeds as six minutes allow (ten with a null line); each states how it differs from the paper. A published figure next to ours is a
line of the table below it, or computed by us from its lines. An *unverified* source was not read in the paper itself.

If there is a law, a criterion is the two-sided distance from it, with a bound that follows from the law's own sampling error;
otherwise it has bounds on both sides and an arm of real text as its null line. The remaining one-sided criteria are published
bounds and orderings. `tests/mutations.py` lists ways to break the lab, each with the entry whose verdict must change.

Criteria were written before the runs (those of briesch after one seed of one of its arms had been seen). If a criterion, a
setting or the seeds were changed after results had been seen, the entry states what changed and the outcome of every attempt.
Replaced verdicts are kept in `results/NAME/earlier/`.

The command exits with 1 if an entry fails or cannot be finished. What the field disagrees about, and the effect of each choice:
[disagreements.md](disagreements.md).

"""


def page(folder: Path = ROOT / "configs" / "papers", kept: Path = ROOT / "results") -> str:
    pairs = [(entries.read(folder, name), results.read(kept / name)) for name in entries.names(folder)]
    rows = [[f"[{e.name}](#{e.name})", e.title, e.cite, e.cost, f"**{_verdict(v)}**"] for e, v in pairs]
    parts = [HEAD + results.markdown(["entry", "what must show", "paper", "cost", "verdict"], rows)]
    return "\n\n".join([*parts, *(_section(entry, verdict, kept) for entry, verdict in pairs)]) + "\n"


def _verdict(kept: dict[str, Any] | None) -> str:
    return "NOT RUN" if kept is None else str(kept["verdict"])


def _section(entry: Entry, kept: dict[str, Any] | None, folder: Path) -> str:
    parts = [f"## {entry.name}", f"{entry.title}. {entry.cite}. **{_verdict(kept)}**{_made(entry, kept)}"]
    if kept is not None and kept["criteria"]:
        parts += [*results.criteria_tables(kept), f"![{entry.title}](../results/{entry.name}/figure.png)"]
    else:
        parts.append(results.markdown(["what must show", "bound"], [[c.says, c.bound] for c in entry.criteria]))
    for again in sorted((folder / entry.name).glob("seeds=*")):
        other = results.read(again)
        if other is not None:
            parts.append(
                f"With seeds {', '.join(map(str, other['seeds']))}: **{other['verdict']}** "
                f"([table](../results/{entry.name}/{again.name}/table.md))."
            )
    earlier = []
    for table in sorted((folder / entry.name / "earlier").glob("*/table.md")):
        match = re.search(r"Verdict: \*\*([A-Z ]+)\*\*", table.read_text(encoding="utf-8"))
        assert match is not None, table
        place = table.relative_to(folder).as_posix()
        earlier.append(f"[{table.parent.name}](../results/{place}) **{match[1]}**")
    parts += [f"Earlier, and replaced: {'; '.join(earlier)}."] if earlier else []
    return "\n\n".join([*parts, results.published_table(entry), *results.prose(entry)])


def _made(entry: Entry, kept: dict[str, Any] | None) -> str:
    command = f"`collapselab reproduce {entry.name}`"
    if kept is None or not kept["criteria"]:
        return f"{': ' + kept['reason'].rstrip('.') if kept and kept['reason'] else ''}. To run it: {command}."
    table = f"[results](../results/{entry.name}/table.md)"
    return f", {kept['date']}, {len(kept['seeds'])} seeds, {kept['seconds']:,.0f} s; {table}; {command}."


def main() -> int:
    updated = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != updated:
            print("docs/papers.md differs from entries and verdicts; run scripts/papers_page.py", file=sys.stderr)
            return 1
    else:
        PAGE.write_text(updated, encoding="utf-8")
        for path in (ROOT / "results").rglob("verdict.json"):  # their tables repeat the entries' prose
            kept = results.read(path.parent)
            assert kept is not None
            table = results.page(entries.read(ROOT / "configs" / "papers", kept["entry"]), kept)
            (path.parent / "table.md").write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
