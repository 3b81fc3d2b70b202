"""Scores of a generation: its model on held-out real text, its samples beside as much fresh real text.

Every value is stored with the protocol that made it and with the sums it was derived from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collapselab.config import RunConfig, digest
from collapselab.console import Console
from collapselab.corpus import Corpus
from collapselab.evaluation.protocol import protocol
from collapselab.evaluation.real_text import score_real_text
from collapselab.evaluation.samples import Reference, generated_rows, sample_tokens, score_samples, word_lists
from collapselab.evaluation.truth import score_truth
from collapselab.mixing import read_samples
from collapselab.modeling import LanguageModel
from collapselab.parallel import Processes
from collapselab.rundir import SCHEMA, Chain, read_json, write_json

EXAMPLES = 5


def evaluate(
    model: LanguageModel,
    corpus: Corpus,
    config: RunConfig,
    generation: int,
    *,
    chain: Chain,
    samples: Path,
    reference: Path,
    mixture: dict[str, Any],
    out: Path,
    processes: Processes,
    console: Console,
) -> None:
    """Scores one generation into `out`: eval.json (protocol, sums, values), row.json (its line of metrics.jsonl) and
    examples.json (the first samples as text)."""
    real_sums, values = score_real_text(model, corpus, config, processes, console, f"gen {generation} eval")
    truth_sums, truth_values = score_truth(model, corpus, config, chain, generation, processes, console)
    values |= truth_values
    if processes.is_main:
        meta = read_json(samples / "meta.json")
        count = sample_tokens(config, corpus, meta["tokens"])
        rows = generated_rows(samples, count)
        counts = Reference(reference, model.vocab)
        sums, more = score_samples(rows, word_lists(corpus.tokenizer, rows), corpus, counts, model.vocab)
        values |= more
        values |= {
            f"diversity/degenerate/{k}": v / meta["sequences"]
            for k, v in meta["degenerate"].items()
            if k != "end_of_text_tokens"
        }
        shared = protocol(config, corpus, count)
        write_json(out / "eval.json", {"protocol": shared, "sums": real_sums | truth_sums | sums, "metrics": values})
        write_json(
            out / "row.json",
            {
                "schema": SCHEMA,
                "seed": config.seed,
                "generation": generation,
                "real_share": mixture["real_share"]["realised"],
                "protocol": digest(shared),
                "metrics": values,
            },
        )
        flat, length = read_samples(samples), meta["length"]
        shown = [flat[i * length : (i + 1) * length].tolist() for i in range(min(EXAMPLES, meta["sequences"]))]
        write_json(out / "examples.json", corpus.tokenizer.decode(shown))
    processes.barrier()
