"""Show exact theory: a law's values for a schedule, a size and a regime."""

from __future__ import annotations

from pathlib import Path

from collapselab.cli.common import make_options
from collapselab.config import UserError


def main(arguments: list[str]) -> int:
    from collapselab.theory.parameters import LawParameters

    options = make_options("theory")
    options.add_positional("law", "name of a law; --list shows them", nargs="?")
    options.add_switch("list", "list all laws, one line each, and stop")
    options.add_switch("json", "print one JSON document instead of a table")
    options.add("plot", str | None, None, ".png or .svg file for a figure instead of a table")
    options.add("simulate", int | None, None, "chains to simulate for comparison (with torch); null simulates none")
    options.add("seed", int, 1, "seed of the simulation, 0 or more")
    options.add_class(LawParameters)
    gathered = options.gather(arguments)
    parsed = options.parse(gathered)
    if parsed.simulate is not None and parsed.simulate > 10**6:
        raise UserError(f"--simulate={parsed.simulate}: must be at most 1000000; fewer chains are enough")
    from collapselab.theory import show

    if parsed.list:
        show.listing()
        return 0
    values = vars(parsed)
    parameters = LawParameters(**{key: values[key] for key in LawParameters.__annotations__})
    given = [item[2:].split("=", 1)[0] for item in gathered if item.startswith("--")]
    figure = Path(parsed.plot) if parsed.plot else None
    show.show(parsed.law, given, parameters, parsed.json, figure, parsed.simulate, parsed.seed)
    return 0
