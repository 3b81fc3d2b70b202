"""Scores of a policy from n samples of each prompt: pass@k, maj@k, coverage, diversity among correct answers, accuracy by
difficulty, and the generation-verification gap. The prompts are the independent units of every interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from collapselab.config import UserError
from collapselab.metrics.intervals import effective_trials, interval_of_sums, share_interval

Sums = dict[str, dict[str, float]]
Labels = Sequence[str] | Sequence[int] | np.ndarray

EXACT = 512  # samples per prompt up to which votes are counted over all subsets: a few tenths of a second per prompt
DRAWS = 1 << 14  # subsets drawn for a prompt with more samples: a standard error of at most .004
SEED = 11
BY_DIFFICULTY = "accuracy/difficulty_"


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that k of a prompt's samples, drawn without replacement, hold a correct one: 1 - C(n - c, k) / C(n, k), the
    unbiased form of Chen et al. (2021, eq. 1), as one correctly rounded quotient of integers. Raises UserError for k > n."""
    _refuse(samples, k)
    every = math.comb(samples, k)
    return (every - math.comb(samples - correct, k)) / every


def maj_at_k(counts: Sequence[int], right: Sequence[bool], invalid: int, k: int) -> float:
    """Return the expected score of a vote between k of a prompt's samples, drawn without replacement.

    The answer with most votes wins (Wang et al. 2022). A tie scores the share of the tied answers that are correct: what a
    fair draw between them would score on average. An invalid sample has no vote; if all k are invalid, the vote scores 0.

    The mean over all C(n, k) subsets is exact to rounding for up to EXACT samples. For more it is a mean over DRAWS subsets,
    seeded, and the same for every order of samples and name of answers. Raises UserError for k > n.

    Args:
        counts: samples of each valid answer.
        right: whether that answer is correct.
        invalid: samples without a valid answer.
    """
    _refuse(sum(counts) + invalid, k)
    rows = sorted(zip(counts, map(bool, right), strict=True), reverse=True)
    return _vote(tuple(count for count, _ in rows), tuple(is_right for _, is_right in rows), invalid, k)


