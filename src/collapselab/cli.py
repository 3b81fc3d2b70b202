"""The verbs. Parses and dispatches; only the verb asked for is built, and heavy imports happen inside it."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collapselab import __version__
from collapselab.config import UserError

VERBS = {
    "run": "run a chain: train, sample, and train again on the samples; continues where it stopped",
    "sample": "write text with a published model; --seed and every --sampling.* option of `run` are accepted too",
    "eval": "score any model folder on a run's held-out text, under the run's protocol",
    "report": "make the report of a run: index.html, PNGs, CSV",
    "sync": "replay a run's metrics.jsonl to wandb",
    "corpus": "list or clear the cache of tokenised text",
    "bench": "measure this machine: sampling, training, metrics, or a whole generation",
    "theory": "what exact theory predicts: a law's values for a schedule, a size and a regime",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, or 2 for something the user can mend, said in one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin while they wait make a run ten times slower as soon as another process wants a core. A benchmark
    # leaves it as it is: what it compares with is faster so.
    if arguments[:1] != ["bench"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            _usage()
            return 0
        if arguments[0] == "--version":
            print(__version__)
            return 0
        verb = arguments[0]
        if verb not in VERBS:
            from collapselab.options import nearest

            raise UserError(f"{verb!r} is not a verb{nearest(verb, VERBS)}; `collapselab --help` lists them")
        return HANDLERS[verb](arguments[1:])
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # one process speaks for all
            from collapselab.console import inert

            print(f"collapselab: error: {inert(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except SystemExit as leaving:  # --help and --print_config
        return int(leaving.code or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to say to nobody
        return 1
    except KeyboardInterrupt:
        print("collapselab: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130


def _usage() -> None:
    print("usage: collapselab VERB [options]\n\nWhat happens to a language model that learns from its own output?\n")
    for verb, text in VERBS.items():
        print(f"  {verb:<8} {text}")
    print("\n`collapselab VERB --help` shows the options of a verb and their defaults.")


def _options(verb: str) -> Any:
    from collapselab.options import Options

    return Options(verb, VERBS[verb])


def _quiet() -> None:
    """Libraries' own bars and hints stay out of ours; their errors still come as exceptions."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the default of libraries' bars; console.py sets its own
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import logging

    import transformers.utils.logging as hf_logging

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what failed comes as one line
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()


def _do_run(arguments: list[str]) -> int:
    options = _options("run")
    options.add_run_keys()
    options.add_switch("dry_run", "say what the run will take, and stop")
    options.add("fork", str | None, None, "start a new arm from this run or chain directory", line_only=True)
    options.add("at", int | None, None, "last generation to take from --fork", line_only=True)
    gathered = options.gather(arguments)
    parent = _last("fork", gathered)
    if parent is not None:  # a fork begins with its parent's settings
        from collapselab.rundir import find_chains

        chains = find_chains(Path(parent))
        if len(chains) > 1:
            raise UserError(f"--fork {parent}: holds {len(chains)} chains; name one of them, as {chains[0]}")
        if _last("name", gathered) is None:
            raise UserError(f"--name: give the fork of {parent} a name of its own")
        gathered = options.gather(["--config", str(chains[0] / "config.yaml"), *gathered])
    from collapselab.options import run_config

    parsed = options.parse(gathered)
    config = run_config(parsed)
    if (parent is None) != (parsed.at is None):
        raise UserError("--fork and --at go together: --fork RUN --at GENERATION")
    _quiet()
    if parsed.dry_run:
        from collapselab import plan
        from collapselab.console import inert

        found = plan.plan(config, (chains[0], parsed.at) if parent is not None else None)
        if os.environ.get("RANK", "0") == "0":
            print(inert("\n".join(plan.lines(config, found))))
        return 0
    from collapselab import chain

    path, rows = chain.run(config, (chains[0], parsed.at) if parent is not None else None)
    if rows:  # only process 0 has them
        _show(path)
    return 0


def _last(key: str, gathered: list[str]) -> str | None:
    given = [item.split("=", 1)[1] for item in gathered if item.startswith(f"--{key}=")]
    return given[-1] if given else None


