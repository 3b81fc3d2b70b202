"""Re-score a run with the present metrics, or score any model folder under a run's protocol."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from collapselab.cli.common import RUN_HELP, check_out, make_options, one_chain, quiet
from collapselab.config import UserError


def main(arguments: list[str]) -> int:
    options = make_options("eval")
    options.add_positional("target", f"{RUN_HELP} to re-score, or with --run a model folder, hub name or .gguf file")
    options.add("run", str | None, None, f"{RUN_HELP} under whose protocol, on whose text, to score the model")
    options.add("out", str | None, None, "with --run: JSON file for protocol, sums and values")
    options.add("device", str | None, None, "where to compute: auto, cpu or cuda; null means auto, or the run's own")
    from collapselab.cli.options import config_from

    parsed, overrides = options.parse_with_overrides(arguments, "evaluation")
    if parsed.device not in (None, "auto", "cpu", "cuda"):
        raise UserError(f"device={parsed.device!r}: must be auto, cpu or cuda")
    if parsed.run is None and parsed.out is not None:
        raise UserError("--out: needs --run; without it, new scores go to the run's rescored/ folder")
    from collapselab.store.layout import NoRunError, find_chains

    try:
        chains = find_chains(Path(parsed.run or parsed.target))
    except NoRunError:
        if parsed.run is not None:
            raise
        raise UserError(
            f"{parsed.target}: no run to re-score; to score a model, name the run of the protocol with --run"
        ) from None
    quiet()
    from collapselab.chain import by_hand
    from collapselab.runtime.console import inert

    if parsed.run is not None:
        if parsed.out is not None:
            if Path(parsed.out).is_dir():
                raise UserError(f"--out {parsed.out}: is a folder; name a JSON file")
            check_out(Path(parsed.out).parent, parsed.out)
        config = config_from(one_chain(parsed.run) / "config.yaml", overrides)
        by_hand.score(parsed.target, dataclasses.replace(config, device=parsed.device or "auto"), parsed.out)
        return 0
    for chain in chains:
        config = config_from(chain / "config.yaml", overrides)
        config = dataclasses.replace(config, device=parsed.device or config.device)
        scores, rows = by_hand.rescore(config, chain)
        if rows:
            where = chain / "rescored" / scores / "metrics.jsonl"
            print(inert(f"{chain}: {len(rows)} generations scored into {where}"))
    return 0
