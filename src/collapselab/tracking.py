"""Mirror of metrics.jsonl and the first samples on Weights & Biases; the only module that imports wandb (docs/wandb.md).

A daemon thread makes all calls to wandb, fed by a queue: a chain only queues its rows, and waits a bounded time at its end. The
row of generation g is logged at step g of a run whose id follows from the chain, so that a row sent again replaces the old one.
Only the chain's own thread logs and reads files: sampling forks, and a child must not inherit a lock that this thread holds.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from collapselab.config import RunConfig, UserError, as_dict, digest, first_line
from collapselab.config.identity import identity
from collapselab.metrics import HEADLINE
from collapselab.runtime.console import Console, inert
from collapselab.store.checks import BROKEN, text, whole
from collapselab.store.folders import read_published
from collapselab.store.layout import Chain, read_metrics, run_root

INIT_SECONDS = 30  # for wandb to accept the run
FINISH_SECONDS = 10  # a chain waits at most this long at its end for unsent rows
REPORT_SECONDS = 20  # additional wait for a report of a few megabytes
SYNC_SECONDS = 300  # `collapselab sync` has nothing else to do
LEAVE_SECONDS = 2  # maximum wait of an early exit; the rows are in metrics.jsonl

SAMPLES, COMPARISON = "samples", "comparison"  # tables; not names of metrics
MOST_TEXTS, LONGEST_TEXT = 100, 20_000  # rows of a generation's table; characters
TAG = 64  # maximum characters in wandb

_one_at_a_time = threading.Lock()  # wandb has one service per process: a second chain's thread waits for the first


class Tracker:
    """Mirror of one chain on Weights & Biases; inactive if tracking is off. Never raises, never prompts for a key.

    Args:
        chain: its folder, or that of an experiment, whose report and comparison are a run of their own.
        mode: replaces the mode of `config`. patience: seconds to wait at the end (FINISH_SECONDS).
    """

    def __init__(
        self, config: RunConfig, chain: Path, console: Console, mode: str | None = None, patience: float | None = None
    ):
        self.console, self.chain = console, chain
        self.patience = FINISH_SECONDS if patience is None else patience
        self.failed = ""
        self.queued = 0  # generations put into the queue
        self.items: SimpleQueue[Callable[[Any], None] | None] = SimpleQueue()  # each sends something to wandb's run
        self.thread: threading.Thread | None = None
        self.reported = False  # the failure
        self.reached = False  # wandb has accepted the run
        self.extra = 0.0  # additional seconds for a report, if wandb was reached
        mode = mode or config.tracking.wandb
        if mode == "off":
            return
        try:
            import wandb  # not in the thread (half a second): a fork could inherit a module's import lock
            import wandb.apis.public  # imported by wandb.init

            wandb.Table(columns=["text"], data=[["imports pandas"]])
            settings = wandb.Settings(
                mode=mode,
                **_named(config, chain),
                resume="allow" if mode == "online" else None,
                root_dir=str(chain),
                init_timeout=INIT_SECONDS,
                finish_timeout=self.patience + REPORT_SECONDS,
                finish_timeout_raises=True,
                silent=True,
                console="off",  # events.log has a chain's output
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
            )
        except Exception as error:  # not installed, or invalid settings in the environment
            self._give_up(error)
            return
        facts = as_dict(config) if _is_chain(chain) else {"experiment": chain.absolute().name}
        self.thread = threading.Thread(target=self._work, args=(settings, facts), name="wandb", daemon=True)
        self.thread.start()

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Queue the rows that are not queued yet; `rows` are those of generations 0, 1, ... in order."""
        self._report_failure()
        if self.thread is not None and not self.failed:
            for end in range(self.queued + 1, len(rows) + 1):
                texts = _texts(self.chain, rows[end - 1]["generation"])
                self.items.put(partial(_send_row, rows[:end], texts))
            self.queued = max(self.queued, len(rows))

    def keep(self, page: Path | None) -> None:
        """Queue a report (page and tables), if any, as an artifact. To be called once, at the end."""
        if page is not None and self.thread is not None and not self.failed:
            self.extra = REPORT_SECONDS
            self.items.put(lambda run: run.log_artifact(_artifact(page, self.chain)))

    def compare(self, columns: list[str], rows: list[list[str]]) -> None:
        """Queue the table that compares the arms of an experiment."""
        if self.thread is not None and not self.failed:
            self.items.put(partial(_send_table, columns, [[inert(cell) for cell in row] for row in rows]))

    def finish(self) -> None:
        """Wait up to `patience` seconds until wandb has all rows, and log if it has not."""
        self._close(self.patience)
        self._report_failure()

    def _close(self, seconds: float) -> None:
        """Stop the thread, or abandon it if it hangs, and wandb's own process."""
        atexit.unregister(self._leave)
        if self.thread is None:
            return
        self.items.put(None)
        self.thread.join(seconds)
        if self.reached and self.extra:
            self.thread.join(self.extra)
            seconds += self.extra
        if self.thread.is_alive():
            self.failed = self.failed or f"not all was sent within {seconds:g} s"
            _end_service()
            self.thread.join(LEAVE_SECONDS)

    def _leave(self) -> None:
        self.extra = 0.0
        self._close(LEAVE_SECONDS)

    def _give_up(self, error: BaseException) -> None:
        self.failed = self.failed or first_line(error)

    def _report_failure(self) -> None:
        if self.failed and not self.reported:
            self.reported = True
            self.console.say(
                f"note: wandb is off from here on ({self.failed}); `collapselab sync` can send the missing rows later"
            )

    def _work(self, settings: Any, config: dict[str, Any]) -> None:
        """Run the thread. Errors here (network, login, disk) are logged, never raised."""
        try:
            with _one_at_a_time, _staged(Path(settings.root_dir) / "wandb"):
                self._mirror(settings, config)
        except BaseException as error:  # wandb may also call sys.exit
            self._give_up(error)

    def _mirror(self, settings: Any, config: dict[str, Any]) -> None:
        import wandb

        try:
            wandb.setup(settings)
            atexit.register(self._leave)  # runs before wandb's own hook, which waits for uploads without limit
            # wandb.init would prompt for a key. The server is contacted there, not here.
            if settings.mode == "online" and not wandb.login(prompt=False, verify=False):
                raise UserError("no API key here; set WANDB_API_KEY or run `wandb login`")
            run = wandb.init(settings=settings, config=config)
            self.reached = True
            run.define_metric("generation")
            run.define_metric("*", step_metric="generation")
            for send in iter(self.items.get, None):
                send(run)
            run.finish()
        finally:
            with suppress(BaseException):
                wandb.teardown()  # ends wandb's own process


