"""What exact theory expects of this chain, beside what was measured: `theory/<metric>` is the law of the pipeline that was
really run, `theory/<metric>_se` the standard error of the difference within the chain, and `theory/bias/<metric>` what
temperature and truncation alone would do, without sampling noise.

The laws are of a learner that matches densities exactly. A network smooths: on natural text it never writes much of what it
saw once, so it starts below the survival law, and it loses more slowly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from collapselab.config import RunConfig, SamplingConfig
from collapselab.console import Console
from collapselab.corpus import Corpus
from collapselab.evaluation.contexts import NextTokens
from collapselab.evaluation.real_text import held_out, window_losses
from collapselab.evaluation.reference import Reference
from collapselab.history import history
from collapselab.languages import language_of
from collapselab.languages.planted import Planted
from collapselab.metrics.likelihood import windows
from collapselab.metrics.next_token import next_token_shape, next_token_values
from collapselab.metrics.richness import expected_again
from collapselab.metrics.tails import tail_sets
from collapselab.metrics.truth import simpson
from collapselab.modeling import LanguageModel
from collapselab.parallel import Processes
from collapselab.rundir import Chain, read_json
from collapselab.theory import pipeline
from collapselab.theory.sharpening import bias_only
from collapselab.theory.survivors import realised
from collapselab.theory.tails import survival

EVERY = 20  # generations for which the law of survivors is computed one by one, then each tenth: it takes ever longer
BIAS_CELLS = 1 << 21  # probabilities of all fixed contexts together that the bias line is computed on


def shares_of(chain: Chain, generation: int) -> list[float]:
    """Real shares of the training sets of generations 0 .. `generation`, as they were mixed."""
    mixtures = (read_json(chain.stage(g, "mixture") / "mixture.json") for g in range(generation + 1))
    return [mixture["real_share"]["realised"] for mixture in mixtures]


def shaped(sampling: SamplingConfig) -> dict[str, float] | None:
    """What the sampler does to a distribution, as `theory.sharpening` takes it; None where it does nothing, or something
    that depends on the text before (repetition penalty, beams)."""
    if sampling.repetition_penalty != 1 or sampling.beams > 1:
        return None
    does = {key: getattr(sampling, key) for key in ("temperature", "top_k", "top_p", "min_p")}
    return None if sampling.temperature == 1 and not sampling.truncates else does


def expected_slot(
    config: RunConfig, chain: Chain, generation: int, corpus: Corpus, sums: dict[str, Any]
) -> dict[str, float]:
    """Laws beside `truth/slot/diversity`, `drift` and `survivors`, from the documents of each context in every training
    set of this chain; empty unless the text is the planted language and its documents are the unit.

    Args:
        sums: of `truth/slot`, one number per context.
    """
    language = language_of(config.corpus)
    if not isinstance(language, Planted) or config.mixing.unit != "documents" or "truth/slot" not in sums:
        return {}
    found = history(config, chain, generation, corpus, language)
    past = pipeline.History(
        config.mixing.regime, config.mixing.real == "reuse", found.real, found.synthetic, found.written
    )
    part = sums["truth/slot"]
    of_truth = _column(part["diversity_true"])
    r = pipeline.diversity(past)[-1]
    laws: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "diversity": (r, _column(part["diversity"]) / of_truth),
        "drift": (1 - r, _column(part["drift"]) / of_truth),
    }
    if generation <= EVERY or generation % 10 == 0:
        laws["survivors"] = realised(language.slot_law, past)[-1], _column(part["survivors"])
    values: dict[str, float] = {}
    for name, (law, measured) in laws.items():
        both = np.isfinite(law) & np.isfinite(measured)
        if both.any():
            values[f"theory/truth/slot/{name}"] = float(law[both].mean())
        if both.sum() > 1:
            gaps = (measured - law)[both]
            values[f"theory/truth/slot/{name}_se"] = float(gaps.std(ddof=1) / math.sqrt(len(gaps)))
    does = shaped(config.sampling)
    if does is not None and config.mixing.regime == "replace":
        truth = language.slot_law
        biased = bias_only(truth, shares_of(chain, generation), **does)[-1]  # type: ignore[arg-type]
        values["theory/bias/truth/slot/diversity"] = float((simpson(biased) / simpson(truth)).mean())
        values["theory/bias/truth/slot/drift"] = float((((biased - truth) ** 2).sum(1) / simpson(truth)).mean())
    return values


def _column(numbers: list[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in numbers])


def expected_tails(
    config: RunConfig, chain: Chain, generation: int, reference: Reference, sums: dict[str, Any]
) -> dict[str, float]:
    """The tail-survival law beside `tails/<unit>/coverage_k`, from the counts of generation 0's training text alone; empty
    for the known languages, and where half of the text is prompts from real text.

    How often fresh real text brings a type that was seen c times is estimated by Good and Turing from the same counts.

    Args:
        sums: of `tails/<unit>`, with the occurrences in the text under test.
    """
    if language_of(config.corpus) is not None or config.sampling.prompt == "real_prefix":
        return {}
    shares = shares_of(chain, generation)
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
        alive = survival(
            types, expected_again(counts)[types], config.mixing.regime, config.mixing.real == "reuse", shares,
            written / float(counts.sum()),
        )[place]  # fmt: skip
        for name, mask in tail_sets(counts).items():
            if mask.any():
                key = f"theory/tails/{unit}/coverage_{name}"
                values[key] = float(alive[mask].mean())
                values[f"{key}_se"] = float(np.sqrt((alive * (1 - alive))[mask].sum()) / mask.sum())
    return values


class Sharpened:
    """Looks at generation 0's logits at the fixed contexts: entropy as it is, and after every generation's sampling."""

    def __init__(self, plan: list[tuple[int, int, int]], shares: list[float], does: dict[str, float], vocab: int):
        self.plain = NextTokens(plan)
        rows = max(1, BIAS_CELLS // vocab)
        self.some = set(self.plain.wanted[:: -(-len(self.plain.wanted) // rows)].tolist())
        self.shares, self.does = shares, does
        self.change: list[float] = []

    def observe(self, places: np.ndarray, logits: Tensor) -> None:
        self.plain.observe(places, logits)
        rows = [i for i, place in enumerate(places.tolist()) if place in self.some]
        for i in rows:
            law = logits[i].double().softmax(-1).cpu().numpy()
            later = bias_only(law, self.shares, **self.does)[-1]  # type: ignore[arg-type]
            with np.errstate(divide="ignore"):
                before, after = next_token_shape(np.log(np.stack([law, later])))[:, 0]
            self.change.append(float(after - before))


def expected_entropy(
    base: LanguageModel,
    config: RunConfig,
    chain: Chain,
    generation: int,
    corpus: Corpus,
    processes: Processes,
    console: Console,
) -> dict[str, float]:
    """The sharpening law beside `real/next_token_entropy`: generation 0's next-token distributions at the fixed contexts
    with the sampler's temperature and truncation applied once per generation; empty where it has neither. All processes
    take part."""
    does = shaped(config.sampling)
    if does is None or config.mixing.regime != "replace" or base.counted:
        return {}
    stream, _ = held_out(corpus, config.evaluation)
    context = config.evaluation.context or config.training.block
    plan = windows(len(stream), context, config.evaluation.stride or context)
    looked = Sharpened(plan, shares_of(chain, generation), does, base.vocab)
    wanted = looked.plain.wanted
    shown = [w for w in plan if ((wanted >= w[2]) & (wanted < w[1])).any()]
    window_losses(base, stream, shown, config.evaluation.precision, processes, console, "sharpening", looked.observe)
    entropy = next_token_values(looked.plain.sums(processes))["next_token_entropy"]
    changes = [value for part in processes.collect(looked.change) for value in part]
    return {"theory/bias/real/next_token_entropy": entropy + float(np.mean(changes))}
