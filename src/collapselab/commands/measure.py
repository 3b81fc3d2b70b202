"""Verbs that are no part of a run: bench, theory."""

from __future__ import annotations

import sys
from pathlib import Path

from collapselab.commands import make_options, quiet
from collapselab.config import UserError


def bench(arguments: list[str]) -> int:
    options = make_options("bench")
    options.add_positional("what", "sampling, training, metrics or generation")
    options.add("device", str, "auto", "where to compute: auto, cpu or cuda")
    options.add("only", int | None, None, "number of the one case to measure, from 1; null measures all")
    options.add("repeats", int, 5, "measurements whose median counts, 5 or more; with --ours also fewer")
    options.add_switch("ours", "leave out what the lab is compared with: for a look in a short time, never kept")
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
    if parsed.ours and parsed.out:
        raise UserError("--out: figures are kept beside what they are compared with; leave --ours out")
    if parsed.repeats < 1:
        raise UserError(f"--repeats={parsed.repeats}: must be 1 or more")
    if parsed.repeats < 5 and not parsed.ours:
        raise UserError(f"--repeats={parsed.repeats}: must be 5 or more; a median of fewer says little")
    quiet()
    from collapselab import bench
    from collapselab.parallel import Processes

    processes = Processes(parsed.device)
    device = processes.device
    if processes.unused_gpu:
        print(processes.unused_gpu, file=sys.stderr)
    command = f"collapselab bench {' '.join(arguments)}"
    out = Path(parsed.out) if parsed.out else None
    document = bench.bench(parsed.what, device, parsed.repeats, command, parsed.only, out, parsed.ours)
    if not document["cases"]:
        raise UserError(f"--only={parsed.only}: bench {parsed.what} has no such case here")
    print(bench.last_line(document))
    return 0


def theory(arguments: list[str]) -> int:
    from collapselab.theory.parameters import Parameters

    options = make_options("theory")
    options.add_positional("law", "name of a law; --list shows them", nargs="?")
    options.add_switch("list", "list all laws, one line each, and stop")
    options.add_switch("json", "print one JSON document instead of a table")
    options.add("plot", str | None, None, "write a figure to this .png or .svg file instead of a table")
    options.add("simulate", int | None, None, "chains to simulate beside the law (with torch); null simulates none")
    options.add("seed", int, 1, "seed of the simulation, 0 or more")
    options.add_class(Parameters)
    gathered = options.gather(arguments)
    parsed = options.parse(gathered)
    if parsed.simulate is not None and parsed.simulate > 10**6:
        raise UserError(f"--simulate={parsed.simulate}: must be at most 1000000; fewer chains say enough")
    from collapselab.theory import show

    if parsed.list:
        show.listing()
        return 0
    values = vars(parsed)
    parameters = Parameters(**{key: values[key] for key in Parameters.__annotations__})
    given = [item[2:].split("=", 1)[0] for item in gathered if item.startswith("--")]
    figure = Path(parsed.plot) if parsed.plot else None
    show.show(parsed.law, given, parameters, parsed.json, figure, parsed.simulate, parsed.seed)
    return 0
