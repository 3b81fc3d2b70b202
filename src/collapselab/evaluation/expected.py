"""Theoretical predictions for a chain: `theory/<metric>` is the law of the pipeline as it was run, `theory/<metric>_se` the
standard error of the difference within the chain, `theory/bias/<metric>` the effect of temperature and truncation alone,
without sampling noise, `theory/tables/<metric>` the law of tables that learn from finite sets.

The laws assume a learner that matches densities exactly. A network smooths: of natural text it never writes much of what it
saw once, so it starts below the survival law and loses more slowly.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from torch import Tensor

from collapselab.config import JudgingConfig, PolicyConfig, RunConfig, SamplingConfig
from collapselab.config.identity import SAMPLING_RULE
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.answers import MOST_ANSWERS
from collapselab.evaluation.asking import one_token_per_word
from collapselab.evaluation.contexts import NextTokens
from collapselab.evaluation.planted_documents import document_counts
from collapselab.evaluation.real_text import held_out, window_losses
from collapselab.evaluation.reference import Reference
from collapselab.languages import language_of
from collapselab.languages.addition import Addition
from collapselab.languages.modular import Modular
from collapselab.languages.planted import TOWN_PLACE, Planted
from collapselab.metrics.likelihood import windows
from collapselab.metrics.next_token import next_token_shape, next_token_values
from collapselab.metrics.richness import rate_law
from collapselab.metrics.tails import tail_sets
from collapselab.metrics.truth import simpson
from collapselab.mixing.regimes import REGIMES
from collapselab.mixing.sets import read_mixture
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain
from collapselab.store.seals import recorded
from collapselab.tasks.tasks import CLASSES, task_of
from collapselab.theory import pipeline
from collapselab.theory.finite import learned_tables
from collapselab.theory.sharpening import bias_only
from collapselab.theory.survivors import realised
from collapselab.theory.tails import survival

# Keys that a fork may change and that the laws take as equal in every generation; real shares are read as they were mixed.
LAWS_READ = (*SAMPLING_RULE, "training.objective", "training.tokens", "training.loss_on_last", "training.loss_below")
LAWS_READ_OF_MIXING = ("mixing.regime", "mixing.real", "sampling.source")
OF_REWARDS = "its generations learn from rewards (training.objective)"
HEAD = TOWN_PLACE + 2  # tokens before the slot: the separator, and the words up to the town
PROMPTED = 0.1  # largest share of a sequence that may be a prompt for the tail law to be given
SURVIVOR_COST = 1e8  # limit on contexts x documents^2 x generations (squared for a pool): a few seconds
EVERY = 20  # the survivor law, whose cost grows, is computed up to this generation, then for each tenth one
BIAS_CELLS = 1 << 21  # limit on the probabilities that the bias line is computed on
SHARPENED_CELLS = 1 << 20  # limit on contexts x vocabulary x generations at a time


def shares_of(chain: Chain, generation: int) -> list[float]:
    """Realised real shares of the training sets of generations 0 .. `generation`."""
    return [read_mixture(chain.stage(g, "mixture"))["real_share"]["realised"] for g in range(generation + 1)]


def decoding_of(sampling: SamplingConfig) -> dict[str, float] | None:
    """Temperature and truncation as `theory.sharpening` takes them; None if the sampler changes nothing, or depends on the
    text before (repetition penalty, beams)."""
    if sampling.repetition_penalty != 1 or sampling.beams > 1:
        return None
    if sampling.temperature == 1 and not sampling.truncates:
        return None
    return {key: getattr(sampling, key) for key in ("temperature", "top_k", "top_p", "min_p")}


def is_control(config: RunConfig) -> bool:
    """Return True for an all-real control, in which real text replaces all text written by models."""
    return config.sampling.source == "real"


def as_first(config: RunConfig, generation: int) -> RunConfig:
    """Reset the settings that decide later generations if this is generation 0, which arms share."""
    if generation:
        return config
    mixing = dataclasses.replace(config.mixing, regime="replace", real="fresh", replaced=None, added=None)
    sampling = dataclasses.replace(config.sampling, source="model")
    training = dataclasses.replace(config.training, objective="likelihood", tune=False)
    judging, policy = JudgingConfig(), PolicyConfig()
    return dataclasses.replace(
        config, mixing=mixing, sampling=sampling, training=training, judging=judging, policy=policy
    )


def law_of(config: RunConfig) -> tuple[str, bool]:
    """(regime of the laws, reuse of real text) of a configuration. An all-real control never repeats a document: its law is
    that of replacement with a real share of 1."""
    if is_control(config):
        return "replace", False
    law = REGIMES[config.mixing.regime].law
    return law.regime, law.reuse or config.mixing.real == "reuse"


def why_no_law(config: RunConfig) -> str:
    """Reason why this pipeline has no law; empty if it has one."""
    block, mixing, training = config.training.block, config.mixing, config.training
    law = REGIMES[mixing.regime].law
    if training.skip_first:
        return "generation 0 is a given model, not one of its training set (training.skip_first)"
    if config.learns_from_rewards:
        return OF_REWARDS
    if config.judged:
        return "a judge chooses what is learned from (judging.judges)"
    if law.none and not is_control(config):
        return law.none
    if (config.sampling.repetition_penalty != 1 or config.sampling.beams > 1) and not is_control(config):
        return "no law covers a repetition penalty or beams"
    if training.tokens is not None:
        size = mixing.tokens // block if mixing.tokens and not REGIMES[mixing.regime].grows else 0
        if not size or training.tokens // block % size:
            return "training.tokens shows some documents of a training set more often than others"
    if training.loss_below is not None and training.loss_below < 1:
        return "training.loss_below leaves confident predictions out of the loss"
    return ""


def why_no_slot_law(config: RunConfig) -> str:
    """Reason why the slot of the planted language has no law; empty if it has one."""
    if config.mixing.unit != "documents":
        return "documents are not the unit (mixing.unit)"
    if config.sampling.prompt == "real_prefix" and config.prompt_length > HEAD and not is_control(config):
        return f"prompts of more than {HEAD} tokens copy the slot from real text"
    if config.training.loss_on_last and config.training.block - config.training.loss_on_last > HEAD:
        return "training.loss_on_last leaves the slot out of the loss"
    return why_no_law(config)


def why_no_tail_law(config: RunConfig) -> str:
    """Reason why the survival of rare types has no law; empty if it has one."""
    if config.prompt_length > PROMPTED * config.sequence_length:
        return "prompts from real text bring rare types back"
    if config.training.loss_on_last is not None:
        return "training.loss_on_last leaves text out of the loss"
    mixing, no_tails = config.mixing, REGIMES[config.mixing.regime].law.no_tails
    if is_control(config) and (not mixing.has_schedule or mixing.real == "reuse"):
        return "no law covers rare types in an all-real control whose sets keep earlier text"
    if no_tails:
        return no_tails
    if not mixing.has_schedule and config.sampling.tokens not in (None, mixing.tokens):
        return "a generation writes more or less than a training set (sampling.tokens)"
    return why_no_law(config)


def _fork(chain: Chain) -> dict[str, Any] | None:
    """Fork record of a chain; None if it is no fork."""
    identity = recorded(chain.root)
    return identity.facts.get("fork") if identity is not None else None


def why_no_law_of_fork(chain: Chain) -> str:
    """Reason why a forked chain, whose generations differ in their configuration, has no law; empty if the fork changed no
    setting that a law reads, and for chains that are no forks."""
    fork = _fork(chain)
    if fork is None:
        return ""
    mixed = LAWS_READ_OF_MIXING if fork["at"] else ()  # generation 0 is mixed by no regime
    read = [key for key in (*LAWS_READ, *mixed) if key in fork["changed"]]
    return f"its fork changed {', '.join(read)}" if read else ""


def note_of(config: RunConfig, chain: Chain, generation: int, corpus: Corpus) -> str:
    """Log line about missing laws at the first generation that a chain makes itself; else empty."""
    fork = _fork(chain)
    if generation != (fork["at"] + 1 if fork else 0):
        return ""
    reasons = {"planted": why_no_slot_law, "addition": why_no_answer_law, "modular": why_no_answer_law}
    why = reasons.get(config.corpus.source, why_no_tail_law)(config) or why_no_law_of_fork(chain)
    language = language_of(config.corpus) if config.corpus.source in reasons else None
    if language is not None and not one_token_per_word(corpus, language):
        why = why or "the tokenizer has no token of its own for each word of the language"
    return f"note: no theoretical prediction for this chain: {why}" if why else ""


def expected_slot(
    config: RunConfig, chain: Chain, generation: int, corpus: Corpus, sums: dict[str, Any]
) -> dict[str, float]:
    """Laws of `truth/slot/diversity`, `drift` and `survivors`, from the documents of each context in every training set of
    the chain. A context without a law (it once had no documents) enters with its measured value, so that measured and
    expected values are means over the same contexts.

    Args:
        sums: of `truth/slot`, one number per context.
    """
    config = as_first(config, generation)
    language = language_of(config.corpus)
    if not isinstance(language, Planted) or "truth/slot" not in sums:
        return {}
    if why_no_slot_law(config) or why_no_law_of_fork(chain):
        return {}
    past = pipeline.History(*law_of(config), *document_counts(config, chain, generation, corpus, language))
    part, truth = sums["truth/slot"], language.slot_law
    of_truth = _column(part["diversity_true"])
    r = pipeline.diversity(past)[-1]
    laws: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "diversity": (r, _column(part["diversity"]) / of_truth),
        "drift": (1 - r, _column(part["drift"]) / of_truth),
    }
    steps = (generation + 1) ** (2 if REGIMES[config.mixing.regime].law.regime == "accumulate_subsample" else 1)
    cheap = language.contexts * past.real[0].max() ** 2 * steps <= SURVIVOR_COST
    if cheap and (generation <= EVERY or generation % 10 == 0):
        laws["survivors"] = realised(truth, past)[-1], _column(part["survivors"])
    values: dict[str, float] = {}
    for name, (law, measured) in laws.items():
        finite = np.isfinite(measured)
        gaps = np.where(np.isfinite(law), measured - law, 0.0)[finite]
        if np.isfinite(law)[finite].any():
            values[f"theory/truth/slot/{name}"] = float((measured[finite] - gaps).mean())
        if len(gaps) > 1:
            values[f"theory/truth/slot/{name}_se"] = float(gaps.std(ddof=1) / math.sqrt(len(gaps)))
    if (decoding := None if is_control(config) else decoding_of(config.sampling)) is not None:
        biased = bias_only(truth, shares_of(chain, generation), **decoding, regime=past.regime)[-1]  # type: ignore[arg-type]
        values["theory/bias/truth/slot/diversity"] = float((simpson(biased) / simpson(truth)).mean())
        values["theory/bias/truth/slot/drift"] = float((((biased - truth) ** 2).sum(1) / simpson(truth)).mean())
    return values


def why_no_answer_law(config: RunConfig) -> str:
    """Reason why the answers of a task have no law; empty if it has one."""
    settings, language = config.judging, language_of(config.corpus)
    if not isinstance(language, Addition | Modular) or config.mixing.unit != "documents":
        return "answers have a law for corpus.source=addition and modular in whole documents alone"
    if config.learns_from_rewards:
        return OF_REWARDS
    if language.numbers > MOST_ANSWERS:
        return f"a problem of corpus.source={config.corpus.source} has more than {MOST_ANSWERS:,} answers"
    if config.mixing.regime != "replace" or config.sampling.shapes or config.sampling.beams > 1:
        return "answers have a law where sets are replaced and nothing but the judge shapes them"
    if config.judged and (settings.judges not in (["answer"], ["majority"]) or settings.keep != "threshold"):
        return "no law covers other judges than one exact checker with errors, or a vote"
    if config.judged and any(pattern.get("when", {}).keys() - {"class"} for pattern in settings.errors):
        return "the judge's errors are coherent: no law covers patterns other than by class"
    return ""


def acceptance(settings: JudgingConfig, generation: int) -> np.ndarray:
    """Probability that each class of answers (wrong, correct, hack, unreadable) of a generation is accepted, float64 (4,)."""
    if not settings.on or settings.threshold <= 0:  # which every verdict reaches
        return np.ones(4)
    out = np.array([settings.fpr, settings.tpr, settings.fpr, settings.fpr])
    for pattern in settings.errors:
        if pattern.get("from", 0) <= generation <= pattern.get("until", generation):
            name = pattern.get("when", {}).get("class")
            for i, kind in enumerate((*CLASSES, "unreadable")):
                if name in (None, kind):
                    out[i] = pattern.get("tpr" if kind == "correct" else "fpr", out[i])
    return out


def expected_answers(config: RunConfig, chain: Chain, generation: int) -> dict[str, float]:
    """Law of `truth/task/p_...`, means over problems that share nothing, from generation 0's answers: in each generation the
    answers that the judge accepts, p a / (p . a), or the winner of its vote, and a real share of the corpus's own.

    A vote of a problem's own samples is won once: an exact learner then gives one answer. `theory/tables/truth/task/p_...` is the
    law of tables that learn from sets of the chain's own size, where every problem of the language is in them."""
    task = task_of(config.corpus)
    if not generation or task is None or why_no_answer_law(config) or why_no_law_of_fork(chain):
        return {}
    first = read_json(chain.stage(0, "eval") / "eval.json")
    if (found := first["sums"].get("truth/task/problems")) is None:
        return {}
    p, real = np.array(found, float), np.array([*task.shares, 0.0])
    voted = config.judging.judges == ["majority"] and config.judging.threshold > 0
    won = np.array(first["sums"]["truth/task/won"], float) if voted else None
    shares = [1.0] * (generation + 1) if is_control(config) else shares_of(chain, generation)
    for g, share in enumerate(shares[1:]):
        passed = p * acceptance(config.judging, g)
        total = passed.sum(1, keepdims=True)
        kept = np.divide(passed, total, out=p.copy(), where=total > 0) if won is None else won
        p = share * real + (1 - share) * kept
    names = (*CLASSES, "unreadable")
    laws = {"theory": p.mean(0)}
    if (
        isinstance(language := language_of(config.corpus), Modular)
        and won is None
        and len(found) == language.operands**2
    ):
        accept = np.array([acceptance(config.judging, g) for g in range(generation)])
        sets = [read_mixture(chain.stage(g, "mixture"))["blocks"] for g in range(1, generation + 1)]
        laws["theory/tables"] = learned_tables(np.array(found, float), accept, shares[1:], real, sets)[-1]
    return {
        f"{law}/truth/task/p_{name}": float(value)
        for law, values in laws.items()
        for name, value in zip(names, values, strict=True)
    }


