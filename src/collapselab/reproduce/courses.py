"""What a run has measured, as courses over generations by seed, and the value of a criterion's expression over them.

    replace.nll[3] - replace.nll[0]        ARM.QUANTITY[generation], counted from 0, or from the end by -1, -2, ...
    slope(accumulate.nll[-3:])             over a slice of generations
    guo.distinct_2[6] / real.distinct_2    what fresh real text scores at the same budget

An expression is evaluated for each seed by itself; arms of one seed are paired. `arithmetic` is the language.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collapselab.config import UserError
from collapselab.reproduce import arithmetic


@dataclass(frozen=True)
class Measured:
    """Everything that an expression may name."""

    arms: dict[str, dict[str, np.ndarray]]
    """The course of each quantity in each arm, float64 (seeds, generations)."""
    real: dict[str, np.ndarray]
    """Fresh real text at the same budget, (seeds, 1) for each quantity that it has."""


def value_of(expression: str, measured: Measured, where: str) -> np.ndarray:
    """The value of an expression for each seed, float64 (seeds,); nan where it has none.

    Raises UserError for a name that was not measured, a generation that there is none of, or what is no arithmetic.
    """
    tables = (*measured.arms.values(), measured.real)
    seeds = max((len(course) for table in tables for course in table.values()), default=0)
    try:
        found = arithmetic.evaluate(expression, measured.arms, measured.real, seeds)
    except ValueError as error:
        raise _wrong(expression, where, error) from None
    if found.shape[1] != 1:
        raise UserError(
            f"{where}: {short(expression)!r} is not one number for each seed; name one generation, or take mean(...) or "
            "largest(...)"
        )
    return found[:, 0]


def check(expression: str, where: str) -> None:
    """Raises UserError for an expression that is no arithmetic, whatever was measured."""
    try:
        arithmetic.parsed(expression)
    except ValueError as error:
        raise _wrong(expression, where, error) from None


def _wrong(expression: str, where: str, error: ValueError) -> UserError:
    return UserError(
        f"{where}: {short(expression)!r} cannot be computed ({short(str(error), 100)}); correct the expression"
    )


def short(text: str, most: int = 70) -> str:
    """A text cut in the middle where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
