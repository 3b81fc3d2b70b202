"""The generation loop. For generation g with real share alpha_g:

    mixture_g = mix(real text, samples of earlier generations, alpha_g)
    model_g   = train(start weights, mixture_g)
    samples_g = sample(model_g)
    scores_g  = evaluate(model_g, samples_g, held-out real text)

Each stage reads published folders and publishes another. Stages whose folders are valid are skipped, so running,
resuming, extending and forking a chain are the same loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from collapselab.chain.making import make, prune
from collapselab.chain.opening import chain_path, lock_shared, open_corpus, opening_chain
from collapselab.chain.preflight import preflight
from collapselab.chain.session import Session
from collapselab.config import RunConfig
from collapselab.metrics import HEADLINE, SCORES
from collapselab.runtime.console import Console
from collapselab.runtime.errors import one_line_errors
from collapselab.runtime.parallel import Processes
from collapselab.store import folders
from collapselab.store.layout import Chain
from collapselab.tracking import Tracker


def run(
    config: RunConfig,
    fork: tuple[Path, int] | None = None,
    *,
    shares_generation_0: bool = False,
    make_report: Callable[[Path, Console], Path | None] | None = None,
) -> tuple[Path, list[dict[str, Any]]]:
    """Run or resume a chain to its last generation; return its path and the rows of metrics.jsonl.

    Args:
        fork: (chain, generation) to start from.
        shares_generation_0: arms of one seed with the same generation 0 make it once (experiments).
        make_report: makes the page that a dashboard keeps with the run.
    """
    processes = Processes(config.device, config.training.precision, config.deterministic)
    chain = Chain(chain_path(config))
    checked = preflight(config, open_corpus(config, processes), chain, fork)
    is_new = not chain.root.exists()
    with opening_chain(checked, processes, shares_generation_0) as console, one_line_errors(chain.root, processes):
        tracker = Tracker(config, chain.root, console, None if processes.is_main else "off")
        rows = chain.rows() if processes.is_main else []
        if processes.is_main and not is_new and (flaw := chain.metrics_flaw(rows)):
            console.say(flaw)
        tracker.log(rows)
        session = Session(checked, processes, console)
        if processes.is_main:
            folders.tidy(chain.root)
        for generation in range(config.generations + 1):
            with nullcontext() if generation else lock_shared(chain, processes, console):
                for folder in set(chain.shared.values()) if processes.is_main and not generation else ():
                    folders.tidy(folder)
                made = [name for name in chain.stages(generation) if make(session, generation, name)]
            if processes.is_main and "eval" in made:
                rows = chain.rows()
                chain.write_metrics(rows)
                tracker.log(rows)
                console.say(summary_line(rows[generation], config.sampling.source == "real"))
            prune(session, generation)
            if why := session.ended(generation):
                if processes.is_main:
                    console.say(f"generation {generation}: ended {why}; {best_line(chain.rows())}")
                break
        if processes.is_main:
            rows = chain.rows()
            chain.write_metrics(rows)
            tracker.log(rows)
            if config.tracking.wandb != "off" and make_report is not None:
                tracker.keep(make_report(chain.root, console))
        tracker.finish()
    return chain.root, rows


def summary_line(row: dict[str, Any], is_control: bool = False) -> str:
    """Terminal line of a finished generation, with the rates that judges achieved. In an all-real control, the rest of the set is
    real text too."""
    metrics, control = row["metrics"], " + control text" if is_control else ""
    values = "  ".join(f"{name} {metrics[key]:.4g}" for name, key in (HEADLINE | SCORES).items() if key in metrics)
    share = f"real share {row['real_share']:.3f}{control}"
    return f"generation {row['generation']}: {share}  {values}  ({sum(row['time'].values()):.1f} s)"


BEST = (("truth/task/p_correct", max), ("truth/task/correct", max), ("truth/validity", max), ("real/perplexity", min))
"""Metrics that tell which generation is the best, the first that all have; correct answers by the exact checker, not by a judge."""


def best_line(rows: list[dict[str, Any]]) -> str:
    """Name the best generation of a chain that a floor ended."""
    for key, choose in BEST:
        if all(key in row["metrics"] for row in rows):
            best = choose(rows, key=lambda row: row["metrics"][key])
            return f"best generation {best['generation']} ({key} {best['metrics'][key]:.4g})"
    return "no score of any generation is comparable"
