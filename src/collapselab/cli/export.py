"""Export a generation: samples as Parquet, the model as a folder, each with a card."""

from __future__ import annotations

from pathlib import Path

from collapselab.cli.common import RUN_HELP, check_out, make_options, one_chain, quiet
from collapselab.config import UserError


def main(arguments: list[str]) -> int:
    options = make_options("export")
    options.add_positional("run", RUN_HELP)
    options.add("generation", int | None, None, "generation to export; null means the last finished one")
    options.add("out", str | None, None, "new folder; null means exports/RUN-ARM-seedN-genN in the working directory")
    options.add("what", str, "all", "what to export: all, samples (Parquet) or model (a folder for from_pretrained)")
    parsed = options.parse(options.gather(arguments))
    if parsed.what not in ("all", "samples", "model"):
        raise UserError(f"--what={parsed.what!r}: must be all, samples or model")
    path = one_chain(parsed.run)
    quiet()
    from collapselab.cli.options import config_from
    from collapselab.export import generation as export
    from collapselab.report.files import ChainFiles
    from collapselab.runtime.console import Console, inert

    config, chain = config_from(path / "config.yaml"), ChainFiles(path)
    generation = export.choose_generation(chain, parsed.generation, parsed.what)
    out = export.default_folder(chain, generation) if parsed.out is None else Path(parsed.out)
    check_out(out.resolve(), str(out))
    export.export(chain, config, generation, out, parsed.what, console=Console(bars=config.progress))
    print(inert(f"generation {generation} of {path}: {out}"))
    return 0
