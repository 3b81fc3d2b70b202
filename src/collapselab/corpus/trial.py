"""Trial of an untrusted tokenizer: check its settings, then let it read a page of text in a limited child process."""

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
EXPANSION = 100  # characters that one may become; Unicode's normal forms make at most 18
TRIAL_SECONDS, TRIAL_BYTES = 10, 1 << 30  # CPU time and memory for a page, which takes a millisecond and some kilobytes
TRIAL_WAIT = 60  # seconds of wall time
PAGE = "The people of the United States, in 1789; don't they?\n\n" * 20 + "".join(
    text * 60 + "\n" for text in (*map(chr, range(32, 127)), "\t", "é", "漢", "🙂", "aA", "a ", "a1", "a.", "1.")
)


def unusable(raw: RawTokenizer) -> str:
    """Reason to refuse a tokenizer: it multiplies text, or it panics or hangs on a page of it. Empty if it can be used."""
    state = json.loads(raw.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if (times := _expansion(state.get(part))) > EXPANSION:
            return f"its {part} turns one character into up to {times:,}"
    longest = max(map(len, raw.get_vocab(with_added_tokens=True)))
    if longest > LONGEST_TOKEN:
        return f"it has a token of {longest:,} characters"
    return try_page(raw)


def _expansion(part: Any) -> int:
    """Upper bound of the characters that a part of a tokenizer makes of one, by its successive replacements."""
    if isinstance(part, list):
        return math.prod(_expansion(item) for item in part)
    if not isinstance(part, dict):
        return 1
    times = math.prod(_expansion(value) for value in part.values() if isinstance(value, dict | list))
    if part.get("type") == "Replace":
        pattern = part.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        # A literal replaces text of its own length; a regular expression may match between any two characters.
        times *= max(1, -(-len(part["content"]) // len(literal)) if literal else len(part["content"]) + 1)
    if part.get("type") == "Prepend":
        times *= 1 + len(part.get("prepend", ""))
    return times


def try_page(raw: RawTokenizer) -> str:
    """Encode and decode a page of text in a child process; return its fault, or an empty text."""
    read, write = os.pipe()
    child = os.fork()
    if not child:  # uses none of the library's threads; output is discarded, as a panic prints lines of its own
        code = 1
        try:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            with suppress(OSError, ValueError):  # systems without such limits
                resource.setrlimit(resource.RLIMIT_CPU, (TRIAL_SECONDS, TRIAL_SECONDS))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + TRIAL_BYTES, used + TRIAL_BYTES))
            ids = raw.encode(PAGE, add_special_tokens=False).ids
            raw.decode(ids, skip_special_tokens=False)
            code = 0
        except BaseException as error:
            if "Missing [UNK]" not in str(error):  # a closed vocabulary, as our languages have, is no fault
                os.write(write, first_line(error)[:200].encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        if not select.select([pipe], [], [], TRIAL_WAIT)[0]:  # the child still runs
            os.kill(child, signal.SIGKILL)
        fault = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        slow = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        limit = f"{TRIAL_SECONDS} seconds" if slow else f"{TRIAL_BYTES >> 20} MB of memory"
        return f"it needs more than {limit} for a page of text"
    return f"it fails on a page of text: {fault}" if fault else ""
