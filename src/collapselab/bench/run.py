"""Benchmarks: each figure next to its comparison, from one run, with the parity check that makes it count.

A bench yields cases; a case is a list of rows measured on the same work, printed as a table; the last line is one JSON document.
With `--out` the document is saved next to a page of all benches of this machine and day.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from collapselab.report.tables import markdown
from collapselab.runtime.parallel import clock, out_of_memory
from collapselab.store.folders import read_json, write_json, write_text

LEAST_REPEATS = 5
# Dense bf16 FLOP/s of NVIDIA's data sheets, the usual base of MFU.
DATASHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


@dataclass
class Row:
    """One way of doing the work."""

    name: str
    rate: float | None
    """Tokens (or the case's unit) per second, from the median of the repeats; null if out of memory."""
    seconds: list[float]
    share: float | None = None
    """Share of the case's limit, which is measured in the same run."""
    peak_bytes: int | None = None
    """Peak memory of the GPU, or else of this process."""
    note: str = ""


@dataclass
class Case:
    """Rows that do the same work."""

    title: str
    rows: list[Row]
    unit: str = "tokens/s"
    limit: str = ""
    """The limit that `share` refers to."""
    parity: dict[str, Any] = field(default_factory=dict)


def measured(
    name: str, work: Callable[[], object], amount: float, device: torch.device, repeats: int, warm_up: int = 1
) -> Row:
    """Time `work`, which does `amount` units, and its peak memory. If it does not fit into memory, the row says so."""
    seconds = None
    try:
        with Peak(device) as peak:
            seconds = clock(work, device, repeats, warm_up)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    if device.type == "cuda":  # after the error's frames are gone
        torch.cuda.empty_cache()
    if seconds is None:
        return Row(name, None, [], note="does not fit into memory here")
    return Row(name, amount / statistics.median(seconds), seconds, peak_bytes=peak.bytes)


class Peak:
    """Peak memory during the block: of the GPU, or else of this process (Linux); includes earlier allocations."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        return self

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            self.bytes = torch.cuda.max_memory_allocated()
        elif Path("/proc/self/status").is_file():
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.bytes = int(lines["VmHWM"].split()[0]) * 1024


class Busy:
    """Share of the block's second half in which the GPU ran a kernel, reported by its driver; None on a CPU."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.share: float | None = None
        self.seen: list[float] = []
        self.over = threading.Event()

    def __enter__(self) -> Busy:
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        if self.cuda:
            self.watcher.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            card = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"
            answer = _output("nvidia-smi", card, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
            if answer.strip().isdigit():
                self.seen.append(int(answer) / 100)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.cuda:
            self.watcher.join()
            late = self.seen[len(self.seen) // 2 :]
            self.share = statistics.mean(late) if late else None


@dataclass
class Limits:
    """Limits of the machine, measured here and now."""

    flops: float
    """FLOP/s of matrix products: bf16 on a GPU, float32 on a CPU."""
    copy: float
    """Bytes read and written per second by a copy."""
    datasheet: float | None = None


def limits(device: torch.device) -> Limits:
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = min(clock(lambda: a @ b, device, LEAST_REPEATS))
    source = torch.empty((4 << 30) if device.type == "cuda" else (256 << 20), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = min(clock(lambda: target.copy_(source), device, LEAST_REPEATS))
    card = torch.cuda.get_device_name() if device.type == "cuda" else ""
    datasheet = next((flops for name, flops in DATASHEET.items() if name in card), None)
    return Limits(2 * size**3 / product, 2 * source.numel() / copied, datasheet)


def machine(device: torch.device) -> dict[str, Any]:
    """Return facts of the machine and the software."""
    import transformers

    facts: dict[str, Any] = {
        "hardware": _hardware(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        facts["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return facts


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    names = [line for line in _output("cat", "/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0].split(':', 1)[1].strip()}" if names else platform.processor() or "CPU"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    except OSError:
        return ""


def chosen(plan: list[Any], only: int | None) -> list[Any]:
    """Return all cases of a plan, or case number `only`, counted from 1."""
    return plan if only is None else plan[only - 1 : only]


def bench(
    name: str, device: torch.device, repeats: int, command: str, only: int | None, out: Path | None, ours: bool = False
) -> dict[str, Any]:
    """Run a bench (`ours`: without comparisons); return the document to print. Finished cases are saved in `out` one by one."""
    from collapselab.bench import cases

    document: dict[str, Any] = {"bench": name, "command": command, "machine": machine(device), "cases": []}
    for case in cases.BENCHES[name](device, repeats, only, ours):
        document["cases"].append(asdict(case))
        show(case)
        if out is not None:
            keep(document, out)
    return document


def _cells(row: dict[str, Any]) -> list[str]:
    share = "" if row["share"] is None else f"{100 * row['share']:.0f} %"
    rate, median = (
        ("–", "–") if row["rate"] is None else (f"{row['rate']:,.0f}", f"{statistics.median(row['seconds']):.3g}")
    )
    peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f} GB"
    spread = f"{min(row['seconds']):.3g} .. {max(row['seconds']):.3g}" if row["seconds"] else ""
    return [row["name"], rate, median, spread, share, peak, row["note"]]


def _columns(case: dict[str, Any]) -> list[str]:
    share = f"share of {case['limit']}" if case["limit"] else "share"
    return ["", case["unit"], "seconds (median)", "range", share, "peak memory (this process)", ""]


def _in_words(parity: dict[str, Any]) -> str:
    return "; ".join(f"{key}: {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in parity.items())


def show(case: Case) -> None:
    """Print a case as a table."""
    from rich.console import Console
    from rich.table import Table

    shown = asdict(case)
    table = Table(title=case.title)
    for index, column in enumerate(_columns(shown)):
        table.add_column(column, justify="left" if index in (0, 6) else "right", no_wrap=index < 6)
    for row in shown["rows"]:
        table.add_row(*_cells(row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if case.parity:
        print(f"parity: {_in_words(case.parity)}")


def keep(document: dict[str, Any], folder: Path) -> Path:
    """Write the document and the page of all documents of this machine and day; return the page's path."""
    facts = document["machine"]
    kind = "cpu" if "driver" not in facts else facts["hardware"].replace("NVIDIA ", "").replace(" ", "-").lower()
    stem = f"{facts['date']}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    kept_as = folder / f"{stem}-{document['bench']}.json"
    if kept_as.is_file() and read_json(kept_as)["machine"] == facts:  # --only: keep the other cases of the same commit
        titles = {case["title"] for case in document["cases"]}
        others = [case for case in read_json(kept_as)["cases"] if case["title"] not in titles]
        document = document | {"cases": [*others, *document["cases"]]}
    write_json(kept_as, document)
    lines = [f"# {facts['hardware']}, {facts['date']}", ""]
    for path in sorted(folder.glob(f"{stem}-*.json")):
        kept = read_json(path)
        about = ", ".join(f"{key} {value}" for key, value in kept["machine"].items() if key not in ("hardware", "date"))
        source = f"`{kept['command']}` ({about}); raw figures: [{path.name}]({path.name})"
        lines += [f"## {kept['bench']}", "", source, ""]
        for case in kept["cases"]:
            table = markdown(_columns(case), map(_cells, case["rows"]), rule="|---")
            lines += [f"### {case['title']}", "", table, ""]
            if case["parity"]:
                lines += [f"Parity: {_in_words(case['parity'])}.", ""]
    page = folder / f"{stem}.md"
    write_text(page, "\n".join(lines))
    return page
