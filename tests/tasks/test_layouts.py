"""Proves how records of the published AM layouts are read, shape by shape, and what is said of those that can't be.

The records are built to the schemas that METHODS names; no record of the published files is at hand.
"""

from __future__ import annotations

import json

import pytest

from tasks.layouts import as_question, as_response, read_constraints, read_tests
from tasks.question import BadRecord

INFO = {"source": "s", "reference_answer": "4", "test_case": None, "think_content": None, "answer_content": None}


def talk(answer="<think>Hm.</think>\n<answer>It is 4.</answer>", info=None, **asked):
    user = {"role": "user", "content": "2 + 2?", "info": INFO | asked}
    return {"messages": [user, {"role": "assistant", "content": answer, "info": info}]}


def flat(**more):
    return {"question": "2 + 2?", "answer": "<think>Hm.</think>It is 4.", "category": "math"} | more


def parts(layout, record):
    found = as_response(layout, record)
    return found["think_content"], found["answer_content"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (talk(), ("Hm.", "It is 4.")),
        (talk("<think>Hm.</think>It is 4."), ("Hm.", "It is 4.")),
        (talk("Hm.</think> It is 4."), ("Hm.", "It is 4.")),
        (talk("It is 4."), (None, "It is 4.")),
        (talk("<think>Hm.</think>An <answer>4</answer> within."), ("Hm.", "An <answer>4</answer> within.")),
        (talk("<think>Hm.</think><answer>It is"), ("Hm.", "It is")),
        (talk("x", {"think_content": " Hm.\n", "answer_content": "It is 4. "}), ("Hm.", "It is 4.")),
        (talk("x", [{"think_content": "Hm."}, {"answer_content": "It is 4."}]), ("Hm.", "It is 4.")),
        (talk(None, {"think_content": None, "answer_content": "It is 4."}), (None, "It is 4.")),
        (talk("<think>Hm.</think>4", {"think_content": "", "answer_content": ""}), ("Hm.", "4")),
        (talk("<think>Hm.</think>x", {"answer_content": "It is 4."}), ("Hm.", "It is 4.")),
        (talk("<answer>4</answer> or <answer>5</answer>"), (None, "<answer>4</answer> or <answer>5</answer>")),
        (talk("<think>Cut of"), ("Cut of", "")),
    ],
)
def test_thinking_and_answer_come_from_info_or_from_the_tags(record, expected):
    assert parts("am_1_4m", record) == expected


def test_a_question_of_1_4m_says_how_it_is_verified():
    found = as_question("am_1_4m", talk())
    assert found["messages"] == [{"role": "user", "content": "2 + 2?"}]
    assert (found["ground_truth"], found["category"], found["info"]["source"]) == ("4", None, "s")
    tests = '{"inputs": ["1\\n"], "outputs": ["2\\n"]}'
    assert as_question("am_1_4m", talk(test_case=tests))["category"] == "code"
    assert as_question("am_1_4m", talk(reference_answer=""))["category"] == "other"


def test_earlier_answers_lose_their_thinking_and_only_the_last_one_is_the_response():
    first = talk()["messages"]
    record = {"messages": [*first, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]}
    found = as_response("am_1_4m", record)
    assert [one["content"] for one in found["messages"]] == ["2 + 2?", "It is 4.", "Sure?"]
    assert found["answer_content"] == "Yes."
    assert as_question("am_1_4m", record)["messages"] == found["messages"]


@pytest.mark.parametrize(
    ("layout", "record", "rule"),
    [
        ("am_1_4m", {}, "missing_question"),
        ("am_1_4m", {"messages": []}, "missing_question"),
        ("am_1_4m", {"messages": [5]}, "wrong_type"),
        ("am_1_4m", {"messages": talk()["messages"][:1]}, "missing_response"),
        ("am_1_4m", talk(""), "missing_response"),
        ("am_1_4m", talk(None), "missing_response"),
        ("am_1_4m", {"messages": [{"role": "user"}, talk()["messages"][1]]}, "wrong_type"),
        ("am_1_4m", talk(info=5), "wrong_type"),
        ("am_1_4m", talk("x", {"answer_content": 5}), "wrong_type"),
        ("am_40m", {"question": "q"}, "missing_response"),
        ("am_40m", flat(answer=" "), "missing_response"),
        ("am_40m", flat(answer=["a"]), "missing_response"),
        ("am_40m", flat(question=""), "missing_question"),
    ],
)
def test_a_record_without_a_response_says_what_is_wrong(layout, record, rule):
    with pytest.raises(BadRecord) as fault:
        as_response(layout, record)
    assert fault.value.rule == rule and fault.value.detail


