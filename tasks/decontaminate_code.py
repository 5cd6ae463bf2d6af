"""What survives when a programming problem is written in another language: names, parameters, values of examples.

Names are compared by their parts (`has_close_elements`, `hasCloseElements`), example values by what they hold
(`[1, 2]`, `{1, 2}` and `(1.0, 2)` are one). Regular expressions, no parser: the text may be prose, a docstring or any
language. Not covered: what the code does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tasks.decontaminate_text import stem

CODE = re.compile(
    r"\bdef \w+|\bfunction\b|\breturn\b|#include|\bclass \w+|=>|\bconst \w|\bint main\b|\bpublic static\b|"
    r"\bfunc \w+|\bfn \w+|```|>>> |\bassert[ (]|\b(?:program|code|algorithm|script|method|list|array|string)s?\b",
    re.IGNORECASE,
)
"""Where none of these stands, nobody asks for a program."""
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
NUMBER = r"-?\d+(?:\.\d+)?"
SEQUENCE = re.compile(rf"{NUMBER}(?:\s*,\s*{NUMBER})+")
QUOTED = re.compile(r"\"([^\"\n]{2,80})\"|'([^'\n]{2,80})'")
SIGNATURE = re.compile(r"def\s+(\w+)\s*\(([^)]*)\)")
CHECKED = re.compile(
    r"^[ \t]*(?:console\.)?assert\b[\s(]*[A-Za-z_]\w*[ \t]*\((.{1,400}?)\)\s*={2,3}(.{1,400})$", re.MULTILINE
)
_CALL = (r"(?<![\w.(])(?!(?:assert|print|return|if|elif|while|and|or|not|in)\b)[A-Za-z_]\w*[ \t]*"
         r"\(((?:(?!\w\().){1,200}?)\)[ \t]*")  # fmt: skip
SHOWN = re.compile(
    rf"{_CALL}(?:={{2,3}}>?|=>|-+>|➞|→|(?:should )?(?:returns?|gives?|be)\b|is\b)[ \t]*([^\s].{{0,100}})$|"
    rf">>>[ \t]*{_CALL}\n[ \t]*([^\s>].{{0,100}})$",
    re.MULTILINE,
)
"""An example in a docstring: `>>> f(1)` with the result on the next line, `f(1) ➞ 2`, `f(1) returns 2`."""
SHORT_SEQUENCE = 3
"""A shorter sequence of numbers stands in too many programs to show anything."""
MOST_VALUES = 400
ORDINARY = frozenset({"hello", "world", "hello world", "abc", "none", "true", "false", "utf-8", "python", "yes", "no"})
_ORDINARY = """self args kwargs list array arr lst nums num string text str n m k a b c x y s l i j
numbers number value values dict d t p q"""
ORDINARY_PARAMETERS = frozenset(_ORDINARY.split())


DEFINED = re.compile(
    r"\bdef\s+(\w+)|\bfunction\s*\*?\s+(\w+)\s*\(|\bfunc\s+(\w+)\s*\(|\bfn\s+(\w+)\s*[(<]|"
    r"\b(?:const|let|var)\s+(\w+)\s*=\s*(?:async\s*)?(?:\(|function|\w+\s*=>)|"
    r"^[ \t]{0,8}(?:[A-Za-z_][\w<>\[\]:]{0,40}[ \t*&]+){1,4}(\w+)[ \t]*\([^;{}()]{0,300}\)\s*\{",
    re.MULTILINE,
)
"""Where a function is defined: Python, JavaScript, Go, Rust, the C family."""
REMARK = re.compile(
    r"\"\"\"(.*?)\"\"\"|'''(.*?)'''|/\*(.*?)\*/|//([^\n]*)|(?<![\w'\"&])#(?!include|define|if|end|pragma)([^\n]*)",
    re.DOTALL,
)
EXAMPLES = re.compile(r">>>|\bExamples?\b|\bFor example\b|\be\.g\.|\bfor example:", re.IGNORECASE)
SENTENCE_LINE = re.compile(r"^[A-Z][\w,'()-]+(?: [\w,'`():.-]+){4,}", re.MULTILINE)


@dataclass(frozen=True)
class CodeFacts:
    names: frozenset[str]
    """all identifiers, as their parts in lower case joined by blanks"""
    values: frozenset[str]
    """sequences of numbers and quoted texts"""
    examples: frozenset[str]
    """arguments and results of calls that are checked"""


@dataclass(frozen=True)
class CodeItem:
    """A benchmark problem: `entry` are the parts of its function's name."""

    entry: str
    parameters: frozenset[str]
    values: frozenset[str]
    examples: frozenset[str]


