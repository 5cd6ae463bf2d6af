"""The 25 instruction constraints of IFEval (arXiv 2311.07911, table 1), written from their published meaning.

A rule takes the response and its keyword arguments and says whether the constraint holds and what was
measured. Every rule is deterministic, offline and linear in the length of the response. Whole word or
substring matters: `forbidden_words` are whole words, `existence` and `frequency` count substrings, all
without regard to case.

Where this differs from the published program: sentences are split without NLTK's model (an enumerator such as
`2.` at the start of a line is no sentence); keywords are literal text, not patterns; a line of dashes is a
divider, not a bullet.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import langdetect
from langdetect.detector_factory import PROFILES_DIRECTORY

langdetect.DetectorFactory.seed = 0  # without it the answer changes from call to call
_LANGDETECT = threading.Lock()  # it fills its profiles on first use, not thread-safe

RELATIONS = ("at least", "less than")
LANGUAGES = frozenset(path.name for path in Path(PROFILES_DIRECTORY).iterdir())


@dataclass(frozen=True)
class Checked:
    """Whether a constraint holds, what was measured, and what was wanted."""

    passed: bool
    measured: object
    wanted: object


Kwargs = Mapping[str, Any]
Kind = Literal["count", "position", "text", "texts", "relation", "language", "letter"]
"""What a keyword argument may be; a count is 0 or more, a position 1 or more."""


@dataclass(frozen=True)
class Rule:
    """A check and the keyword arguments it needs, by kind of value."""

    check: Callable[[str, Kwargs], Checked]
    kwargs: Mapping[str, Kind] = field(default_factory=dict)


def _by_relation(measured: int, relation: str, wanted: int) -> Checked:
    passed = measured >= wanted if relation == "at least" else measured < wanted
    return Checked(passed, measured, f"{relation} {wanted}")


# --------------------------------------------------------------------------------------- keywords, letters


def keywords_existence(text: str, kwargs: Kwargs) -> Checked:
    """Every keyword occurs, also inside a longer word."""
    lowered = text.lower()
    missing = [word for word in kwargs["keywords"] if word.lower() not in lowered]
    return Checked(not missing, {"missing": missing}, list(kwargs["keywords"]))


def keywords_frequency(text: str, kwargs: Kwargs) -> Checked:
    """A keyword occurs at least or fewer than so many times, also inside longer words."""
    found = text.lower().count(kwargs["keyword"].strip().lower())
    return _by_relation(found, kwargs["relation"], kwargs["frequency"])


def forbidden_words(text: str, kwargs: Kwargs) -> Checked:
    """None of the words occurs as a whole word."""
    lowered = text.lower()
    found = [
        word for word in kwargs["forbidden_words"] if re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", lowered)
    ]
    return Checked(not found, {"found": found}, "none of " + ", ".join(kwargs["forbidden_words"]))


def letter_frequency(text: str, kwargs: Kwargs) -> Checked:
    """A letter (or other single character) occurs at least or fewer than so many times, in either case."""
    found = text.lower().count(kwargs["letter"].lower())
    return _by_relation(found, kwargs["let_relation"], kwargs["let_frequency"])


# ------------------------------------------------------------------------------------------ language, case


def detect_language(text: str) -> str | None:
    """langdetect's code for the text (`en`, `zh-cn`), None if it has no letters to judge by."""
    with _LANGDETECT:
        try:
            return str(langdetect.detect(text))
        except langdetect.LangDetectException:
            return None


def response_language(text: str, kwargs: Kwargs) -> Checked:
    """The whole response is in the language. As published, a text without letters does not break the rule."""
    found = detect_language(text)
    return Checked(found in (kwargs["language"], None), found, kwargs["language"])


def english_capital(text: str, kwargs: Kwargs) -> Checked:
    """English, and no lower-case letter."""
    return _cased_english(text, text.isupper(), "capital letters only")


def english_lowercase(text: str, kwargs: Kwargs) -> Checked:
    """English, and no capital letter."""
    return _cased_english(text, text.islower(), "small letters only")


def _cased_english(text: str, cased: bool, wanted: str) -> Checked:
    language = detect_language(text) if cased else None
    return Checked(cased and language in ("en", None), {"case": cased, "language": language}, f"English, {wanted}")


_WORD = re.compile(r"[^\W_]+(?:[-'’.&][^\W_]+)*")


def capital_word_frequency(text: str, kwargs: Kwargs) -> Checked:
    """At least or fewer than so many words in all capitals; `I`, `U.S` and `ALL-IN` are one each."""
    found = sum(1 for word in _WORD.findall(text) if word.isupper())
    return _by_relation(found, kwargs["capital_relation"], kwargs["capital_frequency"])


# -------------------------------------------------------------------------------------------------- length

