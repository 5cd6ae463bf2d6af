r"""The process in which Math-Verify runs: `python -m tasks.verifiers.math_worker`, started and killed by
`tasks.verifiers.math`.

Speaks JSON lines: a request `{"pairs": [[reference, answer, whole_text], ...]}` on stdin is answered by one
line a pair, flushed at once, so that the parent knows which pair a dead worker was at. Limits per process:
address space by RLIMIT_AS; CPU seconds per pair by ITIMER_PROF with the default action, so that the kernel
ends the process even inside a C loop.

What is not covered: safety against code. Math-Verify parses, it does not execute, but this is no sandbox.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeVar

import latex2sympy2_extended.latex2sympy2 as latex
import sympy
from math_verify import grader, parser

from tasks.verifiers.answer import DEGREES, canonical_number, canonical_text, normalize

TEXT_TAIL_CHARS = 10_000  # of a whole response only the end is searched for an expression
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FUNCTIONS_TEXT = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp sqrt and det gcd lcm max min mod inf abs"
)
_FUNCTIONS = frozenset(_FUNCTIONS_TEXT.split())
_COMMAND = re.compile(r"\\[A-Za-z]+\*?(?:\{(?:matrix|pmatrix|bmatrix|vmatrix|array|cases|aligned|align)\})?")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)", re.ASCII)
_MIXED = re.compile(r"(?<![\w.^{/])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\w.^])", re.ASCII)
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|sqrt)(?![A-Za-z])")
_ROOT = re.compile(r"\\sqrt\s*\(([^()]{1,200})\)")
_NUMERAL = re.compile(r"[-+]?\s*(?:[\d.,\s]|\\?%)+|-?\s*\d*\s*\\frac\s*\{?-?\d+\}?\s*\{?-?\d+\}?|-?\d+/\d+", re.ASCII)


def main() -> None:
    """Serve requests until stdin ends. Arguments: CPU seconds a pair, MiB of address space."""
    timeout_s, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not write into the protocol
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    _reply(replies, {"ready": True})
    for line in sys.stdin:
        for reference, answer, whole_text in json.loads(line)["pairs"]:
            started = time.perf_counter()
            signal.setitimer(signal.ITIMER_PROF, timeout_s)
            try:
                outcome = compare(reference, answer, whole_text=whole_text)
            except MemoryError:
                _clear_caches()
                outcome = {"status": "memory_limit"}
            signal.setitimer(signal.ITIMER_PROF, 0)
            outcome["seconds"] = round(time.perf_counter() - started, 6)
            _reply(replies, outcome)
            if outcome["status"] == "memory_limit":
                return  # what is left of the heap is not trusted; the parent starts a fresh worker


def _reply(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def compare(reference: str, answer: str, *, whole_text: bool = False) -> dict[str, Any]:
    """`status` (accepted, wrong_answer, no_answer), `path`, canonical `answer`. Raises MemoryError at the
    process's limit."""
    try:
        return _compare(reference, answer, whole_text)
    except RecursionError:
        return {
            "status": "wrong_answer",
            "path": "guard:nesting",
            "answer": canonical_text(normalize(answer[-300:])),
        }


def _compare(reference: str, answer: str, whole_text: bool) -> dict[str, Any]:
    gold = parse_answer(reference)
    if whole_text:
        parsed = with_memory_errors(lambda: parser.parse(answer[-TEXT_TAIL_CHARS:], parsing_timeout=None))
        if not parsed:
            return {"status": "no_answer", "path": "math_verify", "answer": None}
    else:
        parsed = parse_answer(answer)
    if not gold or not parsed:
        # Words, or LaTeX that doesn't parse: the normal forms differ, and that is all that can be said.
        unparsed = "reference" if not gold else "answer"
        return {"status": "wrong_answer", "path": f"unparsed:{unparsed}", "answer": canonical(parsed, answer)}
    equal = bool(
        with_memory_errors(lambda: grader.verify(gold, parsed, allow_set_relation_comp=True, timeout_seconds=None))
    )
    path = "math_verify"
    if equal and (guard := false_accept(gold, parsed)):
        equal, path = False, f"guard:{guard}"
    elif not equal and equal_as_complex(gold, parsed):
        equal, path = True, "guard:imaginary"
    if equal:
        return {"status": "accepted", "path": path, "answer": canonical(gold, reference)}
    return {"status": "wrong_answer", "path": path, "answer": canonical(parsed, answer)}


# ------------------------------------------------------------------------------------------------- parsing