def asks_for_code(text: str) -> bool:
    return CODE.search(text) is not None


@lru_cache(maxsize=1 << 16)
def name_parts(name: str) -> str:
    """`hasCloseElements`, `has_close_elements` → `has close elements`."""
    return " ".join(part.lower() for part in PART.findall(name))


def code_facts(text: str) -> CodeFacts:
    names = frozenset(name_parts(name) for name in set(IDENTIFIER.findall(text)))
    return CodeFacts(names, example_values(text), checked_examples(text))


def example_values(text: str) -> frozenset[str]:
    found: set[str] = set()
    for match in SEQUENCE.finditer(text):
        numbers = [float(number) for number in match.group().split(",")]
        if len(numbers) >= SHORT_SEQUENCE and not _counting(numbers):
            found.add(",".join(f"{number:g}" for number in numbers[:40]))
        if len(found) >= MOST_VALUES:
            break
    for match in QUOTED.finditer(text):
        quoted = " ".join((match.group(1) or match.group(2)).split()).casefold()
        if len(quoted) >= SHORT_SEQUENCE and quoted not in ORDINARY and re.search(r"\w", quoted):
            found.add(f'"{quoted}"')
        if len(found) >= 2 * MOST_VALUES:
            break
    return frozenset(found)


def checked_examples(text: str) -> frozenset[str]:
    """Arguments and result of each line such as `assert f([1, 2]) == 3` and of each example in a docstring.

    The function may have any name. Blanks, brackets around tuples, case, the kind of quotes and the last stop don't
    count. At most MOST_VALUES of them.
    """
    found: set[str] = set()
    for match in (*CHECKED.finditer(text), *SHOWN.finditer(text)):
        found.add("→".join(_plain(part) for part in match.groups() if part is not None))
        if len(found) >= MOST_VALUES:
            break
    return frozenset(found)


def _plain(part: str) -> str:
    return re.sub(r"[\s();]", "", part).replace('"', "'").rstrip(".,").casefold()


def _counting(numbers: list[float]) -> bool:
    """1, 2, 3 and 0, 0, 0, 0 are everybody's examples."""
    steps = {later - earlier for earlier, later in zip(numbers, numbers[1:], strict=False)}
    return len(numbers) <= 6 and steps in ({1.0}, {0.0}, {-1.0})


def code_item(prompt: str, entry_point: str | None, tests: str) -> CodeItem:
    signature = next((match for match in SIGNATURE.finditer(prompt) if match[1] == entry_point), None)
    parameters = re.findall(r"(\w+)\s*(?::[^,]*)?(?:=[^,]*)?(?:,|$)", signature[2]) if signature else []
    told = frozenset(name_parts(one) for one in parameters if one.lower() not in ORDINARY_PARAMETERS and len(one) > 2)
    values = example_values(prompt) | example_values(tests)
    return CodeItem(name_parts(entry_point or ""), told, values, checked_examples(f"{prompt}\n{tests}"))


def prose(text: str) -> str:
    """What a text with code says in words: the names it defines, the sentences around and in it, without examples.

    Empty where no function is defined and nothing is remarked: the text is prose itself.
    """
    defined = [next(filter(None, groups)) for groups in DEFINED.findall(text)]
    remarks = " ".join(part for groups in REMARK.findall(text) for part in groups if part)
    if not defined:
        return ""
    told = EXAMPLES.split(remarks)[0] or remarks
    lines = " ".join(match.group() for match in SENTENCE_LINE.finditer(REMARK.sub(" ", text)))
    names = ". ".join(dict.fromkeys(name_parts(name) for name in defined if name not in ("main", "if", "while", "for")))
    return " ".join(f"{names}. {lines} {told}".replace("*", " ").split()).strip(". ")


def stems(name: str) -> frozenset[str]:
    return frozenset(stem(part) for part in name.split())