# Possessive, and from the first mark of a run on: a megabyte of full stops must not take its square.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]*_]*+(?=\s|$)|[。！？।]++[」』”]?")
_ENUMERATOR = re.compile(r"^[ \t]*(?:\d{1,3}|[A-Za-z])[.)](?=\s)", re.MULTILINE)
_ABBREVIATIONS_TEXT = (
    "mr mrs ms dr prof st sr jr vs etc e.g i.e cf fig no vol pp inc ltd co corp gen col sen rep gov "
    "rev capt lt approx dept est a.m p.m u.s u.k ph.d p.s p.p.s jan feb aug sept oct nov dec"
)
_ABBREVIATIONS = frozenset(_ABBREVIATIONS_TEXT.split())
# `etc.` and `p.m.` may also end a sentence; then a capital follows.
_MAY_END = frozenset(["etc", "inc", "ltd", "co", "corp", "a.m", "p.m", "u.s", "u.k", "ph.d", "jr", "sr", "no", "st"])


def sentences(text: str) -> list[str]:
    """The text cut after `.`, `!`, `?` and their kin, not after abbreviations, initials and enumerators. Line
    ends don't cut; what holds no letter or digit is no sentence."""
    return [piece for piece in pieces(text) if re.search(r"\w", piece)]


def pieces(text: str) -> list[str]:
    """As `sentences`, with what is no sentence, such as an emoji after the last full stop."""
    text = _ENUMERATOR.sub(" ", text)
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if match.group().startswith(".") and _is_abbreviation(text, match.start(), match.end()):
            continue
        found.append(text[start : match.end()])
        start = match.end()
    found.append(text[start:])
    return [piece.strip() for piece in found if piece.strip()]


def _is_abbreviation(text: str, dot: int, end: int) -> bool:
    before = text[max(0, dot - 20) : dot].split()
    word = before[-1].lstrip("(\"'“‘*_[") if before and not text[dot - 1 : dot].isspace() else ""
    if len(word) == 1 and word.isupper() and word != "I":
        return True  # an initial: J. Smith
    if word.lower() not in _ABBREVIATIONS:
        return False
    following = text[end : end + 20].lstrip()[:1]
    return bool(following) and not (word.lower() in _MAY_END and following.isupper())


def number_sentences(text: str, kwargs: Kwargs) -> Checked:
    """At least or fewer than so many sentences."""
    return _by_relation(len(sentences(text)), kwargs["relation"], kwargs["num_sentences"])


def number_words(text: str, kwargs: Kwargs) -> Checked:
    r"""At least or fewer than so many words, a word being a run of `\w`."""
    return _by_relation(len(re.findall(r"\w+", text)), kwargs["relation"], kwargs["num_words"])


def number_paragraphs(text: str, kwargs: Kwargs) -> Checked:
    """Exactly so many paragraphs, divided by `***`; an empty one between two dividers breaks the rule."""
    parts = [part.strip() for part in text.split("***")]
    empty_inside = not all(parts[1:-1])
    count = sum(1 for part in parts if part)
    measured = {"paragraphs": count, "empty_between_dividers": empty_inside}
    return Checked(count == kwargs["num_paragraphs"] and not empty_inside, measured, kwargs["num_paragraphs"])


def nth_paragraph_first_word(text: str, kwargs: Kwargs) -> Checked:
    """So many paragraphs, divided by blank lines, and the n-th begins with the word, without regard to case
    and quotes."""
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    nth = kwargs["nth_paragraph"]
    first = paragraphs[nth - 1].split()[0].lstrip("\"'“‘") if nth <= len(paragraphs) else ""
    word = re.split(r"[.,?!;:'\"”’]", first)[0].lower()
    passed = len(paragraphs) == kwargs["num_paragraphs"] and word == kwargs["first_word"].lower()
    wanted = f"{kwargs['num_paragraphs']} paragraphs, number {nth} begins with {kwargs['first_word']!r}"
    return Checked(passed, {"paragraphs": len(paragraphs), "first_word": word[:80]}, wanted)


# -------------------------------------------------------------------------------------- content and format


def number_placeholders(text: str, kwargs: Kwargs) -> Checked:
    """At least so many placeholders in square brackets."""
    count = len(re.findall(r"\[[^\[\]\n]*\]", text))
    return Checked(count >= kwargs["num_placeholders"], count, f"at least {kwargs['num_placeholders']}")


def postscript(text: str, kwargs: Kwargs) -> Checked:
    """A postscript with the marker; blanks between the letters are allowed."""
    marker = kwargs["postscript_marker"].strip()
    letters = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    return Checked(re.search(letters, text.lower()) is not None, None, marker)


def number_bullet_lists(text: str, kwargs: Kwargs) -> Checked:
    """Exactly so many bullet points: lines that begin with `*` or `-` and go on."""
    lines = [line.strip() for line in text.splitlines()]
    count = sum(1 for line in lines if re.match(r"\*[^*]", line) or (line.startswith("-") and line.strip("- ")))
    return Checked(count == kwargs["num_bullets"], count, kwargs["num_bullets"])


_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def constrained_response(text: str, kwargs: Kwargs) -> Checked:
    """One of the three given answers occurs word for word."""
    found = [answer for answer in _CONSTRAINED if answer in text]
    return Checked(bool(found), found, list(_CONSTRAINED))


