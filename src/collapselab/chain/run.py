"""The generation loop. For generation g with real share alpha_g:

    mixture_g = mix(real text, samples of earlier generations, alpha_g)
    model_g   = train(start weights, mixture_g)
    samples_g = sample(model_g)
    scores_g  = evaluate(model_g, samples_g, held-out real text)

Each stage reads published folders and publishes another. A stage whose folder is valid is not done again, so running,
continuing, extending and forking a chain are the same loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from collapselab.chain import supply
from collapselab.chain.making import check_version, make, prune
from collapselab.chain.opening import alone_in_shared, chain_path, check_lengths, mixed_so_far, open_corpus, opened
from collapselab.chain.session import Session
from collapselab.chain.space import check_space
from collapselab.config import RunConfig
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.rows import check_vocabulary, sample_tokens
from collapselab.evaluation.under_first import check_embeddings
from collapselab.metrics import HEADLINE
from collapselab.mixing import sets
from collapselab.models import families
from collapselab.runtime.console import Console
from collapselab.runtime.errors import in_words
from collapselab.runtime.parallel import Processes
from collapselab.store import folders
from collapselab.store.layout import Chain, stages_of
from collapselab.tracking import Tracker


def run(
    config: RunConfig,
    fork: tuple[Path, int] | None = None,
    *,
    shares_generation_0: bool = False,
    make_report: Callable[[Path, Console], Path | None] | None = None,
) -> tuple[Path, list[dict[str, Any]]]:
    """Runs a chain to its last generation, from wherever it stands; returns its path and the rows of metrics.jsonl.

    Args:
        fork: (chain, generation) to start from.
        shares_generation_0: arms of one seed that have the same generation 0 make it once (experiments).
        make_report: makes the page that a dashboard keeps with the run.
    """
    processes = Processes(config.device, config.training.precision, config.deterministic)
    chain = Chain(chain_path(config))
    corpus = open_corpus(config, processes)
    budget = _preflight(config, chain, corpus, fork)
    is_new = not chain.root.exists()
    with (
        opened(chain, config, corpus, processes, fork, shares_generation_0) as console,
        in_words(chain.root, processes),
    ):
        tracker = Tracker(config, chain.root, console, None if processes.is_main else "off")
        rows = chain.rows() if processes.is_main else []
        if processes.is_main and not is_new and (flaw := chain.metrics_flaw(rows)):
            console.say(flaw)
        tracker.log(rows)
        session = Session(chain, config, corpus, budget, processes, console)
        if processes.is_main:
            folders.tidy(chain.root)
        for generation in range(config.generations + 1):
            with nullcontext() if generation else alone_in_shared(chain, processes, console):
                for folder in set(chain.shared.values()) if processes.is_main and not generation else ():
                    folders.tidy(folder)
                made = [name for name in stages_of(generation) if make(session, generation, name)]
            if processes.is_main and "eval" in made:
                rows = chain.rows()
                chain.write_metrics(rows)
                tracker.log(rows)
                console.say(summary_line(rows[generation]))
            prune(session, generation)
        if processes.is_main:
            rows = chain.rows()
            chain.write_metrics(rows)
            tracker.log(rows)
            if config.tracking.wandb != "off" and make_report is not None:
                tracker.keep(make_report(chain.root, console))
        tracker.finish()
    return chain.root, rows


def _preflight(config: RunConfig, chain: Chain, corpus: Corpus, fork: tuple[Path, int] | None) -> int:
    """Tokens that a generation writes. Raises UserError for what would stop the chain later: lengths, sizes, text, room."""
    check_lengths(config, corpus.tokenizer)
    if config.model.pretrained is None:
        families.check_size(config.model, vocab=corpus.tokenizer.size, context=config.training.block)
    available = sets.blocks_available(corpus.train, config)
    past = mixed_so_far(chain, fork)
    supply.check_supply(config, available, past)
    budget = sets.sample_budget(config, available)
    sample_tokens(config, corpus, budget)
    check_embeddings(config, corpus, budget)
    check_version(chain)
    check_vocabulary(chain, corpus.tokenizer.size)
    done = fork[1] + 1 if fork and not chain.root.exists() else len(chain.finished())
    check_space(config, chain, corpus, budget, done, sets.set_blocks(config, available, past.blocks))
    return budget


def summary_line(row: dict[str, Any]) -> str:
    """One line per finished generation."""
    metrics = row["metrics"]
    values = "  ".join(f"{name} {metrics[key]:.4g}" for name, key in HEADLINE.items() if key in metrics)
    return f"generation {row['generation']}: real share {row['real_share']:.3f}  {values}  ({sum(row['time'].values()):.1f} s)"
