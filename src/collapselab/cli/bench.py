"""Measure this machine: sampling, training, metrics, a whole generation, or steps of a policy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from collapselab.cli.common import make_options, quiet
from collapselab.config import UserError


def main(arguments: list[str]) -> int:
    options = make_options("bench")
    options.add_positional("what", "sampling, training, metrics, generation or policy")
    options.add("device", str, "auto", "where to compute: auto, cpu or cuda")
    options.add("only", int | None, None, "number of the one case to measure, from 1; null measures all")
    options.add("repeats", int, 5, "number of measurements, whose median counts: 5 or more, with --ours also fewer")
    options.add_switch("ours", "measure the lab alone, without comparisons: a quick check, which --out does not keep")
    options.add(
        "out", str | None, None, "folder to keep the figures in: a JSON document and a page, by machine and day"
    )
    parsed = options.parse(options.gather(arguments))
    if parsed.what not in ("sampling", "training", "metrics", "generation", "policy"):
        raise UserError(f"bench {parsed.what!r}: must be sampling, training, metrics, generation or policy")
    if parsed.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={parsed.device!r}: must be auto, cpu or cuda")
    if parsed.only is not None and parsed.only < 1:
        raise UserError(f"--only={parsed.only}: cases are counted from 1")
    if parsed.ours and parsed.out:
        raise UserError("--out: keeps figures with their comparisons only; leave out --ours")
    if parsed.repeats < 1:
        raise UserError(f"--repeats={parsed.repeats}: must be 1 or more")
    if parsed.repeats < 5 and not parsed.ours:
        raise UserError(f"--repeats={parsed.repeats}: must be 5 or more; a median of fewer says little")
    quiet()
    from collapselab.bench import run
    from collapselab.runtime.parallel import Processes

    processes = Processes(parsed.device)
    device = processes.device
    if processes.unused_gpu:
        print(processes.unused_gpu, file=sys.stderr)
    command = f"collapselab bench {' '.join(arguments)}"
    out = Path(parsed.out) if parsed.out else None
    document = run.bench(parsed.what, device, parsed.repeats, command, parsed.only, out, parsed.ours)
    if not document["cases"]:
        raise UserError(f"--only={parsed.only}: bench {parsed.what} has no such case here")
    print(json.dumps(document, sort_keys=True))
    return 0
