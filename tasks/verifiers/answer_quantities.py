r"""Answers that are a number with something beside it: units, money, percent; and clock times and ratios.

Two units of one dimension are converted (90 minutes are 1.5 hours), two of different dimensions are never equal, and a
unit that only one side writes is ignored: the question names it. Nouns that are no units (`18 apples`) are ignored too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tasks.verifiers.answer_forms import plain_rational, same_value
from tasks.verifiers.quantity_units import UNITS

_NAMES = (
    "m meter metre cm centimeter centimetre mm millimeter millimetre km kilometer kilometre in inch ft foot yd yard mi"
    " mile g gram gramme kg kilogram mg milligram lb pound oz ounce s sec second min minute h hr hour day l L liter"
    " litre ml mL milliliter millilitre mph km/h kph ° degree deg radian rad"
)
"""Units of math problems. Not all that `quantity_units` knows: in mathematics `cd` and `T` are variables."""


def _known_units() -> dict[str, tuple[object, Fraction]]:
    """Name → what it measures and its factor to the base of that."""
    scaled = UNITS | {"km/h": UNITS["kph"]}
    known: dict[str, tuple[object, Fraction]] = {}
    for name in _NAMES.split():
        unit = scaled[name]
        measured = (unit.dimensions, Fraction(str(unit.factor)))
        known |= dict.fromkeys((name, f"{name}s"), measured)
    known |= {"inches": known["inch"], "feet": known["foot"], "gm": known["gram"], "gms": known["gram"]}
    known |= dict.fromkeys(("dollar", "dollars", "$", "USD", "usd"), ("dollar", Fraction(1)))
    known |= dict.fromkeys(("cent", "cents"), ("dollar", Fraction(1, 100)))
    known |= dict.fromkeys(("euro", "euros", "€", "EUR"), ("euro", Fraction(1)))
    known |= dict.fromkeys(("year", "years", "yr", "yrs"), ("year", Fraction(1)))
    return known | dict.fromkeys(("month", "months"), ("year", Fraction(1, 12)))


_UNITS = _known_units()
_PERCENT = re.compile(r"(.*?)\s*(?:%|percent|percentage|pct)", re.IGNORECASE | re.DOTALL)
_POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_NO_UNITS = "or and not to pi sin cos tan log ln sqrt exp if then is than more less from mod with for but"
_NOT_UNITS = frozenset(_NO_UNITS.split())
_SPLIT = re.compile(
    r"([+-]?\s*(?:[$€£]\s*)?[\d.,_/ ]*\d(?:\.(?!\w))?|.*?\})\s*"
    r"((?:[A-Za-z%$¢€°][A-Za-z./%]*)(?:[ -]+[A-Za-z][A-Za-z.]*){0,4})\s*(?:\^\s*\{?([23])\}?)?",
    re.ASCII | re.DOTALL,
)


@dataclass(frozen=True)
class Quantity:
    """A number as written and as value, and its unit: (what it measures, factor to the base, power), None without one.

    `noun` is True where words follow the number that are no known unit.
    """

    number: str
    value: Fraction
    unit: tuple[object, Fraction, int] | None = None
    percent: bool = False
    noun: bool = False


def quantity(normal: str) -> Quantity | None:
    """The quantity that a normalised text is, None if it is something else. A bare number is one without a unit."""
    value = plain_rational(normal)
    if value is not None:
        unit = (*_UNITS["$"], 1) if "$" in normal else None
        return Quantity(normal, value, unit)
    percent = _PERCENT.fullmatch(normal)
    if percent is not None and (value := plain_rational(percent[1].strip())) is not None:
        return Quantity(percent[1], value, percent=True)
    match = _SPLIT.fullmatch(normal.replace("¢", " cents").strip())
    if match is None or (value := plain_rational(match[1].strip())) is None:
        return None
    unit = _unit(match[2], int(match[3] or 1))
    if unit is None and not _noun(match, normal):
        return None
    return Quantity(match[1].strip(), value, unit, noun=unit is None)


def _unit(words: str, power: int) -> tuple[object, Fraction, int] | None:
    names = words.replace("-", " ").split()
    if len(names) == 2 and names[0].lower() in _POWER_WORDS:
        power, names = _POWER_WORDS[names[0].lower()], names[1:]
    if len(names) == 2 and names[1] == "squared":
        power, names = 2, names[:1]
    if len(names) != 1:
        return None
    name = names[0].rstrip(".")
    known = _UNITS.get(name) or (_UNITS.get(name.lower()) if len(name) > 2 else None)
    return None if known is None else (known[0], known[1] ** power, power)


def _noun(match: re.Match[str], normal: str) -> bool:
    """`18 apples` reads as a number of things; `18xy`, `2 or` and `5 sin` don't."""
    words = match[2].replace("-", " ").split()
    if any(word.lower() in _NOT_UNITS for word in words[:1] + words[-1:]) or match[3]:
        return False
    apart = normal[match.end(1) : match.end(1) + 1] == " "
    return apart and all(len(word) >= 3 or position for position, word in enumerate(words))


