"""Proves each of the 25 IFEval rules with texts that keep it and texts that break it, strict and loose mode, and that
bad constraints are refused. The rules of IFBench have a file of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.verifiers.instruction_rules import RULES, sentences
from tasks.verifiers.instructions import (
    InstructionVerifier,
    InvalidConstraint,
    UnknownConstraint,
    validate_constraints,
    variants,
)
from tasks.verifiers.verdict import Constraint, Item

DATA = Path(__file__).parents[3].parent / "shared/data"
ENGLISH = "the weather was very nice yesterday and we went for a long walk along the river"
GERMAN = "Das Wetter war gestern sehr schön und wir sind lange am Fluss entlang gegangen."

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        ["STOP and GO", "I AM"],
        ["STOP and go", "Stop Go 12 34"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper(), ENGLISH.upper() + " x"]),
    ("change_case:english_lowercase", {}, [ENGLISH], [ENGLISH.capitalize(), GERMAN.lower()]),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem."},
        ["Write a poem.\nRoses", " write a POEM. x"],
        ["Sure. Write a poem.", "Write a poem"],
    ),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo"],
        ["one", "a******a", "a******b******c", "a************b"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] and [address]"],
        ["[name]", "[a\nb] [c]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. More", "x\np. s. more"],
        ["Bye", "Bye PS more"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe."],
        ["Yes.", "My answer is yes"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```'],
        ["{a: 1}", 'Here: {"a": 1}', "{" * 9000],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb"],
        ["SECTION 1\na", "SECTION one SECTION two"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "intro\n- one\n  - two"],
        ["* one", "* a\n* b\n* c", "**bold**\n* a", "* a\n---"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two*"],
        ["*one*", "* one\n* two", "** ** *a*"],
    ),
    ("detectable_format:title", {}, ["<<A poem>>\nRoses"], ["<A poem>", "<< >>", "<<a\nb>>"]),
    ("keywords:existence", {"keywords": ["rain", "sun"]}, ["Rain and Sunshine"], ["only rain"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, ["rocket science"], ["a ROCK!", "rock"]),
    (
        "keywords:frequency",
        {"keyword": "war", "relation": "at least", "frequency": 2},
        ["War and war", "warm war"],
        ["war", "peace"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_relation": "less than", "let_frequency": 2},
        ["Quick", "none"],
        ["Quick question"],
    ),
    ("language:response_language", {"language": "de"}, [GERMAN], [ENGLISH]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "President"},
        ["One.\n\npresident, two", "One.\n\n\n\n'President' two"],
        ["One.\n\nThe president", "president", "a\n\npresident\n\nb", "One.\n\n**President** two"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a\n\nb", "a\n***\n***\nb", "a***b***c"],
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 3},
        ["One. Two!", "Dr. J. Smith paid 3.50 dollars, e.g. in cash. Fine."],
        ["One. Two! Three?", 'He said "Stop." Then. (Gone.)'],
    ),
    (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 3},
        ["one two three", "isn't it"],
        ["one two", "- - - -"],
    ),
    ("punctuation:no_comma", {}, ["no such thing; really."], ["well, no"]),
    (
        "startend:end_checker",
        {"end_phrase": "Any questions?"},
        ["Bye. any questions?", '"So. Any questions?"'],
        ["Any questions? Bye."],
    ),
    ("startend:quotation", {}, ['"all of it"', ' "x" '], ['"half', "none", '"', "“curly”"]),
]


def judge(constraint_id: str, kwargs: dict[str, Any], text: str) -> bool | None:
    item = Item("q", "instruction", "Do it.", None, text, None, (Constraint(constraint_id, kwargs),))
    return InstructionVerifier().judge([item])[0].passed


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(RULES)
    assert len(RULES) == 25


@pytest.mark.parametrize(("constraint_id", "kwargs", "kept", "broken"), CASES, ids=[case[0] for case in CASES])
def test_rule(constraint_id: str, kwargs: dict[str, Any], kept: list[str], broken: list[str]) -> None:
    assert [text for text in kept if not judge(constraint_id, kwargs, text)] == []
    assert [text for text in broken if judge(constraint_id, kwargs, text)] == []


def test_score_is_the_mean_and_evidence_lists_each_check() -> None:
    constraints = (
        Constraint("punctuation:no_comma"),
        Constraint("length_constraints:number_words", {"relation": "at least", "num_words": 9}),
    )
    [judgement] = InstructionVerifier().judge(
        [Item("q", "instruction", "Do it.", None, "two words", None, constraints)]
    )
    assert (judgement.score, judgement.passed, judgement.status) == (0.5, False, "wrong_answer")
    assert judgement.evidence["constraints"] == [
        {"id": "punctuation:no_comma", "passed": True, "measured": 0, "wanted": 0},
        {"id": "length_constraints:number_words", "passed": False, "measured": 2, "wanted": "at least 9"},
    ]


def test_the_eight_variants_of_loose_mode() -> None:
    assert variants("*a*\nb\n*c*", "loose") == {
        "": "*a*\nb\n*c*",
        "first line": "b\n*c*",
        "last line": "*a*\nb",
        "first and last line": "b",
        "asterisks": "a\nb\nc",
        "first line, asterisks": "b\nc",
        "last line, asterisks": "a\nb",
        "first and last line, asterisks": "b",
    }
    assert variants("one *line*", "loose") == {"": "one *line*", "asterisks": "one line"}
    assert variants("*a*\nb", "strict") == {"": "*a*\nb"}


@pytest.mark.parametrize(
    ("constraint_id", "kwargs", "text", "removed"),
    [
        ("startend:quotation", {}, 'Sure, here it is:\n"All of it."', "first line"),
        ("punctuation:no_comma", {}, "No such thing.\nAnything else, dear?", "last line"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Sing."}, "**Sing.** La", "asterisks"),
        ("detectable_format:json_format", {}, "Sure:\n{}\nDone", "first and last line"),
    ],
)
def test_loose_mode_forgives_what_strict_does_not(
    constraint_id: str, kwargs: dict[str, Any], text: str, removed: str
) -> None:
    item = Item("q", "instruction", "Do it.", None, text, None, (Constraint(constraint_id, kwargs),))
    [strict], [loose] = (InstructionVerifier(mode=mode).judge([item]) for mode in ("strict", "loose"))
    assert (strict.passed, loose.passed) == (False, True)
    assert loose.evidence["constraints"][0]["removed"] == removed  # type: ignore[index]
    assert "removed" not in strict.evidence["constraints"][0]  # type: ignore[index]


def test_loose_mode_needs_each_constraint_kept_by_some_variant_and_has_a_version_of_its_own() -> None:
    constraints = (Constraint("startend:quotation"), Constraint("keywords:existence", {"keywords": ["Sure"]}))
    text = 'Sure:\n"All of it."'
    both = Item("q", "instruction", "Do it.", None, text, None, constraints)
    neither = Item("q", "instruction", "Do it.", None, "no\nno\nno", None, constraints)
    verifier = InstructionVerifier(mode="loose")
    assert [judgement.score for judgement in verifier.judge([both, neither])] == [1.0, 0.0]
    assert verifier.version != InstructionVerifier().version


def test_no_constraints_and_no_answer() -> None:
    bare = Item("q", "instruction", "Do it.", None, "text")
    empty = Item("q", "instruction", "Do it.", None, " ", None, (Constraint("punctuation:no_comma"),))
    assert [judgement.status for judgement in InstructionVerifier().judge([bare, empty])] == [
        "unverifiable",
        "no_answer",
    ]


@pytest.mark.skipif(not DATA.exists(), reason="public data not at hand")
def test_all_ifeval_prompts_are_known_and_judged_the_same_twice() -> None:
    items = []
    for line in (DATA / "ifeval_prompts.jsonl").read_text().splitlines():
        row = json.loads(line)
        pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        constraints = tuple(Constraint(constraint_id, kwargs) for constraint_id, kwargs in pairs)
        validate_constraints(constraints)
        items.append(Item(str(row["key"]), "instruction", row["prompt"], None, row["prompt"], None, constraints))
    first, second = InstructionVerifier().judge(items), InstructionVerifier().judge(items)
    assert len(first) == 541
    assert [judgement.evidence for judgement in first] == [judgement.evidence for judgement in second]


def test_unknown_constraint_lists_the_valid_ones() -> None:
    with pytest.raises(UnknownConstraint, match="punctuation:no_comma"):
        validate_constraints([Constraint("punctuation:no_commas")])


@pytest.mark.parametrize(
    ("constraint_id", "kwargs", "message"),
    [
        ("length_constraints:number_words", {"num_words": 3}, "takes relation, num_words; got num_words"),
        (
            "length_constraints:number_words",
            {"relation": "more than", "num_words": 3},
            "'at least' or 'less than'",
        ),
        ("length_constraints:number_words", {"relation": "at least", "num_words": "3"}, "whole number from 0 on"),
        ("sentence:keyword", {"word": "x", "N": 0}, "whole number from 1 on"),
        ("punctuation:no_comma", {"x": 1}, "takes no arguments; got x"),
        ("keywords:existence", {"keywords": "rain"}, "list of texts"),
        ("language:response_language", {"language": "zh"}, "zh-cn"),
    ],
)
def test_bad_arguments_say_what_is_allowed(constraint_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConstraint, match=message):
        validate_constraints([Constraint(constraint_id, kwargs)])


def test_null_arguments_are_padding() -> None:
    validate_constraints([Constraint("punctuation:no_comma", {"num_words": None})])


def test_sentences() -> None:
    assert len(sentences("1. Do this.\n2. Do that.")) == 2
    assert len(sentences("Wait... what?! Yes.")) == 3
    assert len(sentences("no full stop at all")) == 1
    assert len(sentences("We left at 5 p.m. It rained.")) == 2
    assert sentences("") == []
