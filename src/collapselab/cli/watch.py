"""Watch a run or an experiment, or show a finished one: stage, tokens/s, time left, last metrics."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapselab.cli.common import RUN_HELP, make_options
from collapselab.config import UserError

if TYPE_CHECKING:
    from collapselab.watch import ChainView, RunView, Watcher

PLAIN_WIDTH = 160  # columns of a snapshot to a file or a pipe; events are wider than a terminal
BETWEEN = 3.0  # seconds without a working process after which a run has ended
BETWEEN_CHAINS = 30.0  # the same while an experiment has chains to start, as workers import torch first
LAST_ROWS, EVENTS = 3, 6
BAR = 24  # characters
FIRST_SHOWN = ("running", "waiting", "process died", "unreadable", "stopped")  # if there is no room for all chains


def main(arguments: list[str]) -> int:
    options = make_options("watch")
    options.add_positional("run", RUN_HELP)
    options.add_switch("once", "show the present state, and stop")
    options.add("every", float, 1.0, "seconds between updates", line_only=True)
    parsed = options.parse(options.gather(arguments))
    if not 0.1 <= parsed.every <= 3600:
        raise UserError(f"--every={parsed.every}: must lie in [0.1, 3600] seconds")
    from collapselab.watch import Watcher

    watcher = Watcher(Path(parsed.run))
    if parsed.once or not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        console.print(draw(watcher.look(), None))
        return 0
    _follow(watcher, parsed.every)
    return 0


def _follow(watcher: Watcher, every: float) -> None:
    """Draw the run until no process works on it."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    idle_since: float | None = None
    was_at_work = False
    with Live(console=console, auto_refresh=False) as live:
        while True:
            view = watcher.look()
            live.update(draw(view, console.height), refresh=True)
            was_at_work = was_at_work or view.at_work
            idle_since = None if view.at_work else idle_since or time.monotonic()
            idle = 0.0 if idle_since is None else time.monotonic() - idle_since
            if view.complete or (not view.at_work and idle >= _patience(view, was_at_work)):
                return
            time.sleep(every)


def _patience(view: RunView, was_at_work: bool) -> float:
    """Seconds to wait for another process when none works."""
    from collapselab.watch import NOT_BEGUN

    begins = any(chain.state == NOT_BEGUN for chain in view.chains) and time.time() - view.touched < BETWEEN_CHAINS
    return BETWEEN_CHAINS if begins else BETWEEN if was_at_work else 0.0


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(view: RunView, height: int | None) -> Any:
    """Render a run for a terminal of `height` lines; None means as many as needed."""
    from rich.console import Group

    many = len(view.chains) != 1
    parts = _many(view, height) if many else _one(view.chains[0])
    room = EVENTS if height is None else max(0, min(EVENTS, height - 4 - _lines(parts)))
    if room and view.events:
        parts += [_line(""), *(_line(_short(event), "dim") for event in view.events[-room:])]
    return Group(*parts)


def _short(event: str) -> str:
    """Shorten a line of events.log by its date and the run's folder."""
    return re.sub(r"^[0-9-]{10}T|\S*/(?=arm=)", "", event)


def _lines(parts: list[Any]) -> int:
    return sum(part.row_count + 1 if hasattr(part, "row_count") else 1 for part in parts)


def _line(words: str, style: str = "") -> Any:
    from rich.text import Text

    from collapselab.runtime.console import inert

    return Text(inert(" ".join(words.split())), style=style, no_wrap=True, overflow="ellipsis")


def _one(chain: ChainView) -> list[Any]:
    """Render a single chain: its state, progress, speed and last metrics."""
    parts = [_line(str(chain.path), "bold"), _line(f"{chain.state}: {_where(chain)}")]
    if chain.said and chain.state != "unreadable":
        parts.append(_line(f"for {chain.said}" if chain.state == "waiting" else chain.said))
    if chain.bar is not None:
        full = round(BAR * chain.bar.share)
        parts.append(_line(f"[{'#' * full}{'.' * (BAR - full)}] {_how_far(chain)}"))
    if chain.left is not None:
        parts.append(_line(f"the chain has about {_clock(chain.left)} left, at the speed of its last generation"))
    if chain.rows:
        parts += [_line(""), _metrics(chain)]
    return parts