def compare_quantities(left: Quantity, right: Quantity) -> bool | None:
    """Whether two quantities are equal; None where both are bare numbers (not this module's matter).

    A percent sign that only one side writes may stand for a hundredth (`0.5` for `50%`) or be implied by the question
    (`50` for `50%`, from 1 upwards).
    """
    if left.percent or right.percent:
        return _compare_percent(left, right)
    if left.unit is not None and right.unit is not None:
        if left.unit[0] != right.unit[0] or left.unit[2] != right.unit[2]:
            return False
        return same_value(
            left.number, left.value * left.unit[1], right.number, right.value * right.unit[1]
        )  # fmt: skip
    if left.unit is None and right.unit is None and not (left.noun or right.noun):
        return None
    return same_value(left.number, left.value, right.number, right.value)


def _compare_percent(left: Quantity, right: Quantity) -> bool:
    if left.unit is not None or right.unit is not None:
        return False
    if same_value(left.number, left.value, right.number, right.value):
        return (left.percent and right.percent) or abs(left.value) >= 1 or left.value == 0
    if left.percent and right.percent:
        return False
    scaled = [side.value / 100 if side.percent else side.value for side in (left, right)]
    return same_value(left.number, scaled[0], right.number, scaled[1])


# ---------------------------------------------------------------------------------------- times and ratios

_TIME = re.compile(r"(\d{1,2})(?:\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?)?\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE | re.ASCII)
_RATIO = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(?:\s*(?::|to|\\colon)\s*(\d{1,15}(?:\.\d{1,15})?)){1,5}", re.ASCII)


@dataclass(frozen=True)
class ClockTime:
    """Hour, minute, second; `half` is `a`, `p` or empty."""

    hour: int
    minute: int
    second: int
    half: str


def clock_time(normal: str) -> ClockTime | None:
    """`3:30`, `3:30 p.m.`, `15:30`, `9 a.m.`; None for what is no time of day."""
    match = _TIME.fullmatch(normal)
    if match is None or (match[2] is None and match[4] is None):
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    half = (match[4] or "").lower()
    if hour > (12 if half else 24) or minute > 59 or second > 59:
        return None
    return ClockTime(hour, minute, second, half)


def times_equal(left: ClockTime, right: ClockTime) -> bool:
    """Equal times of day. a.m. or p.m. that only one side writes is implied by the question, unless the other
    side's hour says otherwise."""
    if (left.minute, left.second) != (right.minute, right.second):
        return False
    if left.half == right.half:
        return left.hour == right.hour
    if left.half and right.half:
        return False
    stated, bare = (left, right) if left.half else (right, left)
    full = stated.hour % 12 + (12 if stated.half == "p" else 0)
    return bare.hour in (full, stated.hour)


def ratio(normal: str) -> tuple[Fraction, ...] | None:
    """The terms of `3:4`, `3 to 4`, `1:2:3`; None for what is no ratio."""
    if _RATIO.fullmatch(normal) is None:
        return None
    return tuple(Fraction(term) for term in re.findall(r"\d+(?:\.\d+)?", normal))


def ratios_equal(left: tuple[Fraction, ...], right: tuple[Fraction, ...]) -> bool:
    """Proportional terms in the same order: 3:4 and 6:8."""
    if len(left) != len(right):
        return False
    return all(
        left[0] * other == right[0] * one for one, other in zip(left, right, strict=True)
    ) and any(left) == any(right)  # fmt: skip
