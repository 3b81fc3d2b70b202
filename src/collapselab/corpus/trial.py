"""Whether a stranger's tokenizer can be used on text: by what it says of itself, and by a page of text in a process of its own."""

from __future__ import annotations

import json
import math
import os
import resource
import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RawTokenizer

from collapselab.config import first_line

LONGEST_TOKEN = 10_000  # characters
MULTIPLIES = 100  # characters that one may become; Unicode's own normal forms make at most 18
TRIAL_SECONDS, TRIAL_BYTES = 10, 1 << 30  # of CPU and memory for a page, which takes a millisecond and some kilobytes
TRIAL_WAIT = 60  # seconds in which a process that is given so much of the processor must be done
PAGE = "The people of the United States, in 1789; don't they?\n\n" * 20 + "".join(
    text * 60 + "\n" for text in (*map(chr, range(32, 127)), "\t", "é", "漢", "🙂", "aA", "a ", "a1", "a.", "1.")
)


def unusable(raw: RawTokenizer) -> str:
    """Why a tokenizer must not be used on a corpus: it multiplies text, or it panics or takes for ever on a page of it.
    Empty where nothing is wrong. The page is read in a process of its own, within limits of time and memory."""
    state = json.loads(raw.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if (times := _multiplies(state.get(part))) > MULTIPLIES:
            return f"its {part} turns a character into up to {times:,}"
    longest = max(map(len, raw.get_vocab(with_added_tokens=True)))
    if longest > LONGEST_TOKEN:
        return f"it has a token of {longest:,} characters"
    return tried(raw)


def _multiplies(part: Any) -> int:
    """At most how many characters a part of a tokenizer makes of one, by the replacements in it, one after the other."""
    if isinstance(part, list):
        return math.prod(_multiplies(item) for item in part)
    if not isinstance(part, dict):
        return 1
    times = math.prod(_multiplies(value) for value in part.values() if isinstance(value, dict | list))
    if part.get("type") == "Replace":
        pattern = part.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        # Of a text of its own length; a regular expression may match between any two characters.
        times *= max(1, -(-len(part["content"]) // len(literal)) if literal else len(part["content"]) + 1)
    if part.get("type") == "Prepend":
        times *= 1 + len(part.get("prepend", ""))
    return times


def tried(raw: RawTokenizer) -> str:
    """What goes wrong where a page of text is encoded and decoded again; empty where nothing does."""
    read, write = os.pipe()
    child = os.fork()
    if not child:  # no thread of the library is used in it, and nothing is printed: a panic writes lines of its own
        code = 1
        try:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            with suppress(OSError, ValueError):  # where the system knows no such limits
                resource.setrlimit(resource.RLIMIT_CPU, (TRIAL_SECONDS, TRIAL_SECONDS))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + TRIAL_BYTES, used + TRIAL_BYTES))
            ids = raw.encode(PAGE, add_special_tokens=False).ids
            raw.decode(ids, skip_special_tokens=False)
            code = 0
        except BaseException as error:
            if "Missing [UNK]" not in str(
                error
            ):  # a closed vocabulary, as of our own languages: other text is no fault
                os.write(write, first_line(error)[:200].encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        if not select.select([said], [], [], TRIAL_WAIT)[0]:  # it has not ended
            os.kill(child, signal.SIGKILL)
        told = said.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        slow = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        what = f"{TRIAL_SECONDS} seconds" if slow else f"{TRIAL_BYTES >> 20} MB of memory"
        return f"a page of text takes it more than {what}"
    return f"a page of text stops it: {told}" if told else ""
