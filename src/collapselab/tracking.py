"""The dashboard, a view of metrics.jsonl. The only module that imports wandb.

A daemon thread makes every call to wandb, fed by a queue: a chain only puts rows into it, and waits a bounded time at its
end. The row of generation g is logged at wandb's step g into a run whose id follows from the chain, so that a row that is
sent again takes its old place. Only the chain's own thread speaks, for sampling forks, and a child must not inherit a lock
that this thread holds.
"""

from __future__ import annotations

import atexit
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from collapselab.config import RunConfig, UserError, as_dict, digest, first_line
from collapselab.console import Console
from collapselab.identity import identity
from collapselab.rundir import read_metrics, run_root

INIT_SECONDS = 30  # for wandb to answer that it knows the run
FINISH_SECONDS = 10  # a chain's end waits at most this long for what is not sent yet
SYNC_SECONDS = 300  # `collapselab sync` may wait longer: nothing else is to be done there
LEAVE_SECONDS = 2  # an exit in the middle of a chain waits at most this long; the rows are in metrics.jsonl

_one_at_a_time = threading.Lock()  # wandb keeps one service per process: a second chain's thread waits for the first's


class Tracker:
    """Mirrors the rows of one chain to Weights & Biases; does nothing where tracking is off. Never raises, and never
    prompts for a key."""

    def __init__(
        self,
        config: RunConfig,
        chain: Path,
        console: Console,
        mode: str | None = None,
        patience: float | None = None,
    ):
        self.console = console
        self.patience = FINISH_SECONDS if patience is None else patience
        self.failed = ""
        self.queued = 0  # generations that were put into the queue
        self.rows: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.thread: threading.Thread | None = None
        self.told = False
        mode = mode or config.tracking.wandb
        if mode == "off":
            return
        try:
            import wandb  # half a second, here and not in the thread: a fork could inherit a module's import lock

            root = run_root(chain)
            settings = wandb.Settings(
                mode=mode,
                project=config.tracking.project,
                run_name=f"{root.name}/{chain.parent.name}/{chain.name}",
                run_group=root.name,
                run_id=digest([root.name, chain.parent.name, identity(config)])[:16],
                resume="allow" if mode == "online" else None,
                root_dir=str(chain),
                init_timeout=INIT_SECONDS,
                finish_timeout=self.patience,
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
        self.thread = threading.Thread(target=self._work, args=(settings, as_dict(config)), name="wandb", daemon=True)
        self.thread.start()

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Hands over the rows that were not handed over yet; `rows` are those of generations 0, 1, ... in order."""
        self._tell()
        if self.thread is not None and not self.failed:
            for row in rows[self.queued :]:
                self.rows.put(row)
            self.queued = max(self.queued, len(rows))

    def finish(self) -> None:
        """Waits until wandb has every row, at most `patience` seconds, and says where it has not."""
        self._close(self.patience)
        self._tell()

    def _close(self, seconds: float) -> None:
        """After this the thread has ended, or hangs where nobody waits for it; wandb's own process has ended."""
        atexit.unregister(self._leave)
        if self.thread is None:
            return
        self.rows.put(None)
        self.thread.join(seconds)
        if self.thread.is_alive():
            self.failed = self.failed or f"not all was sent within {seconds:.0f} s"
            _end_service()
            self.thread.join(LEAVE_SECONDS)

    def _leave(self) -> None:
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
            with _one_at_a_time:
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
            run.define_metric("generation")
            run.define_metric("*", step_metric="generation")
            for row in iter(self.rows.get, None):
                if row["generation"] >= run.starting_step:  # a resumed run has the steps before
                    values = {**row["metrics"], "generation": row["generation"], "real_share": row["real_share"]}
                    run.log(values, step=row["generation"], commit=True)
            run.finish()
        finally:
            with suppress(BaseException):
                wandb.teardown()  # ends wandb's own process


def _end_service() -> None:
    """Ends the process that wandb has started in this one: it would keep the terminal, and the exit would wait for it."""
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()


def replay(config: RunConfig, chain: Path, console: Console, mode: str) -> int:
    """Sends every row of a chain's metrics.jsonl; returns how many.

    Raises:
        UserError: wandb did not take the rows within SYNC_SECONDS.
    """
    rows = read_metrics(chain)
    if mode == "online":
        console.say(f"{chain}: sending {len(rows)} rows to wandb, for at most {SYNC_SECONDS} s")
    tracker = Tracker(config, chain, Console(speaks=False), mode, SYNC_SECONDS)  # what goes wrong is raised here
    tracker.log(rows)
    tracker.finish()
    if tracker.failed:
        raise UserError(f"--wandb {mode}: wandb did not take the rows ({tracker.failed}); check login and network")
    return len(rows)
