"""Settings of the judges that stand between a generation's samples and later training sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from collapselab.config.settings import setting
from collapselab.config.values import UserError, check, needs


def _share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


CLASSES = ("wrong", "correct", "hack", "unreadable")


def _range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_count, value)) and value[0] <= value[1]


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "class": (lambda value: value in CLASSES, "must be wrong, correct, hack or unreadable"),
    "prompt_share": (_share, "must lie in [0, 1]"),
    "answer_share": (_share, "must lie in [0, 1]"),
    "salt": (_count, "must be a whole number, 0 or more"),
    "difficulty": (_range, "give [least, most] of the problem's difficulty"),
    "answer": (lambda value: isinstance(value, int | str), "must be an answer"),
    "last_digit": (lambda value: _count(value) and value <= 9, "must be a digit"),
    "length": (_range, "give [least, most] characters"),
}
"""Conditions of an error pattern (`judging.errors`), with the check of their values."""


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """Judging of samples: only text that the judges let through reaches later training sets."""

    judges: list[str] = setting(list, decides="judged", since="0.2")
    """Judges of every generation's samples; empty switches judging off. `random`, `likelihood` (mean probability per
    token under `model`), `surprise` (its negative under the model that wrote), `p_true` (P(right) under `model` when asked about
    an answer, for text with `corpus.addition.verification` or `corpus.facts.verification`), `valid` (exact checker of a known
    language), `answer` (exact checker of a task), `majority` (agreement with the answers to the same prompt), `detector`
    (probability of being real text), `duplicate` (no near-duplicate of a sequence drawn before), `play` (what a move's game
    ends with, played on by `model`), or a plugin's."""
    committee: Literal["mean", "majority", "all"] | None = None
    """Rule of several judges: the mean of their scores, the share of them that give at least `threshold`, or the least
    score. Null for a single judge."""
    keep: Literal["threshold", "top_share", "resample", "edit"] = setting("threshold", decides="judged", since="0.2")
    """What is kept of the judged sequences, always as many tokens as a generation writes. `threshold`: those with at least
    `threshold`, and more are written until there are enough. `top_share`: the best `share` of 1/`share` times as many.
    `resample`: draws with replacement, with probabilities proportional to the odds of the scores. `edit`: all sequences, with
    tokens of a probability of `threshold` or more under `model` drawn again (Zhu et al. 2024, token editing); without a judge."""
    threshold: float = 0.5
    """Least score of a sequence that is kept, [0, 1], or least probability of a token that is drawn again, (0, 1]."""
    share: float = 0.5
    """Share of the drawn sequences that `top_share` keeps, (0, 1]."""
    most: int = setting(64, decides="nothing", since="0.2")
    """Most sequences drawn for one that is kept, 1 or more; beyond, the run stops."""
    abstained: float = setting(0.5, decides="nothing", since="0.2")
    """Largest share of sequences on which a judge may abstain, [0, 1]; beyond, the run stops. What nobody judges is never
    kept."""
    seconds: float = setting(600.0, decides="nothing", since="0.2")
    """Longest time of a judge for the sequences of one round, in seconds; beyond, the run stops."""
    model: str = "first"
    """Model of `likelihood`, `p_true`, `play` and `edit`: generation 0's (first), the pretrained model (base), the one that wrote
    (newest), or a folder of a model with the same tokenizer."""
    tpr: float = 1.0
    """Share of correct sequences that `valid` and `answer` accept, [0, 1]; below 1 at random by sequence."""
    fpr: float = 0.0
    """Share of other sequences that they accept, [0, 1]; above 0 at random by sequence."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Error patterns of `valid` and `answer`, the last one that fits counts: {when: {...}, tpr:, fpr:, from:, until:}.
    `when` may name `class` (wrong, correct, hack, unreadable), `prompt_share` (of all prompts, always the same ones: of one
    `salt`, 0 by default, a smaller share lies within a larger one; another salt draws other prompts), `answer_share` (of all
    pairs of prompt and answer, likewise), `difficulty` ([least, most] of the problem, as the task measures it), `answer`,
    `last_digit` and `length` ([least, most] characters of the answer); `from` and `until` are generations."""
    second: int = 512
    """Sequences of a second, independent sample, on which the judges are measured as well; 0 for none."""

    def __post_init__(self) -> None:
        need = needs(self, "judging")
        for key in ("share", "abstained", "tpr", "fpr"):
            need(0 <= getattr(self, key) <= 1, key, "must lie in [0, 1]")
        need(self.share > 0, "share", "must be above 0")
        need(math.isfinite(self.threshold), "threshold", "must be a number")
        scored = self.keep != "threshold" or 0 <= self.threshold <= 1
        need(scored, "threshold", "must lie in [0, 1], as scores do")
        need(self.most >= 1, "most", "must be 1 or more")
        need(
            self.keep != "top_share" or self.share * self.most >= 1, "most", f"share={self.share} draws more; raise it"
        )
        need(self.second >= 0, "second", "must be 0 or more")
        need(0 < self.seconds < math.inf, "seconds", "must be above 0")
        need(len(set(self.judges)) == len(self.judges), "judges", "name each once")
        remedy = "several judges need a rule: set judging.committee to mean, majority or all"
        need(len(self.judges) < 2 or self.committee is not None, "judges", remedy)
        need(len(self.judges) > 1 or self.committee is None, "committee", "one judge needs no rule; set null")
        need(self.keep != "edit" or not self.judges, "judges", "judging.keep=edit keeps everything; leave it empty")
        need(self.keep != "edit" or 0 < self.threshold <= 1, "threshold", "must be a probability above 0")
        exact = {"valid", "answer"} & {*self.judges}
        errs = self.tpr < 1 or self.fpr > 0 or bool(self.errors)
        need(
            not errs or bool(exact), "errors" if self.errors else "fpr", "only the judges valid and answer have errors"
        )
        for pattern in self.errors:
            _check_pattern(pattern)

    @property
    def on(self) -> bool:
        """True if anything stands between samples and later training sets."""
        return bool(self.judges) or self.keep == "edit"


def _check_pattern(pattern: Any) -> None:
    """Raise UserError if an error pattern cannot be understood."""
    known = {"when", "tpr", "fpr", "from", "until"}
    if not isinstance(pattern, dict) or not pattern.keys() <= known or not pattern.keys() & {"tpr", "fpr"}:
        raise UserError(
            f"judging.errors={pattern!r}: give {{when: {{...}}, tpr:, fpr:, from:, until:}} with tpr or fpr"
        )
    when = pattern.get("when", {})
    named = isinstance(when, dict) and when.keys() <= VALUES.keys()
    check(named, "judging.errors: when", when, f"name conditions among {', '.join(VALUES)}")
    for key, value in when.items():
        holds, remedy = VALUES[key]
        check(holds(value), f"judging.errors: {key}", value, remedy)
    remedy = "only prompt_share and answer_share have it; name one, or leave it out"
    check(
        bool({"prompt_share", "answer_share"} & when.keys()) or "salt" not in when,
        "judging.errors: salt",
        when.get("salt"),
        remedy,
    )
    for key in ("tpr", "fpr"):
        check(_share(pattern.get(key, 0)), f"judging.errors: {key}", pattern.get(key), "must lie in [0, 1]")
    for key in ("from", "until"):
        check(_count(pattern.get(key, 0)), f"judging.errors: {key}", pattern.get(key), "must be a generation")
