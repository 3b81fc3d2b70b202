"""The arithmetic of criteria: a small language of its own, because an entry may be untrusted.

An expression has numbers, `arm.quantity[2]`, `arm.quantity[1:-1]`, `real.quantity`, + - * / **, signs and the functions below;
everything else is refused by name before anything is computed, and no method of a value can be called. Length and depth are
bounded and no result is longer than the courses, so time and memory are bounded too.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

LONGEST = 1000  # characters of an expression
DEEPEST = 40  # nested operations
T = TypeVar("T")


def evaluate(
    text: str, arms: Mapping[str, Mapping[str, np.ndarray]], real: Mapping[str, np.ndarray], seeds: int
) -> np.ndarray:
    """Evaluate an expression; return float64 (seeds, generations). With no seeds this only checks names and shapes.

    Args:
        arms: the courses of each arm by quantity, float64 (seeds, generations); must be indexed or sliced.
        real: scores of real text, (seeds, 1); written `real.quantity`, without an index.

    Raises:
        ValueError: for syntax outside the language, an unmeasured name or a missing generation; the message names it.
    """
    tree = parse(text)

    def value(node: ast.expr) -> np.ndarray:
        match node:
            case ast.Constant():
                return np.full((seeds, 1), _number(node))
            case ast.UnaryOp(op=op, operand=operand):
                return _each(UNARY[type(op)], value(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return _each(BINARY[type(op)], value(left), value(right))
            case ast.Subscript(value=ast.Attribute(value=ast.Name(id=arm), attr=quantity), slice=at):
                return _select(_named(_named(arms, arm, "arm"), quantity, f"quantity of {arm}"), at)
            case ast.Attribute(value=ast.Name(id="real"), attr=quantity):
                return _named(real, quantity, "quantity of real text")
            case ast.Call(func=ast.Name(id=name), args=args):
                return FUNCTIONS[name][1](*map(value, args))
        raise AssertionError(ast.dump(node))  # `parse` refuses everything else

    return value(tree)


def parse(text: str) -> ast.expr:
    """Return the syntax tree of an expression, checked node by node. Raises ValueError."""
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, at most {LONGEST:,} are read")
    try:
        with warnings.catch_warnings(action="ignore"):  # the parser warns of spellings such as 1if
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("it is not an expression") from None
    _check(tree, DEEPEST)
    if not any(isinstance(node, ast.Attribute) for node in ast.walk(tree)):
        raise ValueError("it names nothing that was measured, as in replace.nll[3]")
    return tree


def _check(node: ast.AST, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    inside: list[ast.AST]
    match node:
        case ast.Constant():
            _number(node)
            return
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            inside = [operand]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            inside = [left, right]
        case ast.Subscript(value=ast.Attribute(value=ast.Name(id=arm)), slice=at) if arm != "real":
            for end in (at.lower, at.upper, at.step) if isinstance(at, ast.Slice) else (at,):
                _whole(end)
            return
        case ast.Attribute(value=ast.Name(id="real")):
            return
        case ast.Attribute(value=ast.Name(id=arm), attr=quantity):
            raise ValueError(f"{arm}.{quantity}: name a generation or a slice, as in {arm}.{quantity}[3]")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            if len(args) != FUNCTIONS[name][0] or any(isinstance(one, ast.Starred) for one in args):
                raise ValueError(f"{name}() takes {FUNCTIONS[name][0]}")
            inside = list(args)
        case ast.Call(func=ast.Name(id=name)):
            raise ValueError(f"{name}(...): no such function; there are {', '.join(FUNCTIONS)}")
        case _:
            raise ValueError(f"{type(node).__name__} is not part of a criterion's arithmetic")
    for one in inside:
        _check(one, depth - 1)


def _number(node: ast.Constant) -> float:
    if type(node.value) not in (int, float):
        raise ValueError(f"{type(node.value).__name__} is no number")
    try:
        return float(node.value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError("a number is too large") from None


def _whole(node: ast.expr | None) -> int | None:
    """Parse a whole number in an index; None for an omitted end of a slice."""
    match node:
        case None:
            return None
        case ast.Constant(value=int(at)) if type(at) is int:
            return at
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(at))) if type(at) is int:
            return -at
    raise ValueError("an index must be a whole number, or a slice of them")


def _named(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise ValueError(f"{name}: no such {what}")
    return table[name]


def _select(course: np.ndarray, at: ast.expr) -> np.ndarray:
    """Select one generation or a slice of them."""
    length = course.shape[1]
    if isinstance(at, ast.Slice):
        ends = slice(*(_whole(end) for end in (at.lower, at.upper, at.step)))
        if ends.step == 0:
            raise ValueError("the step of a slice must not be 0")
        if not range(length)[ends]:
            raise ValueError(f"a slice is empty: there are {length} generations")
        return course[:, ends]
    place = _whole(at)
    assert place is not None
    if not -length <= place < length:
        raise ValueError(f"[{place}]: there is no such generation, there are {length}")
    return course[:, [place]]


def _each(function: Callable[..., np.ndarray], *values: np.ndarray) -> np.ndarray:
    """Apply a function elementwise; results that are not finite become nan."""
    lengths = [value.shape[1] for value in values]
    if set(lengths) - {1, max(lengths)}:
        raise ValueError("slices of different lengths: " + " and ".join(map(str, lengths)))
    with np.errstate(all="ignore"):  # a division by 0, the logarithm of 0, 9 ** 9 ** 9
        results = function(*values)
    return np.where(np.isfinite(results), results, np.nan)


def _reduced(function: Callable[[list[float]], float]) -> Callable[[np.ndarray], np.ndarray]:
    """Turn a function of a row into one of courses: a number per seed, nan if its row has a nan."""
    return lambda x: np.array([np.nan if np.isnan(row).any() else function(row.tolist()) for row in x]).reshape(-1, 1)


def _slope(row: list[float]) -> float:
    """Least-squares slope per generation."""
    middle = (len(row) - 1) / 2
    squares = sum((g - middle) ** 2 for g in range(len(row)))
    return sum((g - middle) * x for g, x in enumerate(row)) / squares if squares else math.nan


def _first(x: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Count the generations before the first that reaches the level; the length of the slice if none does."""
    if level.shape[1] != 1:
        raise ValueError("first(x, level): the level must be one number")
    reached = x >= level
    before: np.ndarray = np.where(reached.any(1), reached.argmax(1), x.shape[1])
    return before.astype(float)[:, None]


def _over_seeds(power: float) -> Callable[[np.ndarray], np.ndarray]:
    """Sum over seeds divided by their number to a power, repeated for every seed."""
    return lambda x: np.asarray(np.broadcast_to(x.sum(0) / max(1, len(x)) ** power, x.shape))


UNARY: dict[type[ast.unaryop], np.ufunc] = {ast.USub: np.negative, ast.UAdd: np.positive}
BINARY: dict[type[ast.operator], np.ufunc] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
FUNCTIONS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "abs": (1, lambda x: _each(np.abs, x)),
    "log": (1, lambda x: _each(np.log, x)),
    "mean": (1, _reduced(lambda row: math.fsum(row) / len(row))),
    "largest": (1, _reduced(max)),
    "smallest": (1, _reduced(min)),
    "slope": (1, _reduced(_slope)),
    "first": (2, _first),
    "pooled": (1, _over_seeds(1)),
    "stouffer": (1, _over_seeds(0.5)),
}
"""(number of arguments, function). `pooled(x)` is the mean over seeds, for the distance of a mean from its law; `stouffer(z)`
combines the z scores of independent seeds into one (Stouffer 1949). Both are repeated for every seed."""
