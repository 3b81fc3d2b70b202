"""A generation compared with the exact language it should learn (corpus.source: planted, facts, ...)."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import RunConfig
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.answers import answer_scores, move_scores
from collapselab.evaluation.asking import next_words, one_token_per_word, p_right, verifier_of, word_tokens
from collapselab.evaluation.planted_documents import set_counts
from collapselab.evaluation.real_text import window_losses
from collapselab.languages import Language, language_of
from collapselab.languages.facts import Facts
from collapselab.languages.games import Game
from collapselab.languages.laws import BANDS
from collapselab.languages.logic import Logic
from collapselab.languages.modular import Modular
from collapselab.languages.planted import Planted
from collapselab.metrics.policy import policy_intervals, policy_sums, policy_values
from collapselab.metrics.truth import (
    answer_sums,
    answer_values,
    divergence_sums,
    divergence_values,
    expression_sums,
    expression_values,
    recall_sums,
    recall_values,
    slot_divergence,
    slot_sums,
    slot_values,
)
from collapselab.mixing.sets import TrainingSet, read_meta, read_samples
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.layout import Chain
from collapselab.tasks.tasks import CLASSES, CORRECT, UNREADABLE, Task, task_of

Scores = tuple[dict[str, Any], dict[str, float]]


def score_truth(
    model: LanguageModel,
    corpus: Corpus,
    config: RunConfig,
    chain: Chain,
    generation: int,
    processes: Processes,
    console: Console,
) -> Scores:
    """Return (sums, values) of `truth/...`, and for a task of `task/...`, for a generation with published mixture and samples;
    empty for natural text.

    Every process takes part in the losses; process 0 does the rest. Slots and facts need a token per word, and counts of
    documents need `mixing.unit: documents`.
    """
    language, task = language_of(config.corpus), task_of(config.corpus)
    sums: dict[str, Any] = {}
    values: dict[str, float] = {}
    of_policy: Scores = {}, {}
    if language is not None:
        sums, values = _divergence(model, corpus, config, language, generation, processes, console)
        values["entropy"] = language.entropy
    if processes.is_main and (language is not None or task is not None):
        written = written_documents(config, corpus, chain.stage(generation, "samples"))
        if written and language is not None:
            valid = np.isfinite(language.log_probabilities(written))
            sums["validity"] = {"documents": len(written), "valid": int(valid.sum())}
            values["validity"] = float(valid.mean())
        if written and task is not None:
            counted, of_policy = _of_task(task, model, corpus, language, written, processes)
            sums, values = sums | counted[0], values | counted[1]
        if written and isinstance(language, Logic):
            sums["expressions"] = _expressions(language, written)
            values |= expression_values(sums["expressions"])
        if language is not None and not isinstance(language, Logic) and one_token_per_word(corpus, language):
            if isinstance(language, Planted):
                parts = _slot(model, corpus, config, chain, generation, language, processes)
            elif isinstance(language, Facts):
                parts = _recall(model, corpus, config, chain, language, processes)
            elif isinstance(language, Game):
                parts = move_scores(model, corpus, language, processes)
            else:
                votes = _group_size(config, language, written) if generation == 0 else None
                parts = answer_scores(model, corpus, language, config.evaluation.split, votes, processes)
            sums, values = sums | parts[0], values | parts[1]
    truth = {f"truth/{k}": v for k, v in sums.items()}, {f"truth/{k}": v for k, v in values.items()}
    return truth[0] | of_policy[0], truth[1] | of_policy[1]


def _of_task(
    task: Task,
    model: LanguageModel,
    corpus: Corpus,
    language: Language | None,
    written: list[str],
    processes: Processes,
) -> tuple[Scores, Scores]:
    """Return the scores of a task's answers for `truth/...`, and those of `task/...`, which compare answers to one problem, with
    95 % intervals over problems among their sums."""
    read = task.read(written)
    kinds, difficulty = np.array([[one.kind, one.difficulty] for one in read]).T
    counted = answer_sums(kinds, CLASSES)
    of_truth = {"task": counted}, {f"task/{k}": v for k, v in answer_values(counted).items()}
    if not task.asks:
        return of_truth, ({}, {})
    unread, asked = kinds == UNREADABLE, None
    if language is not None and (verifier := verifier_of(language)) and one_token_per_word(corpus, language):
        asked = p_right(model, corpus, verifier, written, ~unread, processes)
    _, problem = np.unique(task.prompts(written), return_inverse=True)
    answers = [one.answer for one in read]
    sums = policy_sums(problem, answers, kinds == CORRECT, unread, asked, written, difficulty=difficulty)
    ends = {key: pair for key, pair in policy_intervals(sums).items() if not math.isnan(pair[0])}
    values = {f"task/{k}": v for k, v in policy_values(sums).items()}
    return of_truth, ({"task/policy": sums, "task/intervals": ends}, values)


def _expressions(language: Logic, documents: list[str]) -> dict[str, float]:
    """Count documents that should be expressions, of any depth."""
    values = [parsed.value if (parsed := language.parse(document)) else None for document in documents]
    return expression_sums(values, language.numbered(documents))


def truth_of_real_text(config: RunConfig, budget: int) -> dict[str, float]:
    """`truth/...` of the language itself, for the reference row; `budget`, the tokens that a generation writes, sets how many
    expressions are drawn."""
    language = language_of(config.corpus)
    values = {} if language is None else {"entropy": language.entropy, "validity": 1.0, "kl": 0.0}
    if isinstance(language, Planted):
        law = language.slot_law
        values |= {
            f"slot/{k}": v for k, v in slot_values(slot_sums(law, law, language.slot_bands, BANDS, None)).items()
        }
        values["slot/survivors"] = float(language.values)
    if isinstance(language, Logic):
        drawn = list(language.documents(max(2, budget // (language.words_per_document + 1)), config.evaluation.split))
        values |= expression_values(_expressions(language, drawn))
    if task := task_of(config.corpus):
        shares = dict(zip(CLASSES, task.shares, strict=True)) | {"documents": 1.0, "unreadable": 0.0}
        values |= {f"task/{k}": v for k, v in answer_values(shares).items()}
    return {f"truth/{k}": v for k, v in values.items()}


def written_documents(config: RunConfig, corpus: Corpus, samples: Path) -> list[str]:
    """Whole documents of a samples folder: its sequences if documents are the unit, else the text between separators."""
    meta = read_meta(samples)
    flat = np.asarray(read_samples(samples))
    rows = flat[: len(flat) // meta["length"] * meta["length"]].reshape(-1, meta["length"])
    if config.mixing.unit == "documents":
        return corpus.tokenizer.decode(rows[:, 1:].tolist())
    pieces = []
    for row in rows:
        cuts = np.flatnonzero(row == corpus.tokenizer.separator).tolist()
        if config.sampling.prompt == "bos":
            cuts = [-1, *cuts]  # the leading separator is not stored
        pieces += [row[i + 1 : j].tolist() for i, j in pairwise(cuts)]
    return corpus.tokenizer.decode(pieces)


def _divergence(
    model: LanguageModel,
    corpus: Corpus,
    config: RunConfig,
    language: Language,
    generation: int,
    processes: Processes,
    console: Console,
) -> Scores:
    """KL(truth || model) on the held-out documents (the first ones if `evaluation.tokens` is set), one window each."""
    settings = config.evaluation
    tokens = corpus.split(settings.split)
    starts = np.asarray(tokens.starts)
    if settings.tokens is not None:
        starts = starts[: max(2, int(np.searchsorted(starts, settings.tokens, side="right")))]
    lengths = np.diff(starts)
    context = settings.context or config.training.block
    if lengths.max() > context:
        if generation == 0 and processes.is_main:
            console.say(
                f"note: truth/kl is left out: documents have up to {lengths.max()} tokens, a window has {context}; "
                "raise evaluation.context (and model.context)"
            )
        return {}, {}
    log_model = np.zeros(len(lengths))
    for length in np.unique(lengths).tolist():  # a single length if words are tokens
        chosen = np.flatnonzero(lengths == length)
        plan = [(begin, begin + length, begin + 1) for begin in starts[chosen].tolist()]
        _, nll, _ = window_losses(
            model, tokens.ids, plan, settings.precision, processes, console, f"gen {generation} truth"
        )
        log_model[chosen] = -nll.reshape(len(chosen), length - 1).sum(axis=1, dtype=np.float64)
    documents = list(islice(language.documents(len(lengths), settings.split), len(lengths)))
    names: tuple[str, ...] = ()  # expressions have no frequent and rare values, nor do problems that are all alike
    bands = np.zeros(len(documents), np.int64)
    if not isinstance(language, Logic | Modular | Game):
        names, bands = BANDS, language.bands(documents)
    sums = divergence_sums(language.log_probabilities(documents), log_model, bands, names)
    return {"kl": sums}, divergence_values(sums, names)


def _slot(
    model: LanguageModel,
    corpus: Corpus,
    config: RunConfig,
    chain: Chain,
    generation: int,
    language: Planted,
    processes: Processes,
) -> Scores:
    """Compare the model's law of goods in each town with the true one."""
    law = next_words(model, language.heads, corpus, processes)[:, word_tokens(corpus, language.goods)]
    documents = None
    if config.mixing.unit == "documents":
        documents = np.add(*set_counts(config, chain, generation, corpus, language))
    sums = slot_sums(law, language.slot_law, language.slot_bands, BANDS, documents)
    values = slot_values(sums) | slot_divergence(law, language.slot_law, language.slot_bands, BANDS)
    return {"slot": sums}, {f"slot/{k}": v for k, v in values.items()}


def _group_size(config: RunConfig, language: Language, written: list[str]) -> int:
    """Count the samples of a problem that vote together: the median over the problems of a generation's text."""
    task = task_of(config.corpus)
    counts = Counter(task.prompts(written)) if task else {}
    return int(np.median([*counts.values()])) if counts else 1


def _recall(
    model: LanguageModel, corpus: Corpus, config: RunConfig, chain: Chain, language: Facts, processes: Processes
) -> Scores:
    """Recall of each fact, by how often generation 0's training text states it."""
    if config.mixing.unit != "documents":
        return {}, {}  # blocks may cut a fact in two, which is hard to count
    heads, answers = language.questions()
    law = next_words(model, heads, corpus, processes)
    right = word_tokens(corpus, answers)
    data = TrainingSet(config, chain, 0, corpus.train)
    stated = language.facts_of(corpus.tokenizer.decode(data[np.arange(len(data))][:, 1:].tolist()))
    seen = np.bincount(stated[stated >= 0], minlength=len(right))
    sums = recall_sums(law[np.arange(len(right)), right], law.argmax(axis=1) == right, seen)
    return {"recall": sums}, recall_values(sums)
