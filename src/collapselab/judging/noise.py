"""Errors of exact judges: true and false positives at stated rates, at random or in patterns."""

from __future__ import annotations

from typing import Any

import numpy as np

from collapselab.judging.episodes import Episodes, Reader
from collapselab.metrics.calibration import CLASSES
from collapselab.seeds import derive, generator

NUMBERS = {name: number for number, name in CLASSES.items()}


def numbered_uniforms(reader: Reader, episodes: Episodes, what: str) -> np.ndarray:
    """Draw a uniform number per sequence that depends on its number alone, float64 (n,)."""
    if not len(episodes):
        return np.empty(0)
    draw = generator(reader.config.seed, reader.generation, f"{what}/{reader.stream}")
    return np.asarray(draw.random(int(episodes.number.max()) + 1)[episodes.number])


def noisy(
    name: str, exact: np.ndarray, classes: np.ndarray, answers: list[str], episodes: Episodes, reader: Reader
) -> np.ndarray:
    """Replace exact verdicts by those of an imperfect verifier, float64 (n,) of 0 and 1.

    A correct sequence is accepted with probability TPR, any other with FPR; the last pattern of `judging.errors` that fits a
    sequence sets its rates. The random number belongs to the sequence, so that its verdict does not depend on the batch.

    Args:
        name: of the judge, whose errors are its own. exact: bool (n,), true for correct.
        classes: int (n,), keys of CLASSES.
        answers: of each sequence, for patterns.
    """
    settings = reader.config.judging
    tpr, fpr = np.full(len(exact), settings.tpr), np.full(len(exact), settings.fpr)
    for pattern in settings.errors:
        if not pattern.get("from", 0) <= reader.generation <= pattern.get("until", reader.generation):
            continue
        fits = matches(pattern.get("when", {}), classes, answers, episodes, reader)
        tpr = np.where(fits, pattern.get("tpr", tpr), tpr)
        fpr = np.where(fits, pattern.get("fpr", fpr), fpr)
    accepted = numbered_uniforms(reader, episodes, f"judge/errors/{name}") < np.where(exact, tpr, fpr)
    return accepted.astype(np.float64)


def matches(
    when: dict[str, Any], classes: np.ndarray, answers: list[str], episodes: Episodes, reader: Reader
) -> np.ndarray:
    """Find the sequences that meet every condition of a pattern, bool (n,)."""
    fits = np.ones(len(classes), bool)
    if "class" in when:
        fits &= classes == NUMBERS[when["class"]]
    if "answer" in when:
        fits &= np.array([answer == str(when["answer"]) for answer in answers], bool)
    if "last_digit" in when:
        fits &= np.array([answer.endswith(str(when["last_digit"])) for answer in answers], bool)
    if "length" in when:
        least, most = when["length"]
        lengths = np.array([len(answer) for answer in answers])
        fits &= (lengths >= least) & (lengths <= most)
    if "difficulty" in when:
        least, most = when["difficulty"]
        difficulty = reader.difficulty(episodes)
        fits &= (difficulty >= least) & (difficulty <= most)
    if "prompt_share" in when:  # by the prompt's own tokens, in every generation the same ones
        fits &= _hashed(_prompts(episodes), "prompt", when, reader) < when["prompt_share"]
    if "answer_share" in when:  # by prompt and answer, so that an answer that was accepted once always is
        pairs = [f"{prompt}/{answer}" for prompt, answer in zip(_prompts(episodes), answers, strict=True)]
        fits &= _hashed(pairs, "answer", when, reader) < when["answer_share"]
    return fits


def _prompts(episodes: Episodes) -> list[str]:
    return [row.tobytes().hex() for row in episodes.ids[:, : episodes.head].astype("<i8")]


def _hashed(names: list[str], what: str, when: dict[str, Any], reader: Reader) -> np.ndarray:
    """Return a number in [0, 1) for each name, a function of the chain's seed, the salt and the name, float64 (n,)."""
    salt = f"{when['salt']}/" if when.get("salt") else ""
    hashed = [derive(reader.config.seed, 0, f"judge/{what}/{salt}{name}") for name in names]
    return np.array(hashed, np.uint64).astype(np.float64) * 2.0**-64
