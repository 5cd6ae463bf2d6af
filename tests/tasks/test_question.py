"""Proves what becomes a question, under which id, and that every other record says why it does not."""

from __future__ import annotations

import json

import pytest

from tasks.question import BadRecord, normalise, question_id, to_question

CONSTANTS = {"question_source": "s", "category": "math", "license": "MIT", "language": None}


def make(record, columns=None, keep=(), max_chars=1000, **constants):
    return to_question(record, columns or {}, CONSTANTS | constants, keep, max_chars)


def user(text):
    return [{"role": "user", "content": text}]


def test_the_id_ignores_line_ends_trailing_blanks_and_composition():
    same = ["caf\u00e9\nb", "cafe\u0301\r\nb", "caf\u00e9  \rb \n\n", "\ncaf\u00e9\nb"]
    assert len({question_id(user(text)) for text in same}) == 1
    other = ["caf\u00e9 b", "  caf\u00e9\nb", "caf\u00e9\n\nb"]
    assert len({question_id(user(text)) for text in [same[0], *other]}) == 4
    assert question_id(user("a")) != question_id([{"role": "system", "content": "x"}, *user("a")])
    for text in same + other:
        assert normalise(normalise(text)) == normalise(text)


def test_columns_are_mapped_with_dotted_paths_and_constants_fill_the_rest():
    row = make(
        {"item": {"text": "Why?", "meta": {"ref": 7}}, "a.b": "x", "lic": None},
        {"question": "item.text", "ground_truth": "item.meta.ref", "source_id": "a.b", "license": "lic"},
        keep=("item.meta", "nothing"),
    )
    assert row["messages"] == user("Why?") and row["ground_truth"] == "7" and row["source_id"] == "x"
    assert row["license"] == "MIT" and json.loads(row["metadata"]) == {"item.meta": {"ref": 7}, "nothing": None}


def test_a_system_message_and_conversations_are_kept():
    row = make({"question": "Why?", "system": "Be brief."})
    assert row["messages"] == [{"role": "system", "content": "Be brief."}, *user("Why?")]
    talk = [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("Why?")]
    assert make({"messages": talk})["messages"] == make({"messages": json.dumps(talk)})["messages"] == talk


def test_asserts_become_test_cases():
    cases = make({"question": "Write f.", "asserts": ["assert f(1) == 2", "assert f(2) == 3"]}, category="code")[
        "test_cases"
    ]
    assert [case["code"] for case in cases] == ["assert f(1) == 2", "assert f(2) == 3"]
    assert {case["kind"] for case in cases} == {"assert"}


def test_test_cases_may_stand_as_json_and_hold_values():
    cases = [{"kind": "call", "input": [1, 2], "output": 3}, {"kind": "stdin", "input": "1\n", "output": "2\n"}]
    found = make({"question": "Write f.", "test_cases": json.dumps(cases)})["test_cases"]
    assert found == make({"question": "Write f.", "test_cases": cases})["test_cases"]
    assert found[0] == {"kind": "call", "input": "[1, 2]", "output": "3", "code": None}


def test_constraints_may_be_padded_with_nulls():
    one = {"id": "punctuation:no_comma", "kwargs": {"num_words": None}}
    assert (
        make({"question": "Write.", "instruction_constraints": [one]})["instruction_constraints"][0]["id"] == one["id"]
    )


def test_not_a_number_is_nothing():
    row = make(
        {"question": "Why?", "ground_truth": float("nan"), "time_limit_s": float("nan"), "x": float("nan")}, keep=("x",)
    )
    assert row["ground_truth"] is None and row["time_limit_s"] is None and json.loads(row["metadata"]) == {"x": None}


def test_text_that_spells_out_an_escape_is_no_nul():
    assert make({"question": r"What does '\u0000' mean in JSON?"})["question_id"]


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        ({}, "missing_question"),
        ({"question": None}, "missing_question"),
        ({"question": " \n"}, "missing_question"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "missing_question"),
        ({"question": 5}, "wrong_type"),
        ({"messages": []}, "wrong_type"),
        ({"messages": "no json"}, "wrong_type"),
        ({"messages": "[" * 100_000}, "broken_json"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "wrong_type"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "wrong_type"),
        ({"messages": [{"role": "user", "content": None}]}, "wrong_type"),
        ({"question": "Why?", "ground_truth": {"a": 1}}, "wrong_type"),
        ({"question": "Why?", "ground_truth": ["a", "b"]}, "wrong_type"),
        ({"question": "Why?", "time_limit_s": "soon"}, "wrong_type"),
        ({"question": "Why?", "time_limit_s": 0}, "wrong_type"),
        ({"question": "Why?", "time_limit_s": 10**400}, "wrong_type"),
        ({"question": "Why?", "memory_limit_mb": float("inf")}, "wrong_type"),
        ({"question": "Why?", "test_cases": [{"kind": "magic"}]}, "wrong_type"),
        ({"question": "Why?", "test_cases": {"kind": "call"}}, "wrong_type"),
        ({"question": "Why?", "asserts": [1]}, "wrong_type"),
        ({"question": "Why?", "instruction_constraints": [{"id": "no:such"}]}, "unknown_constraint"),
        ({"question": "Why?", "instruction_constraints": ["no_comma"]}, "wrong_type"),
        (
            {"question": "Why?", "instruction_constraints": [{"id": "punctuation:no_comma", "kwargs": [1]}]},
            "wrong_type",
        ),
        ({"question": "Why?", "category": "poetry"}, "unknown_category"),
        ({"question": "Why?", "category": ["math"]}, "unknown_category"),
        ({"question": "a\x00b"}, "nul_byte"),
        ({"question": "Why?", "ground_truth": "\x00"}, "nul_byte"),
        ({"question": "Why?", "kept": {"deep": ["\x00"]}}, "nul_byte"),
        ({"question": "a\udc80b"}, "invalid_utf8"),
        ({"question": "Why?", "kept": {"\udc80": 1}}, "invalid_utf8"),
        ({"question": "Why?", "kept": deep(5000)}, "broken_json"),
        ({"question": "x" * 1001}, "too_long"),
    ],
)
def test_a_bad_record_says_why(record, rule):
    with pytest.raises(BadRecord) as found:
        make(record, keep=("kept",))
    assert found.value.rule == rule and found.value.detail


def test_a_size_is_reported_with_its_limit():
    with pytest.raises(BadRecord) as found:
        make({"question": "abcd"}, max_chars=3)
    assert (found.value.value, found.value.threshold) == (4, 3)
