"""Units of measurement: SI with its prefixes, and what else science answers are written in; as symbols and in words.

A unit becomes a factor to SI base units and the exponents of those. Angles keep a dimension of their own, so that
50 Hz and 50 rad/s are not the same. Not covered: logarithmic units (dB, pH), money, units that name different things
in different places (ton, gallon): a text with one of those is no unit here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

BASE = ("m", "kg", "s", "A", "K", "mol", "cd", "rad")
Dimensions = tuple[int, ...]
MAX_EXPONENT = 12
MAX_TOKENS = 24


@dataclass(frozen=True)
class Unit:
    """`factor` times the product of BASE to `dimensions` is one of this unit; SI value = (value + zero) · factor."""

    factor: float
    dimensions: Dimensions
    zero: float = 0.0

    def power(self, exponent: int) -> Unit:
        return self if exponent == 1 else Unit(self.factor**exponent, tuple(one * exponent for one in self.dimensions))

    def times(self, other: Unit) -> Unit:
        return Unit(
            self.factor * other.factor,
            tuple(one + two for one, two in zip(self.dimensions, other.dimensions, strict=True)),
        )

    def __str__(self) -> str:
        powers = zip(BASE, self.dimensions, strict=True)
        return " ".join(name if power == 1 else f"{name}^{power}" for name, power in powers if power)


ONE = Unit(1.0, (0,) * len(BASE))

# symbol | factor | exponents of BASE | names; a + before the symbol: it takes SI prefixes
_TABLE = f"""
+m    | 1            | 1 0 0 0 0 0 0 0     | meter metre
+g    | 1e-3         | 0 1 0 0 0 0 0 0     | gram gramme
+s    | 1            | 0 0 1 0 0 0 0 0     | second sec
+A    | 1            | 0 0 0 1 0 0 0 0     | ampere amp
+K    | 1            | 0 0 0 0 1 0 0 0     | kelvin
+mol  | 1            | 0 0 0 0 0 1 0 0     | mole
+cd   | 1            | 0 0 0 0 0 0 1 0     | candela
+rad  | 1            | 0 0 0 0 0 0 0 1     | radian
+Hz   | 1            | 0 0 -1 0 0 0 0 0    | hertz
+N    | 1            | 1 1 -2 0 0 0 0 0    | newton
+Pa   | 1            | -1 1 -2 0 0 0 0 0   | pascal
+J    | 1            | 2 1 -2 0 0 0 0 0    | joule
+W    | 1            | 2 1 -3 0 0 0 0 0    | watt
+C    | 1            | 0 0 1 1 0 0 0 0     | coulomb
+V    | 1            | 2 1 -3 -1 0 0 0 0   | volt
+F    | 1            | -2 -1 4 2 0 0 0 0   | farad
+Ω    | 1            | 2 1 -3 -2 0 0 0 0   | ohm
+S    | 1            | -2 -1 3 2 0 0 0 0   | siemens
+Wb   | 1            | 2 1 -2 -1 0 0 0 0   | weber
+T    | 1            | 0 1 -2 -1 0 0 0 0   | tesla
+H    | 1            | 2 1 -2 -2 0 0 0 0   | henry henries
+lm   | 1            | 0 0 0 0 0 0 1 0     | lumen
+lx   | 1            | -2 0 0 0 0 0 1 0    | lux
+Bq   | 1            | 0 0 -1 0 0 0 0 0    | becquerel
+Gy   | 1            | 2 0 -2 0 0 0 0 0    | gray
+Sv   | 1            | 2 0 -2 0 0 0 0 0    | sievert
+L    | 1e-3         | 3 0 0 0 0 0 0 0     | liter litre
+l    | 1e-3         | 3 0 0 0 0 0 0 0     |
+M    | 1e3          | -3 0 0 0 0 1 0 0    | molar
+eV   | 1.602176634e-19 | 2 1 -2 0 0 0 0 0 | electronvolt
+cal  | 4.184        | 2 1 -2 0 0 0 0 0    | calorie
+Wh   | 3600         | 2 1 -2 0 0 0 0 0    |
+Ah   | 3600         | 0 0 1 1 0 0 0 0     |
+Nm   | 1            | 2 1 -2 0 0 0 0 0    |
+bar  | 1e5          | -1 1 -2 0 0 0 0 0   |
+Da   | 1.66053906892e-27 | 0 1 0 0 0 0 0 0 | dalton
+pc   | 3.0856775814913673e16 | 1 0 0 0 0 0 0 0 | parsec
+yr   | 31557600     | 0 0 1 0 0 0 0 0     | year yrs
u     | 1.66053906892e-27 | 0 1 0 0 0 0 0 0 | amu
min   | 60           | 0 0 1 0 0 0 0 0     | minute mins
h     | 3600         | 0 0 1 0 0 0 0 0     | hour hr hrs
d     | 86400        | 0 0 1 0 0 0 0 0     | day
t     | 1000         | 0 1 0 0 0 0 0 0     | tonne
°     | {math.pi / 180!r} | 0 0 0 0 0 0 0 1 | degree deg
rev   | {2 * math.pi!r} | 0 0 0 0 0 0 0 1  | revolution
rpm   | {math.pi / 30!r} | 0 0 -1 0 0 0 0 1 |
%     | 0.01         | 0 0 0 0 0 0 0 0     | percent
ppm   | 1e-6         | 0 0 0 0 0 0 0 0     |
atm   | 101325       | -1 1 -2 0 0 0 0 0   | atmosphere
Torr  | {101325 / 760!r} | -1 1 -2 0 0 0 0 0 | torr mmHg
psi   | 6894.757293168 | -1 1 -2 0 0 0 0 0 |
dyn   | 1e-5         | 1 1 -2 0 0 0 0 0    | dyne
erg   | 1e-7         | 2 1 -2 0 0 0 0 0    |
hp    | 745.6998715822702 | 2 1 -3 0 0 0 0 0 | horsepower
Å     | 1e-10        | 1 0 0 0 0 0 0 0     | angstrom ångström
AU    | 149597870700 | 1 0 0 0 0 0 0 0     | au
ly    | 9460730472580800 | 1 0 0 0 0 0 0 0 | lightyear
in    | 0.0254       | 1 0 0 0 0 0 0 0     | inch inches
ft    | 0.3048       | 1 0 0 0 0 0 0 0     | foot feet
yd    | 0.9144       | 1 0 0 0 0 0 0 0     | yard
mi    | 1609.344     | 1 0 0 0 0 0 0 0     | mile
mph   | 0.44704      | 1 0 -1 0 0 0 0 0    |
kph   | {1 / 3.6!r}  | 1 0 -1 0 0 0 0 0    |
lb    | 0.45359237   | 0 1 0 0 0 0 0 0     | lbs pound
oz    | 0.028349523125 | 0 1 0 0 0 0 0 0   | ounce
cc    | 1e-6         | 3 0 0 0 0 0 0 0     |
ha    | 1e4          | 2 0 0 0 0 0 0 0     | hectare
"""
_PREFIX_TABLE = """
Q quetta 30  R ronna 27  Y yotta 24  Z zetta 21  E exa 18  P peta 15  T tera 12  G giga 9  M mega 6  k kilo 3  h hecto 2
da deca 1  d deci -1  c centi -2  m milli -3  µ micro -6  n nano -9  p pico -12  f femto -15  a atto -18  z zepto -21
y yocto -24  r ronto -27  q quecto -30
"""
_PREFIXES = _PREFIX_TABLE.split()


def _units() -> dict[str, Unit]:
    """All symbols and names, with prefixes; a unit's own symbol goes before a prefixed one (`min`, `cd`, `ft`)."""
    plain: dict[str, Unit] = {}
    prefixed: dict[str, Unit] = {}
    for line in _TABLE.strip().splitlines():
        symbol, factor, exponents, names = (part.strip() for part in line.split("|"))
        unit = Unit(float(factor), tuple(int(one) for one in exponents.split()))
        words = [form for name in names.split() for form in (name, f"{name}s")]
        plain |= dict.fromkeys([symbol.lstrip("+"), *words], unit)
        if symbol.startswith("+"):
            for short, long, exponent in zip(_PREFIXES[::3], _PREFIXES[1::3], _PREFIXES[2::3], strict=True):
                scaled = Unit(unit.factor * 10.0 ** int(exponent), unit.dimensions)
                prefixed |= dict.fromkeys([short + symbol[1:], *(long + word for word in words)], scaled)
    kelvin = plain["K"].dimensions
    celsius, fahrenheit = Unit(1.0, kelvin, 273.15), Unit(5 / 9, kelvin, 459.67)
    plain |= {"°C": celsius, "Celsius": celsius, "celsius": celsius, "°F": fahrenheit, "°K": plain["K"]}
    return {**prefixed, **plain, "Kg": prefixed["kg"], "KG": prefixed["kg"], "%": plain["%"]}


