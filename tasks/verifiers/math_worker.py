r"""The process in which Math-Verify runs: `python -m tasks.verifiers.math_worker`, started and killed by
`tasks.verifiers.math`.

Speaks JSON lines: a request `{"pairs": [[reference, answer], ...]}` on stdin is answered by one line a pair, flushed at
once, so that the parent knows which pair a dead worker was at; an answer with the reference null is only brought to its
canonical form. Limits per process: address space by RLIMIT_AS; CPU
seconds per pair by ITIMER_PROF with the default action, so that the kernel ends the process even inside a C loop.

What is not covered: safety against code. Math-Verify parses, it does not execute, but this is no sandbox.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import time
from fractions import Fraction
from typing import Any

import sympy
from math_verify import grader

from tasks.verifiers.answer_canonical import canonical_answer
from tasks.verifiers.answer_compare import compare_normal, compare_parts
from tasks.verifiers.answer_forms import canonical_number, canonical_text, normalize
from tasks.verifiers.math_guards import false_accept, false_reject, plainly_different
from tasks.verifiers.math_reading import is_prose, read_answer, with_memory_errors


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
        for reference, answer in json.loads(line)["pairs"]:
            started = time.perf_counter()
            signal.setitimer(signal.ITIMER_PROF, timeout_s)
            try:
                outcome = compare(reference, answer)
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


def compare(reference: str | None, answer: str) -> dict[str, Any]:
    """`status` (accepted, wrong_answer; unverifiable without a reference), `path`, canonical `answer`. Raises
    MemoryError at the process's limit."""
    try:
        if reference is None:
            return {"status": "unverifiable", "path": "canonical", "answer": canonical_answer(answer, leaf=_symbolic)}
        return _compare(reference, answer)
    except RecursionError:
        return {
            "status": "wrong_answer" if reference is not None else "unverifiable",
            "path": "guard:nesting",
            "answer": canonical_text(normalize(answer[-300:])),
        }


def _compare(reference: str, answer: str) -> dict[str, Any]:
    by_parts = compare_parts(normalize(reference), normalize(answer), _equal_parts)
    if by_parts is not None:
        text = reference if by_parts else answer
        return _outcome(by_parts, "math_verify:parts", _canonical(read_answer(text), text))
    equal, path = _equal_readings(reference, answer)
    text = reference if equal else answer
    return _outcome(equal, path, _canonical(read_answer(text), text))


def _symbolic(normal: str) -> str | None:
    """Worked out and multiplied out, so that `1/sqrt(2)` is `sqrt(2)/2`. Words in which a number stands are no number:
    `between 3 and 5` votes for itself alone."""
    expression = None if is_prose(normal) else read_answer(normal)
    if isinstance(expression, sympy.Expr):
        try:
            expression = sympy.expand(expression.doit())
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001, S110 (sympy raises anything for what it can't do; then it stays as written)
            pass
    return _canonical(expression, normal)


def _outcome(equal: bool, path: str, canonical: str | None) -> dict[str, Any]:
    return {"status": "accepted" if equal else "wrong_answer", "path": path, "answer": canonical}


def _equal_parts(left: str, right: str) -> bool:
    """One part of a list, tuple or matrix against one of the other: by rule, by parts of its own, by Math-Verify."""
    verdict = compare_normal(left, right)
    if verdict is not None:
        return verdict.decision == "accepted"
    nested = compare_parts(left, right, _equal_parts)
    return _equal_readings(left, right)[0] if nested is None else nested


def _equal_readings(reference: str, answer: str) -> tuple[bool, str]:
    """Whether Math-Verify and the guards hold two texts equal, and what decided."""
    left, right = read_answer(reference), read_answer(answer)
    if left is None or right is None:
        # Words, or LaTeX that doesn't parse: the normal forms differ, and that is all that can be said.
        return False, "unparsed:reference" if left is None else "unparsed:answer"
    if _differ(left, right):
        return False, "math_verify:point"
    equal = bool(
        with_memory_errors(lambda: grader.verify(left, right, allow_set_relation_comp=True, timeout_seconds=None))
    )
    guard = _guard(equal, left, right)
    return (not equal, f"guard:{guard}") if guard else (equal, "math_verify")


def _differ(left: Any, right: Any) -> bool:
    try:
        return plainly_different(left, right)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 (sympy raises anything for what it can't evaluate; then Math-Verify is asked)
        return False


def _guard(equal: bool, left: Any, right: Any) -> str | None:
    """The name of the rule that overturns Math-Verify's word, None if none does."""
    try:
        return false_accept(left, right) if equal else false_reject(left, right)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 (sympy raises anything for what it can't do; then Math-Verify's word stands)
        return None


def _canonical(expression: Any, text: str) -> str | None:
    """One spelling for equal answers where that is cheap: rationals as numbers, expressions as sympy prints
    them."""
    if expression is not None:
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
    read_answer.cache_clear()
    sympy.core.cache.clear_cache()


if __name__ == "__main__":
    main()
