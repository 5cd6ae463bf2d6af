"""Comparing what a program gave with what was expected, on the host. Pure functions.

They see untrusted output as text or as plain decoded values, never as objects of the solution's own classes.
Each returns None when equal, else a short reason. What they cost is bounded by the expected output: a flood of
short lines is not split into a million strings, and no pattern can be made to try one text in many ways.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from itertools import islice
from typing import Any

from sandbox.image.values import NotPlain, decode, refuse_colliding

TOLERANCE = 1e-6  # absolute or relative, for what the expected output writes as a decimal
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?\Z", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII)
_BLANK = " \t\r\f\v"
_TOKEN = re.compile(f"[^{_BLANK}]+")  # other white space of Unicode is part of a token
_LONGEST_NUMBER = 400


def compare_output(expected: str, got: str) -> str | None:
    """Compare stdout by line and token.

    Blanks at line ends, CRLF, blank lines at the end and a missing final newline don't matter. A token that
    `expected` writes as a decimal has a tolerance; every other token, whole numbers included, must be the
    same text. So a NUL, an extra token or an extra line is a difference, and NaN equals nothing.
    """
    want = _lines(expected)
    have = _lines(got, len(want))
    for number, (line, other) in enumerate(zip(want, have, strict=False), start=1):
        if line == other and "nan" not in line.lower():
            continue
        tokens = _TOKEN.findall(line)
        others = [match[0] for match in islice(_TOKEN.finditer(other), len(tokens) + 1)]
        if len(tokens) != len(others):
            count = "more" if len(others) > len(tokens) else len(others)
            return f"line {number}: expected {len(tokens)} tokens, got {count}"
        for token, found in zip(tokens, others, strict=True):
            if not _same_token(token, found):
                return f"line {number}: expected {_short(token)}, got {_short(found)}"
    if len(want) != len(have):
        return f"expected {len(want)} lines, got {'more' if len(have) > len(want) else len(have)}"
    return None


def compare_exact(expected: str, got: str) -> str | None:
    """Compare stdout character by character (tasks where layout is the answer)."""
    if expected == got:
        return None
    place = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), None)
    where = min(len(expected), len(got)) if place is None else place
    return f"differs at character {where}: expected {len(expected)} characters, got {len(got)}"


def _lines(text: str, most: int = -1) -> list[str]:
    """The lines without blanks at their ends; what is beyond `most` lines stays together as one more."""
    text = text.replace("\r\n", "\n").rstrip(_BLANK + "\n")
    return [line.rstrip(_BLANK) for line in text.split("\n", most)] if text else []


def _same_token(expected: str, got: str) -> bool:
    if expected.lower().lstrip("+-") == "nan":
        return False
    if expected == got:
        return True
    if len(expected) > _LONGEST_NUMBER or len(got) > _LONGEST_NUMBER:
        return False
    if not (_DECIMAL.match(expected) and _NUMBER.match(got)):
        return False
    return _close(float(expected), float(got)) or _close_decimal(expected, got)


def _close_decimal(expected: str, got: str) -> bool:
    """Beyond the range of a float, e.g. 1e400."""
    try:
        want, have = Decimal(expected), Decimal(got)
        return math.isinf(float(want)) and abs(want - have) <= abs(want) * Decimal(TOLERANCE)
    except ArithmeticError:  # of decimal's own: Overflow, InvalidOperation
        return False


def _close(expected: float, got: float) -> bool:
    finite = math.isfinite(expected) and math.isfinite(got)
    return finite and abs(expected - got) <= max(TOLERANCE, TOLERANCE * abs(expected))


def read_expected(text: str) -> Any:
    """The expected result of a `call` test. JSON; {"__set__": [...]} is a set. Raises ValueError."""
    return _read_sets(json.loads(text))


def _read_sets(value: Any) -> Any:
    if isinstance(value, list):
        return [_read_sets(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"__set__"}:
            return {_hashable(_read_sets(item)) for item in value["__set__"]}
        return {key: _read_sets(item) for key, item in value.items()}
    return value


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def read_result(form: Any) -> Any:
    """A value that came out of the container. Raises NotPlain: a reference, malformed, or too deep."""
    try:
        return decode(form)
    except RecursionError:
        raise NotPlain("the value is nested too deeply") from None


def compare_result(expected: Any, got: Any, path: str = "result") -> str | None:
    """Compare a `call` result with expected JSON.

    Tuples equal lists. An expected float has the tolerance; where a whole number is expected, a whole number must
    be the same and a float within 1e-6, however large it is. A boolean is no number. Keys of a dict may be JSON's
    text for a number (JSON has no others). A set equals a set; where a set is expected, order and container (list,
    tuple) of the result count, content alone does not.
    """
    if isinstance(expected, bool) or isinstance(got, bool) or expected is None or got is None:
        return None if expected is got else _differ(path, expected, got)
    if isinstance(expected, int) and isinstance(got, int):
        return None if expected == got else _differ(path, expected, got)
    if isinstance(expected, int | float) and isinstance(got, int | float):
        try:
            whole = isinstance(expected, int)
            same = abs(expected - got) <= TOLERANCE if whole else _close(float(expected), float(got))
            return None if same else _differ(path, expected, got)
        except OverflowError:
            return _differ(path, expected, got)
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        if len(expected) != len(got):
            return f"{path}: expected {len(expected)} items, got {len(got)}"
        for index, (item, other) in enumerate(zip(expected, got, strict=True)):
            if reason := compare_result(item, other, f"{path}[{index}]"):
                return reason
        return None
    if isinstance(expected, dict) and isinstance(got, dict):
        return _compare_dicts(expected, got, path)
    if isinstance(expected, set | frozenset) and isinstance(got, set | frozenset):
        return None if {_hashable(x) for x in expected} == {_hashable(x) for x in got} else _differ(path, expected, got)
    same = type(expected) is type(got) and expected == got
    return None if same else _differ(path, expected, got)


def _compare_dicts(expected: dict[Any, Any], got: dict[Any, Any], path: str) -> str | None:
    if any(not isinstance(key, str) for key in got) and all(isinstance(key, str) for key in expected):
        plain = {_key_text(key): item for key, item in got.items()}
        if len(plain) != len(got):
            return f"{path}: keys that JSON can't tell apart"
        got = plain
    if len(expected) != len(got):
        return f"{path}: expected {len(expected)} keys, got {len(got)}"
    for key, item in expected.items():
        if key not in got:
            return f"{path}: key {_short(repr(key))} is missing"
        if reason := compare_result(item, got[key], f"{path}[{_short(repr(key))}]"):
            return reason
    return None


def _key_text(key: Any) -> str:
    if isinstance(key, str):
        return key
    return json.dumps(key) if isinstance(key, bool | float) or key is None else _repr(key)


def compare_python(expected: Any, got: Any) -> str | None:
    """Python's own ==, on plain values: what `assert f(x) == y` means."""
    try:
        refuse_colliding(list(got) if isinstance(got, set | dict) else [])
        return None if expected == got else _differ("result", expected, got)
    except (RecursionError, NotPlain, ArithmeticError) as error:
        return f"result cannot be compared: {error}"


def _differ(path: str, expected: Any, got: Any) -> str:
    return f"{path}: expected {_short(_repr(expected))}, got {_short(_repr(got))}"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # whole numbers of more than 4300 digits
        return f"a {type(value).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
