"""What a run has measured, as courses over generations by seed, and the arithmetic that a criterion does with them.

    replace.nll[3] - replace.nll[0]        ARM.QUANTITY[generation], counted from 0, or from the end by -1, -2, ...
    slope(accumulate.nll[-3:])             over a slice of generations
    guo.distinct_2[6] / real.distinct_2    what fresh real text scores at the same budget

An expression is evaluated for each seed by itself; arms of one seed are paired. `pooled(x)` is x's mean over seeds in the
place of each: for the distance of a mean from its law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from collapselab.config import UserError, first_line


class Course:
    """Values of one quantity in one arm, float64 (seeds, generations); [g] keeps the axis: (seeds, 1)."""

    def __init__(self, values: np.ndarray):
        self.values = np.asarray(values, np.float64)

    def __getitem__(self, at: Any) -> np.ndarray:
        found: np.ndarray = self.values[:, [at]] if isinstance(at, int) else self.values[:, at]
        return found


@dataclass(frozen=True)
class Measured:
    """Everything that an expression may name."""

    arms: dict[str, dict[str, Course]]
    real: dict[str, np.ndarray]
    """Fresh real text at the same budget, (seeds, 1) for each quantity that it has."""


def slope(x: np.ndarray) -> np.ndarray:
    """Least-squares slope per generation: (seeds, generations) to (seeds, 1)."""
    g = np.arange(x.shape[1]) - (x.shape[1] - 1) / 2
    return np.asarray((x @ g / (g @ g))[:, None])


def first(x: np.ndarray, level: Any) -> np.ndarray:
    """How many generations of a slice stand before the first that reaches `level`, all of them where none does."""
    reached = np.concatenate([x >= level, np.ones((len(x), 1), bool)], axis=1)
    return np.asarray(reached.argmax(1)[:, None], np.float64)


FUNCTIONS = {
    "abs": np.abs,
    "log": np.log,
    "slope": slope,
    "first": first,
    "mean": lambda x: x.mean(1, keepdims=True),
    "largest": lambda x: x.max(1, keepdims=True),
    "pooled": lambda x: np.broadcast_to(x.mean(0), x.shape),
    "smallest": lambda x: x.min(1, keepdims=True),
}


def value_of(expression: str, measured: Measured, where: str) -> np.ndarray:
    """The value of an expression for each seed, float64 (seeds,).

    Raises UserError for a name that was not measured, a generation that there is none of, or what is no arithmetic.
    """
    from simpleeval import SimpleEval

    evaluator = SimpleEval(names={**measured.arms, "real": measured.real}, functions=FUNCTIONS)
    try:
        with np.errstate(all="ignore"):  # of 0 / 0 comes nan, which holds nowhere
            found = np.asarray(evaluator.eval(expression), np.float64)
    except Exception as error:  # of many kinds: a name, an index, a shape, a syntax
        raise UserError(
            f"{where}: {expression!r} cannot be computed ({first_line(error)}); mend the expression"
        ) from None
    if found.ndim != 2 or found.shape[1] != 1:
        raise UserError(
            f"{where}: {expression!r} is not one number for each seed; name one generation, or take mean(...) or largest(...)"
        )
    return np.asarray(found[:, 0])
