"""Scores of a generation: its model on held-out real text, its samples compared with as much fresh real text.

Every value is stored with its protocol and with the sums it was derived from.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import RunConfig, digest
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.expected import expected_answers, expected_entropy, expected_slot, expected_tails, note_of
from collapselab.evaluation.explorer import explorer_data, read_continuations, still_written
from collapselab.evaluation.protocol import protocol
from collapselab.evaluation.real_text import halved, score_real_text
from collapselab.evaluation.reference import Reference
from collapselab.evaluation.rows import decoded, generated_places, real_draws, real_places, rows_at, sample_tokens
from collapselab.evaluation.samples import Text, score_samples, text_metrics, text_of
from collapselab.evaluation.truth import score_truth, truth_of_real_text
from collapselab.evaluation.under_first import embedding_values, mean_states, reference_nll
from collapselab.metrics.calibration import calibration_intervals, calibration_values
from collapselab.metrics.in_context import LEAST_SEEN
from collapselab.metrics.intervals import draw_interval
from collapselab.metrics.tails import LEAST_TYPES, first_words, words
from collapselab.mixing.sets import TrainingSet, read_meta, read_samples
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.checks import drawable, number, reading
from collapselab.store.folders import SCHEMA, read_json, write_bytes, write_json
from collapselab.store.layout import Chain

EXAMPLES = 5
BAND_DRAWS = 10  # draws of real text, scored like samples
LARGEST_DRAW = 0.75  # largest share of the held-out pieces that a draw may take
LARGEST_STATE = 1e6  # bound on hidden states, which come out of a norm
STATES = "real_states.bin"  # float32 (evaluation.embeddings, width): states of held-out text under generation 0's model


def evaluate(
    model: LanguageModel,
    gen0: LanguageModel,
    corpus: Corpus,
    config: RunConfig,
    generation: int,
    *,
    chain: Chain,
    samples: Path,
    reference: Path,
    mixture: dict[str, Any],
    judged: Path | None = None,
    out: Path,
    processes: Processes,
    console: Console,
) -> None:
    """Score one generation into `out`: eval.json (protocol, sums, values), row.json (its line of metrics.jsonl),
    examples.json (the first samples as text), explorer.json and tail_words.bin (see `explorer`).

    Args:
        gen0: generation 0's model (`model` itself at generation 0), which the samples are scored under. judged: folder of
            what the judges let through, if there are any.
    """
    sums, values = score_real_text(model, corpus, config, processes, console, f"gen {generation} eval")
    truth = score_truth(model, corpus, config, chain, generation, processes, console)
    count = sample_tokens(config, corpus, (meta := _meta(samples, config))["tokens"])
    stream, places = np.asarray(read_samples(samples)), generated_places(samples, count)
    head, separator, title = meta["prompt_length"], corpus.tokenizer.separator, f"gen {generation} under gen 0"
    gen0_sums, gen0_values = reference_nll(gen0, config, stream, places, head, separator, processes, console, title)
    states = None
    if sequences := config.evaluation.embeddings:
        whole = generated_places(samples, sequences * (meta["length"] - head))
        states = mean_states(gen0, stream, whole, config.evaluation.precision, processes, console)
    values |= expected_entropy(gen0, config, chain, generation, corpus, processes, console)
    explorer = explorer_data(
        read_continuations(samples, model.vocab), gen0, corpus.tokenizer, config, processes, console
    )
    sums |= halved(processes)
    if gen0 is not model:
        gen0.net.to("cpu")  # the next generation trains and samples in the device's memory
    if processes.is_main:
        if note := note_of(config, chain, generation, corpus):
            console.say(note)
        text, counts = text_of(rows_at(stream, places), corpus, config), Reference(reference, model.vocab)
        more = _sample_scores(text, counts, model.vocab)
        sums, values = sums | truth[0] | gen0_sums | more[0], values | truth[1] | gen0_values | more[1]
        values |= _laws(config, chain, generation, corpus, counts, sums)
        values |= embedding_values(_real_states(reference, states.shape), states) if states is not None else {}
        judge = judge_scores(judged) if judged is not None else ({}, {})
        sums, values = sums | judge[0], values | _degenerate(meta) | judge[1]
        values = _recorded(values, config, f"generation {generation}", console)
        row = {"generation": generation, "real_share": mixture["real_share"]["realised"]}
        _write_scores(out, config, protocol(config, corpus, count), sums, values, row)
        write_json(out / "examples.json", _examples(stream, meta, corpus))
        used = still_written(counts.word_c0, first_words(text.words, counts.word_budget))
        write_bytes(out / "tail_words.bin", used.data)
        write_json(out / "explorer.json", explorer)
    processes.barrier()


def _laws(
    config: RunConfig, chain: Chain, generation: int, corpus: Corpus, counts: Reference, sums: dict[str, Any]
) -> dict[str, float]:
    """Return what theory expects of a generation, and figures of its training: what a truncated cross-entropy left out of the loss,
    and the last steps of a policy."""
    values = expected_slot(config, chain, generation, corpus, sums) | expected_answers(config, chain, generation)
    if config.training.loss_below is not None:
        values |= masked_shares(chain.stage(generation, "train") / "log.jsonl")
    if config.learns_from_rewards and generation:
        values |= policy_figures(chain.stage(generation, "train") / "log.jsonl", config.policy.window)
    return values | expected_tails(config, chain, generation, counts, sums)


def _write_scores(
    out: Path, config: RunConfig, shared: Any, sums: dict[str, Any], values: dict[str, float], row: dict[str, Any]
) -> None:
    """Write eval.json, and row.json: `row` completed by the scores, with `intervals` if some of them have any."""
    write_json(out / "eval.json", {"protocol": shared, "sums": sums, "metrics": values})
    row |= {"schema": SCHEMA, "seed": config.seed, "protocol": digest(shared), "metrics": values}
    if ends := {key: pair for key, pair in _intervals(sums).items() if key in values}:
        row["intervals"] = ends
    write_json(out / "row.json", row)


def _intervals(sums: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return {metric: (low, high)} of the 95 % intervals within a generation: over problems, or over what judges looked at."""
    parts = {"task": sums.get("task/intervals", {})}
    parts |= {key.removesuffix("/calibration"): sums[key]["intervals"] for key in sums if key.endswith("/calibration")}
    return {f"{prefix}/{key}": pair for prefix, ends in parts.items() for key, pair in ends.items()}


