r"""Normal forms of an answer: one spelling for what is the same on paper, and its reading as a number or a word.

Everything here is linear in the length of the text (at most 4,000 characters) and safe on hostile input: no symbolic
engine, numbers of bounded size. What is not covered: units, times and ratios (`answer_quantities`), lists, tuples and
matrices (`answer_shapes`), anything with variables or roots (`math_reading`).
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_INVISIBLE = dict.fromkeys(
    [
        *(*range(0x20), *range(0x7F, 0xA0), 0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F)),
        *(*range(0x2060, 0x206A), 0xFE0E, 0xFE0F, 0x20E3, 0xFEFF),
    ]
)
_CHARACTERS = str.maketrans(
    {
        **_INVISIBLE,
        **dict.fromkeys("\t\n\u00a0\u2009\u202f", " "),
        **dict.fromkeys("−–—－‐‑", "-"),
        **{superscript: f"^{digit}" for digit, superscript in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        "’": "'",
        "，": ",",
        "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8",
        "π": "\\pi ", "∞": "\\infty ", "×": "\\times ", "·": "\\cdot ", "÷": "/", "≤": "\\le ", "≥": "\\ge ",
        "≠": "\\ne ", "±": "\\pm ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}",
        "√": "\\sqrt", "…": "...", "º": "°", "˚": "°",
    }
)  # fmt: skip
_WRAPPERS = (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$"))
_SPACING = re.compile(r"(?<!\\)\\[!,;: ]|~|\\q?quad(?![a-z])")
_DEGREES = re.compile(r"\^\s*(?:\{\s*(?:\\circ|\\degree|°)\s*\}|\\circ(?![a-z]))|\\degree(?![a-z])|\^°")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|operatorname|bf|rm)\s*\{([^{}]*)\}")
_SEGMENT = re.compile(r"\\overline\s*\{([A-Z]{2})\}")
_COMMAND_ALIASES = re.compile(
    r"\\(?:([dtc]frac)|(left|right|[Bb]igg?[lr]?)(?![a-z])|(ldots|dots|cdots)(?![a-z])|(leq|geq|lt|gt|neq|varnothing)(?![a-z]))"
)
_ALIASES = {"leq": "\\le", "geq": "\\ge", "lt": "<", "gt": ">", "neq": "\\ne", "varnothing": "\\emptyset"}
_FRACTION_ARGUMENTS = re.compile(r"\\frac\s*(?:(\d)|\{([^{}]*)\})\s*(?:(\d)|\{([^{}]*)\})")
_ROOT_ARGUMENT = re.compile(r"\\sqrt\s*(\d+)")


def as_latex(text: str) -> str:
    """The text without invisible characters, with ASCII or LaTeX for typographic ones (`−`, `√`, `½`, `５`)."""
    text = text.translate(_CHARACTERS)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = text.replace("√", "\\sqrt") if "√" in text else text
    if "\\sqrt" in text:
        text = _ROOT_ARGUMENT.sub(_root, text)
    return text


def _root(match: re.Match[str]) -> str:
    """`√12` is the root of 12, `\\sqrt12` in LaTeX that of 1; people who leave the braces out mean 12."""
    return f"\\sqrt{{{match[1]}}}"


def normalize(text: str) -> str:
    r"""One spelling for what is the same on paper: outer `$`, spacing commands, `\left`, `\dfrac`, `\frac12`,
    `\text{}`, `\leq`, degrees, typographic characters, final full stop."""
    text = as_latex(text).strip()
    text = text.rstrip(".").rstrip() if not text.endswith("..") else text
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if (
            len(text) > len(opening) + len(closing)
            and text.startswith(opening)
            and text.endswith(closing)
            and "$" not in inner
        ):
            text = inner.strip()
            break
    if "\\" in text or "{" in text:
        text = text.replace("{,}", ",").replace("\\!", "").replace("\\$", "$").replace("\\%", "%")
        text = _SPACING.sub(" ", _DEGREES.sub("°", text))
        text = _COMMAND_ALIASES.sub(_alias, text)
        text = _SEGMENT.sub(r"\1", _TEXT.sub(r" \1 ", text)).strip()
        text = _FRACTION_ARGUMENTS.sub(_fraction, text)
        if text[:1] == "{" and _one_group(text):
            text = text[1:-1]
    text = " ".join(text.split())
    return text if text.endswith("...") else text.rstrip(".").rstrip()


def _alias(match: re.Match[str]) -> str:
    if match[1]:
        return "\\frac"
    if match[2]:
        return ""
    return "..." if match[3] else _ALIASES[match[4]] + " "


def _fraction(match: re.Match[str]) -> str:
    return f"\\frac{{{(match[1] or match[2] or '').strip()}}}{{{(match[3] or match[4] or '').strip()}}}"


def _one_group(text: str) -> bool:
    """Whether the braces around the text are one pair that means nothing (`{5}`; but `{1,2}` is a set)."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0 or (depth == 1 and character == ","):
            return depth == 0 and position == len(text) - 1
    return False


