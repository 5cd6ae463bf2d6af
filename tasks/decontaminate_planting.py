"""Planted copies: benchmark items changed by rules, to measure what decontamination finds.

A kind gives None where it would not change an item (no numbers to spell out, one sentence only). Not covered: what
a language model would make of an item; these kinds are a floor, not the field.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from tasks.decontaminate_benchmarks import Item
from tasks.decontaminate_code import NUMBER, SIGNATURE, prose
from tasks.decontaminate_text import TENS_WORDS, UNITS

NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
_NAMES = "Amara Bogdan Chiara Dmitri Eirik Fatou Giorgos Hanako Imre Jovana Kwame Leticia Mateus Noor Oisin Priya"
NAMES = _NAMES.split()
_MONTHS = """January February March April May June July August September October November December Monday
Tuesday Wednesday Thursday Friday Saturday Sunday English French Spanish"""
MONTHS = frozenset(_MONTHS.split())
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z$])")
WHOLE_NUMBER = re.compile(r"(?<![\w.,/^{\\$-])(\d{1,2})(?![\w/^}]|[.,]\d)")
TENS = ["", "", *TENS_WORDS.split()]
SYNONYMS = {
    "buys": "purchases", "buy": "purchase", "bought": "purchased", "gets": "receives", "got": "received",
    "gave": "handed", "gives": "hands", "costs": "is priced at", "cost": "price", "total": "overall", "in total":
    "altogether", "each": "every", "every": "each", "how many": "what number of", "how much": "what amount of",
    "money": "cash", "children": "kids", "kids": "children", "friends": "pals", "house": "home", "work": "labour",
    "works": "labours", "needs": "requires", "need": "require", "wants": "wishes", "decides": "chooses", "makes":
    "earns", "also": "in addition", "then": "afterwards", "if": "supposing", "find": "determine", "determine": "find",
    "compute": "calculate", "calculate": "compute", "evaluate": "work out", "simplify": "reduce",
    "such that": "so that",
    "what is": "give", "number": "count", "smallest": "least", "largest": "greatest", "positive": "strictly positive",
    "left": "remaining", "more than": "above", "less than": "below", "return": "give back", "returns": "gives back",
    "write a function to": "implement a routine that can", "check": "test", "given": "supplied", "list": "sequence",
    "string": "text", "takes": "accepts", "large": "big", "small": "little", "begin": "start", "starts": "begins",
    "day": "24-hour day", "week": "calendar week", "currently": "at present", "because": "since", "people": "persons",
}  # fmt: skip
_SYNONYM = re.compile(r"\b(" + "|".join(sorted(SYNONYMS, key=len, reverse=True)) + r")\b", re.IGNORECASE)


def verbatim(item: Item, rng: random.Random) -> str | None:
    return item.text


def case_and_punctuation(item: Item, rng: random.Random) -> str | None:
    text = item.text.upper() if rng.random() < 0.5 else item.text.lower()
    return re.sub(r"(?<![\d\\}])[,;:!?'\"](?=\s|$)|\.(?=\s|$)", "", text) if not item.is_code else text


def names_changed(item: Item, rng: random.Random) -> str | None:
    """Other people, the same numbers; where there are no people, other letters for x, y, n; another function name."""
    if item.is_code:
        name = item.entry_point or ""
        return item.text.replace(name, f"task_{rng.randrange(100, 999)}") if name and name in item.text else None
    found = [name for name in dict.fromkeys(NAME.findall(item.text)) if name not in MONTHS]
    text = item.text
    for old, new in zip(found, rng.sample(NAMES, len(NAMES)), strict=False):
        text = re.sub(rf"\b{old}\b", new, text)
    if not found and "$" in item.text:
        free = [one for one in "tukvwpqmhjrcd" if not re.search(rf"(?<![A-Za-z\\]){one}(?![A-Za-z])", text)]
        letters = dict(zip("xyn", free, strict=False)) if len(free) >= 3 else {}
        text = re.sub(r"(?<![A-Za-z\\])([xyn])(?![A-Za-z])", lambda match: letters.get(match[1], match[1]), text)
    return text if text != item.text else None


def sentence_order(item: Item, rng: random.Random) -> str | None:
    parts = SENTENCE.split(item.text)
    if len(parts) < 3 or item.is_code:
        return None
    first = list(parts)
    while parts == first:
        rng.shuffle(parts)
    return " ".join(parts)


def wrapped(item: Item, rng: random.Random) -> str | None:
    before = (
        "You are a careful assistant who has helped many students this term. Read the task below twice, think before "
        "you answer, explain every step in your own words, and check the result at the end.\n\n"
    )
    after = "\n\nPut the final result on a line of its own. If anything is unclear, state what you assumed and go on."
    return before + item.text + after


def sub_questions(item: Item, rng: random.Random) -> str | None:
    """The same facts, asked for in two numbered steps."""
    parts = SENTENCE.split(item.text)
    if len(parts) < 3 or item.is_code:
        return None
    middle = len(parts) // 2
    return (f"Answer in steps. (1) {' '.join(parts[:middle])} What follows from this alone? "
            f"(2) {' '.join(parts[middle:-1])} Using (1), {parts[-1][:1].lower()}{parts[-1][1:]}")  # fmt: skip


def latex_and_plain(item: Item, rng: random.Random) -> str | None:
    """LaTeX as plain text; a plain text's numbers in LaTeX."""
    if item.is_code:
        return None
    if "$" not in item.text and "\\" not in item.text:
        text = re.sub(r"(?<![\w.])\$?(\d+(?:\.\d+)?)(?![\w.]\d)", r"$\1$", item.text)
        return text if text != item.text else None
    text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", item.text)
    for old, new in ((r"cdot|times", "*"), (r"left|right", ""), (r"leq?", "<="), (r"geq?", ">="), (r"neq?", "!="),
                     (r"pm", "±")):  # fmt: skip
        text = re.sub(rf"\\(?:{old})(?![a-z])", new, text)
    text = text.replace("$", "")
    return re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r"\1", text).replace("{", "(").replace("}", ")").replace("\\", "")


