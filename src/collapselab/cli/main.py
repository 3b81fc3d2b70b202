"""The command line: finds the verb and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import atexit
import importlib
import io
import os
import pwd
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from collapselab import __version__
from collapselab.cli.common import verbs
from collapselab.config import UserError, plugins
from collapselab.config.values import MADE_UP_HOME
from collapselab.runtime import interrupts


def handler(verb: str) -> Callable[[list[str]], int]:
    """The function of a verb: takes the arguments after it, returns the exit code. No other verb is imported."""
    found: Callable[[list[str]], int] = importlib.import_module(f"collapselab.cli.{verb}").main
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, or 2 for something the user can mend, said in one line."""
    if argv is None:
        _streams()
        _person()
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin while they wait make a run ten times slower as soon as another process wants a core. A benchmark
    # leaves it as it is: what it compares with is faster so.
    if arguments[:1] != ["bench"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here a disk that is full can still be said
        return code
    except UserError as error:
        return _refused(str(error))
    except BrokenPipeError:  # whoever read has read enough
        _say_no_more()
        return 1
    except OSError as error:  # what no room has put into words: a full disk, a name that is too long
        return _refused(_of_disk(error))
    except interrupts.Stopped as stopped:
        with interrupts.over():
            _say_stopped(stopped, arguments)
        return stopped.code
    except KeyboardInterrupt:
        _say_stopped(interrupts.Stopped(signal.SIGINT), arguments)
        return 130


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _usage()
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb = arguments[0]
    if verb not in (known := verbs()):
        from collapselab.config.keys import nearest

        raise UserError(f"{verb!r} is not a verb{nearest(verb, known)}; `collapselab --help` lists them")
    plugins.load(plugins.named(arguments))
    with interrupts.handled():
        try:
            code = handler(verb)(arguments[1:])
        except SystemExit as leaving:  # --help and --print-config
            code = int(leaving.code or 0)
        except Exception as error:
            interrupts.check()  # it may be what a library made of a signal that came while it was at work
            if said := plugins.fault(error):
                raise UserError(said) from error
            raise
        interrupts.check()
        return code


class _Stream(io.TextIOWrapper):
    """A stream that names itself where it cannot be written, and escapes what its terminal cannot show."""

    called: str

    @classmethod
    def of(cls, stream: Any, called: str) -> Any:
        if not isinstance(stream, io.TextIOWrapper):
            return stream
        stream.flush()
        line_buffering, encoding = stream.line_buffering, stream.encoding
        made = cls(stream.detach(), encoding, "backslashreplace", line_buffering=line_buffering)
        made.called = called
        return made

    def write(self, text: str) -> int:
        with self._named():
            return super().write(text)

    def flush(self) -> None:
        with self._named():
            super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self.called
            raise


def _streams() -> None:
    """Has the process read its arguments and names of files as UTF-8, and write whatever it has to say: a stream that was
    closed leads nowhere, and a character that a terminal cannot show is escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # the number is free: without this the next file that is opened would get what is printed
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    sys.stdout, sys.stderr = _Stream.of(sys.stdout, "standard output"), _Stream.of(sys.stderr, "standard error")
    if sys.getfilesystemencoding() == "ascii":  # LC_ALL=C, and Python's own remedies for that switched off
        os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:backslashreplace"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _person() -> None:
    """Gives libraries a home and a name where the system knows none for this user, as in a container: a folder that is gone
    when the process ends."""
    try:
        Path.home()
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix=Path(MADE_UP_HOME).name, dir=Path(MADE_UP_HOME).parent)
        os.environ["HOME"] = folder
        atexit.register(_remove_home, folder, os.getpid())
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["USER"] = f"uid-{os.getuid()}"


def _remove_home(folder: str, process: int) -> None:
    if os.getpid() == process:  # one that was forked leaves it alone
        shutil.rmtree(folder, ignore_errors=True)


def _refused(text: str) -> int:
    if os.environ.get("RANK", "0") == "0":  # one process speaks for all
        from collapselab.runtime.console import one_line

        with suppress(BrokenPipeError):
            print(one_line(f"collapselab: error: {text}"), file=sys.stderr)
    return 2


def _of_disk(error: OSError) -> str:
    """One line for an error of the system that came as far as this."""
    from collapselab.runtime.errors import of_disk

    if error.filename in ("standard output", "standard error"):
        _say_no_more()
        return f"{error.filename}: cannot be written ({error.strerror}); send it elsewhere"
    if isinstance(error.filename, (str, bytes)):
        return of_disk(Path(os.fsdecode(error.filename)), error)
    return f"a file could not be read or written ({error.strerror or error}); look at the disks of this machine"


def _say_no_more() -> None:
    """Has what is left in Python's buffer go nowhere: nobody reads it, or it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_stopped(stopped: interrupts.Stopped, arguments: list[str]) -> None:
    """Where a run was stopped, and the command that goes on from there."""
    if os.environ.get("RANK", "0") == "0":
        from collapselab.runtime.console import LONGEST, inert, one_line

        where = f" ({stopped.where})" if stopped.where else ""
        again = inert(shlex.join(["collapselab", *arguments]))
        if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
            again = f"the same accelerate launch of: {again}"
        name = signal.Signals(stopped.number).name
        to = "to go on" if arguments[:1] in (["run"], ["experiment"]) else "again"
        line = f"collapselab: stopped by {name}{where}; {to}: {again}"
        if len(line) > LONGEST:  # half a command is none
            line = one_line(f"collapselab: stopped by {name}{where}; {to}: the same command")
        with suppress(BrokenPipeError):
            print(line, file=sys.stderr)


def _usage() -> None:
    print("usage: collapselab VERB [options]\n\nWhat happens to a language model that learns from its own output?\n")
    for verb, text in verbs().items():
        print(f"  {verb:<11} {text}")
    print("\n`collapselab VERB --help` shows the options of a verb and their defaults.")