def _is_chain(folder: Path) -> bool:
    return folder.name.startswith("seed=")


def _named(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Return wandb's names of a chain or an experiment's report. In a sweep its agent has chosen id and project."""
    root = run_root(folder)
    named: dict[str, Any] = {"project": config.tracking.project, "run_group": root.name}
    if _is_chain(folder):
        arm, seed = folder.parent.name.removeprefix("arm="), folder.name.removeprefix("seed=")
        named["run_name"] = f"{root.name if arm == 'main' else arm}/{seed}"
        named |= {"run_job_type": arm, "run_tags": [f"arm={arm}"[:TAG], f"seed={seed}"[:TAG]]}
        named["run_id"] = digest([root.name, folder.parent.name, identity(config)])[:16]
    else:
        named |= {"run_name": f"{root.name}/report", "run_job_type": "report", "run_tags": ["report"]}
        named["run_id"] = digest([root.name, "report"])[:16]
    if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
        named |= {"run_id": os.environ["WANDB_RUN_ID"], "project": os.environ.get("WANDB_PROJECT", named["project"])}
    return named


@contextmanager
def _staged(folder: Path) -> Iterator[None]:
    """Keep wandb's unsent files next to its offline file instead of in the home directory."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("WANDB_DATA_DIR", None)


def _texts(chain: Path, generation: int) -> list[tuple[str, str]]:
    """Return (prompt, text) of the explorer's fixed prompts; an empty list if the stage is damaged."""
    texts: list[tuple[str, str]] = []
    with suppress(UserError, OSError, *BROKEN):
        stage = Chain(chain).stage(generation, "eval")
        explored = read_published(stage, "explorer.json")
        head = whole(explored["prompt_length"])
        pieces = [[text(piece) for piece in one["pieces"]] for one in explored["prompts"][:MOST_TEXTS]]
        texts = [("".join(some[:head]), "".join(some[head:])) for some in pieces]
    return [(inert(prompt)[:LONGEST_TEXT], inert(words)[:LONGEST_TEXT]) for prompt, words in texts]


def _send_row(rows: list[dict[str, Any]], texts: list[tuple[str, str]], run: Any) -> None:
    """Log the last row, under the keys of metrics.jsonl, with the ends of its intervals, and its samples."""
    import wandb

    generation = rows[-1]["generation"]
    values = {**rows[-1]["metrics"], "generation": generation, "real_share": rows[-1]["real_share"]}
    for key, (low, high) in rows[-1].get("intervals", {}).items():
        values |= {f"{key}/low": low, f"{key}/high": high}
    if texts:
        data = [[generation, prompt, words] for prompt, words in texts]
        values[SAMPLES] = wandb.Table(columns=["generation", "prompt", "text"], data=data)
    if generation >= run.starting_step:  # a resumed run has the earlier steps
        run.log(values, step=generation, commit=True)
    run.summary.update(_summary(rows))


def _send_table(columns: list[str], rows: list[list[str]], run: Any) -> None:
    import wandb

    run.log({COMPARISON: wandb.Table(columns=columns, data=rows)}, step=0, commit=True)


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return first value, change, minimum and maximum of each headline metric; wandb keeps the last under the metric's name.
    (`define_metric(summary=...)` would store an object, which a sweep cannot optimise and a resumed run would reset.)"""
    summary: dict[str, float] = {}
    for key in HEADLINE.values():
        values = [row["metrics"][key] for row in rows if key in row["metrics"]]
        if values:
            summary |= {f"{key}/first": values[0], f"{key}/change": values[-1] - values[0]}
            summary |= {f"{key}/min": min(values), f"{key}/max": max(values)}
    return summary


def _artifact(page: Path, folder: Path) -> Any:
    """Build the artifact of a report: page (with its figures) and tables."""
    import wandb

    name = re.sub(r"[^A-Za-z0-9._-]", "-", run_root(folder).name)
    artifact = wandb.Artifact(f"report-{name}"[:100], type="report")
    for path in (page, *sorted(page.parent.glob("*.csv"))):
        if path.is_file() and not path.is_symlink():
            artifact.add_file(str(path), name=path.name)
    return artifact


def _end_service() -> None:
    """Kill wandb's child process: it would keep the terminal, and the exit would wait for it."""
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()


def replay(config: RunConfig, chain: Path, console: Console, mode: str) -> int:
    """Send all rows of a chain's metrics.jsonl, and the report unless it is an experiment's; return the number of rows.

    Raises:
        UserError: wandb did not take the rows within SYNC_SECONDS.
    """
    rows = read_metrics(chain)
    root = run_root(chain)
    if mode == "online":
        console.say(f"{chain}: sending {len(rows)} rows to wandb, for at most {SYNC_SECONDS} s")
    tracker = Tracker(config, chain, Console(speaks=False), mode, SYNC_SECONDS)  # failures are raised below
    tracker.log(rows)
    page = root / "report" / "index.html"
    if page.is_file() and not (root / "experiment.yaml").exists():
        tracker.keep(page)
    tracker.finish()
    if tracker.failed:
        raise UserError(f"--wandb {mode}: wandb did not take the rows ({tracker.failed}); check login and network")
    return len(rows)


def send_report(
    config: RunConfig, root: Path, page: Path, columns: list[str], rows: list[list[str]], mode: str | None = None
) -> None:
    """Send an experiment's report and table of arms to a run of their own, if tracking is on; failures are only logged. `config`
    is that of any chain; `mode` replaces its mode."""
    tracker = Tracker(config, root, Console(), mode)
    tracker.compare(columns, rows)
    tracker.keep(page)
    tracker.finish()
