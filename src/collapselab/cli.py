"""The verbs. Parses and dispatches; only the verb asked for is built, and heavy imports happen inside it."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from collapselab import __version__
from collapselab.config import RunConfig, UserError, as_dict, flatten

VERBS = {
    "run": "run a chain: train, sample, and train again on the samples; continues where it stopped",
    "sample": "write text with a published model",
    "eval": "score any model folder on a run's held-out text, under the run's protocol",
    "report": "make the report of a run: index.html, PNGs, CSV",
    "sync": "replay a run's metrics.jsonl to wandb",
    "corpus": "list or clear the cache of tokenised text",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, or 2 for something the user can mend, said in one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            _usage()
            return 0
        if arguments[0] == "--version":
            print(__version__)
            return 0
        verb = arguments[0]
        if verb not in VERBS:
            raise UserError(f"{verb!r} is not a verb{_nearest(verb, VERBS)}; `collapselab --help` lists them")
        return HANDLERS[verb](arguments[1:])
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # one process speaks for all
            line = " ".join(str(error).split())
            print(f"collapselab: error: {line}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("collapselab: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130


def _usage() -> None:
    print("usage: collapselab VERB [options]\n\nWhat happens to a language model that learns from its own output?\n")
    for verb, text in VERBS.items():
        print(f"  {verb:<8} {text}")
    print("\n`collapselab VERB --help` shows the options of a verb and their defaults.")


# --- parsing -----------------------------------------------------------------------------------------------------------


def _parser(verb: str) -> Any:
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return jsonargparse.ArgumentParser(
        prog=f"collapselab {verb}", description=VERBS[verb], exit_on_error=False, allow_abbrev=False
    )


def _parse(parser: Any, arguments: list[str], known: set[str], switches: set[str]) -> Any:
    """Parsed options. Order: defaults < YAML files from left to right < the command line, wherever a value stands.

    Args:
        known: keys that a YAML file or the command line may set.
        switches: those of them that take no value.
    """
    import argparse

    configs, rest = _split_configs(arguments)
    for path in configs:
        _check_yaml(Path(path), known)
    _check_options(rest, known, switches)
    ordered = [item for path in configs for item in ("--config", path)] + rest
    try:
        return parser.parse_args(ordered)
    except UserError:
        raise
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise _one_line(error, parser) from None


def _one_line(error: Exception, parser: Any) -> UserError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split()).replace("Parser key ", "").replace("argument ", "")
    return UserError(f"{text[:400]}; see `{parser.prog} --help`")


def _split_configs(arguments: list[str]) -> tuple[list[str], list[str]]:
    configs, rest, index = [], [], 0
    while index < len(arguments):
        item = arguments[index]
        if item == "--config":
            if index + 1 == len(arguments):
                raise UserError("--config: give the path of a YAML file")
            configs.append(arguments[index + 1])
            index += 2
            continue
        if item.startswith("--config="):
            configs.append(item.removeprefix("--config="))
        else:
            rest.append(item)
        index += 1
    return configs, rest


def _nearest(key: str, known: Any) -> str:
    found = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not found and "." not in key:  # `lr` for `training.lr`
        found = [k for k in known if k.split(".")[-1] == key][:1]
    return f"; did you mean {found[0]!r}?" if found else ""


def _check_options(arguments: list[str], known: set[str], switches: set[str]) -> None:
    for item in arguments:
        if item.startswith("--") and item != "--":
            key = item[2:].split("=", 1)[0].removesuffix("+")
            if key not in known | {"help", "print_config"}:
                raise UserError(f"--{key}: no such option{_nearest(key, known)}; `--help` lists them")
            if key in switches and "=" in item:
                raise UserError(f"--{key}: takes no value")


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise UserError(
                    f"line {key_node.start_mark.line + 1}: key {key!r} stands twice (first in line {seen[key]}); keep one"
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping; raises UserError that names the file and the line."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); check the path") from None
    except UserError as error:
        raise UserError(f"--config {path}, {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: not valid YAML ({error}); mend the file") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"--config {path}: must hold keys and values; see configs/ for examples")
    return tree


def _check_yaml(path: Path, known: set[str]) -> None:
    sections = {key.rsplit(".", 1)[0] for key in known if "." in key}
    for key, value in flatten(load_yaml(path)).items():
        if key in known or (key in sections and value in (None, {})):
            continue
        if key in sections:
            raise UserError(f"--config {path}: {key}={value!r}: holds several keys, not one value")
        raise UserError(f"--config {path}: {key}: no such key{_nearest(key, known)}")


def _add_run_config(parser: Any) -> set[str]:
    parser.add_argument("--config", action="config", help="YAML file; may be given several times, later ones win")
    parser.add_class_arguments(RunConfig, as_group=False)
    return set(flatten(as_dict(RunConfig())))


def _run_config(parser: Any, namespace: Any) -> RunConfig:
    """The dataclass from parsed values. (`parser.instantiate` would make its own class for nested groups.)"""
    values = namespace.as_dict()
    sections = {
        f.name: f.default_factory for f in dataclasses.fields(RunConfig) if f.default_factory is not dataclasses.MISSING
    }
    made: dict[str, Any] = {}
    for field in dataclasses.fields(RunConfig):
        value = values[field.name]
        made[field.name] = (
            sections[field.name](**value) if field.name in sections and isinstance(value, dict) else value
        )
    return RunConfig(**made)


def config_of(chain: Path) -> RunConfig:
    """The configuration that a chain was run with."""
    return _run_from_yaml(chain / "config.yaml", [])


def _run_from_yaml(path: Path, overrides: list[str]) -> RunConfig:
    parser = _parser("run")
    known = _add_run_config(parser)
    return _run_config(parser, _parse(parser, ["--config", str(path), *overrides], known, set()))


# --- verbs -------------------------------------------------------------------------------------------------------------


def _do_run(arguments: list[str]) -> int:
    parser = _parser("run")
    known = _add_run_config(parser)
    parser.add_argument("--dry_run", action="store_true", help="say what the run will take, and stop")
    parser.add_argument(
        "--fork", type=str | None, default=None, help="start a new arm from this run or chain directory"
    )
    parser.add_argument("--at", type=int | None, default=None, help="last generation to take from --fork")
    switches = {"dry_run"}
    known |= switches | {"fork", "at"}
    fork = _value_of("fork", arguments)
    if fork is not None:  # a fork begins with its parent's settings
        from collapselab.rundir import find_chains

        chains = find_chains(Path(fork))
        if len(chains) > 1:
            raise UserError(f"--fork {fork}: holds {len(chains)} chains; name one of them, as {chains[0]}")
        if _value_of("name", arguments) is None:
            raise UserError(f"--name: give the fork of {fork} a name of its own")
        arguments = ["--config", str(chains[0] / "config.yaml"), *arguments]
    parsed = _parse(parser, arguments, known, switches)
    config = _run_config(parser, parsed)
    if (parsed.fork is None) != (parsed.at is None):
        raise UserError("--fork and --at go together: --fork RUN --at GENERATION")
    _quiet()
    if parsed.dry_run:
        from collapselab import plan

        print("\n".join(plan.lines(config, plan.plan(config))))
        return 0
    from collapselab import chain

    path, rows = chain.run(config, (chains[0], parsed.at) if fork is not None else None)
    if rows:  # only process 0 has them
        _show(path)
    return 0


def _value_of(option: str, arguments: list[str]) -> str | None:
    for index, item in enumerate(arguments):
        if item == f"--{option}" and index + 1 < len(arguments):
            return arguments[index + 1]
        if item.startswith(f"--{option}="):
            return item.split("=", 1)[1]
    return None


def _show(chain: Path) -> None:
    """The table at the end of a run, and where the report is."""
    from rich.console import Console
    from rich.table import Table

    from collapselab import report

    page = report.write_report(chain)
    table = Table(title=str(chain))
    for column in report.COLUMNS:
        table.add_column(column, justify="right")
    for row in report.table_rows(report.ChainFiles(chain)):
        table.add_row(*row)
    Console().print(table)
    print(f"report: {page}")


def _quiet() -> None:
    """Libraries' own bars and hints stay out of ours; their errors still come as exceptions."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the default of libraries' bars; console.py sets its own
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import transformers.utils.logging as hf_logging

    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()


