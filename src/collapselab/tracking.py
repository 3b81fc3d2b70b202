"""The dashboard, a view of metrics.jsonl and of the first samples. The only module that imports wandb (docs/wandb.md).

A daemon thread makes every call to wandb, fed by a queue: a chain only puts rows into it, and waits a bounded time at its
end. The row of generation g is logged at wandb's step g into a run whose id follows from the chain, so that a row that is
sent again takes its old place. Only the chain's own thread speaks and reads files, for sampling forks, and a child must not
inherit a lock that this thread holds.
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

INIT_SECONDS = 30  # for wandb to answer that it knows the run
FINISH_SECONDS = 10  # a chain's end waits at most this long for what is not sent yet
REPORT_SECONDS = 20  # and so much longer where there is a report to send, a few megabytes
SYNC_SECONDS = 300  # `collapselab sync` may wait longer: nothing else is to be done there
LEAVE_SECONDS = 2  # an exit in the middle of a chain waits at most this long; the rows are in metrics.jsonl

SAMPLES, COMPARISON = "samples", "comparison"  # tables; no metric has such a name
MOST_TEXTS, LONGEST_TEXT = 100, 20_000  # of a generation's table; characters
TAG = 64  # characters that wandb takes

_one_at_a_time = threading.Lock()  # wandb keeps one service per process: a second chain's thread waits for the first's


class Tracker:
    """Mirrors the rows of one chain to Weights & Biases; does nothing where tracking is off. Never raises, and never
    prompts for a key.

    Args:
        chain: its folder; or that of an experiment, whose report and comparison are a run of their own.
    """

    def __init__(
        self,
        config: RunConfig,
        chain: Path,
        console: Console,
        mode: str | None = None,
        patience: float | None = None,
    ):
        self.console, self.chain = console, chain
        self.patience = FINISH_SECONDS if patience is None else patience
        self.failed = ""
        self.queued = 0  # generations that were put into the queue
        self.items: SimpleQueue[Callable[[Any], None] | None] = SimpleQueue()  # what sends something to wandb's run
        self.thread: threading.Thread | None = None
        self.told = False
        self.reached = False  # whether wandb has answered that it knows the run
        self.extra = 0.0  # seconds that a report may take beside the rows, where wandb was reached
        mode = mode or config.tracking.wandb
        if mode == "off":
            return
        try:
            import wandb  # half a second, here and not in the thread: a fork could inherit a module's import lock
            import wandb.apis.public  # what wandb.init comes to import

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
                console="off",  # what a chain prints stands in events.log
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
            )
        except Exception as error:  # not installed, settings in the environment that wandb refuses
            self._give_up(error)
            return
        known = as_dict(config) if _is_chain(chain) else {"experiment": chain.absolute().name}
        self.thread = threading.Thread(target=self._work, args=(settings, known), name="wandb", daemon=True)
        self.thread.start()

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Hands over the rows that were not handed over yet; `rows` are those of generations 0, 1, ... in order."""
        self._tell()
        if self.thread is not None and not self.failed:
            for end in range(self.queued + 1, len(rows) + 1):
                texts = _texts(self.chain, rows[end - 1]["generation"])
                self.items.put(partial(_send_row, rows[:end], texts))
            self.queued = max(self.queued, len(rows))

    def keep(self, page: Path | None) -> None:
        """Hands over a report, its page and its tables, as an artifact; None where none could be made. To be called once,
        at the end."""
        if page is not None and self.thread is not None and not self.failed:
            self.extra = REPORT_SECONDS
            self.items.put(lambda run: run.log_artifact(_artifact(page, self.chain)))

    def compare(self, columns: list[str], rows: list[list[str]]) -> None:
        """Hands over the table that compares the arms of an experiment."""
        if self.thread is not None and not self.failed:
            self.items.put(partial(_send_table, columns, [[inert(cell) for cell in row] for row in rows]))

    def finish(self) -> None:
        """Waits until wandb has every row, at most `patience` seconds, and says where it has not."""
        self._close(self.patience)
        self._tell()

    def _close(self, seconds: float) -> None:
        """After this the thread has ended, or hangs where nobody waits for it; wandb's own process has ended."""
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

    def _tell(self) -> None:
        if self.failed and not self.told:
            self.told = True
            self.console.say(
                f"note: wandb is left out from here on ({self.failed}); `collapselab sync` can send the missing rows later"
            )

    def _work(self, settings: Any, config: dict[str, Any]) -> None:
        """The thread. What goes wrong here (network, login, disk) may never stop a chain."""
        try:
            with _one_at_a_time, _staged(Path(settings.root_dir) / "wandb"):
                self._mirror(settings, config)
        except BaseException as error:  # wandb may also call sys.exit
            self._give_up(error)

    def _mirror(self, settings: Any, config: dict[str, Any]) -> None:
        import wandb

        try:
            wandb.setup(settings)
            atexit.register(self._leave)  # runs before wandb's own hook, which waits for an upload without a limit
            # wandb.init would prompt for a key; its server is asked there, not here.
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
    """What wandb calls the run of a chain, or of an experiment's report. An agent of a sweep has chosen id and project."""
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
    """Has wandb keep what it is yet to send beside its offline file, and not in the home directory."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("WANDB_DATA_DIR", None)


def _texts(chain: Path, generation: int) -> list[tuple[str, str]]:
    """(prompt, text) of a generation: the explorer's fixed prompts. None where a stage does not hold what it was published
    with."""
    found: list[tuple[str, str]] = []
    with suppress(UserError, OSError, *BROKEN):
        stage = Chain(chain).stage(generation, "eval")
        explored = read_published(stage, "explorer.json")
        head = whole(explored["prompt_length"])
        pieces = [[text(piece) for piece in one["pieces"]] for one in explored["prompts"][:MOST_TEXTS]]
        found = [("".join(some[:head]), "".join(some[head:])) for some in pieces]
    return [(inert(prompt)[:LONGEST_TEXT], inert(words)[:LONGEST_TEXT]) for prompt, words in found]


def _send_row(rows: list[dict[str, Any]], texts: list[tuple[str, str]], run: Any) -> None:
    """Log the last of the rows so far, with the keys of metrics.jsonl as they are, and its samples."""
    import wandb

    generation = rows[-1]["generation"]
    values = {**rows[-1]["metrics"], "generation": generation, "real_share": rows[-1]["real_share"]}
    if texts:
        data = [[generation, prompt, words] for prompt, words in texts]
        values[SAMPLES] = wandb.Table(columns=["generation", "prompt", "text"], data=data)
    if generation >= run.starting_step:  # a resumed run has the steps before
        run.log(values, step=generation, commit=True)
    run.summary.update(_summary(rows))


def _send_table(columns: list[str], rows: list[list[str]], run: Any) -> None:
    import wandb

    run.log({COMPARISON: wandb.Table(columns=columns, data=rows)}, step=0, commit=True)


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of each headline metric its first value, the change since then, and its least and greatest one, beside the last one,
    which wandb keeps under the metric's own name. (`define_metric(summary=...)` would put an object there, which a sweep cannot
    optimise; and a resumed run would begin it anew.)"""
    found: dict[str, float] = {}
    for key in HEADLINE.values():
        values = [row["metrics"][key] for row in rows if key in row["metrics"]]
        if values:
            found |= {f"{key}/first": values[0], f"{key}/change": values[-1] - values[0]}
            found |= {f"{key}/min": min(values), f"{key}/max": max(values)}
    return found


