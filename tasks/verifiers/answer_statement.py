r"""The final answer that a response without a box states in its text.

A careful reader takes what the response says its answer is: what stands after "the answer is", else after the last
equals sign, else the last number or formula of the last sentence that has one. An expression that is still to be
worked out (`6 * 2, we need…`), a plan ("we need to find the sum of 6 and 2") and a copy of the question's own
expression are no answers.

What is not covered: whether the statement is true to the work above it; answers in words (`answer_compare`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.verifiers.answer_forms import normalize, plain_rational

TAIL_CHARS = 10_000
MAX_CUES, CUE_CHARS = 20, 3_000  # "the answer is": so many looked at, from the end, with so much text behind each

_MATH = re.compile(
    r"\\begin\{(align\*?|aligned|alignat\*?|gather\*?|equation\*?|eqnarray\*?)\}.{0,2000}?\\end\{\1\}|\$\$.{1,2000}?\$\$"
    r"|(?<!\\)\$(?=\S)(?:\\\$|[^$\n]){1,1000}?(?<![\\\s])\$(?!\d)|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]",
    re.DOTALL,
)
_FIGURE = re.compile(r"\[asy\].*?\[/asy\]|<<[^<>\n]{0,200}>>", re.DOTALL)  # drawings, GSM8K's calculator notes
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{(?:align|aligned|alignat|gather|equation|eqnarray)\*?\}(?:\{\d+\})?")
_SENTENCE_END = re.compile(r"(?<=[.!?])[*_)\"”]*\s+(?=\S)|\n+")
_CUE = re.compile(
    r"(?:\banswer\b(?:\s+(?!is\b|was\b|would\b|=)\S+){0,12}?\s*(?:\bis\b|\bwould be\b|\bwas\b|\bequals\b|:|=)"
    r"|\banswer\s*[:=]|^#{4}|^A:)[\s:*_]*",
    re.IGNORECASE | re.MULTILINE,
)
_PLAN = re.compile(
    r"\b(?:need(?:s|ed)? to|have to|has to|must|should|let'?s|let us|we (?:can|will|could|first)|going to"
    r"|in order to|to (?:solve|find|calculate|compute|determine|get|answer|check|verify)|solve|by (?:adding|subtracting"
    r"|multiplying|dividing|using))\b",
    re.IGNORECASE,
)
_RESULT = re.compile(
    r"=|≈|\\approx|\b(?:is|are|was|were|equals?|equal to|giv(?:es?|ing)|gets?|mak(?:es?|ing)|becomes?|leav(?:es?|ing)"
    r"|yield(?:s|ing)?|obtain|(?<!to )find|total(?:s|ing)?|so|thus|therefore|hence|result(?:s|ing)?|have|has|had)\b",
    re.IGNORECASE,
)

_NUMBER = (
    r"(?:[$€£]\s?)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,2}(?!\w))?(?:\s?(?:\\?%|°))?"
    r"|(?:[$€£]\s?)?\.\d+"
)
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER})|(?P<command>\\[A-Za-z]+|\\[{{}}%])|(?P<relation>[=≈<>≤≥])|(?P<operator>\*\*|[-+−–*/×÷·^!_:])"
    r"|(?P<bracket>[()\[\]{}])|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)|(?P<blank>\s+)|(?P<other>.)",
    re.DOTALL,
)
_DELIMITERS = re.compile(r"^(?:\$\$?|\\[(\[])|(?:\$\$?|\\[)\]])$")
_FUNCTIONS = frozenset(["sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi"])
_BINARY = frozenset("+-−–*/×÷·^")
_JOINT = re.compile(r"\s*,?\s*(?:and|or)\s*|\s*,\s*")
_JOINED_TEXT = re.compile(r",\s*[a-zA-Z]\s*=|\\text\s*\{\s*(?:and|or)")
_ASSIGNED = re.compile(r"([a-zA-Z])\s*=")
_RELATION = re.compile(r"=|≈|\\approx|\\equiv|<|>|\\le|\\ge|\\in(?![a-z])")
_EQUALS = re.compile(r"(?<![\\<>!:])=|≈|\\(?:approx|equiv)(?![a-z])")
_MODULO = re.compile(r"\\pmod\s*(?:\{[^{}]*\}|\d+)")
_COEFFICIENT = re.compile(r"-?\d+\s*[a-zA-Z]")
_LONE_NAME = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|gamma|phi|omega)|\\overline\{[A-Z]+\}|\\triangle\s*[A-Z]+")


@dataclass(frozen=True)
class _Run:
    """A stretch of mathematics in a sentence: its text and where it stands."""

    text: str
    start: int
    end: int
    latex: bool = False


@dataclass(frozen=True)
class _Asked:
    """The question without blanks, and whether it wants an equation."""

    text: str
    equation: bool


def stated_answer(text: str, question: str = "", *, equation: bool = False) -> str | None:
    """The expression that the response states as its answer, None if it states none.

    Reads the last 10,000 characters. `question` is the question's text: an expression copied from it, not worked out,
    is no answer. `equation` says that an equation is asked for (`y = 2x + 3`); else its right side is the answer.
    """
    tail = _FIGURE.sub("", text[-TAIL_CHARS:])
    asked = _Asked(_squeezed(question), equation)
    cued = _after_cue(tail, asked)
    if cued is not None:
        return cued
    passed_over = False
    for sentence in reversed(_sentences(tail)):
        runs = _runs(sentence)
        if not runs:
            continue
        if (answer := _stated(sentence, runs, asked, needs_result=passed_over)) is not None:
            return answer
        passed_over = True
    return None


def _sentences(text: str) -> list[str]:
    """The sentences and lines of a text; a display of mathematics is never cut."""
    spans = [match.span() for match in _MATH.finditer(text)]
    sentences, start, span = [], 0, 0
    for match in _SENTENCE_END.finditer(text):
        while span < len(spans) and spans[span][1] <= match.start():
            span += 1
        if span < len(spans) and spans[span][0] < match.start():
            continue
        sentences.append(text[start : match.start()])
        start = match.end()
    return [sentence for sentence in (*sentences, text[start:]) if sentence.strip()]


def _after_cue(tail: str, asked: _Asked) -> str | None:
    cues = list(_CUE.finditer(tail))
    for cue in reversed(cues[-MAX_CUES:]):
        rest = next(iter(_sentences(tail[cue.end() : cue.end() + CUE_CHARS])), "")
        runs = _runs(rest)
        if runs and not _words_before(rest[: runs[0].start]):
            return _value(_first_statement(rest, runs), asked, cued=True)
    return None


def _words_before(text: str) -> bool:
    """Whether more than a few words stand between "answer is" and the expression (`the answer is that we need 5`)."""
    return len(re.findall(r"[^\W\d_]{2,}", text)) > 4 or _PLAN.search(text) is not None


def _first_statement(rest: str, runs: list[_Run]) -> _Run:
    """The first expression after the cue, with what is joined to it by `and` or by a further equals sign."""
    chosen = runs[0]
    for run in runs[1:]:
        between = rest[chosen.end : run.start]
        if not (_joined(chosen, between, run) or re.fullmatch(r"\s*=\s*", between)):
            break
        chosen = _union(rest, chosen, run)
    return chosen


def _joined(left: _Run, between: str, right: _Run) -> bool:
    """Whether two runs are parts of one answer: values (`2 and 3`), or values of one variable (`x = 2 or x = 3`)."""
    if _JOINT.fullmatch(between) is None:
        return False
    names = {_ASSIGNED.match(run.text.strip()) for run in (left, right)}
    if not any(names):
        return not any(_RELATION.search(run.text) for run in (left, right))
    return all(names) and len({name[1] for name in names if name}) == 1


def _union(text: str, left: _Run, right: _Run) -> _Run:
    return _Run(f"{left.text.strip(' .,')}, {right.text}", left.start, right.end, left.latex or right.latex)


def _stated(sentence: str, runs: list[_Run], asked: _Asked, *, needs_result: bool) -> str | None:
    while len(runs) > 1 and _LONE_NAME.fullmatch(runs[-1].text.strip(" .,")):
        runs = runs[:-1]  # `there are 4 solutions for $n$`
    runs = _without_details(sentence, runs)
    last = runs[-1]
    while len(runs) > 1 and _joined(runs[-2], sentence[runs[-2].end : last.start], last):
        runs = runs[:-1]
        last = _union(sentence, runs[-1], last)
    before = sentence[: last.start]
    plans = list(_PLAN.finditer(before))
    results = list(_RESULT.finditer(before))
    inside = _RELATION.search(last.text) is not None
    if not inside and plans and (not results or results[-1].start() < plans[-1].start()):
        return None
    if needs_result and not inside and not results:
        return None
    return _value(last, asked, cued=False)


def _without_details(sentence: str, runs: list[_Run]) -> list[_Run]:
    """The runs up to the last equation, where none of those behind it is said to be a result: `9 * 2 = 18 a day for 2
    dollars each`."""
    for position in range(len(runs) - 1, -1, -1):
        if runs[position].latex or _RESULT.search(sentence[runs[position].end : runs[-1].start]) is not None:
            break
        if "=" in runs[position].text and not _ASSIGNED.match(runs[position].text):
            return runs[: position + 1]
    return runs


def _value(run: _Run, asked: _Asked, *, cued: bool) -> str | None:
    """The right side of the run's last equals sign, None if it is unfinished, a copy of the question, or an operation
    still to be done that nothing marks as the answer."""
    bare = _last_row(run.text) if run.latex else run.text
    bare = _MODULO.sub("", bare).strip().rstrip(".,;").strip()
    parts = [part.strip() for part in _EQUALS.split(bare)]
    several = _JOINED_TEXT.search(bare) is not None
    if len(parts) > 1 and not several:
        if not parts[-1]:
            return None
        if len(parts) > 2 or not asked.equation:
            if len(parts) == 2 and _COEFFICIENT.fullmatch(parts[0]):
                return None  # `2x = 10` is on the way
            bare = parts[-1] if not asked.equation else f"{parts[0]} = {parts[-1]}"
    if not bare or bare[-1] in _BINARY or bare[-1] in "=(":
        return None
    if len(parts) == 1 and is_unevaluated(bare) and (_squeezed(bare) in asked.text or not (cued or run.latex)):
        return None
    return bare


def _last_row(text: str) -> str:
    """The last row of an aligned display, without its alignment marks, with the left side that it continues."""
    if "\\begin" not in text or (inner := _ENVIRONMENT.sub(" ", text)) == text:
        return text
    if "\\begin" in inner:  # a matrix has rows of its own
        inner = inner[max(inner.rfind("&="), inner.rfind("&\\equiv"), 0) :]
        return inner.removeprefix("&=")
    rows = [row for row in inner.split("\\\\") if row.strip()]
    return rows[-1].replace("&", " ").strip() if rows else ""


def is_unevaluated(expression: str) -> bool:
    """Whether the text is an operation on plain numbers still to be carried out (`6 * 2`, `8 - 9`), not a value as
    people write it (`1/2`, `2 1/2`, `-3`, `3.5`)."""
    normal = normalize(expression)
    if plain_rational(normal) is not None or re.search(
        r"[A-Za-z\\_!:]", normal.replace("\\times", "*").replace("\\cdot", "*")
    ):
        return False
    return re.search(r"[\d)]\s*(?:\*\*|[-+*/^]|\\times|\\cdot)\s*[-(\d.]", normal) is not None


def _squeezed(text: str) -> str:
    """Without blanks and with one sign for each operation, so that a copy is recognised."""
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("×", "*").replace("·", "*").replace("÷", "/")
    return re.sub(r"[\s$]", "", text.replace("−", "-").replace("–", "-"))


# ---------------------------------------------------------------------------------------- runs of mathematics


def _runs(sentence: str) -> list[_Run]:
    """The stretches of mathematics of a sentence, in order: `$…$` and the like, and plain numbers and operations."""
    runs, start = [], 0
    for match in _MATH.finditer(sentence):
        runs += _plain_runs(sentence, start, match.start())
        bare = _DELIMITERS.sub("", match.group())
        if bare.strip():
            runs.append(_Run(bare, match.start(), match.end(), latex=True))
        start = match.end()
    return runs + _plain_runs(sentence, start, len(sentence))


def _plain_runs(sentence: str, start: int, end: int) -> list[_Run]:
    runs: list[_Run] = []
    tokens: list[re.Match[str]] = []
    for token in _TOKEN.finditer(sentence, start, end):
        if _is_math(token, sentence):
            tokens.append(token)
        elif token.lastgroup != "blank":
            _close(tokens, sentence, runs)
            tokens = []
    _close(tokens, sentence, runs)
    return runs


def _is_math(token: re.Match[str], sentence: str) -> bool:
    kind = token.lastgroup
    if kind == "word":
        word = token.group()
        if word.lower() in _FUNCTIONS:
            return True
        if len(word) > 2:
            return False
        touching = sentence[token.start() - 1 : token.start()] + sentence[token.end() : token.end() + 1]
        near = sentence[: token.start()].rstrip()[-1:] + sentence[token.end() :].lstrip()[:1]
        return re.search(r"[\d^*/+_)(]", touching) is not None or (
            len(word) == 1 and re.search(r"[=<>≤≥+*/^]", near) is not None
        )
    if kind == "other":
        return token.group() in "√π∞±"
    return kind in ("number", "command", "relation", "operator", "bracket")


def _close(tokens: list[re.Match[str]], sentence: str, runs: list[_Run]) -> None:
    """Add the run of these tokens without brackets and signs that belong to the prose."""
    first, last = 0, len(tokens)
    while (
        last > first
        and tokens[last - 1].group() in (":", "_", "!", "*", "**", "(", "[", "{")
        and (tokens[last - 1].group() not in ("*", "**", "!") or _emphasis(tokens[last - 1], sentence))
    ):
        last -= 1
    while last > first and tokens[first].group() in (")", "]", "}", ":", "*", "**", "/", "_", "!", "+", "–", "·"):
        first += 1
    while (
        last > first
        and tokens[first].group() in ("-", "−")
        and sentence[tokens[first].end() : tokens[first].end() + 1] == " "
    ):
        first += 1  # a dash or a list mark
    inner = tokens[first:last]
    text = sentence[inner[0].start() : inner[-1].end()] if inner else ""
    for opening, closing in (("(", ")"), ("[", "]")):
        if text.count(closing) > text.count(opening) and text.endswith(closing):
            inner, text = inner[:-1], text[:-1].rstrip()
        elif text.count(opening) > text.count(closing) and text.startswith(opening):
            inner, text = inner[1:], text[1:].lstrip()
    if inner and any(token.lastgroup in ("number", "command") or token.group() in "π∞" for token in inner):
        runs.append(_Run(text.strip(), inner[0].start(), inner[0].start() + len(text)))


def _emphasis(token: re.Match[str], sentence: str) -> bool:
    """Whether a `*` or `!` at the end of a run is Markdown or punctuation (`**18**`, `18!` at the end of a line)."""
    touching = sentence[token.start() - 1 : token.start()]
    if token.group() == "!":
        return sentence[token.end() :].strip(" *_\"'") == ""
    return bool(touching.strip()) and "**" in sentence
