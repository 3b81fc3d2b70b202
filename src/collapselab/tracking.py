"""The dashboard, a view of metrics.jsonl. The only module that imports wandb.

Rows carry `generation` as a metric of its own and never use wandb's step, so a row that comes late is not dropped. A
dashboard that cannot be reached is said so once and never stops a chain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collapselab.config import RunConfig, UserError, as_dict, digest, first_line
from collapselab.console import Console
from collapselab.identity import identity
from collapselab.rundir import read_metrics, run_root


class Tracker:
    """Mirrors the rows of one chain to Weights & Biases; does nothing where tracking is off."""

    def __init__(self, config: RunConfig, chain: Path, console: Console, mode: str | None = None):
        self.console = console
        self.run: Any = None
        self.sent: set[int] = set()
        self.failed = ""
        mode = mode or config.tracking.wandb
        if mode == "off":
            return
        try:
            import wandb

            root = run_root(chain)
            self.run = wandb.init(
                project=config.tracking.project,
                name=f"{root.name}/{chain.parent.name}/{chain.name}",
                group=root.name,
                id=digest([root.name, chain.parent.name, identity(config)])[:16],
                resume="allow" if mode == "online" else None,
                mode="online" if mode == "online" else "offline",
                dir=str(chain),
                config=as_dict(config),
                settings=wandb.Settings(silent=True, init_timeout=30),
            )
            self.run.define_metric("generation")
            self.run.define_metric("*", step_metric="generation")
            if mode == "online" and self.run.resumed:  # what it already has is not sent twice
                self.sent = set(range(int(self.run.summary.get("generation", -1)) + 1))
        except Exception as error:  # network, login, disk: none of them may stop a chain
            self._give_up(error)

    def log(self, rows: list[dict[str, Any]]) -> int:
        """Sends the rows that were not sent yet; returns how many."""
        count = 0
        for row in rows:
            if self.run is None or row["generation"] in self.sent:
                continue
            try:
                self.run.log({**row["metrics"], "generation": row["generation"], "real_share": row["real_share"]})
                self.sent.add(row["generation"])
                count += 1
            except Exception as error:
                self._give_up(error)
        return count

    def finish(self) -> None:
        if self.run is not None:
            try:
                import wandb

                self.run.finish()
                wandb.teardown()  # waits for wandb's own process, which else is still writing the last rows
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.failed = first_line(error)
        self.console.say(
            f"note: wandb is left out from here on ({self.failed}); `collapselab sync` can replay the run later"
        )
        self.run = None


def replay(config: RunConfig, chain: Path, console: Console, mode: str) -> int:
    """Sends every row of a chain's metrics.jsonl; returns how many. Raises UserError where wandb cannot be reached."""
    rows = read_metrics(chain)
    tracker = Tracker(config, chain, console, mode)
    count = tracker.log(rows)
    tracker.finish()
    if tracker.failed:
        raise UserError(f"--wandb {mode}: wandb did not take the rows ({tracker.failed}); check login and network")
    return count