def numbers_spelt(item: Item, rng: random.Random) -> str | None:
    if item.is_code:
        return None
    text = WHOLE_NUMBER.sub(lambda match: _spell(int(match[1])), item.text)
    return text if text != item.text else None


def _spell(value: int) -> str:
    if value < 20:
        return UNITS.split()[value]
    return TENS[value // 10] + (f"-{UNITS.split()[value % 10]}" if value % 10 else "")


def synonyms(item: Item, rng: random.Random) -> str | None:
    """Other words, names and sentence order at once."""
    text = (names_changed(item, rng) or item.text) if not item.is_code else item.text
    changed = _SYNONYM.sub(lambda match: SYNONYMS[match[1].lower()], text)
    return changed if changed != text else None


def other_language(item: Item, rng: random.Random) -> str | None:
    """The head of the function in C or JavaScript, what it does in a comment, an example as values."""
    match = next((m for m in SIGNATURE.finditer(item.text) if m[1] == item.entry_point), None)
    if not item.is_code or match is None:
        return None
    parameters = [part.split(":")[0].split("=")[0].strip() for part in match[2].split(",") if part.strip()]
    told = _SYNONYM.sub(lambda found: SYNONYMS[found[1].lower()], prose(item.text).partition(". ")[2])
    values = re.search(rf"\[{NUMBER}(?:,\s*{NUMBER})+\]", item.text)
    if rng.random() < 0.5:
        example = f"\n    int example[] = {{{values.group()[1:-1]}}};" if values else ""
        arguments = ", ".join(f"void *{name}" for name in parameters)
        return f"#include <stdio.h>\n/* {told} */\nvoid *{match[1]}({arguments}) {{{example}\n    return NULL;\n}}\n"
    camel = re.sub(r"_+([a-z0-9])", lambda found: found[1].upper(), match[1])
    names = ", ".join(re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name) for name in parameters)
    example = f"\n// {camel}({values.group()})" if values else ""
    return f"// {told}\nfunction {camel}({names}) {{\n}}{example}\n"


KINDS: dict[str, Callable[[Item, random.Random], str | None]] = {
    one.__name__: one
    for one in (verbatim, case_and_punctuation, names_changed, sentence_order, wrapped, sub_questions, latex_and_plain,
                numbers_spelt, synonyms, other_language)
}  # fmt: skip