def _show(chain: Path) -> None:
    """The table at the end of a run, and where the report is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from collapselab import report
    from collapselab.rundir import run_root

    page = report.write_report(run_root(chain))
    table = Table(title=Text(str(chain)))
    for column in report.COLUMNS:
        table.add_column(column, justify="right")
    for row in report.table_rows(report.ChainFiles(chain)):
        table.add_row(*row)
    Console().print(table)
    print(f"report: {page}")


RUN_HELP = "run directory (runs/NAME) or chain directory"


def _do_sample(arguments: list[str]) -> int:
    options = _options("sample")
    options.add_positional("run", f"{RUN_HELP} whose model, prompts and settings are used")
    options.add("generation", int | None, None, "which model; null means the last finished one")
    options.add("out", str | None, None, "folder for shards and meta.json; null writes none")
    options.add("show", int, 3, "how many samples to print")
    options.add("tokens", int | None, None, "tokens to write; null means a few, or the run's budget with --out")
    from collapselab.options import config_from, run_keys

    passed_on = {k: v for k, v in run_keys().items() if k.startswith("sampling.") or k == "seed"}
    options.accept(passed_on)
    options.sections = {"sampling"}
    gathered = options.gather(arguments)
    overrides = [item for item in gathered if item[2:].split("=", 1)[0] in passed_on]
    parsed = options.parse([item for item in gathered if item not in overrides])
    if parsed.tokens is not None and parsed.tokens < 1:
        raise UserError(f"--tokens={parsed.tokens}: must be 1 or more")
    from collapselab.rundir import find_chains

    chain = find_chains(Path(parsed.run))[0]
    config = config_from(chain / "config.yaml", overrides)
    _quiet()
    from collapselab import standalone

    standalone.sample(chain, config, parsed.generation, parsed.out, parsed.tokens, parsed.show)
    return 0


def _do_eval(arguments: list[str]) -> int:
    options = _options("eval")
    options.add_positional("model", "model folder, hub name or .gguf file")
    options.add("run", str | None, None, f"{RUN_HELP} whose protocol and text are used")
    options.add("out", str | None, None, "JSON file for protocol, sums and values")
    options.add("device", str, "auto", "where to compute: auto, cpu or cuda")
    parsed = options.parse(options.gather(arguments))
    if parsed.run is None:
        raise UserError("--run: name the run whose protocol the model is scored under")
    if parsed.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={parsed.device!r}: must be auto, cpu or cuda")
    from collapselab.options import config_from
    from collapselab.rundir import find_chains

    config = config_from(find_chains(Path(parsed.run))[0] / "config.yaml")
    _quiet()
    from collapselab import standalone

    standalone.score(parsed.model, dataclasses.replace(config, device=parsed.device), parsed.out)
    return 0


def _do_report(arguments: list[str]) -> int:
    options = _options("report")
    options.add_positional("run", RUN_HELP)
    parsed = options.parse(options.gather(arguments))
    from collapselab.report import write_report

    print(f"report: {write_report(Path(parsed.run))}")
    return 0


def _do_sync(arguments: list[str]) -> int:
    options = _options("sync")
    options.add_positional("run", RUN_HELP)
    options.add("wandb", str, "online", "where to replay the rows to: online or offline")
    parsed = options.parse(options.gather(arguments))
    if parsed.wandb not in ("online", "offline"):
        raise UserError(f"wandb={parsed.wandb!r}: must be online or offline")
    from collapselab.console import Console
    from collapselab.options import config_from
    from collapselab.rundir import find_chains
    from collapselab.tracking import replay

    for chain in find_chains(Path(parsed.run)):
        count = replay(config_from(chain / "config.yaml"), chain, Console(), parsed.wandb)
        print(f"{chain}: {count} generations sent")
    return 0


def _do_corpus(arguments: list[str]) -> int:
    options = _options("corpus")
    options.add("clear", str | None, None, "remove: `all`, or the beginning of a digest")
    parsed = options.parse(options.gather(arguments))
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from collapselab.console import inert
    from collapselab.corpus import cache_root, cached, clear

    if parsed.clear is not None:
        for name in clear(parsed.clear):
            print(f"removed {name}")
        return 0
    table = Table(title=Text(f"tokenised text in {cache_root()}"))
    for column in ("digest", "source", "tokenizer", "tokens", "MB"):
        table.add_column(column)
    for row in cached():
        cells = (row["digest"], row["source"], row["tokenizer"], f"{row['tokens']:,}", f"{row['bytes'] / 1e6:.1f}")
        table.add_row(*(Text(inert(cell)) for cell in cells))
    Console().print(table)
    return 0


def _do_bench(arguments: list[str]) -> int:
    options = _options("bench")
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
    _quiet()
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


def _do_theory(arguments: list[str]) -> int:
    from collapselab.theory.parameters import Parameters

    options = _options("theory")
    options.add_positional("law", "name of a law; --list shows them", required=False)
    options.add_switch("list", "list all laws, one line each, and stop")
    options.add_switch("json", "print one JSON document instead of a table")
    options.add("plot", str | None, None, "write a figure to this .png or .svg file instead of a table")
    options.add("simulate", int | None, None, "chains to simulate beside the law (with torch); null simulates none")
    options.add("seed", int, 1, "seed of the simulation, 0 or more")
    options.add_class(Parameters)
    gathered = options.gather(arguments)
    parsed = options.parse(gathered)
    from collapselab.theory import show

    if parsed.list:
        show.listing()
        return 0
    values = parsed.as_dict()
    parameters = Parameters(**{key: values[key] for key in Parameters.__annotations__})
    given = [item[2:].split("=", 1)[0] for item in gathered if item.startswith("--")]
    figure = Path(parsed.plot) if parsed.plot else None
    show.show(parsed.law, given, parameters, parsed.json, figure, parsed.simulate, parsed.seed)
    return 0


HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "run": _do_run,
    "sample": _do_sample,
    "eval": _do_eval,
    "report": _do_report,
    "sync": _do_sync,
    "corpus": _do_corpus,
    "bench": _do_bench,
    "theory": _do_theory,
}
