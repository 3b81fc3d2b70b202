"""Entry point of the command line: dispatch to a verb, and turn errors into one line and an exit code."""

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
from collapselab.config.values import TEMPORARY_HOME
from collapselab.runtime import interrupts


def handler(verb: str) -> Callable[[list[str]], int]:
    """Import a verb; return its function from the arguments after the verb to the exit code."""
    function: Callable[[list[str]], int] = importlib.import_module(f"collapselab.cli.{verb}").main
    return function


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the exit code: 0, or 2 after a one-line error that the user can fix."""
    if argv is None:
        _set_up_streams()
        _set_up_user()
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin while they wait make a run ten times slower as soon as another process wants a core. Benchmarks
    # keep them, because the code that they compare with is faster so.
    if arguments[:1] != ["bench"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = _run(arguments)
        sys.stdout.flush()  # while a full disk can still be reported
        return code
    except UserError as error:
        return _report_error(str(error))
    except BrokenPipeError:  # the reader has gone
        _discard_stdout()
        return 1
    except OSError as error:  # not handled lower down: a full disk, a name that is too long
        return _report_error(_describe_os_error(error))
    except interrupts.Stopped as stopped:
        with interrupts.over():
            _report_stop(stopped, arguments)
        return stopped.code
    except KeyboardInterrupt:
        _report_stop(interrupts.Stopped(signal.SIGINT), arguments)
        return 130


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _usage()
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb = arguments[0]
    if verb not in verbs():
        from collapselab.config.keys import nearest

        raise UserError(f"{verb!r} is not a verb{nearest(verb, verbs())}; `collapselab --help` lists them")
    plugins.load(plugins.named(arguments))
    with interrupts.handled():
        try:
            code = handler(verb)(arguments[1:])
        except SystemExit as leaving:  # --help and --print-config
            code = int(leaving.code or 0)
        except Exception as error:
            interrupts.check()  # a library may have turned a signal into this error
            if not isinstance(error, UserError) and (message := plugins.fault(error)):
                raise UserError(message) from error
            raise
        interrupts.check()
        return code


class _Stream(io.TextIOWrapper):
    """An output stream that names itself in errors, and escapes characters that its terminal cannot show."""

    title: str

    @classmethod
    def of(cls, stream: Any, title: str) -> Any:
        if not isinstance(stream, io.TextIOWrapper):
            return stream
        stream.flush()
        line_buffering, encoding = stream.line_buffering, stream.encoding
        wrapped = cls(stream.detach(), encoding, "backslashreplace", line_buffering=line_buffering)
        wrapped.title = title
        return wrapped

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
            error.filename = error.filename or self.title
            raise


def _set_up_streams() -> None:
    """Replace closed standard streams by /dev/null, wrap the outputs, and restart Python in UTF-8 mode if it would read
    arguments and file names as ASCII."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # occupy the free number, or the next file opened would receive the output
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    sys.stdout, sys.stderr = _Stream.of(sys.stdout, "standard output"), _Stream.of(sys.stderr, "standard error")
    if sys.getfilesystemencoding() == "ascii":  # LC_ALL=C, with Python's own remedies switched off
        os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:backslashreplace"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _set_up_user() -> None:
    """Give libraries a temporary home and a user name if the system has none for this user, as in a container."""
    try:
        Path.home()
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix=Path(TEMPORARY_HOME).name, dir=Path(TEMPORARY_HOME).parent)
        os.environ["HOME"] = folder
        atexit.register(_remove_home, folder, os.getpid())
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["USER"] = f"uid-{os.getuid()}"


def _remove_home(folder: str, process: int) -> None:
    if os.getpid() == process:  # forked processes leave it alone
        shutil.rmtree(folder, ignore_errors=True)


def _report_error(text: str) -> int:
    if os.environ.get("RANK", "0") == "0":
        from collapselab.runtime.console import one_line

        with suppress(BrokenPipeError):
            print(one_line(f"collapselab: error: {text}"), file=sys.stderr)
    return 2


def _describe_os_error(error: OSError) -> str:
    from collapselab.runtime.errors import of_disk

    if error.filename in ("standard output", "standard error"):
        _discard_stdout()
        return f"{error.filename}: cannot be written ({error.strerror}); send it elsewhere"
    if isinstance(error.filename, (str, bytes)):
        return of_disk(Path(os.fsdecode(error.filename)), error)
    return f"a file could not be read or written ({error.strerror or error}); check the disks of this machine"


def _discard_stdout() -> None:
    """Discard buffered output: the reader is gone, or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_stop(stopped: interrupts.Stopped, arguments: list[str]) -> None:
    """Print where a run was stopped, and the command that resumes it."""
    if os.environ.get("RANK", "0") == "0":
        from collapselab.runtime.console import LONGEST, inert, one_line

        where = f" ({stopped.where})" if stopped.where else ""
        again = inert(shlex.join(["collapselab", *arguments]))
        if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
            again = f"the same accelerate launch of: {again}"
        name = signal.Signals(stopped.number).name
        to = "to resume" if arguments[:1] in (["run"], ["experiment"]) else "to repeat"
        line = f"collapselab: stopped by {name}{where}; {to}: {again}"
        if len(line) > LONGEST:  # half a command would be useless
            line = one_line(f"collapselab: stopped by {name}{where}; {to}: the same command")
        with suppress(BrokenPipeError):
            print(line, file=sys.stderr)


def _usage() -> None:
    print("usage: collapselab VERB [options]\n\nWhat happens to a language model that learns from its own output?\n")
    for verb, text in verbs().items():
        print(f"  {verb:<11} {text}")
    print("\n`collapselab VERB --help` shows the options of a verb and their defaults.")
