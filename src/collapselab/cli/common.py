"""Functions shared by the verbs. Each verb is a module of its name, whose `main` takes the arguments after the verb, imports
heavy libraries itself, and returns the exit code."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from collapselab.config import RunConfig, UserError
from collapselab.config.values import home
from collapselab.runtime.interrupts import LAUNCHERS

if TYPE_CHECKING:
    from collapselab.cli.options import Options

NUMBERS = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
RUN_HELP = "run directory (runs/NAME) or chain directory"


def verbs() -> dict[str, str]:
    """Every verb, with the first line of its module's docstring."""
    lines = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if path.stem in ("main", "options", "common"):
            continue
        line = path.read_text(encoding="utf-8").partition("\n")[0].strip('" ')
        lines[path.stem] = line[0].lower() + line[1:].removesuffix(".")
    return lines


def make_options(verb: str) -> Options:
    from collapselab.cli.options import Options

    return Options(verb, verbs()[verb])


def quiet() -> None:
    """Silence the libraries' progress bars and hints, but not their exceptions, after checking the launcher's variables."""
    check_launch()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # default for libraries' bars; console.py sets its own
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import logging

    import transformers.utils.logging as hf_logging

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hides retries; failures become a one-line error
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()


def check_paths(config: RunConfig) -> None:
    """Raise UserError for a missing folder or file in the settings, seconds before a library would."""
    source, model = config.corpus.source, config.model.pretrained
    kind, _, rest = source.partition(":")
    if kind == "path" and not re.search(r"[*?[]", rest) and not os.path.lexists(home("corpus.source", rest)):
        raise UserError(f"corpus.source={source!r}: no file found at {source}; check the path and the pattern")
    if model is not None and model.startswith(("/", "./", "../")) and not os.path.lexists(model):
        raise UserError(f"model.pretrained={model!r}: no such folder or file; check the path")


def check_launch() -> None:
    """Raise UserError if the launcher's environment variables are malformed."""
    for key in (*NUMBERS, *(name for pair in LAUNCHERS for name in pair)):
        value = os.environ.get(key)
        if value is not None and re.fullmatch("[0-9]{1,9}", value) is None:
            os.environ.pop("RANK", None)  # or this process would leave the line to rank 0
            raise UserError(f"{key}={value[:80]!r}: must be a whole number; unset it, or start with accelerate launch")
    size, rank = next((pair for pair in LAUNCHERS if pair[0] in os.environ), LAUNCHERS[0])
    world, at = (os.environ.get(key) for key in (size, rank))
    if int(world or 1) > 1 and "MASTER_ADDR" in os.environ and (at is None or int(at) >= int(world or 1)):
        os.environ.pop("RANK", None)
        wrong = f"{rank} is not set" if at is None else f"{rank}={at} is not smaller"
        raise UserError(f"{size}={world!r}: {wrong}, so no launcher set it; unset it, or start with accelerate launch")
    many = [key for key in (*(key for key, _ in LAUNCHERS), "LOCAL_RANK") if os.environ.get(key, "0") not in ("0", "1")]
    many += ["LOCAL_RANK"] if "LOCAL_RANK" in os.environ and "WORLD_SIZE" not in os.environ else []
    if many and "MASTER_ADDR" not in os.environ:
        os.environ.pop("RANK", None)
        raise UserError(
            f"{many[0]}={os.environ[many[0]]!r}: set without MASTER_ADDR; unset it, or start with accelerate launch"
        )
    cpu = os.environ.get("ACCELERATE_USE_CPU", "no").lower()
    if cpu not in ("y", "yes", "t", "true", "on", "1", "n", "no", "f", "false", "off", "0"):
        raise UserError(f"ACCELERATE_USE_CPU={cpu!r}: must be true or false; unset it")


def check_out(folder: Path, option: str) -> None:
    """Raise UserError if the folder of an --out cannot be written, or lies in a chain; leave no trace."""
    if any((path / name).exists() for path in (folder, *folder.parents) for name in ("manifest.json", "identity.json")):
        raise UserError(f"--out {option}: lies in a chain, which only the lab may change; name a folder elsewhere")
    try:
        parent = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        with (
            tempfile.TemporaryFile(dir=parent)
            if parent == folder
            else tempfile.TemporaryDirectory(dir=parent, prefix=".")
        ):
            pass  # not the folder itself, which a process that checks it at the same time would take for existing
    except OSError as error:
        raise UserError(f"--out {option}: cannot be written ({error.strerror}); choose another place") from None


def last_value(key: str, gathered: list[str]) -> str | None:
    values = [item.split("=", 1)[1] for item in gathered if item.startswith(f"--{key}=")]
    return values[-1] if values else None


def one_chain(run: str) -> Path:
    """Choose one chain of a run directory: the first seed of an experiment's baseline, or else of the first arm. Print the
    choice if there are several."""
    from collapselab.store.layout import find_chains, in_order
    from collapselab.store.seals import plain_bytes

    chains = find_chains(Path(run))
    if len(chains) == 1:
        return chains[0]
    # One line does not need the YAML reader, and a wrong arm does no harm.
    content = plain_bytes(Path(run) / "experiment.yaml") or b""
    match = re.search(rb"^baseline: '?([\w.+=-]{1,100})'?$", content, re.MULTILINE)
    arm = match[1].decode() if match else ""
    chosen = min(chains, key=lambda chain: (chain.parent.name != f"arm={arm}", in_order(chain)))
    if os.environ.get("RANK", "0") == "0":
        from collapselab.runtime.console import inert

        print(
            inert(f"{run} holds {len(chains)} chains; taking {chosen}; name another's folder instead"), file=sys.stderr
        )
    return chosen


def print_table(title: str, columns: list[str], rows: list[list[str]], left: tuple[str, ...] = ()) -> None:
    """Print a table, to a file or a pipe in its full width, with the columns `left` aligned on the left."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from collapselab.runtime.console import inert

    table = Table(title=Text(inert(title)))
    for column in columns:
        table.add_column(Text(inert(column)), justify="left" if column in left else "right")
    for row in rows:
        table.add_row(*(Text(inert(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        width = sum(max(map(len, column)) + 3 for column in zip(columns, *rows, strict=True)) + 1
        console.width = max(console.width, width)
    console.print(table)


def with_present_place(options: Options, gathered: list[str]) -> list[str]:
    """Update `runs_dir`, `name` and `arm` from a run's own file to the run's present place: it may have been moved, or started
    in another working directory. Values from the command line are kept."""
    from collapselab.store.layout import keys_of_place, settled

    values = dict(item[2:].split("=", 1) for item in gathered if item.startswith("--") and "=" in item)
    for key in [key for key in ("runs_dir", "name", "arm") if key in options.origin]:
        now = keys_of_place(options.origin[key]).get(key, values[key])
        same = key == "runs_dir" and settled(Path(now)).absolute() == settled(Path(values[key])).absolute()
        if now != values[key] and not same:
            gathered = [f"--{key}={now}" if item.startswith(f"--{key}=") else item for item in gathered]
    return gathered
