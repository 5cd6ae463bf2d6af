"""LaTeX formulas as MathML, which browsers draw themselves: no script, no font, no picture.

latex2mathml passes on what a formula says: `\\href` becomes a link, `\\style` an inline style, `\\color{white}` and
`\\phantom` hide text, entities come out as markup. So its tree is written anew here, with known elements and
attributes only; every text is escaped. What it can't read stands as it was written.
"""

from __future__ import annotations

import html
import re
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element

from tasks.page import visible

LONGEST = 2_000
"""characters of a formula that is drawn"""

_ELEMENTS = {
    "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder",
    "mover", "munderover", "mmultiscripts", "mprescripts", "none", "mtable", "mtr", "mtd", "menclose", "mstyle",
    "mpadded",
}  # fmt: skip
_ATTRIBUTES = {
    "accent", "accentunder", "columnalign", "columnlines", "columnspacing", "display", "displaystyle", "fence", "form",
    "largeop", "linethickness", "lspace", "mathvariant", "maxsize", "minsize", "movablelimits", "notation", "rowlines",
    "rowspacing", "rspace", "scriptlevel", "separator", "stretchy", "symmetric", "width",
}  # fmt: skip
_VALUE = re.compile(r"-?(?:[a-z]+(?:[ -][a-z]+)*|\d{0,2}(?:\.\d+)?(?:em|ex|px|pt|%)?)")
_OPERATORS_WITHOUT_LOOKS = str.maketrans("", "", "\u2061\u2062\u2063\u2064")
_SYNONYMS = [
    (re.compile(r"\\(begin|end)\{(?:aligned|alignedat|split|eqnarray\*?|flalign\*?)\}"), r"\\\1{align*}"),
    (re.compile(r"\\(begin|end)\{(?:gathered|gather\*?|multline\*?)\}"), r"\\\1{matrix}"),
    (re.compile(r"\\(?:begin|end)\{(?:equation\*?|displaymath)\}"), ""),
    (re.compile(r"\\(?:tag\*?|label)\{[^{}]*\}"), ""),
]  # fmt: skip
"""environments that latex2mathml doesn't know → ones that it knows"""


def formula(latex: str, *, block: bool) -> str | None:
    """Safe MathML of a formula, in a line of its own if `block`; None if it can't be drawn."""
    if len(latex) > LONGEST:
        return None
    for pattern, replacement in _SYNONYMS:
        latex = pattern.sub(replacement, latex)
    try:
        tree = convert_to_element(latex.strip(), display="block" if block else "inline")
        inside = "".join(_written(one) for one in tree)
    except Exception:  # noqa: BLE001 – a model wrote it: whatever its parser stumbles on, it is shown as it stands
        return None
    return f'<math display="{"block" if block else "inline"}">{inside}</math>'


def _written(element: Element) -> str:
    """One element as HTML, with what is inside it."""
    if element.tag == "mspace" and element.get("linebreak") == "newline":
        return "<mtext> ⏎ </mtext>"
    name = element.tag if element.tag in _ELEMENTS else "mrow"
    attributes = "".join(
        f' {key}="{value}"' for key, value in element.attrib.items() if key in _ATTRIBUTES and _VALUE.fullmatch(value)
    )
    text = html.unescape(element.text or "").translate(_OPERATORS_WITHOUT_LOOKS)
    inside = html.escape(visible(text)) + "".join(_written(one) for one in element)
    return f"<{name}{attributes}>{inside}</{name}>"
