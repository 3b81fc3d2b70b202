"""The arithmetic of a criterion: a small language of its own, because an entry of the gallery may come from a stranger.

An expression has numbers, `arm.quantity[2]`, `arm.quantity[1:-1]`, `real.quantity`, + - * / **, signs and the functions below;
everything else is refused by name before anything is computed. Values are plain floats, so there is nothing to call a
method of. Length and depth are bounded, and no operation makes a value longer than the courses that it is given, so time and
memory are bounded too.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

LONGEST = 1000
"""Characters of an expression."""
DEEPEST = 40
"""Operations inside each other."""
NAN = math.nan
T = TypeVar("T")


@dataclass(frozen=True)
class Values:
    """Numbers by seed and generation. Without seeds it has a shape alone: enough to check an expression."""

    rows: list[list[float]]
    """One row for each seed."""
    length: int
    """Numbers in each row; 1 is broadcast against longer ones."""


Tables = Mapping[str, Mapping[str, Values]]


def evaluate(text: str, arms: Tables, real: Mapping[str, Values], seeds: int) -> Values:
    """The value of an expression.

    Args:
        arms: the courses of each arm by quantity; must be indexed or sliced.
        real: what real text scores, of length 1; written `real.quantity`, without an index.

    Raises:
        ValueError: what the language does not have, a name that was not measured, a generation that there is none of;
            the message says which.
    """
    tree = parsed(text)

    def value(node: ast.expr) -> Values:
        match node:
            case ast.Constant():
                number = _number(node)
                return Values([[number]] * seeds, 1)
            case ast.UnaryOp(op=op, operand=operand):
                return _each(UNARY[type(op)], value(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return _each(BINARY[type(op)], value(left), value(right))
            case ast.Subscript(value=ast.Attribute(value=ast.Name(id=arm), attr=quantity), slice=at):
                return _taken(_named(_named(arms, arm, "arm"), quantity, f"quantity of {arm}"), at)
            case ast.Attribute(value=ast.Name(id="real"), attr=quantity):
                return _named(real, quantity, "quantity of real text")
            case ast.Call(func=ast.Name(id=name), args=args):
                return FUNCTIONS[name][1](*[value(one) for one in args])
        raise AssertionError(ast.dump(node))  # `parsed` lets nothing else through

    return value(tree)


def parsed(text: str) -> ast.expr:
    """The syntax tree of an expression, of which every node is part of the language. Raises ValueError."""
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, at most {LONGEST:,} are read")
    try:
        with warnings.catch_warnings(action="ignore"):  # of the parser, about spellings such as 1if
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
            raise ValueError(f"{type(node).__name__} is no part of a criterion's arithmetic")
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
    """A whole number as it is written in an index; None where an end of a slice is left out."""
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


def _taken(course: Values, at: ast.expr) -> Values:
    """One generation or a slice of them."""
    if isinstance(at, ast.Slice):
        ends = slice(*(_whole(end) for end in (at.lower, at.upper, at.step)))
        if ends.step == 0:
            raise ValueError("the step of a slice must not be 0")
        places = range(course.length)[ends]
        if not places:
            raise ValueError(f"a slice is empty: there are {course.length} generations")
        return Values([row[ends] for row in course.rows], len(places))
    place = _whole(at)
    assert place is not None
    if not -course.length <= place < course.length:
        raise ValueError(f"[{place}]: there is no such generation, there are {course.length}")
    return Values([[row[place]] for row in course.rows], 1)


def _each(function: Callable[..., float], *values: Values) -> Values:
    """A function of numbers, applied in every place; nan where it has no finite value."""

    def one(*numbers: float) -> float:
        try:
            found = function(*numbers)
        except (ArithmeticError, ValueError):  # a division by 0, the logarithm of 0, 9 ** 9 ** 9
            return NAN
        return found if math.isfinite(found) else NAN

    length = max(value.length for value in values)
    if any(value.length not in (1, length) for value in values):
        raise ValueError("slices of different lengths: " + " and ".join(str(value.length) for value in values))
    wide = [[row * (length // value.length) for row in value.rows] for value in values]
    return Values([[one(*numbers) for numbers in zip(*rows, strict=True)] for rows in zip(*wide, strict=True)], length)


def _reduced(function: Callable[[list[float]], float]) -> Callable[[Values], Values]:
    """One number for each seed from its row; nan where a number of it is nan."""

    def reduce(x: Values) -> Values:
        return Values([[NAN if any(map(math.isnan, row)) else function(row)] for row in x.rows], 1)

    return reduce


def _slope(row: list[float]) -> float:
    """The least-squares slope per generation."""
    middle = (len(row) - 1) / 2
    squares = sum((g - middle) ** 2 for g in range(len(row)))
    return sum((g - middle) * x for g, x in enumerate(row)) / squares if squares else NAN


def _first(x: Values, level: Values) -> Values:
    """How many generations of a slice come before the first that reaches the level; all of them where none does."""
    if level.length != 1:
        raise ValueError("first(x, level): the level must be one number")
    pairs = zip(x.rows, level.rows, strict=True)
    return Values(
        [[float(next((g for g, value in enumerate(row) if value >= at), len(row)))] for row, (at,) in pairs], 1
    )


def _over_seeds(power: float) -> Callable[[Values], Values]:
    """The sum over seeds divided by their number to that power, in the place of every seed."""

    def reduce(x: Values) -> Values:
        seeds = len(x.rows)
        whole = [sum(column) / seeds**power for column in zip(*x.rows, strict=True)]
        return Values([whole] * seeds, x.length)

    return reduce


UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
FUNCTIONS: dict[str, tuple[int, Callable[..., Values]]] = {
    "abs": (1, lambda x: _each(abs, x)),
    "log": (1, lambda x: _each(math.log, x)),
    "mean": (1, _reduced(lambda row: math.fsum(row) / len(row))),
    "largest": (1, _reduced(max)),
    "smallest": (1, _reduced(min)),
    "slope": (1, _reduced(_slope)),
    "first": (2, _first),
    "pooled": (1, _over_seeds(1)),
    "stouffer": (1, _over_seeds(0.5)),
}
"""Arguments and meaning of each function. `pooled(x)` is the mean over seeds, for the distance of a mean from its law;
`stouffer(z)` joins the z scores of independent seeds into one (Stouffer 1949). Both stand in the place of every seed."""