def _column(numbers: list[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in numbers])


def expected_tails(
    config: RunConfig, chain: Chain, generation: int, reference: Reference, sums: dict[str, Any]
) -> dict[str, float]:
    """Survival law of `tails/<unit>/coverage_k`, from the counts of generation 0's training text alone; none for the planted
    language, whose slot has a law.

    The rate at which fresh real text brings a type that was seen c times is a Gamma law fitted to the same counts.

    Args:
        sums: of `tails/<unit>`, with the occurrences in the text under test.
    """
    config = as_first(config, generation)
    if isinstance(language_of(config.corpus), Planted) or why_no_tail_law(config) or why_no_law_of_fork(chain):
        return {}
    shares = [1.0] * (generation + 1) if is_control(config) else shares_of(chain, generation)
    units = {
        "words": np.array(list(reference.word_c0.values()), np.int64),
        "tokens": reference.token_c0,
        "bigrams": reference.bigram_c0.counts,
    }
    values: dict[str, float] = {}
    for unit, counts in units.items():
        if f"tails/{unit}" not in sums or not counts.sum():
            continue
        written = next(iter(sums[f"tails/{unit}"].values()))["total"]
        types, place = np.unique(counts, return_inverse=True)
        offset, scale = rate_law(counts)
        shape = np.maximum(types + offset, 1e-9)
        ratio = written / float(counts.sum())
        alive = survival(types, shape * scale, *law_of(config), shares, ratio, shape)[place]
        for name, mask in tail_sets(counts).items():
            if name in sums[f"tails/{unit}"]:
                key = f"theory/tails/{unit}/coverage_{name}"
                values[key] = float(alive[mask].mean())
                values[f"{key}_se"] = float(np.sqrt((alive * (1 - alive))[mask].sum()) / mask.sum())
    return values