def _metrics(chain: ChainView) -> Any:
    """Headline metrics of generation 0 and of the last generations."""
    from collapselab.metrics import HEADLINE

    names = [name for name, key in HEADLINE.items() if any(key in row["metrics"] for row in chain.rows)]
    shown = chain.rows[:1] + chain.rows[1:][-LAST_ROWS:]
    rows = []
    for row in shown:
        cells = ("–" if (v := row["metrics"].get(HEADLINE[name])) is None else f"{v:.4g}" for name in names)
        rows.append([str(row["generation"]), f"{row['real_share']:.3f}", *cells])
    return _table({"generation": "right", "real share": "right"} | dict.fromkeys(names, "right"), rows)


def _many(view: RunView, height: int | None) -> list[Any]:
    """Render an experiment, a line per chain; unfinished chains come first if there is no room for all."""
    from collapselab.metrics import HEADLINE

    states = [chain.state for chain in view.chains]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    parts = [_line(str(view.root), "bold"), _line(f"{len(states)} chains: {counts or 'none yet'}")]
    room = len(states) if height is None else max(1, height - 6)
    shown, more = view.chains, ""
    if len(shown) > room:
        shown = sorted(shown, key=lambda chain: chain.state not in FIRST_SHOWN)[:room]
        more = f"and {len(states) - room} more (the terminal has no room for them)"
    has = {key for chain in view.chains for row in chain.rows[-1:] for key in row["metrics"]}
    first = next((name for name, key in HEADLINE.items() if key in has), None)
    rows = []
    for chain in shown:
        value = chain.rows[-1]["metrics"].get(HEADLINE[first]) if first and chain.rows else None
        left = chain.left if chain.left is not None else chain.bar.left(time.time()) if chain.bar else None
        rows.append(
            [chain.arm, chain.seed, _generation(chain), _stage(chain), _rate(chain), "" if left is None else _clock(left),
             *([] if first is None else ["" if value is None else f"{value:.4g}"]), _state(chain)]
        )  # fmt: skip
    words = ("arm", "stage", "state")
    names = ["arm", "seed", "gen", "stage", "tok/s", "left", *([first] if first else []), "state"]
    parts.append(_table({name: "left" if name in words else "right" for name in names}, rows))
    return parts + ([_line(more)] if more else [])


def _table(columns: dict[str, str], rows: list[list[str]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name, side in columns.items():
        widest = 22 if name == "arm" else 30 if name == "state" else None
        justify: Any = side
        table.add_column(_line(name), justify=justify, no_wrap=True, overflow="ellipsis", max_width=widest)
    for row in rows:
        table.add_row(*map(_line, row))
    return table


def _state(chain: ChainView) -> str:
    detail = {"waiting": " for {}", "unreadable": ": {}"}.get(chain.state, "")
    return chain.state + detail.format(chain.said)


def _generation(chain: ChainView) -> str:
    """Present generation, or the last finished one, and the last one of the chain."""
    at = chain.finished if chain.stage else chain.finished - 1
    return f"{max(at, 0)}/{'?' if chain.last is None else chain.last}"


def _stage(chain: ChainView) -> str:
    """Stage, and the share of it that is done."""
    if not chain.stage or chain.state in ("not begun", "unreadable"):
        return ""
    return chain.stage + (f" {chain.bar.share:.0%}" if chain.bar is not None else "")


def _where(chain: ChainView) -> str:
    if chain.state == "unreadable":
        return chain.said
    if not chain.stage:
        return f"all generations, 0 to {chain.last}"
    number = f"generation {chain.finished} of {'?' if chain.last is None else chain.last}"
    return f"{number}, {'at' if chain.state in ('running', 'waiting') else 'next is'} {chain.stage}"


def _how_far(chain: ChainView) -> str:
    bar = chain.bar
    assert bar is not None
    progress = f"{bar.title[:30]}: {bar.share:.0%}"
    if chain.state != "running":
        return f"{progress} when it ended"
    left = bar.left(time.time())
    return f"{progress}, {_rate(chain) or '?'} tok/s" + ("" if left is None else f", {_clock(left)} left")


def _rate(chain: ChainView) -> str:
    """Tokens per second in three digits; empty if no stage is running."""
    if chain.bar is None or chain.bar.rate is None or chain.state != "running":
        return ""
    rate = chain.bar.rate
    for unit in ("", "k", "M"):
        if abs(rate) < 999.5:
            return f"{rate:.3g}{unit}"
        rate /= 1000
    return f"{rate:.3g}G"


def _clock(seconds: float) -> str:
    """Format seconds as h:mm:ss or m:ss, or in days."""
    whole = round(min(seconds, 1e9))
    if whole >= 2 * 86400:
        return f"{whole // 86400} days"
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