def _refuse(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise UserError(f"k={k}: a prompt has {samples} samples; draw more, or choose k from 1 to {samples}")


@lru_cache(maxsize=1 << 14)
def _vote(counts: tuple[int, ...], right: tuple[bool, ...], invalid: int, k: int) -> float:
    """`maj_at_k` for answers in falling order."""
    if not any(right):
        return 0.0
    if sum(counts) + invalid > EXACT:
        return _drawn_vote(counts, right, invalid, k)
    won = sum(_won_with(votes, counts, right, invalid, k) for votes in range(1, min(k, counts[0]) + 1))
    return min(1.0, won / math.comb(sum(counts) + invalid, k))


def _won_with(votes: int, counts: tuple[int, ...], right: tuple[bool, ...], invalid: int, k: int) -> float:
    """Subsets of size k whose most frequent answers have this many votes, each counted with its score.

    Answers enter one by one: `ways[s, 0, r]` counts the choices of s samples so far with r answers at `votes` and the others
    below, and `ways[s, 1, r]` weighs each by the correct ones among those r. Every term is positive, so nothing cancels.
    """
    able = [i for i, count in enumerate(counts) if count >= votes]
    most = min(len(able), k // votes)
    rest = _binomials(sum(counts[len(able) :]) + invalid)[: k + 1]  # counts fall: these answers cannot reach `votes`
    ways = np.zeros((k + 1, 2, most + 1))
    ways[: len(rest), 0, 0] = rest
    for i in able:
        chosen = _binomials(counts[i])
        before, ways = ways, ways.copy()
        for below in range(1, votes):
            ways[below:] += chosen[below] * before[:-below]
        tied = chosen[votes] * before[: k + 1 - votes, :, :-1]
        ways[votes:, :, 1:] += tied
        if right[i]:
            ways[votes:, 1, 1:] += tied[:, 0]
    return float((ways[k, 1, 1:] / np.arange(1, most + 1)).sum())


@lru_cache(maxsize=1 << 12)
def _binomials(n: int) -> np.ndarray:
    return np.array([math.comb(n, x) for x in range(n + 1)], np.float64)


def _drawn_vote(counts: tuple[int, ...], right: tuple[bool, ...], invalid: int, k: int) -> float:
    draw = np.random.Generator(np.random.Philox(key=SEED))
    total, part = 0.0, 1 << 9
    for _ in range(DRAWS // part):
        drawn = draw.multivariate_hypergeometric((*counts, invalid), k, size=part, method="marginals")[:, :-1]
        best = drawn.max(1, keepdims=True)
        tied = (drawn == best) & (best > 0)
        total += float((tied[:, list(right)].sum(1) / np.maximum(1, tied.sum(1))).sum())
    return total / DRAWS


def different(counts: Sequence[int]) -> float:
    """Probability that two samples drawn without replacement differ: 1 - sum m (m - 1) / (n (n - 1)), unbiased for that of two
    new samples (Simpson 1949). nan for fewer than two samples.

    Args:
        counts: samples of each text.
    """
    n = sum(counts)
    return 1 - sum(m * (m - 1) for m in counts) / (n * (n - 1)) if n > 1 else math.nan


def reweighted(correct: np.ndarray, scores: np.ndarray) -> float:
    """Accuracy of a prompt's samples weighed by their scores, the distribution f w of Song et al. (2024).

    An abstention says nothing: the sample gets the mean weight of the others. If all abstain or all scores are 0, the weights
    stay equal.

    Args:
        correct: (n,) bool.
        scores: (n,) float64, 0 or more; nan = abstained.
    """
    judged = np.isfinite(scores)
    if not judged.any() or not scores[judged].any():
        return float(correct.mean())
    weights = np.where(judged, scores, math.fsum(scores[judged]) / judged.sum())
    return math.fsum(weights[correct]) / math.fsum(weights)


def powers(samples: int) -> tuple[int, ...]:
    """Return 1, 2, 4 ... up to n, and n itself."""
    return tuple(sorted({*(1 << i for i in range(samples.bit_length())), samples}))


@dataclass(frozen=True)
class _Prompt:
    """Samples of one prompt."""

    answers: list[str | int]
    texts: list[str | int]
    correct: np.ndarray
    invalid: np.ndarray
    scores: np.ndarray | None
    difficulty: int

    def votes(self, name: int) -> tuple[list[int], list[bool], int]:
        """Count samples of each valid answer, say which are correct, and count invalid ones; `name`: the group, for errors."""
        valid = [(a, bool(c)) for a, c, i in zip(self.answers, self.correct, self.invalid, strict=True) if not i]
        right = dict(valid)
        both = next((answer for answer, is_right in valid if right[answer] != is_right), None)
        if both is not None:
            raise UserError(f"answer={both!r}: both correct and wrong in group {name}; give each answer one verdict")
        counts = Counter(answer for answer, _ in valid)
        return list(counts.values()), [right[answer] for answer in counts], int(self.invalid.sum())

    def copies(self, mask: np.ndarray) -> list[int]:
        """Count the samples of each text among those of a mask."""
        return list(Counter(self.texts[i] for i in np.flatnonzero(mask)).values())


def _prompts(
    groups: np.ndarray,
    answers: Labels,
    correct: np.ndarray,
    invalid: np.ndarray,
    scores: np.ndarray | None,
    texts: Labels,
    difficulty: np.ndarray | None,
) -> Iterator[tuple[int, _Prompt]]:
    """Split samples by prompt, in the order of the groups."""
    order = np.argsort(groups, kind="stable")
    names, first = np.unique(groups[order], return_index=True)
    for name, own in zip(names.tolist(), np.split(order, first[1:]), strict=True):
        yield (
            name,
            _Prompt(
                [answers[i] for i in own],
                [texts[i] for i in own],
                correct[own],
                invalid[own],
                None if scores is None else scores[own],
                -1 if difficulty is None else int(difficulty[own].max()),
            ),
        )


def policy_sums(
    groups: np.ndarray,
    answers: Labels,
    correct: np.ndarray,
    invalid: np.ndarray,
    scores: np.ndarray | None = None,
    texts: Labels | None = None,
    ks: Sequence[int] | None = None,
    difficulty: np.ndarray | None = None,
) -> Sums:
    """Sum each score over the prompts that have it: `prompts`, `total`, and `squares`, the squared distances from the mean.

    Raises UserError if a prompt has fewer than k samples, if an invalid sample is said to be correct, or if an answer is both
    correct and wrong in one group.

    Args:
        groups: (n,) int64, the prompt of each sample.
        answers: n answers or int codes (an array or a list), compared within a group.
        correct, invalid: (n,) bool; an invalid sample has no answer: it is wrong and has no vote.
        scores: (n,) float64, 0 or more: the policy's own P(right) of each sample, nan = abstained; None: no gap.
        texts: n texts whose diversity is measured; the answers if not given.
        ks: sizes k; 1, 2, 4 ... and n, the samples of the prompt that has fewest, if not given.
        difficulty: (n,) int64 of each sample's prompt, -1 for none: accuracy by difficulty, if the prompts have two or more.
    """
    groups, correct, invalid = np.asarray(groups), np.asarray(correct, bool), np.asarray(invalid, bool)
    texts = answers if texts is None else texts
    answers, texts = (row.tolist() if isinstance(row, np.ndarray) else row for row in (answers, texts))
    lengths = {
        len(groups),
        len(answers),
        len(correct),
        len(invalid),
        len(texts),
        len(groups if scores is None else scores),
    }
    if len(lengths) > 1 or not len(groups):
        raise UserError(f"samples={sorted(lengths)}: give as many of groups, answers, correct ..., at least one")
    if (correct & invalid).any():
        raise UserError(f"correct={int((correct & invalid).sum())}: invalid samples are wrong, yet these are correct")
    if scores is not None and not (np.isnan(scores) | ((scores >= 0) & (scores < np.inf))).all():
        raise UserError("scores: a weight below 0 or infinite; give probabilities, nan where the verifier abstains")
    sizes = np.unique(groups, return_counts=True)[1]
    ks = powers(int(sizes.min())) if ks is None else ks
    found: dict[str, list[float]] = {}
    for name, prompt in _prompts(groups, answers, correct, invalid, scores, texts, difficulty):
        n, c = len(prompt.correct), int(prompt.correct.sum())
        counts, right, unread = prompt.votes(name)
        row = {f"pass_at_{k}": pass_at_k(n, c, k) for k in ks}
        row |= {f"maj_at_{k}": maj_at_k(counts, right, unread, k) for k in ks}
        row["coverage"] = float(c > 0)
        row["diversity_correct"] = different(prompt.copies(prompt.correct))
        row["diversity_total"] = different(prompt.copies(np.ones(n, bool)))
        if prompt.scores is not None:
            row["gap"] = reweighted(prompt.correct, prompt.scores) - c / n
        if prompt.difficulty >= 0:
            row[BY_DIFFICULTY + level(prompt.difficulty)] = c / n
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    levels = [key for key in found if key.startswith(BY_DIFFICULTY)]
    return {key: _over_prompts(values) for key, values in found.items() if len(levels) > 1 or key not in levels}


def level(difficulty: int) -> str:
    """Name of the class of a difficulty: `0` to `7`, then `8-15`, `16-31` and so on."""
    least = 1 << max(0, difficulty.bit_length() - 1)
    return str(difficulty) if difficulty < 8 else f"{least}-{2 * least - 1}"


def _over_prompts(values: list[float]) -> dict[str, float]:
    row = np.array([value for value in values if not math.isnan(value)])
    total = math.fsum(row)
    squares = math.fsum((row - total / max(1, len(row))) ** 2)
    return {"prompts": float(len(row)), "total": total, "squares": squares}


def policy_values(sums: Sums) -> dict[str, float]:
    """Means over prompts; a score that no prompt has is left out. `gap`: accuracy weighed by the verifier minus accuracy."""
    return {key: part["total"] / part["prompts"] for key, part in sums.items() if part["prompts"]}


def policy_intervals(sums: Sums, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """(low, high) of each value over prompts; nan for a single prompt.

    Student's interval for `gap`; for shares Wilson's, of as many trials as the scatter between prompts allows, because
    Student's leaves [0, 1] and has no width where all prompts fail.
    """
    out = {}
    for key, mean in policy_values(sums).items():
        prompts, squares = sums[key]["prompts"], sums[key]["squares"]
        if key == "gap":
            out[key] = interval_of_sums(sums[key]["total"], squares, prompts, level)
            continue
        variance = squares / (prompts - 1) / prompts if prompts > 1 else 0.0
        trials = effective_trials(mean, variance, prompts, level) if key != "coverage" else prompts
        out[key] = share_interval(mean, trials, level) if prompts > 1 else (math.nan, math.nan)
    return out