def _run_argument(parser: Any, many: bool = False) -> None:
    parser.add_argument("--config", action="config", help="YAML file with these options")
    parser.add_argument("run", type=str, help="run directory (runs/NAME) or chain directory")


def _do_report(arguments: list[str]) -> int:
    parser = _parser("report")
    _run_argument(parser)
    parsed = _parse(parser, arguments, {"config", "run"}, set())
    from collapselab.report import write_report

    print(f"report: {write_report(Path(parsed.run))}")
    return 0


def _do_sync(arguments: list[str]) -> int:
    parser = _parser("sync")
    _run_argument(parser)
    parser.add_argument("--wandb", choices=["online", "offline"], default="online", help="where to replay the rows to")
    parsed = _parse(parser, arguments, {"config", "run", "wandb"}, set())
    from collapselab.console import Console
    from collapselab.rundir import find_chains
    from collapselab.tracking import replay

    chains = find_chains(Path(parsed.run))
    for chain in chains:
        count = replay(config_of(chain), chain, Console(), parsed.wandb)
        print(f"{chain}: {count} generations sent")
    return 0


def _do_sample(arguments: list[str]) -> int:
    parser = _parser("sample")
    parser.add_argument("--config", action="config", help="YAML file with these options")
    parser.add_argument("run", type=str, help="run or chain directory whose model, prompts and settings are used")
    parser.add_argument(
        "--generation", type=int | None, default=None, help="which model; null means the last finished one"
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder for shards and meta.json; null writes none"
    )
    parser.add_argument("--show", type=int, default=3, help="how many samples to print")
    parser.add_argument(
        "--tokens",
        type=int | None,
        default=None,
        help="tokens to write; null means one tile or the run's budget with --out",
    )
    settings = [k for k in flatten(as_dict(RunConfig())) if k.startswith("sampling.") or k == "seed"]
    mine = {"config", "run", "generation", "out", "show", "tokens"}
    own, overrides = _divide(arguments, set(settings))
    parsed = _parse(parser, own, mine | set(settings), set())
    from collapselab.rundir import find_chains

    chain = find_chains(Path(parsed.run))[0]
    config = _run_from_yaml(chain / "config.yaml", overrides)
    _quiet()
    from collapselab import standalone

    standalone.sample(chain, config, parsed.generation, parsed.out, parsed.tokens, parsed.show)
    return 0


