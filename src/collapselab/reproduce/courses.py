"""Measured courses over generations by seed, and criteria evaluated over them.

    replace.nll[3] - replace.nll[0]        ARM.QUANTITY[generation], counted from 0, or from the end by -1, -2, ...
    slope(accumulate.nll[-3:])             over a slice of generations
    guo.distinct_2[6] / real.distinct_2    over the score of fresh real text at the same budget

An expression is evaluated for each seed separately, so arms are paired by seed. `arithmetic` defines the language.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collapselab.config import UserError
from collapselab.reproduce import arithmetic


@dataclass(frozen=True)
class Measured:
    """All courses that an expression may name."""

    arms: dict[str, dict[str, np.ndarray]]
    """Course of each quantity in each arm, float64 (seeds, generations)."""
    real: dict[str, np.ndarray]
    """Scores of fresh real text at the same budget, (seeds, 1) by quantity."""


def value_of(expression: str, measured: Measured, where: str) -> np.ndarray:
    """Evaluate an expression for each seed; return float64 (seeds,), nan where it is undefined.

    Raises UserError for syntax outside the language, an unmeasured name or a missing generation.
    """
    tables = (*measured.arms.values(), measured.real)
    seeds = max((len(course) for table in tables for course in table.values()), default=0)
    try:
        values = arithmetic.evaluate(expression, measured.arms, measured.real, seeds)
    except ValueError as error:
        raise _wrong(expression, where, error) from None
    if values.shape[1] != 1:
        raise UserError(
            f"{where}: {short(expression)!r} is not one number for each seed; name one generation, or take mean(...) or "
            "largest(...)"
        )
    return values[:, 0]


def check(expression: str, where: str) -> None:
    """Refuse an expression outside the language, whatever was measured."""
    try:
        arithmetic.parse(expression)
    except ValueError as error:
        raise _wrong(expression, where, error) from None


def _wrong(expression: str, where: str, error: ValueError) -> UserError:
    return UserError(
        f"{where}: {short(expression)!r} cannot be computed ({short(str(error), 100)}); correct the expression"
    )


def short(text: str, most: int = 70) -> str:
    """Shorten a long text in the middle."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
