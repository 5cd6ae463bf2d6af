"""Texts that keep or break instruction constraints, written from what the constraints mean, not from their rules.

A right text is made where all of a question's constraints are among those of `kept_text`; a wrong one breaks one
constraint, whatever the others say. What is not covered: IFBench's constraints, and IFEval's in combinations that get
in each other's way (a wanted comma and none allowed); such questions give wrong texts only, or none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.verifiers.self_test_answers import Answer

PLAIN = "The old mill stands by the river and the people of the town walk past it every day."
SENTENCE = "The river runs past the old mill and the people of the town walk there every day."
RUSSIAN = "Старая мельница стоит у реки, и жители города каждый день проходят мимо неё."

Kwargs = Mapping[str, Any]
Constraints = Sequence[tuple[str, Kwargs]]


def instruction_answers(question: dict[str, Any]) -> list[Answer]:
    """At most one text that keeps all constraints, and one for each constraint that a text breaks for certain."""
    constraints = [(one["id"], json.loads(one["kwargs"])) for one in question["instruction_constraints"] or ()]
    kept = kept_text(constraints)
    answers = [] if kept is None else [Answer("kept", kept, True)]
    for name, kwargs in constraints:
        if (broken := broken_text(name, kwargs)) is not None:
            answers.append(Answer(f"broken {name}", broken, False))
    return answers


def kept_text(constraints: Constraints) -> str | None:
    """A text that keeps all the constraints, None where there is none to be had in simple ways."""
    given = dict(constraints)
    if len(given) != len(constraints) or not constraints:
        return None
    if len(constraints) == 1 and (alone := _alone(*constraints[0])) is not None:
        return alone
    if any(name not in _KEEPABLE for name in given):
        return None
    text = _put_together(given)
    return text if _leaves_out(text, given) else None


_KEEPABLE = frozenset((
    "punctuation:no_comma", "change_case:english_lowercase", "change_case:english_capital", "detectable_format:title",
    "detectable_content:postscript", "detectable_content:number_placeholders", "keywords:existence",
    "keywords:frequency", "keywords:forbidden_words", "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections", "detectable_format:multiple_sections",
    "length_constraints:number_words", "length_constraints:number_sentences", "startend:end_checker",
    "startend:quotation", "combination:repeat_prompt",
))  # fmt: skip


def _put_together(given: Mapping[str, Kwargs]) -> str:
    """From the top: the request, a title, what is to be found in the text, the end that is asked for."""

    def want(name: str, key: str) -> Any:
        return given.get(name, {}).get(key)

    lines = [PLAIN]
    if "detectable_format:title" in given:
        lines.insert(0, "<<The mill>>")
    if keywords := want("keywords:existence", "keywords"):
        lines.append(f"We also speak of {' and '.join(keywords)}.")
    if want("keywords:frequency", "relation") == "at least":
        lines += [f"We speak of {want('keywords:frequency', 'keyword')}."] * want("keywords:frequency", "frequency")
    placeholders = want("detectable_content:number_placeholders", "num_placeholders") or 0
    lines += ["Write to [name]."] * placeholders
    lines += ["See *the mill* there."] * (want("detectable_format:number_highlighted_sections", "num_highlights") or 0)
    splitter = want("detectable_format:multiple_sections", "section_spliter")
    for number in range(1, 1 + (want("detectable_format:multiple_sections", "num_sections") or 0)):
        lines += [f"{splitter} {number}", PLAIN]
    lines += ["* The mill is old."] * (want("detectable_format:number_bullet_lists", "num_bullets") or 0)
    lines += [SENTENCE] * _missing(given, lines)
    if marker := want("detectable_content:postscript", "postscript_marker"):
        lines.append(f"{marker} Thank you.")
    if phrase := want("startend:end_checker", "end_phrase"):
        lines.append(phrase)
    if prompt := want("combination:repeat_prompt", "prompt_to_repeat"):
        lines.insert(0, prompt)
    text = "\n".join(lines)
    if "change_case:english_lowercase" in given:
        text = text.lower()
    if "change_case:english_capital" in given:
        text = text.upper()
    return f'"{text}"' if "startend:quotation" in given else text


def _missing(given: Mapping[str, Kwargs], lines: Sequence[str]) -> int:
    """How many more sentences of SENTENCE make the text long enough."""
    missing = 0
    words = given.get("length_constraints:number_words", {})
    if words.get("relation") == "at least":
        missing = -(-words["num_words"] // len(SENTENCE.split()))
    sentences = given.get("length_constraints:number_sentences", {})
    if sentences.get("relation") == "at least":
        missing = max(missing, sentences["num_sentences"])
    return missing


def _leaves_out(text: str, given: Mapping[str, Kwargs]) -> bool:
    """Whether the text has none of what the constraints forbid, counted in a way that never counts too little."""
    lowered = text.lower()
    forbidden = [word.lower() for word in given.get("keywords:forbidden_words", {}).get("forbidden_words", ())]
    if "punctuation:no_comma" in given:
        forbidden.append(",")
    counted = {
        "length_constraints:number_words": ("num_words", len(re.findall(r"\w+", text))),
        "length_constraints:number_sentences": ("num_sentences", len(re.findall(r"[.!?\n]+", text))),
        "keywords:frequency": (
            "frequency",
            lowered.count(given.get("keywords:frequency", {}).get("keyword", "?").lower()),
        ),
    }
    few_enough = all(
        given.get(name, {}).get("relation") != "less than" or number < given[name][limit]
        for name, (limit, number) in counted.items()
    )
    return few_enough and not any(word in lowered for word in forbidden)


def _alone(name: str, kwargs: Kwargs) -> str | None:
    """A text for a constraint that goes with no other one."""
    if name == "detectable_format:json_format":
        return json.dumps({"mill": PLAIN})
    if name == "combination:two_responses":
        return f"{PLAIN}\n******\nThere is no mill."
    if name == "detectable_format:constrained_response":
        return "My answer is yes."
    if name == "length_constraints:number_paragraphs" and kwargs["num_paragraphs"] > 0:
        return "\n***\n".join(f"Part {number}. {PLAIN}" for number in range(kwargs["num_paragraphs"]))
    if name == "length_constraints:nth_paragraph_first_word" and kwargs["nth_paragraph"] <= kwargs["num_paragraphs"]:
        parts = [PLAIN] * kwargs["num_paragraphs"]
        parts[kwargs["nth_paragraph"] - 1] = f"{kwargs['first_word']} {PLAIN}"
        return "\n\n".join(parts)
    if name == "keywords:letter_frequency" and kwargs["let_relation"] == "at least":
        return " ".join([kwargs["letter"]] * kwargs["let_frequency"])
    if name == "change_case:capital_word_frequency" and kwargs["capital_relation"] == "at least":
        return f"{PLAIN} {'MILL ' * kwargs['capital_frequency']}"
    if name == "language:response_language" and kwargs["language"] in ("en", "ru"):
        return PLAIN if kwargs["language"] == "en" else RUSSIAN
    return None


def broken_text(name: str, kwargs: Kwargs) -> str | None:
    """A text that breaks the constraint for certain, None where we have none."""
    fixed = {
        "punctuation:no_comma": "The mill is old, and so is the town.",
        "change_case:english_lowercase": PLAIN.upper(),
        "change_case:english_capital": PLAIN.lower(),
        "detectable_format:title": PLAIN,
        "startend:quotation": PLAIN,
        "detectable_format:json_format": PLAIN,
        "combination:two_responses": PLAIN,
        "detectable_format:constrained_response": PLAIN,
    }
    if name in fixed:
        return fixed[name]
    if name == "language:response_language":
        return RUSSIAN if kwargs["language"] == "en" else PLAIN
    if name == "keywords:forbidden_words":
        return f"{PLAIN} {kwargs['forbidden_words'][0]} too."
    lacking = _named(name, kwargs)
    if lacking is not None:
        return PLAIN if lacking.lower() not in PLAIN.lower() else None
    return _broken_count(name, kwargs)


def _named(name: str, kwargs: Kwargs) -> str | None:
    """The text that the constraint wants to see."""
    if name == "keywords:existence":
        return str(kwargs["keywords"][0])
    keys = {
        "startend:end_checker": "end_phrase", "detectable_content:postscript": "postscript_marker",
        "combination:repeat_prompt": "prompt_to_repeat",
    }  # fmt: skip
    return str(kwargs[keys[name]]) if name in keys else None


def _broken_count(name: str, kwargs: Kwargs) -> str | None:
    """A text with too few or too many of what the constraint counts."""
    exact = {
        "detectable_content:number_placeholders": "num_placeholders",
        "detectable_format:number_bullet_lists": "num_bullets",
        "detectable_format:number_highlighted_sections": "num_highlights",
        "detectable_format:multiple_sections": "num_sections",
        "length_constraints:number_paragraphs": "num_paragraphs",
        "length_constraints:nth_paragraph_first_word": "num_paragraphs",
    }
    if name in exact:
        least = 2 if exact[name] == "num_paragraphs" else 1
        return PLAIN if kwargs[exact[name]] >= least else None
    counted = {
        "length_constraints:number_words": ("relation", "num_words", "mill"),
        "length_constraints:number_sentences": ("relation", "num_sentences", "It is old."),
        "keywords:frequency": ("relation", "frequency", kwargs.get("keyword", "")),
        "keywords:letter_frequency": ("let_relation", "let_frequency", kwargs.get("letter", "")),
        "change_case:capital_word_frequency": ("capital_relation", "capital_frequency", "MILL"),
    }
    if name not in counted:
        return None
    relation, number, unit = counted[name]
    few = max(kwargs[number] - 1, 0)
    if kwargs[relation] == "less than":
        return " ".join([unit] * max(kwargs[number], 1))
    return " ".join([unit] * few) if few else (None if kwargs[number] == 0 else "…")