# ------------------------------------------------------------------------------------------------- numbers

_GROUPED = r"[1-9]\d{0,2}(?:[, ]\d{3}){1,20}|[1-9]\d{0,2}(?:_\d{3}){1,20}"
_NUMBER = re.compile(
    rf"([+-]?)\s*(?:[$€£¥₹]\s*)?([+-]?)\s*({_GROUPED}|\d{{1,60}})?(\.\d{{0,60}})?(?:[eE]([+-]?\d{{1,2}}))?\s*[$€£°]?",
    re.ASCII,
)
_TIGHT = re.compile(r"\s*([/{}^]|\\times|\\cdot|(?<=^[+-]))\s*")
_POWER_OF_TEN = re.compile(
    r"([+-]?\d{1,60}(?:\.\d{1,60})?)?(\\times|\\cdot|\*|x)?10\^(?:\{([+-]?\d{1,2})\}|(\d))", re.ASCII
)
_FRACTION = re.compile(
    r"([+-]?)(?:\\frac\{([+-]?\d{1,60})\}\{([+-]?\d{1,60})\}|(\d{1,60})/(\d{1,60})|\((\d{1,60})/(\d{1,60})\))", re.ASCII
)
_MIXED = re.compile(
    r"([+-]?)\s*(\d{1,20})\s*(?:\\frac\{(\d{1,20})\}\{(\d{1,20})\}|(?<=\s)(\d{1,20})/(\d{1,20}))", re.ASCII
)
_REPEATING = re.compile(r"([+-]?)(\d{0,20})\.(\d{0,30})\\(?:overline|bar|dot)\{(\d{1,30})\}", re.ASCII)
_DOTTED = re.compile(r"([+-]?)(\d{0,20})\.(\d{0,20}?)(?:(\d)\4{2,}|(\d{2,8}?)\5+)(?:\.\.\.)", re.ASCII)
_UNITS_IN_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty"
)
_TENS_IN_WORDS = "thirty forty fifty sixty seventy eighty ninety hundred"
_NUMBER_WORDS = {word: number for number, word in enumerate(_UNITS_IN_WORDS.split())}
_NUMBER_WORDS |= {word: 30 + 10 * place for place, word in enumerate(_TENS_IN_WORDS.split())}


def plain_number(normal: str) -> Fraction | None:
    """The value of a normalised text that is nothing but a number (`$1,000.50`, `-3`, `1e3`, `1_000`, `30°`), else
    None.

    At most 60 digits and two digits of exponent, so that the value stays small whatever a model wrote.
    """
    match = _NUMBER.fullmatch(normal)
    if match is None:
        return None
    sign, inner_sign, integer, decimals, exponent = match.groups()
    if (not integer and not (decimals and len(decimals) > 1)) or (sign and inner_sign):
        return None
    digits = (integer or "0").replace(",", "").replace(" ", "").replace("_", "")
    value = Fraction(digits + (decimals if decimals and len(decimals) > 1 else ""))
    if exponent:
        value *= Fraction(10) ** int(exponent)
    return -value if "-" in (sign, inner_sign) else value


def plain_rational(normal: str) -> Fraction | None:
    r"""Like `plain_number`, and also fractions and mixed numbers of integers (`\frac{a}{b}`, `a/b`, `2\frac{1}{2}`),
    repeating decimals (`0.\overline{3}`, `0.333...`), powers of ten (`1.5 \times 10^{-4}`) and number words up to
    twenty and by tens."""
    value = plain_number(normal)
    if value is not None:
        return value
    if normal[:1].isalpha():
        word = _NUMBER_WORDS.get(normal.casefold())
        return None if word is None else Fraction(word)
    bare = _TIGHT.sub(r"\1", normal).removesuffix("°")
    for reading in (_fraction_value, _mixed_value, _repeating_value, _power_value):
        value = reading(bare)
        if value is not None:
            return value
    return None


def _fraction_value(bare: str) -> Fraction | None:
    match = _FRACTION.fullmatch(bare)
    if match is None:
        return None
    numerator, denominator = (int(part) for part in match.groups()[1:] if part is not None)
    if denominator == 0:
        return None
    return Fraction(numerator, denominator) * (-1 if match[1] == "-" else 1)


