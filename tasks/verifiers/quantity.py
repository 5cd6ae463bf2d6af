r"""Numbers with units against a reference, by rule: `5 \times 10^{3}\,\text{kg}`, `25 °C`, `3.2e-19 J`, `9.8 m/s²`.

The rule speaks only where it is sure; else the verdict is `unverifiable` and the next verifier of the route, the judge,
is asked: where reference or answer is no single quantity, where the answer leaves out the unit, where the two differ by
less than rounding explains. The answer's canonical form is given all the same, for the teachers' vote. What is not
covered: ranges, vectors, directions, logarithmic units, whether the number of significant digits is right.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.verifiers.answer import last_boxed
from tasks.verifiers.quantity_units import BASE, UNITS, Unit, parse_unit
from tasks.verifiers.verdict import Item, Judgement, Status, settings_hash, unscored

RULES_REVISION = 2  # raise it whenever a rule here or in quantity_units.py can change a verdict
MAX_CHARS = 200  # of a statement of the answer
TAIL_CHARS = 10_000  # of a response, in which the statement is looked for
_LOOSE = (BASE.index("mol"), BASE.index("rad"))  # that science writes and leaves out: kJ and kJ/mol, 1/s and rad/s


@dataclass(frozen=True)
class Quantity:
    """A number as written and its unit (None: none is written).

    `step` is the place of its last digit, 0.1 for `2.5`; `whole` says that it is written as a whole number.
    """

    value: float
    unit: Unit | None
    step: float
    whole: bool

    def canonical(self) -> str:
        """Three significant digits in SI base units; a whole number without a unit as it is."""
        if self.unit is None:
            return f"{self.value:.0f}" if self.whole else f"{self.value:.3g}"
        return f"{(self.value + self.unit.zero) * self.unit.factor:.3g} {self.unit}".strip()


@dataclass(frozen=True)
class Comparison:
    """`equal` is None where the rule can't tell; `difference` is relative to the reference, in its unit."""

    equal: bool | None
    reason: str
    difference: float | None = None