def test_a_bad_answer_costs_no_question_and_bad_tests_no_answer():
    assert as_question("am_40m", flat(answer=None))["category"] == "math"
    for record in (talk(None), talk(info=5), talk("x", {"answer_content": 5})):
        assert as_question("am_1_4m", record)["ground_truth"] == "4"
    assert parts("am_40m", flat(test_case="?", category="no such")) == ("Hm.", "It is 4.")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("math", "math"), ("Instruction Follow", "instruction"), ("multi-turn", "chat"), ("others", "other")],
)
def test_categories_are_translated(theirs, ours):
    assert as_question("am_40m", flat(category=theirs))["category"] == ours


@pytest.mark.parametrize("theirs", [None, "poetry", 5])
def test_an_unknown_category_is_named(theirs):
    with pytest.raises(BadRecord, match="known: chat, code") as fault:
        as_question("am_40m", flat(category=theirs))
    assert fault.value.rule == "unknown_category"


def test_a_question_of_several_turns_is_a_list_or_the_json_of_one():
    turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>Hm.</think>4"},
        {"role": "user", "content": "Sure?"},
    ]
    plain = [*turns[:1], {"role": "assistant", "content": "4"}, *turns[2:]]
    assert as_question("am_40m", flat(question=turns))["messages"] == plain
    assert as_response("am_40m", flat(question=json.dumps(turns)))["messages"] == plain
    assert as_question("am_40m", flat(question="[{x}] is what?"))["messages"][0]["content"] == "[{x}] is what?"


def stdin(given, expected):
    return {"kind": "stdin", "input": given, "output": expected}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ("", {}),
        ("null", {}),
        ([], {}),
        ({"inputs": ["1\n", ["2", "3"]], "outputs": ["4\n", 5]}, [stdin("1\n", "4\n"), stdin("2\n3", "5")]),
        ([{"input": "1", "output": "2"}], [stdin("1", "2")]),
        ({"test_cases": [{"input": "1", "output": "2"}]}, [stdin("1", "2")]),
        (["assert f(1) == 2", "assert f(2) == 3"], [
            {"kind": "assert", "code": "assert f(1) == 2"}, {"kind": "assert", "code": "assert f(2) == 3"}]),
        ({"asserts": ["assert f(1) == 2"]}, [{"kind": "assert", "code": "assert f(1) == 2"}]),
        ("def t():\n    assert f(1) == 2\n", [{"kind": "assert", "code": "def t():\n    assert f(1) == 2\n"}]),
        ([{"kind": "call", "input": "[1]", "output": "2"}], [{"kind": "call", "input": "[1]", "output": "2"}]),
    ],
)  # fmt: skip
def test_the_shapes_of_test_case(value, expected):
    expected = expected if expected == {} else {"test_cases": expected}
    assert read_tests(value) == expected
    if value is not None and not isinstance(value, str):
        assert read_tests(json.dumps(value)) == expected


def test_a_named_function_is_called_with_its_arguments():
    found = read_tests({"fn_name": "add", "inputs": [[1, 2], "x"], "outputs": [[3], ["a", "b"]], "language": "python"})
    assert (found["entry_point"], found["language"]) == ("add", "python")
    assert [(one["kind"], one["input"], one["output"]) for one in found["test_cases"]] == [
        ("call", "[1, 2]", "3"),
        ("call", '["x"]', '["a", "b"]'),
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("see below", "no JSON and no assert"),
        ({"setup": 1, "run": 2}, "an object with run, setup"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ([{"x": 1}], "list"),
        (7, "int"),
    ],
)
def test_tests_of_another_shape_are_named(value, said):
    with pytest.raises(BadRecord, match=said) as fault:
        read_tests(value)
    assert fault.value.rule == "unreadable_tests"


def test_the_shapes_of_instruction_constrain():
    ids, kwargs = ["punctuation:no_comma", "x:y"], [{}, {"n": 1}]
    expected = [{"id": ids[0], "kwargs": {}}, {"id": ids[1], "kwargs": {"n": 1}}]
    ifeval = {"instruction_id_list": ids, "kwargs": kwargs}
    listed = [{"instruction_id": one, "kwargs": more} for one, more in zip(ids, kwargs, strict=True)]
    for value in (ifeval, [ifeval], expected, listed, json.dumps(ifeval), {**ifeval, "kwargs": json.dumps(kwargs)}):
        assert read_constraints(value) == expected
    assert read_constraints("") is read_constraints(None) is read_constraints([]) is None


@pytest.mark.parametrize("value", [{"instruction_id_list": ["a"], "kwargs": []}, {"a": 1}, [1], 3, "no commas please"])
def test_constraints_of_another_shape_are_bad(value):
    with pytest.raises(BadRecord):
        read_constraints(value)