def _examples(stream: np.ndarray, meta: dict[str, Any], corpus: Corpus) -> list[str]:
    """First sequences of the samples as text."""
    first = stream[: min(EXAMPLES, meta["sequences"]) * meta["length"]]
    rows = [first[at : at + meta["length"]].tolist() for at in range(0, len(first), meta["length"])]
    return corpus.tokenizer.decode(rows)


def _degenerate(meta: dict[str, Any]) -> dict[str, float]:
    """Shares of sequences that repeat a single token or hold end-of-text tokens alone."""
    counts = {name: count for name, count in meta["degenerate"].items() if name != "end_of_text_tokens"}
    return {f"diversity/degenerate/{name}": count / meta["sequences"] for name, count in counts.items()}


def judge_scores(judged: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (sums, values) of `judge/...`: calibration of the judges on the generation's samples, and under `judge/second/` on
    an independent sample, with 95 % intervals in the sums; `judge/drawn`, sequences drawn for one that is kept, and
    `judge/edited`, the share of the tokens that were drawn again."""
    with reading(judged / "judged.json"):
        facts = read_json(judged / "judged.json")
        named = {"samples": "judge", "second": "judge/second"}
        every = {named[name]: part for name, part in facts["calibration"].items()}
        values = {"judge/drawn": number(facts["drawn"]) / number(facts["sequences"])}
        if "edited" in facts:
            values["judge/edited"] = number(facts["edited"]) / number(facts["tokens"])
        sums: dict[str, Any] = {}
        for prefix, part in every.items():
            values |= {f"{prefix}/{key}": value for key, value in calibration_values(part).items()}
            ends = {key: pair for key, pair in calibration_intervals(part).items() if not math.isnan(pair[0])}
            sums[f"{prefix}/calibration"] = {"sums": part, "intervals": ends}
        return sums, values


def _meta(samples: Path, config: RunConfig) -> dict[str, Any]:
    """Read meta.json of samples; refuse lengths other than the configuration's."""
    meta = read_meta(samples)
    with reading(samples / "meta.json"):
        if (meta["length"], meta["prompt_length"]) != (config.sequence_length, config.prompt_length):
            raise ValueError("sequences and prompts of other lengths than the configuration's")
    return meta


def _real_states(reference: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read the states of held-out text under generation 0's model from the reference."""
    with reading(reference / STATES):
        real = np.fromfile(reference / STATES, "<f4").reshape(shape)
        if not np.isfinite(real).all() or np.abs(real).max() > LARGEST_STATE:
            raise ValueError("no states of a network")
    return real


def publish_reference(
    gen0: LanguageModel,
    corpus: Corpus,
    config: RunConfig,
    *,
    training: TrainingSet,
    budget: int,
    out: Path,
    processes: Processes,
    console: Console,
) -> None:
    """Write the chain's reference into `out`: counts of generation 0's training text (see `Reference`), and eval.json with
    the scores of fresh real text, scored like samples.

    Args:
        gen0: generation 0's model.
        training: generation 0's training set.
        budget: tokens that a generation writes.
    """
    count = sample_tokens(config, corpus, budget)
    stream, places = corpus.split(config.evaluation.split).ids, real_places(config, corpus, count)
    head = max(1, config.prompt_length)  # a piece may begin anywhere: the token before it serves as its prompt
    sums, values = reference_nll(
        gen0, config, stream, places, head, corpus.tokenizer.separator, processes, console, "real text under gen 0"
    )
    states = None
    if sequences := config.evaluation.embeddings:
        length = config.sequence_length - config.prompt_length
        twice = real_places(config, corpus, 2 * sequences * length)
        states = mean_states(gen0, stream, twice, config.evaluation.precision, processes, console)
    sums |= halved(processes)
    if processes.is_main:
        text = text_of(rows_at(stream, places), corpus, config)
        Reference.count(corpus.tokenizer, training, text.rows, text.words, gen0.vocab, out)
        counts = Reference(out, gen0.vocab)
        more_sums, more = _sample_scores(text, counts, gen0.vocab)
        counts.in_context = {unit: more_sums.get(f"tails/{unit}/in_context", {}) for unit in ("words", "tokens")}
        band = _band(config, corpus, count, counts, gen0.vocab)
        if why := _why_no_context(more):
            console.say(
                f"note: no coverage of rare words in context: {why}; plain coverage counts words in any position"
            )
        sums |= more_sums
        values |= more | truth_of_real_text(config, budget)
        if states is not None:
            first, second = states[:sequences], states[sequences:]
            write_bytes(out / STATES, first.astype("<f4").data)
            values |= embedding_values(second, first)  # real text against as much other real text
        values = _recorded(values, config, "the reference", console)
        shared = protocol(config, corpus, count)
        write_json(
            out / "eval.json",
            {"protocol": shared, "sums": sums, "metrics": values, "band": band, "text": "fresh real text"},
        )
    processes.barrier()


def _why_no_context(values: dict[str, float]) -> str:
    """Reason why fresh real text has no coverage of rare words in context; empty if it has."""
    if "tails/words/coverage_in_context_5" not in values:
        return f"generation 0's text has fewer than {LEAST_TYPES} rare words"
    if "tails/words/coverage_in_context_5_normalised" not in values:
        return f"the support text has the neighbours of fewer than {LEAST_SEEN} of them in real text"
    return ""


def _band(config: RunConfig, corpus: Corpus, count: int, counts: Reference, vocab: int) -> dict[str, dict[str, float]]:
    """Spread of real text: {mean, low, high, draws} of each sample metric over draws of held-out text as large as the samples;
    95 % of new text would fall between low and high. Empty if a draw takes too much of the held-out text.

    Draws without replacement of a share f of the pieces have (1 - f) of the variance of independent ones (finite population
    correction, Cochran 1977, eq. 2.8); the interval is widened accordingly.
    """
    draws, share = real_draws(config, corpus, count, BAND_DRAWS)
    if share > LARGEST_DRAW:
        return {}
    stream = corpus.split(config.evaluation.split).ids
    scored: list[dict[str, float]] = []
    for places in draws:
        rows = rows_at(stream, places)
        word_rows = [words(text) for text in decoded(corpus.tokenizer, rows)]
        scored.append(score_samples(rows, word_rows, corpus, config.evaluation.split, counts, vocab)[1])
    band = {}
    for key in sorted(set.intersection(*(set(values) for values in scored))):
        mean, low, high = draw_interval([values[key] for values in scored])
        half = (high - low) / 2 / math.sqrt(1 - share)
        band[key] = {"mean": mean, "low": mean - half, "high": mean + half, "draws": float(len(scored))}
    return band


def _recorded(values: dict[str, float], config: RunConfig, what: str, console: Console) -> dict[str, float]:
    """Values that can be recorded; `real/overflow` counts the others, too large because training has diverged."""
    kept = drawable(values)
    if lost := sorted(values.keys() - kept.keys()):
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        console.say(
            f"note: {what}: {named} too large to record: training has diverged; lower training.lr={config.training.lr}"
        )
        kept["real/overflow"] = float(len(lost))
    return kept


def masked_shares(log: Path) -> dict[str, float]:
    """`training/masked_targets` and `training/masked_loss` of a generation trained with a truncated cross-entropy: means over
    the steps of its log. Empty if a fork inherited the generation from a parent that trained on the whole loss."""
    with reading(log):
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        keys = [key for key in ("masked_targets", "masked_loss") if rows and all(key in row for row in rows)]
        return {f"training/{key}": float(np.mean([number(row[key]) for row in rows])) for key in keys}


OF_STEPS = (
    "reward", "gold", "abstained", "flat", "entropy", "kl", "ratio", "clipped", "margin", "ranked", "writer_ratio", "writer_gap",
)  # fmt: skip
"""Figures of a policy step that are kept as `policy/...` (learning/policy.py)."""


def policy_figures(log: Path, window: int) -> dict[str, float]:
    """`policy/...`: means over the last `window` rows of a generation's log, of those that have the figure. Empty if a fork
    inherited the generation from a parent without a policy."""
    with reading(log):
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()][-window:]
        found = {key: [number(row[key]) for row in rows if key in row] for key in OF_STEPS}
        return {
            f"policy/{key}": float(np.mean(values)) for key, values in found.items() if values and "tokens" in rows[-1]
        }


def _sample_scores(text: Text, reference: Reference, vocab: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (sums, values) of all metrics that need a text alone, without a model."""
    split = text.config.evaluation.split
    sums, values = score_samples(text.rows, text.words, text.corpus, split, reference, vocab)
    more_sums, more = text_metrics(text)
    return sums | more_sums, values | more