class QuantityVerifier:
    """Score 1.0 for an answer within `tolerance` (relative, in the reference's unit) of the reference, else 0.0.

    Statuses: accepted, wrong_answer, no_answer, unverifiable (the rule can't tell). Raises ValueError for a tolerance
    outside 0..1.
    """

    name = "quantity"
    threshold = 0.5

    def __init__(self, *, tolerance: float = 0.01) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must lie in 0..1, such as 0.01 for 1 %; got {tolerance}")
        self.tolerance = tolerance

    @property
    def version(self) -> str:
        """Revision of our rules, hash of the settings."""
        return f"quantity rules {RULES_REVISION}; settings {settings_hash({'tolerance': self.tolerance})}"

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item, in the same order."""
        return [self._judge(item) for item in items]

    def _judge(self, item: Item) -> Judgement:
        started = time.perf_counter()
        reference = stated_quantity(item.ground_truth or "")
        if reference is None:
            missing = not (item.ground_truth or "").strip()
            reason = "no reference answer" if missing else "the reference is no single quantity"
            return _unverifiable({"reason": reason}, stated_quantity(item.answer_content), started)
        if not item.answer_content.strip():
            return Judgement(0.0, False, "no_answer", None, {"reason": "empty answer"}, time.perf_counter() - started)
        answer = stated_quantity(item.answer_content)
        if answer is None:
            return unscored("unverifiable", "the answer states no single quantity", time.perf_counter() - started)
        found = compare(reference, answer, self.tolerance)
        seconds = time.perf_counter() - started
        evidence: dict[str, object] = {
            "reason": found.reason,
            "reference": reference.canonical(),
            "answer": answer.canonical(),
        }
        if found.difference is not None:
            evidence["relative_difference"] = float(f"{found.difference:.3g}")
        if found.equal is None:
            return _unverifiable(evidence, answer, started)
        status: Status = "accepted" if found.equal else "wrong_answer"
        return Judgement(float(found.equal), found.equal, status, answer.canonical(), evidence, seconds)


def _unverifiable(evidence: dict[str, object], answer: Quantity | None, started: float) -> Judgement:
    canonical = None if answer is None else answer.canonical()
    return Judgement(None, None, "unverifiable", canonical, evidence, time.perf_counter() - started)


# ---------------------------------------------------------------------------------------------- comparing


def compare(reference: Quantity, answer: Quantity, tolerance: float) -> Comparison:
    """Whether the answer is the reference, in the reference's unit; see the module's text for what is left open."""
    if reference.unit is None or answer.unit is None:
        return _compare_unitless(reference, answer, tolerance)
    if reference.unit.dimensions != answer.unit.dimensions:
        return _compare_dimensions(reference.unit, answer.unit)
    ratio = answer.unit.factor / reference.unit.factor
    value = (answer.value + answer.unit.zero) * ratio - reference.unit.zero
    return _compare_values(reference, value, answer.step * ratio, tolerance)


def _compare_unitless(reference: Quantity, answer: Quantity, tolerance: float) -> Comparison:
    if reference.unit is not None:
        return Comparison(None, "the answer has no unit")
    if answer.unit is not None:
        share = answer.unit.factor if not any(answer.unit.dimensions) else None  # percent, ppm
        if share is not None and _compare_values(reference, answer.value * share, 0.0, tolerance).equal:
            return Comparison(True, "within the tolerance")
        return Comparison(None, "the reference has no unit")
    if not reference.whole:
        return _compare_values(reference, answer.value, answer.step, tolerance)
    if answer.value == reference.value:
        return Comparison(True, "the same whole number", 0.0)
    found = _compare_values(reference, answer.value, answer.step, tolerance)
    if found.equal is not False and not answer.whole:
        return Comparison(None, "near a whole number", found.difference)  # a count, or a rounded measurement?
    close = found.equal is not False and answer.step > 1
    return Comparison(None if close else False, "another whole number", found.difference)


def _compare_dimensions(reference: Unit, answer: Unit) -> Comparison:
    differ = [place for place in range(len(BASE)) if reference.dimensions[place] != answer.dimensions[place]]
    if all(place in _LOOSE for place in differ):
        return Comparison(None, "the units differ by mol or by an angle")
    if {reference.dimensions, answer.dimensions} == {UNITS["C"].dimensions, UNITS["K"].dimensions}:
        return Comparison(None, "C may be coulomb or degree Celsius")
    return Comparison(False, f"another dimension: {answer} for {reference}")


def _compare_values(reference: Quantity, value: float, step: float, tolerance: float) -> Comparison:
    gap = abs(value - reference.value)
    difference = gap / abs(reference.value) if reference.value else None
    if gap <= tolerance * abs(reference.value) * (1 + 1e-9):
        return Comparison(True, "within the tolerance", difference)
    if gap <= max(reference.step, step) / 2 * (1 + 1e-9):
        return Comparison(None, "equal when rounded to the coarser of the two", difference)
    return Comparison(False, "outside the tolerance", difference)


# ------------------------------------------------------------------------------------------------ reading

_CUE = re.compile(r"\banswer\b[\s*_]*(?:is|:|=|≈|would be)[\s:*_]*", re.IGNORECASE)


def stated_quantity(text: str) -> Quantity | None:
    r"""The quantity that a text states as its answer: all of a short text, else the last `\boxed{}` (with a unit right
    behind it), else what follows the last `answer is` or `Answer:`. None if that is no single quantity."""
    text = text.strip()[-TAIL_CHARS:]
    if len(text) <= MAX_CHARS and (whole := parse_quantity(text)):
        return whole
    boxed = last_boxed(text)
    if boxed is not None:
        end = text.rfind(boxed) + len(boxed)
        behind = _first_sentence(text[end:].lstrip().removeprefix("}")[:60])
        return parse_quantity(f"{boxed} {behind}") or parse_quantity(boxed)
    cues = list(_CUE.finditer(text))
    return parse_quantity(_first_sentence(text[cues[-1].end() :])) if cues else None


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!\d)[.;](?:\s|$)|(?<=\d)\.(?:\s|$)|\n", text, maxsplit=1)[0]


_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?!\d)|\d{1,40})(?:\.\d{0,40})?|\.\d{1,40})"
_TEN_TO = r"10\s*(?:\^|\*\*)\s*[{(]?\s*(?P<ten>[+-]?\s?\d{1,3})\s*[)}]?"
_NUMBER = re.compile(rf"(?P<digits>[+-]?\s?{_DIGITS})(?:[eE](?P<e>[+-]?\d{{1,3}})(?!\d)|\s*[×x*·⋅]\s*{_TEN_TO})?")
_POWER_OF_TEN = re.compile(rf"(?P<sign>[+-]?)\s?{_TEN_TO}")
_UNCERTAINTY = re.compile(rf"\s*(?:±|\+/-)\s*(?:{_DIGITS})")
_HEDGE = re.compile(
    r"^(?:(?:is|about|approximately|approx\.?|roughly|around|circa|ca\.|exactly|[≈~∼])\s*)+", re.IGNORECASE
)


def parse_quantity(text: str) -> Quantity | None:
    """The quantity that the whole text is, with `g =` or `about` before it and a full stop behind; else None."""
    text = plain_text(text)
    if len(text) > MAX_CHARS:
        return None
    before, equals, after = text.rpartition("=") if "=" in text else text.rpartition("≈")
    if equals:
        if re.search(r"[,;]\s|\band\b|\bor\b", before):
            return None  # several answers
        text = after
    text = _HEDGE.sub("", text.strip()).strip()
    text = re.sub(r"^\(([^()]*±[^()]*)\)", r"\1", text)
    match = _POWER_OF_TEN.match(text) or _NUMBER.match(text)
    if match is None:
        return None
    rest = _UNCERTAINTY.sub("", text[match.end() :], count=1).strip()
    unit = parse_unit(rest) if rest else None
    if rest and unit is None:
        return None
    return _quantity(match, unit)


def _quantity(match: re.Match[str], unit: Unit | None) -> Quantity | None:
    parts = match.groupdict()
    if "sign" in parts:  # a bare power of ten
        mantissa, exponent = f"{parts['sign']}1", int(parts["ten"].replace(" ", ""))
    else:
        mantissa = re.sub(r"[ ,]", "", parts["digits"])
        exponent = int((parts["e"] or parts["ten"] or "0").replace(" ", ""))
    decimals = len(mantissa.partition(".")[2])
    try:
        value, step = float(mantissa) * 10.0**exponent, 10.0 ** (exponent - decimals)
    except OverflowError:
        return None
    if value in (float("inf"), float("-inf")) or (value == 0 and re.search("[1-9]", mantissa)):
        return None  # beyond what a float holds
    return Quantity(value, unit, step, whole="." not in mantissa and exponent == 0)


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_CHARACTERS = str.maketrans({"−": "-", "–": "-", "‐": "-", "‑": "-", "μ": "µ", "∙": "·", "•": "·", "⁄": "/", "º": "°"})
_LATEX = (
    (re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mathsf|boldsymbol|operatorname|mbox|rm|unit|si)"
                r"\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" (\1)/(\2) "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?:Celsius)?|\\circ"), "°"),
    (re.compile(r"\\times"), "×"),
    (re.compile(r"\\cdot|\\ast"), "·"),
    (re.compile(r"\\(?:approx|simeq|sim)"), "≈"),
    (re.compile(r"\\pm"), "±"),
    (re.compile(r"\\mu(?![a-z])\s*|\\micro\s*"), "µ"),
    (re.compile(r"\\Omega|\\ohm"), "Ω"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:left|right|displaystyle|rm|mathrm|quad|qquad)(?![a-zA-Z])|\\[,;:! ()\[\]]|[$~]"), " "),
    (re.compile(r"(\d)\{,\}(\d)"), r"\1,\2"),
)  # fmt: skip


def plain_text(text: str) -> str:
    """The text with LaTeX, Markdown and typographic signs made plain: `9.8\\ \\mathrm{m/s^2}` is `9.8 m/s^2`."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text[: 4 * MAX_CHARS])
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = re.sub(r"\^\s*\{([^{}]*)\}", r"^\1", text)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = re.sub(r"\s+", " ", text).strip().strip("*_`").strip()
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    return text.rstrip(".,;").strip() if not text.endswith("...") else text
