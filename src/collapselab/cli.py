"""The command line: finds the verb and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from collapselab import __version__, interrupts
from collapselab.commands import VERBS
from collapselab.config import UserError

HANDLERS = {  # module:function in collapselab.commands; only the verb that was asked for is imported
    "run": "chains:run",
    "experiment": "chains:run_experiment",
    "reproduce": "gallery:reproduce",
    "sample": "stages:sample",
    "eval": "stages:score",
    "watch": "watch:watch",
    "report": "files:report",
    "export": "export:export",
    "sync": "files:sync",
    "corpus": "files:corpus",
    "bench": "measure:bench",
    "theory": "measure:theory",
}


def handler(verb: str) -> Callable[[list[str]], int]:
    """The function of a verb: takes the arguments after it, returns the exit code."""
    module, name = HANDLERS[verb].split(":")
    found: Callable[[list[str]], int] = getattr(importlib.import_module(f"collapselab.commands.{module}"), name)
    return found


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
        with interrupts.handled():
            try:
                code = handler(verb)(arguments[1:])
            except Exception:
                interrupts.check()  # it may be what a library made of a signal that came while it was at work
                raise
            sys.stdout.flush()  # here a disk that is full can still be said
            interrupts.check()
            return code
    except UserError as error:
        return _refused(str(error))
    except SystemExit as leaving:  # --help and --print_config
        return int(leaving.code or 0)
    except BrokenPipeError:
        _say_no_more()
        return 1
    except OSError as error:  # what no room has put into words: a full disk, a name that is too long
        from collapselab.faults import of_disk

        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None
        if named is None:  # the terminal's side: where the output goes to
            _say_no_more()
        return _refused(of_disk(named or Path("standard output"), error))
    except interrupts.Stopped as stopped:
        with interrupts.over():
            _say_stopped(stopped, arguments)
        return stopped.code
    except KeyboardInterrupt:
        _say_stopped(interrupts.Stopped(signal.SIGINT), arguments)
        return 130


def _refused(text: str) -> int:
    if os.environ.get("RANK", "0") == "0":  # one process speaks for all
        from collapselab.console import inert

        print(f"collapselab: error: {inert(' '.join(text.split()))}", file=sys.stderr)
    return 2


def _say_no_more() -> None:
    """Has what is left in Python's buffer go nowhere: nobody reads it, or it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_stopped(stopped: interrupts.Stopped, arguments: list[str]) -> None:
    """Where a run was stopped, and the command that goes on from there."""
    if os.environ.get("RANK", "0") == "0":
        from collapselab.console import inert

        where = f" ({stopped.where})" if stopped.where else ""
        again = inert(shlex.join(["collapselab", *arguments]))
        if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
            again = f"the same accelerate launch of: {again}"
        name = signal.Signals(stopped.number).name
        to = "to go on" if arguments[:1] in (["run"], ["experiment"]) else "again"
        print(f"collapselab: stopped by {name}{where}; {to}: {again}", file=sys.stderr)


def _usage() -> None:
    print("usage: collapselab VERB [options]\n\nWhat happens to a language model that learns from its own output?\n")
    for verb, text in VERBS.items():
        print(f"  {verb:<11} {text}")
    print("\n`collapselab VERB --help` shows the options of a verb and their defaults.")