def number_highlighted_sections(text: str, kwargs: Kwargs) -> Checked:
    """At least so many parts within `*…*` or `**…**`, each on one line and not empty."""
    single = re.findall(r"\*([^\n*]*)\*", text)
    double = re.findall(r"\*\*([^\n*]*)\*\*", text)
    count = sum(1 for inside in single + double if inside.strip())
    return Checked(count >= kwargs["num_highlights"], count, f"at least {kwargs['num_highlights']}")


def multiple_sections(text: str, kwargs: Kwargs) -> Checked:
    """At least so many sections, each headed by the splitter and a number (`SECTION 2`)."""
    count = len(re.findall(rf"{re.escape(kwargs['section_spliter'].strip())}\s?\d+", text))
    return Checked(count >= kwargs["num_sections"], count, f"at least {kwargs['num_sections']}")


def json_format(text: str, kwargs: Kwargs) -> Checked:
    """The whole response is JSON, alone or in one Markdown code block."""
    inside = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(inside)
    except (ValueError, RecursionError) as error:
        return Checked(False, str(error)[:120], "JSON")
    return Checked(True, "JSON", "JSON")


def title(text: str, kwargs: Kwargs) -> Checked:
    """A title that is not empty, in double angular brackets on one line."""
    for line in text.splitlines():
        start, end = line.find("<<"), line.rfind(">>")
        if start != -1 and end > start and (inside := line[start:end].strip("<> \t")):
            return Checked(True, inside[:120], "<<title>>")
    return Checked(False, None, "<<title>>")


def two_responses(text: str, kwargs: Kwargs) -> Checked:
    """Exactly two different responses, divided by six asterisks; nothing empty between dividers."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    passed = all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]
    return Checked(passed, {"responses": len(filled), "different": len(set(filled))}, "2 different responses")


def repeat_prompt(text: str, kwargs: Kwargs) -> Checked:
    """The response begins with the given request, word for word, without regard to case."""
    wanted = kwargs["prompt_to_repeat"].strip().lower()
    return Checked(text.strip().lower().startswith(wanted), text.strip()[:80], "begins with the request")


def end_checker(text: str, kwargs: Kwargs) -> Checked:
    """The response ends with the phrase; a closing quotation mark after it is allowed."""
    tail = text.strip().strip('"').strip()
    return Checked(tail.lower().endswith(kwargs["end_phrase"].strip().lower()), tail[-80:], kwargs["end_phrase"])


def quotation(text: str, kwargs: Kwargs) -> Checked:
    """The whole response stands in double quotation marks."""
    bare = text.strip()
    return Checked(len(bare) > 1 and bare[0] == bare[-1] == '"', [bare[:1], bare[-1:]], '"…"')


def no_comma(text: str, kwargs: Kwargs) -> Checked:
    """No comma anywhere."""
    return Checked("," not in text, text.count(","), 0)


RULES: Mapping[str, Rule] = {
    "change_case:capital_word_frequency": Rule(
        capital_word_frequency, {"capital_relation": "relation", "capital_frequency": "count"}
    ),
    "change_case:english_capital": Rule(english_capital),
    "change_case:english_lowercase": Rule(english_lowercase),
    "combination:repeat_prompt": Rule(repeat_prompt, {"prompt_to_repeat": "text"}),
    "combination:two_responses": Rule(two_responses),
    "detectable_content:number_placeholders": Rule(number_placeholders, {"num_placeholders": "count"}),
    "detectable_content:postscript": Rule(postscript, {"postscript_marker": "text"}),
    "detectable_format:constrained_response": Rule(constrained_response),
    "detectable_format:json_format": Rule(json_format),
    "detectable_format:multiple_sections": Rule(
        multiple_sections, {"section_spliter": "text", "num_sections": "count"}
    ),
    "detectable_format:number_bullet_lists": Rule(number_bullet_lists, {"num_bullets": "count"}),
    "detectable_format:number_highlighted_sections": Rule(number_highlighted_sections, {"num_highlights": "count"}),
    "detectable_format:title": Rule(title),
    "keywords:existence": Rule(keywords_existence, {"keywords": "texts"}),
    "keywords:forbidden_words": Rule(forbidden_words, {"forbidden_words": "texts"}),
    "keywords:frequency": Rule(keywords_frequency, {"keyword": "text", "relation": "relation", "frequency": "count"}),
    "keywords:letter_frequency": Rule(
        letter_frequency, {"letter": "letter", "let_relation": "relation", "let_frequency": "count"}
    ),
    "language:response_language": Rule(response_language, {"language": "language"}),
    "length_constraints:nth_paragraph_first_word": Rule(
        nth_paragraph_first_word, {"num_paragraphs": "count", "nth_paragraph": "position", "first_word": "text"}
    ),
    "length_constraints:number_paragraphs": Rule(number_paragraphs, {"num_paragraphs": "count"}),
    "length_constraints:number_sentences": Rule(number_sentences, {"relation": "relation", "num_sentences": "count"}),
    "length_constraints:number_words": Rule(number_words, {"relation": "relation", "num_words": "count"}),
    "punctuation:no_comma": Rule(no_comma),
    "startend:end_checker": Rule(end_checker, {"end_phrase": "text"}),
    "startend:quotation": Rule(quotation),
}
