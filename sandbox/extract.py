"""Finding the program in a model's answer.

The rules, in order:
1. What stands before the last </think> is not the answer.
2. The last fenced block whose tag is the asked language (any of its names, any case, attributes ignored).
3. Else the last fenced block without a tag.
4. Else, when there is no fence at all, the whole answer, if it parses as Python and does something
   (a definition, an import, an assignment, a call); other languages need a fence.
5. Else None. A block tagged with another language is never taken.

An unterminated last fence runs to the end of the answer (truncated answers still get a chance). A fence is
three or more backticks or tildes at the start of a line, up to three blanks before it, as in CommonMark; it
ends with a line of at least as many of the same. A block indented with its fence is dedented.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

from sandbox.image.languages import LANGUAGES

# Possessive: a line has one reading, so that none of 10^5 blanks is tried in all of them.
_OPEN = re.compile(r"^([ \t>]*+)(`{3,}+|~{3,}+)([^\r\n`]*+)\r?$")
_DOING = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AugAssign,
    ast.For,
    ast.While,
    ast.With,
    ast.Call,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its tag in lower case ("" for none) and its code."""

    tag: str
    code: str


def blocks(answer: str) -> list[Block]:
    """All fenced blocks in order."""
    found: list[Block] = []
    fence, indent, tag, lines = "", "", "", list[str]()
    for line in answer.split("\n"):
        opening = _OPEN.match(line)
        if not fence and opening:
            indent, fence, info = opening.groups()
            tag, lines = _tag(info), []
        elif fence and opening and not opening[3].strip(" \t") and opening[2].startswith(fence):
            found.append(Block(tag, _dedent(lines, indent)))
            fence = ""
        elif fence:
            lines.append(line)
    if fence:
        if lines and not lines[-1].strip():
            lines.pop()  # what split() gives for the last newline
        found.append(Block(tag, _dedent(lines, indent)))
    return found


def extract_code(answer: str, language: str = "python") -> str | None:
    """The program in `answer`, by the rules above, or None. Raises ValueError for an unknown language."""
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    answer = answer.rpartition("</think>")[2]
    found = [block for block in blocks(answer) if block.code.strip()]
    for tags in (LANGUAGES[language].tags, ("",)):
        for block in reversed(found):
            if block.tag in tags:
                return block.code
    if not blocks(answer) and language == "python" and _is_python(answer):
        return answer
    return None


def _tag(info: str) -> str:
    word = re.split(r"[\s,:;{]", info.strip().lstrip("{."), maxsplit=1)[0]
    return word.rstrip("}").lower()


def _dedent(lines: list[str], indent: str) -> str:
    lines = [line.rstrip("\r") for line in lines]
    if ">" in indent:
        lines = [re.sub(r"^[ \t]*> ?", "", line) for line in lines]
    elif indent:
        return textwrap.dedent("\n".join(lines)) + "\n" if lines else ""
    return "\n".join(lines) + "\n" if lines else ""


def _is_python(text: str) -> bool:
    if len(text) > 1 << 20:
        return False
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, _DOING) for node in ast.walk(tree))