def as_math(text: str) -> str:
    r"""The text as Math-Verify should read it: in `$...$` unless it has its own marks or is prose with a
    number in it.

    Without the marks Math-Verify takes the last bare number (`3x+4y+14=0` becomes 0); with them it reads `18
    apples` as a product.
    """
    text = DEGREES.sub("", text.replace("−", "-").replace("–", "-").replace("°", "")).strip()
    text = text.rstrip(".") if not text.endswith("..") else text
    if text.count("$") >= 2 or "\\(" in text or "\\[" in text or "\\boxed" in text:
        return text
    text = text.replace("\\$", "").replace("$", "")
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _FUNCTION.sub(r"\\\1", text)
    text = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    outside = re.sub(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}", " ", text)
    prose = [word for word in _PROSE.findall(_COMMAND.sub(" ", outside)) if word.lower() not in _FUNCTIONS]
    if prose and not re.search(r"[\\^_=]", outside):
        return text
    return f"${text}$"


@lru_cache(maxsize=4096)
def parse_answer(text: str) -> list[Any]:
    """Math-Verify's candidates for one answer: an expression and its text, or nothing. Kept, since answers
    repeat."""
    found = with_memory_errors(lambda: parser.parse(as_math(text), parsing_timeout=None))
    return list(found) if any(not isinstance(part, str) for part in found) else []


_Result = TypeVar("_Result")
_LIBRARY = (parser, grader, latex)
_RECOVERABLE = tuple(kind for kind in Exception.__subclasses__() if kind is not MemoryError)


def with_memory_errors(call: Callable[[], _Result]) -> _Result:
    """Call into Math-Verify so that a MemoryError comes out of it.

    The library answers every `except Exception` with False or "not parsed", which would turn a bomb into a
    wrong answer. For the time of the call its modules see a narrower `Exception`; an error of a class not
    known at start takes the plain way.
    """
    for module in _LIBRARY:
        module.Exception = _RECOVERABLE
    try:
        return call()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, S110 (a class that is not in the list: once more, the library's own way)
        pass
    finally:
        for module in _LIBRARY:
            del module.Exception
    return call()


# -------------------------------------------------------------------------------------------------- guards


def false_accept(gold: list[Any], parsed: list[Any]) -> str | None:
    """The name of the guard that does not believe Math-Verify's yes, or None."""
    for side in (gold, parsed):
        expression, text = side[0], side[1] if len(side) > 1 and isinstance(side[1], str) else None
        if isinstance(expression, sympy.Number) and text is not None and not _NUMERAL.fullmatch(text.strip()):
            return "partial"  # `4\sqrt(2)` read as 4: what was parsed is not all that was written
    left, right = gold[0], parsed[0]
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr) and left != right:
        return "tiny" if _relative_gap(left, right) else None
    return None


def _relative_gap(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two numbers that are equal to 15 decimals differ in proportion (1/2004! and 1/2006!)."""
    if left.free_symbols or right.free_symbols or left.has(sympy.UnevaluatedExpr) or right.has(sympy.UnevaluatedExpr):
        return False
    try:
        size = max(abs(left.evalf(5)), abs(right.evalf(5)))
        if not size.is_number or size == 0 or size > sympy.Float("1e-4"):
            return False
        return bool(abs((left / right).evalf(12) - 1) > sympy.Float("1e-3"))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False


def equal_as_complex(gold: list[Any], parsed: list[Any]) -> bool:
    r"""Whether the two are equal numbers once `i` is the imaginary unit (`e^{i\pi}` and -1)."""
    left, right = gold[0], parsed[0]
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    symbols = left.free_symbols | right.free_symbols
    if not symbols or {symbol.name for symbol in symbols if isinstance(symbol, sympy.Symbol)} != {"i"}:
        return False
    try:
        unit = dict.fromkeys(symbols, sympy.I)
        return bool(abs((left.subs(unit) - right.subs(unit)).evalf(15)) < sympy.Float("1e-12"))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False


# ------------------------------------------------------------------------------------------ canonical form


def canonical(parsed: list[Any], text: str) -> str | None:
    """One spelling for equal answers where that is cheap: rationals as numbers, expressions as sympy prints
    them."""
    if parsed and not isinstance(parsed[0], str):
        expression = parsed[0]
        if isinstance(expression, sympy.Eq) and isinstance(expression.lhs, sympy.Symbol):
            expression = expression.rhs
        try:
            if isinstance(expression, sympy.Rational):
                return canonical_number(Fraction(int(expression.p), int(expression.q)))[:300]
            if isinstance(expression, sympy.Float):
                return canonical_number(Fraction(str(expression.round(12))))[:300]
            percent = grader.get_pct_val(expression)
            return str(expression)[:300] if percent is None else f"{percent}%"
        except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
            pass
    return canonical_text(normalize(text[-300:])) or None


def _clear_caches() -> None:
    parse_answer.cache_clear()
    sympy.core.cache.clear_cache()


if __name__ == "__main__":
    main()
