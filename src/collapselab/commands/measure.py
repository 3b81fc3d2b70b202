"""Verbs that measure this machine: bench."""

from __future__ import annotations

from pathlib import Path

from collapselab.commands import make_options, quiet
from collapselab.config import UserError


def bench(arguments: list[str]) -> int:
    options = make_options("bench")
    options.add_positional("what", "sampling, training, metrics or generation")
    options.add("device", str, "auto", "where to compute: auto, cpu or cuda")
    options.add("only", int | None, None, "number of the one case to measure, from 1; null measures all")
    options.add("repeats", int, 5, "measurements whose median counts, 5 or more")
    options.add(
        "out", str | None, None, "folder that keeps the figures: a JSON document and a page, by machine and day"
    )
    parsed = options.parse(options.gather(arguments))
    if parsed.what not in ("sampling", "training", "metrics", "generation"):
        raise UserError(f"bench {parsed.what!r}: must be sampling, training, metrics or generation")
    if parsed.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={parsed.device!r}: must be auto, cpu or cuda")
    if parsed.only is not None and parsed.only < 1:
        raise UserError(f"--only={parsed.only}: cases are counted from 1")
    if parsed.repeats < 5:
        raise UserError(f"--repeats={parsed.repeats}: must be 5 or more; a median of fewer says little")
    quiet()
    from collapselab import bench
    from collapselab.parallel import Processes

    device = Processes(parsed.device).device
    command = f"collapselab bench {' '.join(arguments)}"
    out = Path(parsed.out) if parsed.out else None
    document = bench.bench(parsed.what, device, parsed.repeats, command, parsed.only, out)
    if not document["cases"]:
        raise UserError(f"--only={parsed.only}: bench {parsed.what} has no such case here")
    print(bench.last_line(document))
    return 0