class Sharpened(NextTokens):
    """Observer of generation 0's logits at the fixed contexts: their entropy before and after every generation's sampling."""

    def __init__(
        self, plan: list[tuple[int, int, int]], shares: list[float], decoding: dict[str, float], regime: str, vocab: int
    ):
        super().__init__(plan)
        rows = max(1, BIAS_CELLS // vocab)
        self.some = set(self.targets[:: -(-len(self.targets) // rows)].tolist())
        self.shares, self.decoding, self.regime = shares, decoding, regime
        self.change: list[float] = []

    def observe(self, places: np.ndarray, logits: Tensor) -> None:
        super().observe(places, logits)
        rows = [i for i, place in enumerate(places.tolist()) if place in self.some]
        at_once = max(1, SHARPENED_CELLS // (logits.shape[1] * len(self.shares)))
        for first in range(0, len(rows), at_once):
            law = logits[rows[first : first + at_once]].double().softmax(-1).cpu().numpy()
            later = bias_only(law, self.shares, **self.decoding, regime=self.regime)[-1]  # type: ignore[arg-type]
            with np.errstate(divide="ignore"):
                before, after = (next_token_shape(np.log(p))[:, 0] for p in (law, later))
            self.change.extend((after - before).tolist())


def expected_entropy(
    gen0: LanguageModel,
    config: RunConfig,
    chain: Chain,
    generation: int,
    corpus: Corpus,
    processes: Processes,
    console: Console,
) -> dict[str, float]:
    """Sharpening law of `real/next_token_entropy`: generation 0's next-token distributions at the fixed contexts with the
    sampler's temperature and truncation applied once per generation. Empty without either, if the regime's sources have
    unequal parts, or if a fork changed what the law reads. All processes take part."""
    config = as_first(config, generation)
    decoding, (regime, _) = decoding_of(config.sampling), law_of(config)
    unequal_parts = regime.startswith("accumulate") and config.sampling.tokens not in (None, config.mixing.tokens)
    if decoding is None or is_control(config) or unequal_parts or not regime or why_no_law_of_fork(chain):
        return {}
    stream, _ = held_out(corpus, config.evaluation)
    context = config.evaluation.context or config.training.block
    plan = windows(len(stream), context, config.evaluation.stride or context)
    observer = Sharpened(plan, shares_of(chain, generation), decoding, regime, gen0.vocab)
    shown = [w for w in plan if ((observer.targets >= w[2]) & (observer.targets < w[1])).any()]
    window_losses(gen0, stream, shown, config.evaluation.precision, processes, console, "sharpening", observer)
    entropy = next_token_values(observer.sums(processes))["next_token_entropy"]
    changes = [value for part in processes.all_gather(observer.change) for value in part]
    return {"theory/bias/real/next_token_entropy": entropy + float(np.mean(changes))}