def _divide(arguments: list[str], theirs: set[str]) -> tuple[list[str], list[str]]:
    """(other arguments, those that set one of `theirs`)."""
    own: list[str] = []
    found: list[str] = []
    index = 0
    while index < len(arguments):
        key = arguments[index][2:].split("=", 1)[0] if arguments[index].startswith("--") else ""
        width = 1 if "=" in arguments[index] or key not in theirs else 2
        (found if key in theirs else own).extend(arguments[index : index + width])
        index += width
    return own, found


def _do_eval(arguments: list[str]) -> int:
    parser = _parser("eval")
    parser.add_argument("--config", action="config", help="YAML file with these options")
    parser.add_argument("model", type=str, help="model folder, hub name or .gguf file")
    parser.add_argument(
        "--run", type=str | None, default=None, help="run or chain directory whose protocol and text are used"
    )
    parser.add_argument("--out", type=str | None, default=None, help="JSON file for protocol, sums and values")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute")
    parsed = _parse(parser, arguments, {"config", "model", "run", "out", "device"}, set())
    if parsed.run is None:
        raise UserError("--run: name the run whose protocol the model is scored under")
    from collapselab.rundir import find_chains

    config = dataclasses.replace(config_of(find_chains(Path(parsed.run))[0]), device=parsed.device)
    _quiet()
    from collapselab import standalone

    standalone.score(parsed.model, config, parsed.out)
    return 0


def _do_corpus(arguments: list[str]) -> int:
    parser = _parser("corpus")
    parser.add_argument("--config", action="config", help="YAML file with these options")
    parser.add_argument("--clear", type=str | None, default=None, help="remove: `all`, or the beginning of a digest")
    parsed = _parse(parser, arguments, {"config", "clear"}, set())
    from rich.console import Console
    from rich.table import Table

    from collapselab.corpus import cache_root, cached, clear

    if parsed.clear is not None:
        for name in clear(parsed.clear):
            print(f"removed {name}")
        return 0
    table = Table(title=f"tokenised text in {cache_root()}")
    for column in ("digest", "source", "tokenizer", "tokens", "MB"):
        table.add_column(column)
    for row in cached():
        table.add_row(row["digest"], row["source"], row["tokenizer"], f"{row['tokens']:,}", f"{row['bytes'] / 1e6:.1f}")
    Console().print(table)
    return 0


HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "run": _do_run,
    "sample": _do_sample,
    "eval": _do_eval,
    "report": _do_report,
    "sync": _do_sync,
    "corpus": _do_corpus,
}