UNITS = _units()
_TOKEN = re.compile(
    r"(?:(?P<name>°[CFK]?(?![A-Za-z])|%|[A-Za-zµΩÅåö]+)"
    r"|(?P<exponent>(?:\^|\*\*)\s*(?:\(\s*[+-]?\d{1,2}\s*\)|[+-]?\d{1,2})|(?<=[A-Za-zΩÅ)])[+-]?\d{1,2})"
    r"|(?P<one>1)(?=\s*/)|(?P<mark>[/()*·⋅.-]))\s*"
)
_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER = {"squared": 2, "cubed": 3}
_DEGREES = re.compile(r"(?:°|\bdeg(?:rees?)?\.?)\s*(C|F|K|Celsius|Fahrenheit|celsius|fahrenheit|centigrade)\b")
_TWO_WORDS = re.compile(r"\b(electron|light|horse)[ -](volts?|years?|power)\b", re.IGNORECASE)


def parse_unit(text: str) -> Unit | None:
    """The unit that the whole text names, as `m/s^2`, `kg m^2 s^-1`, `J/(kg·K)`, `meters per second squared`; None for
    anything else, the empty text included.

    All that follows a slash or `per` divides: `J/kg K` is J/(kg K).
    """
    text = _DEGREES.sub(lambda match: f"°{match[1][0].upper()}", text.strip())
    text = _TWO_WORDS.sub(lambda match: (match[1] + match[2]).lower(), text).replace("mm Hg", "mmHg")
    tokens: list[re.Match[str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) == MAX_TOKENS:
            return None
        tokens.append(match)
        at = match.end()
    try:
        unit, rest = _product(tokens, 0)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    return unit if rest == len(tokens) and tokens and 0 < unit.factor < math.inf else None


def _product(tokens: list[re.Match[str]], at: int) -> tuple[Unit, int]:
    """The product from token `at` to the end or a closing bracket. Raises ValueError where the grammar is broken."""
    unit, sign, factors, before = ONE, 1, 0, 1
    wanting = False  # an operator waits for what it joins
    while at < len(tokens) and tokens[at]["mark"] != ")":
        name, mark = tokens[at]["name"], tokens[at]["mark"]
        if mark == "/" or name == "per":
            if wanting:
                raise ValueError("two operators in a row")
            sign, wanting, at = -1, True, at + 1
        elif mark in ("*", "·", "⋅", ".", "-") and factors and not wanting:
            wanting, at = True, at + 1
        elif name in _BEFORE:
            before, at = _BEFORE[name], at + 1
        elif tokens[at]["one"] and not factors:
            factors, at = 1, at + 1
        else:
            factor, at = _factor(tokens, at)
            exponent, at = _exponent(tokens, at)
            if factor.zero and (factors or sign < 0 or exponent * before != 1):
                factor = Unit(factor.factor, factor.dimensions)  # a difference of temperatures: J/(kg °C)
            power = factor.power(sign * exponent * before)
            unit = power if unit == ONE else unit.times(power)
            before, factors, wanting = 1, factors + 1, False
    if not factors or before != 1 or wanting:
        raise ValueError("nothing to multiply")
    return unit, at


def _factor(tokens: list[re.Match[str]], at: int) -> tuple[Unit, int]:
    if tokens[at]["mark"] == "(":
        unit, at = _product(tokens, at + 1)
        if at == len(tokens):
            raise ValueError("a bracket is open")
        return unit, at + 1
    name = tokens[at]["name"]
    unit_or_none = UNITS.get(name) or (UNITS.get(name.lower()) if len(name) > 3 else None) if name else None
    if unit_or_none is None:
        raise ValueError(f"no unit: {name}")
    return unit_or_none, at + 1


def _exponent(tokens: list[re.Match[str]], at: int) -> tuple[int, int]:
    """The exponent at token `at`, 1 if there is none: `^2`, `**-1`, `m2`, `s-2`, squared."""
    if at < len(tokens) and tokens[at]["exponent"] is not None:
        exponent = int(tokens[at]["exponent"].strip("^*() "))
        if not 0 < abs(exponent) <= MAX_EXPONENT:
            raise ValueError("exponent out of range")
        return exponent, at + 1
    if at < len(tokens) and tokens[at]["name"] in _AFTER:
        return _AFTER[tokens[at]["name"]], at + 1
    return 1, at