def _artifact(page: Path, folder: Path) -> Any:
    """A report's page and tables; the figures are in the page."""
    import wandb

    name = re.sub(r"[^A-Za-z0-9._-]", "-", run_root(folder).name)
    made = wandb.Artifact(f"report-{name}"[:100], type="report")
    for path in (page, *sorted(page.parent.glob("*.csv"))):
        if path.is_file() and not path.is_symlink():
            made.add_file(str(path), name=path.name)
    return made


def _end_service() -> None:
    """Ends the process that wandb has started in this one: it would keep the terminal, and the exit would wait for it."""
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()


def replay(config: RunConfig, chain: Path, console: Console, mode: str) -> int:
    """Sends every row of a chain's metrics.jsonl, and the report of a run that is no experiment; returns how many rows.

    Raises:
        UserError: wandb did not take the rows within SYNC_SECONDS.
    """
    rows = read_metrics(chain)
    root = run_root(chain)
    if mode == "online":
        console.say(f"{chain}: sending {len(rows)} rows to wandb, for at most {SYNC_SECONDS} s")
    tracker = Tracker(config, chain, Console(speaks=False), mode, SYNC_SECONDS)  # what goes wrong is raised here
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
    """Sends an experiment's report and its table of arms to a run of their own, where tracking is on; what goes wrong is
    said and stops nothing.

    Args:
        config: of any chain of the experiment. mode: instead of the one in `config`.
    """
    tracker = Tracker(config, root, Console(), mode)
    tracker.compare(columns, rows)
    tracker.keep(page)
    tracker.finish()