def _mixed_value(normal: str) -> Fraction | None:
    match = _MIXED.fullmatch(normal)
    if match is None:
        return None
    numerator, denominator = (int(part) for part in match.groups()[2:] if part is not None)
    if not 0 < numerator < denominator:  # `2\frac{3}{2}` would be a product
        return None
    return (int(match[2]) + Fraction(numerator, denominator)) * (-1 if match[1] == "-" else 1)


def _repeating_value(bare: str) -> Fraction | None:
    if match := _REPEATING.fullmatch(bare):
        sign, whole, fixed, period = match.groups()
    elif match := _DOTTED.fullmatch(bare):
        sign, whole, fixed, period = match[1], match[2], match[3], match[4] or match[5]
    else:
        return None
    value = Fraction(f"{whole or 0}.{fixed or 0}") + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if sign == "-" else value


def _power_value(bare: str) -> Fraction | None:
    match = _POWER_OF_TEN.fullmatch(bare)
    if match is None or (match[1] is None) != (match[2] is None):
        return None
    return Fraction(match[1] or 1) * Fraction(10) ** int(match[3] or match[4])


def canonical_number(value: Fraction) -> str:
    """One spelling a value: `18`, `0.5` where the decimals end within 12 places, else `1/3`."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**12
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    whole, rest = divmod(abs(scaled.numerator), 10**12)
    return f"{'-' if value < 0 else ''}{whole}.{rest:012d}".rstrip("0")


def numbers_equal(reference: Fraction, answer: Fraction) -> bool:
    """Equal, or, if one of them is not whole, equal to six decimals and to one part in a million (0.333333
    for 1/3)."""
    if reference == answer:
        return True
    if reference.denominator == 1 and answer.denominator == 1:
        return False
    difference = abs(reference - answer)
    return difference < Fraction(1, 2_000_000) and difference <= max(abs(reference), abs(answer)) / 1_000_000


def same_value(left: str, left_value: Fraction, right: str, right_value: Fraction) -> bool:
    """Whether two written numbers are equal: rounding is forgiven only where one of them is written as a decimal."""
    decimal = "." in left or "." in right
    return numbers_equal(left_value, right_value) if decimal else left_value == right_value


# --------------------------------------------------------------------------------------------------- words

_WORDS = re.compile(r"[^\W\d_]+(?:[ '-]+[^\W\d_]+)*")
_ARTICLE = re.compile(r"(?:an?|the) (?=[a-z]{3})", re.IGNORECASE)
_SHORT_WORDS = frozenset(["yes", "no", "true", "false", "none", "odd", "even"])
_SYMBOLS = "pi infinity infty alpha beta theta phi sqrt sin cos tan log ln exp"
_SYMBOL_NAMES = frozenset(_SYMBOLS.split())
_OPTION = re.compile(r"(?:(?:option|choice|answer) )?\(?([A-J])\)?(?:[.):]\s.*|[.):])?", re.IGNORECASE)


def words(normal: str) -> str | None:
    """The text in lower case, without a leading article, if it reads as words rather than as a product of variables,
    else None.

    Words are letters only, and long (4 letters), capitalised, or several: `Tuesday`, `ABC`, `even`, but not
    `xy`.
    """
    if len(normal) < 2 or _WORDS.fullmatch(normal) is None or normal.casefold() in _SYMBOL_NAMES:
        return None
    if normal.casefold() in _SHORT_WORDS:
        return normal.casefold()
    longest = max(len(word) for word in re.split(r"[ '-]+", normal))
    if longest >= 4 or (longest >= 2 and (normal != normal.lower() or " " in normal)):
        return " ".join(_ARTICLE.sub("", normal, count=1).casefold().split())
    return None


def option(normal: str, *, reference: bool = False) -> str | None:
    """The letter of a multiple-choice answer: `C`, `(C)`, `C.`, `(C) 12`, `Option C`; None if it is none.

    A reference must be the bare letter, in capitals; an answer may be in lower case and may carry the
    option's text.
    """
    if reference:
        bare = normal.strip("().: ")
        return bare if len(bare) == 1 and "A" <= bare <= "J" else None
    match = _OPTION.fullmatch(normal)
    if match is None:
        match = re.fullmatch(r"\(([A-J])\)\s.*", normal)
    return match[1].upper() if match else None


def canonical_text(normal: str) -> str:
    """Canonical form of a normalised answer that was not parsed: number, option, words, else the text without
    blanks."""
    value = plain_rational(normal)
    if value is not None:
        return canonical_number(value)
    if (letter := option(normal, reference=True)) is not None:
        return letter
    spelled = words(normal)
    return (spelled if spelled is not None else normal.replace(" ", ""))[:300]
