r"""One spelling of an answer that has no reference beside it, so that a vote can count equal answers as equal.

With a reference, `answer_compare` decides whether two texts are equal, and may ask Math-Verify. Without one nothing is
compared: each answer is brought to a form of its own. What the rules here don't know, the worker reads with sympy.
What is not covered: equal expressions that sympy prints in two ways, such as a product and its expansion: their votes
are split, never mixed up. A unit is left out, as the question asks for one: `5 km` votes for the same as `5`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tasks.verifiers.answer_compare import compare_normal, options_of
from tasks.verifiers.answer_forms import canonical_number, canonical_text, normalize, option, plain_rational, words
from tasks.verifiers.answer_quantities import clock_time, quantity, ratio
from tasks.verifiers.answer_shapes import shape

MAX_CANONICAL_CHARS = 300
_ASSIGNED = re.compile(r"[a-zA-Z]\s?=\s?([^=<>]+)")
_NEGATED = re.compile(r"\b(?:not|never|cannot)\b|n't\b|\\ne(?![a-z])|≠|!=", re.IGNORECASE)


Leaf = Callable[[str], str | None]
"""The canonical form of an expression that the rules don't know, None if it can't be told here."""


def canonical_answer(text: str, question: str = "", leaf: Leaf = lambda normal: None) -> str | None:
    """The canonical form of an answer as written; None where the rules don't know it and `leaf` doesn't either."""
    normal = normalize(text)
    options = options_of(question) if question else {}
    if options and (letter := _chosen(normal, options)) is not None:
        return letter
    found = _canonical(normal, leaf)
    return None if found is None else found[:MAX_CANONICAL_CHARS]


def _chosen(normal: str, options: dict[str, str]) -> str | None:
    """The letter of the option that an answer names or spells out."""
    letter = option(normal)
    if letter in options:
        return letter
    for letter, text in options.items():
        verdict = compare_normal(normalize(text), normal)
        if verdict is not None and verdict.decision == "accepted":
            return letter
    return None


def _canonical(normal: str, leaf: Leaf) -> str | None:
    if (assigned := _ASSIGNED.fullmatch(normal)) is not None:
        normal = assigned[1].strip()
    value = plain_rational(normal)
    if value is not None:
        return canonical_number(value)
    if _NEGATED.search(normal) or words(normal) is not None or option(normal, reference=True) is not None:
        return canonical_text(normal)
    if clock_time(normal) is not None or ratio(normal) is not None:
        return canonical_text(normal)
    written = quantity(normal)
    if written is not None:
        return canonical_number(written.value) + ("%" if written.percent else "")
    return _listed(normal, leaf) or leaf(normal)


def _listed(normal: str, leaf: Leaf) -> str | None:
    """Lists and sets in order, tuples and intervals as they stand; None for the rest, or where a part isn't known."""
    found = shape(normal)
    if found is None or found.kind not in ("list", "set", "tuple"):
        return None
    parts = [_canonical(part, leaf) for part in found.parts]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if found.kind == "tuple":
        return f"{found.form[:1]}{','.join(known)}{found.form[1:]}"
    ordered = sorted(dict.fromkeys(known))
    return ordered[0] if len(ordered) == 1 else f"{{{','.join(ordered)}}}"
