"""Write text with a published model; takes --seed and every --sampling.* option of `run` too."""

from __future__ import annotations

from pathlib import Path

from collapselab.cli.common import RUN_HELP, check_out, make_options, one_chain, quiet
from collapselab.config import UserError


def main(arguments: list[str]) -> int:
    options = make_options("sample")
    options.add_positional("run", f"{RUN_HELP} whose model, prompts and settings to use")
    options.add("generation", int | None, None, "generation of the model; null means the last finished one")
    options.add("out", str | None, None, "folder for shards and meta.json; null writes none")
    options.add("show", int, 3, "number of samples to print")
    options.add("tokens", int | None, None, "tokens to write; null means a few, or the run's budget with --out")
    from collapselab.cli.options import config_from

    parsed, overrides = options.parse_with_overrides(arguments, "seed", "sampling")
    if parsed.show < 0:
        raise UserError(f"--show={parsed.show}: must be 0 or more")
    if parsed.tokens is not None and parsed.tokens < 1:
        raise UserError(f"--tokens={parsed.tokens}: must be 1 or more")
    chain = one_chain(parsed.run)
    config = config_from(chain / "config.yaml", overrides)
    quiet()
    if parsed.out is not None:
        check_out(Path(parsed.out), parsed.out)
    from collapselab.chain import by_hand

    by_hand.sample(chain, config, parsed.generation, parsed.out, parsed.tokens, parsed.show)
    return 0
