"""Write text with a published model; --seed and every --sampling.* option of `run` are accepted too."""

from __future__ import annotations

from pathlib import Path

from collapselab.cli.common import RUN_HELP, check_out, make_options, one_chain, quiet
from collapselab.config import UserError
from collapselab.config.keys import run_keys


def main(arguments: list[str]) -> int:
    options = make_options("sample")
    options.add_positional("run", f"{RUN_HELP} whose model, prompts and settings are used")
    options.add("generation", int | None, None, "which model; null means the last finished one")
    options.add("out", str | None, None, "folder for shards and meta.json; null writes none")
    options.add("show", int, 3, "how many samples to print")
    options.add("tokens", int | None, None, "tokens to write; null means a few, or the run's budget with --out")
    from collapselab.cli.options import config_from

    passed_on = {k: v for k, v in run_keys().items() if k.startswith("sampling.") or k == "seed"}
    options.accept(passed_on)
    options.sections = {"sampling"}
    gathered = options.gather(arguments)
    overrides = [item for item in gathered if item[2:].split("=", 1)[0] in passed_on]
    parsed = options.parse([item for item in gathered if item not in overrides])
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
