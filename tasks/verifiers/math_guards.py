r"""What we don't believe Math-Verify, and what we add to it: equal to 15 digits but not equal, names of functions,
scaled inequalities, complex numbers."""

from __future__ import annotations

import math
from typing import Any

import sympy
from latex2sympy2_extended.logic import And
from sympy.core.relational import Relational

_ORDER = (sympy.StrictLessThan, sympy.LessThan, sympy.StrictGreaterThan, sympy.GreaterThan)


def false_accept(left: Any, right: Any) -> str | None:
    """The name of the guard that does not believe Math-Verify's yes, or None."""
    named = isinstance(right, sympy.Eq) and (_is_name(right.lhs) or _is_name(right.rhs))
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Eq) and right.free_symbols and not named:
        return "equation"  # `5x = 5` is no 5
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr) and left != right:
        return "tiny" if _relative_gap(left, right) else None
    return None


def _is_name(side: Any) -> bool:
    """A variable or a function's value: what an answer may be assigned to."""
    return isinstance(side, sympy.Symbol) or (
        isinstance(side, sympy.Function) and all(argument.is_Symbol or argument.is_number for argument in side.args)
    )


def _relative_gap(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two numbers that are equal to 15 decimals differ in proportion (1/2004! and 1/2006!)."""
    if left.free_symbols or right.free_symbols or left.has(sympy.UnevaluatedExpr) or right.has(sympy.UnevaluatedExpr):
        return False
    size = max(abs(left.evalf(5)), abs(right.evalf(5)))
    if not size.is_number or size == 0 or size > sympy.Float("1e-4"):
        return False
    return bool(abs((left / right).evalf(12) - 1) > sympy.Float("1e-3"))


_PLAIN_FUNCTIONS = (sympy.sin, sympy.cos, sympy.tan, sympy.log, sympy.exp)
_POINTS = ("0.7316", "1.3571", "2.1093", "0.4487")
_MAX_NODES, _MAX_POWER, _MAX_NUMBER = 200, 60, 10**30


def plainly_different(left: Any, right: Any) -> bool:
    """Whether two expressions in the same variables differ at a point, which spares Math-Verify its `simplify`.

    Only for sums, products, small powers and elementary functions, whose value is cheap; False is no statement.
    """
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    if left.free_symbols != right.free_symbols or not (_is_cheap(left) and _is_cheap(right)):
        return False
    symbols = sorted(left.free_symbols, key=str)
    if len(symbols) > len(_POINTS) or any(symbol.name in ("i", "e") for symbol in symbols):
        return False
    point = {symbol: sympy.Float(value, 20) for symbol, value in zip(symbols, _POINTS, strict=False)}
    values = [complex(side.evalf(20, subs=point)) for side in (left, right)]
    gap = abs(values[0] - values[1])
    return math.isfinite(gap) and gap > 1e-4 * max(1.0, abs(values[0]), abs(values[1]))


def _is_cheap(expression: sympy.Expr) -> bool:
    for count, node in enumerate(sympy.preorder_traversal(expression)):
        if count > _MAX_NODES:
            return False
        if isinstance(node, sympy.Pow):
            power = node.exp
            if not (isinstance(power, sympy.Rational) and max(abs(power.p), power.q) <= _MAX_POWER):
                return False
        elif isinstance(node, sympy.Rational):
            if max(abs(node.p), node.q) > _MAX_NUMBER:
                return False
        elif not isinstance(
            node, (sympy.Add, sympy.Mul, sympy.Float, sympy.NumberSymbol, sympy.Symbol, *_PLAIN_FUNCTIONS)
        ):
            return False
    return True


def false_reject(left: Any, right: Any) -> str | None:
    """The name of the rule by which two readings are equal although Math-Verify says no, or None."""
    if _equal_as_complex(left, right):
        return "imaginary"
    if _equal_inequalities(left, right):
        return "inequality"
    if _equal_definitions(left, right):
        return "function"
    return None


def _equal_as_complex(left: Any, right: Any) -> bool:
    r"""Equal numbers once `i` is the imaginary unit (`e^{i\pi}` and -1)."""
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    symbols = left.free_symbols | right.free_symbols
    names = {symbol.name for symbol in symbols if isinstance(symbol, sympy.Symbol)}
    if names - {"i"} or (not names and not (left.has(sympy.I) or right.has(sympy.I))):
        return False
    unit = dict.fromkeys(symbols, sympy.I)
    return bool(abs((left.subs(unit) - right.subs(unit)).evalf(15)) < sympy.Float("1e-12"))


def _equal_inequalities(left: Any, right: Any) -> bool:
    """`2x < 6` and `x < 3`: the sides' differences are in a constant positive proportion."""
    if not (isinstance(left, _ORDER) and isinstance(right, _ORDER)) or left.free_symbols != right.free_symbols:
        return False
    strict = (sympy.StrictLessThan, sympy.StrictGreaterThan)
    if isinstance(left, strict) != isinstance(right, strict):
        return False
    proportion = sympy.cancel((left.gts - left.lts) / (right.gts - right.lts))
    return bool(proportion.is_number and proportion.is_positive)


def _equal_definitions(left: Any, right: Any) -> bool:
    """`f(x) = x^2` and `y = x^2`: the name may differ, the right sides may not. Two plain variables are two answers."""
    sides = [_definition(expression) for expression in (left, right)]
    if sides[0] is None or sides[1] is None or not any(of_function for _, of_function in sides):  # type: ignore[misc]
        return False
    return bool(sympy.simplify(sides[0][0] - sides[1][0]).is_zero)


def _definition(expression: Any) -> tuple[Any, bool] | None:
    if not isinstance(expression, sympy.Eq) or isinstance(expression, And):
        return None
    if isinstance(expression.lhs, Relational) or not _is_name(expression.lhs):
        return None
    return expression.rhs, isinstance(expression.lhs, sympy.Function)
