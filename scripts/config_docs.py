"""docs/configuration.md from the code: every key of a run, and the options of every verb.

.venv/bin/python scripts/config_docs.py            writes the page
.venv/bin/python scripts/config_docs.py --check    exits with 1 where the page is not what the code says
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from collapselab.cli.common import verbs
from collapselab.cli.main import handler
from collapselab.cli.options import Options, as_option
from collapselab.config import RunConfig
from collapselab.config.identity import FLAGS, FORK_MAY_CHANGE, HARMLESS
from collapselab.config.keys import describe_type, sections

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
NAMES_THE_CHAIN = ("name", "arm", "runs_dir", "seed")
HEAD = """# Every key and option

This page is made from the code by `scripts/config_docs.py`, not by hand; `collapselab VERB --help` shows the same text.

A key is given on the command line, as in `--training.lr 3e-4`, or in a YAML file that `--config` names. There the
sections are nested or dotted:

```yaml
name: mine
training: {lr: 3.0e-4}
mixing.start: 0.5
```

Files overrule defaults, a later file an earlier one, and the command line all of them. `null` stands for "not set".
`--print-config` shows the settings that result, `--dry-run` what the run will take.

The column **decides** names the first thing that another value changes; everything made from it changes as well:

- *set*: the training set of generation 0, and so everything; *later sets*: those of the generations after it;
- *model*: how a model is built and trained, from generation 0 on;
- *samples*: how it writes; *judged*: what of it later sets receive; *scores*: what is measured;
- *text*: the prepared text alone, whose digest a chain records in place of the key;
- *files*: the number and names of a chain's generations and files, not their content;
- *nothing* of a chain: places of runs and data on this machine, and what is shown.

The column **may change** tells whether a started chain may resume with another value:

- *any time*: the key does not decide what the chain is. (`generations` may rise at any time, but with the schedules
  linear and cosine, whose shares depend on it.)
- *in a fork*: a chain that starts from a generation of this one may have another value ([mixing](mixing.md)).
- *no*: the key decides what the text, the training or the numbers mean; choose another `name`. `collapselab eval RUN`
  re-scores a finished run with other keys of `evaluation`, next to its own scores.
- *another chain*: the key is part of the folder's name.

A run refuses a value other than the one its chain started with, and names the key.
"""

VERBS_HEAD = """
## Options of the verbs

`run` and `experiment` also take every key above, `sample` those of `sampling` and `seed`, `eval` those of `evaluation`.
Every verb has `--help`, `--config`, `--plugin` and `--print-config`.
"""


class Found(Exception):  # noqa: N818 - carries the options out of a verb
    pass


def options_of(verb: str) -> Options:
    """Return the options of a verb as it defines them, without running it."""

    def stop(self: Options, arguments: list[str]) -> list[str]:
        raise Found(self)

    with patch.object(Options, "gather", stop):
        try:
            handler(verb)([])
        except Found as found:
            options: Options = found.args[0]
            return options
    raise ValueError(f"{verb} has no options")


def page() -> str:
    run = options_of("run")
    helps = {action.dest: action for action in run.parser._actions}
    made = [HEAD, "\n## A run\n\n", *_key_rows(run, helps, dataclasses.fields(RunConfig), "")]
    for name, section in sections().items():
        made += [f"\n{'#' * (2 + name.count('.'))} `{name}`\n\n{section.__doc__}\n\n"]
        made += _key_rows(run, helps, dataclasses.fields(section), f"{name}.")
    made.append(VERBS_HEAD)
    for verb, text in verbs().items():
        made += [f"\n### `{verb}`\n\n{text[0].upper()}{text[1:]}.\n\n", *_option_rows(options_of(verb), helps)]
    return "".join(made)


def _key_rows(run: Options, helps: dict[str, Any], fields: Any, prefix: str) -> list[str]:
    rows = ["| key | type | default | decides | may change | meaning |\n|---|---|---|---|---|---|\n"]
    names = [f"{prefix}{field.name}" for field in fields]
    for key in (name for name in names if name not in run.sections):
        flags = FLAGS[key]["decides"], _may_change(key)
        rows.append(
            _row((f"`{key}`", describe_type(run.keys[key]), _shown(helps[key].default), *flags, helps[key].help))
        )
    return rows


def _option_rows(options: Options, run_keys: dict[str, Any]) -> list[str]:
    rows = ["| option | default | meaning |\n|---|---|---|\n"]
    whole = options.sections and "corpus" in options.sections
    for action in options.parser._actions:
        name = action.dest
        if name in ("help", "config", "plugin", "print_config") or (
            whole and name in run_keys and name not in ("dry_run", "fork", "at")
        ):
            continue
        positional = name == options.positional
        shown = "" if positional or name in options.switches else _shown(action.default)
        rows.append(_row((f"`{name.upper()}`" if positional else f"`{as_option(name)}`", shown, action.help)))
    return rows if len(rows) > 1 else ["No options of its own.\n"]


def _may_change(key: str) -> str:
    if key in NAMES_THE_CHAIN:
        return "another chain"
    return "any time" if key in HARMLESS else "in a fork" if key in FORK_MAY_CHANGE else "no"


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |\n"


def main() -> int:
    wanted = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != wanted:
            print("docs/configuration.md is not what the code says; run scripts/config_docs.py", file=sys.stderr)
            return 1
    else:
        PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
