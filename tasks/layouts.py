"""The record layouts of two published data sets, read as questions and as responses in our own columns.

`am_1_4m`: AM-DeepSeek-R1-Distilled-1.4M (arXiv 2503.19633), `messages[]` of role, content and info. `am_40m`:
AM-DeepSeek-Distilled-40M (arXiv 2504.17565), one flat record a response. A record's question and its response are read
apart, so that a bad answer costs no question and bad tests no answer. Built to the schemas that the papers and cards
publish; not covered: shapes of `test_case` other than those of `read_tests`, which go to the ledger as they are named.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Literal

from tasks.question import BadRecord
from tasks.teachers.teacher import split_think

Layout = Literal["am_1_4m", "am_40m"]
REVISION = 1
"""Raise it when a record is read in another way."""
CATEGORIES = {
    "math": "math", "code": "code", "science": "science", "chat": "chat", "multiturn": "chat", "multi_turn": "chat",
    "instruction": "instruction", "instruction_follow": "instruction", "instruction_following": "instruction",
    "if": "instruction", "other": "other", "others": "other", "general": "other",
}  # fmt: skip
"""their category, in small letters with `_` between words → ours"""
ANSWER = re.compile(r"<answer>(.*?)(?:</answer>\s*)?", re.DOTALL)


def as_question(layout: Layout, record: dict[str, Any]) -> dict[str, Any]:
    """The record with our columns of a question added, for ingest. Raises BadRecord."""
    return record | (_question_1_4m(record) if layout == "am_1_4m" else _question_40m(record))


def as_response(layout: Layout, record: dict[str, Any]) -> dict[str, Any]:
    """`messages` of the question, `think_content` and `answer_content`, for replay. Raises BadRecord."""
    if layout == "am_1_4m":
        messages, infos = _conversation(record)
        if messages[-1]["role"] != "assistant":
            raise BadRecord("missing_response", "the last message is not the assistant's")
        think, answer = _parts(messages[-1]["content"], _info(infos[-1]))
        return {"messages": messages[:-1], "think_content": think, "answer_content": answer}
    text = record.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise BadRecord("missing_response", f"answer is {_kind(text)}, expected text")
    think, answer = _parts(text, {})
    return {"messages": _asked(record), "think_content": think, "answer_content": answer}


# --- AM-DeepSeek-R1-Distilled-1.4M


def _question_1_4m(record: dict[str, Any]) -> dict[str, Any]:
    messages, infos = _conversation(record)
    if messages[-1]["role"] == "assistant":
        messages, infos = messages[:-1], infos[:-1]
    info = _info(infos[-1]) if infos else {}
    reference, tests = _given(info.get("reference_answer")), read_tests(info.get("test_case"))
    category = "code" if tests else None if reference is not None else "other"
    return {"messages": messages, "ground_truth": reference, "category": category, "info": info} | tests


def _conversation(record: dict[str, Any]) -> tuple[list[dict[str, str]], list[Any]]:
    """The messages, earlier answers without their thinking, and the info of each; a last answer as it stands."""
    messages = _json("messages", record.get("messages"))
    if not isinstance(messages, list) or not messages:
        raise BadRecord("missing_question", f"messages is {_kind(messages)}, expected a list")
    plain, infos = [], []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRecord("wrong_type", f"message {place} is {_kind(message)}, expected {{role, content, info}}")
        text = message.get("content")
        if message["role"] != "assistant":
            if not isinstance(text, str):
                raise BadRecord("wrong_type", f"the content of message {place} is {_kind(text)}, expected text")
        elif place < len(messages) - 1:
            text = _parts(text, _info(message.get("info")))[1]
        plain.append({"role": message["role"], "content": text})
        infos.append(message.get("info"))
    return plain, infos


def _info(value: Any) -> dict[str, Any]:
    """One object, or a list of them that fill each other's gaps."""
    value = _json("info", value)
    parts = value if isinstance(value, list) else [value]
    found: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, dict | None):
            raise BadRecord("wrong_type", f"info is {_kind(part)}, expected an object or a list of objects")
        found |= {name: one for name, one in (part or {}).items() if _given(one) is not None}
    return found


def _parts(text: Any, info: dict[str, Any]) -> tuple[str | None, str]:
    """Thinking and answer: from info where it has them, else from the tags `<think>` and `<answer>`."""
    if (answer := _given(info.get("answer_content"))) is not None:
        think = _given(info.get("think_content"))
        if not isinstance(answer, str) or not isinstance(think, str | None):
            raise BadRecord("wrong_type", f"think_content is {_kind(think)}, answer_content {_kind(answer)}")
        if think is None and isinstance(text, str):
            think = split_think(text)[0]
        return (None if think is None else think.strip()), answer.strip()
    if not isinstance(text, str):
        raise BadRecord("missing_response", f"the answer's content is {_kind(text)}, expected text")
    if not text.strip():
        raise BadRecord("missing_response", "the answer is empty, and info has no answer_content")
    think, answer = split_think(text)
    tagged = ANSWER.fullmatch(answer) if answer.count("<answer>") == 1 else None
    return think, tagged[1].strip() if tagged else answer


# --- AM-DeepSeek-Distilled-40M


def _question_40m(record: dict[str, Any]) -> dict[str, Any]:
    named = record.get("category")
    category = CATEGORIES.get(re.sub(r"[\s-]+", "_", named.strip().lower())) if isinstance(named, str) else None
    if category is None:
        raise BadRecord("unknown_category", f"{named!r}; known: {', '.join(sorted(CATEGORIES))}")
    return {
        "messages": _asked(record), "category": category, "ground_truth": _given(record.get("ground_truth")),
        "instruction_constraints": read_constraints(record.get("instruction_constrain")),
        "published": {name: record.get(name) for name in ("category", "question_source")},
    } | read_tests(record.get("test_case"))  # fmt: skip


def _asked(record: dict[str, Any]) -> list[dict[str, str]]:
    """The question's messages: it is a text, or, of several turns, a list of messages or the JSON of one."""
    asked = record.get("question")
    if isinstance(asked, str) and asked.lstrip().startswith("[{"):
        try:
            turns = json.loads(asked)
        except ValueError:
            turns = None  # a question may begin like that
        if isinstance(turns, list) and all(isinstance(one, dict) and "role" in one for one in turns):
            asked = turns
    if isinstance(asked, list):
        return _conversation({"messages": asked})[0]
    if not isinstance(asked, str) or not asked.strip():
        raise BadRecord("missing_question", f"question is {_kind(asked)}, expected text")
    return [{"role": "user", "content": asked}]


# --- means of verification


def read_tests(value: Any) -> dict[str, Any]:
    """`test_cases`, and `entry_point` and `language` where they are named; nothing where there are no tests.

    Read are, as JSON or as its text: {inputs, outputs, fn_name?} (TACO, APPS), a list of {input, output}, a list of
    assert codes, {asserts: […]}, our own {kind, …}, one of these under `test_cases`, and a text of Python with asserts.
    """
    if isinstance(value, str) and value.strip():
        with contextlib.suppress(ValueError):  # it may be a program
            value = json.loads(value)
    if value is None or value in ([], {}) or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        if not re.search(r"\bassert\b", value):
            raise BadRecord("unreadable_tests", f"no JSON and no assert: {value[:80]!r}")
        return {"test_cases": [_assert(value)]}
    more = {}
    if isinstance(value, dict):
        more = {ours: value[theirs] for ours, theirs in (("entry_point", "fn_name"), ("language", "language"))
                if isinstance(value.get(theirs), str) and value[theirs]}  # fmt: skip
        value = next((value[name] for name in ("test_cases", "cases", "asserts", "assert_case")
                      if isinstance(value.get(name), list)), value)  # fmt: skip
    cases = _in_and_out(value, more.get("entry_point")) if isinstance(value, dict) else _listed(value, more)
    if not cases:
        raise BadRecord("unreadable_tests", f"found {_shape(value)}; expected inputs and outputs, or asserts")
    return {"test_cases": cases} | more


def _in_and_out(tests: dict[str, Any], entry_point: str | None) -> list[dict[str, Any]]:
    inputs = tests.get("inputs", tests.get("input"))
    outputs = tests.get("outputs", tests.get("output"))
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        return []
    if len(inputs) != len(outputs):
        raise BadRecord("unreadable_tests", f"{len(inputs)} inputs and {len(outputs)} outputs")
    return [_run(one, out, entry_point) for one, out in zip(inputs, outputs, strict=True)]


def _listed(tests: Any, more: dict[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(tests, list):
        return []
    cases = []
    for test in tests:
        if isinstance(test, str):
            cases.append(_assert(test))
        elif isinstance(test, dict) and "kind" in test:
            cases.append(test)
        elif isinstance(test, dict) and "input" in test and "output" in test:
            cases.append(_run(test["input"], test["output"], more.get("entry_point")))
        else:
            return []
    return cases


def _assert(code: str) -> dict[str, Any]:
    return {"kind": "assert", "code": code}


def _run(given: Any, expected: Any, entry_point: str | None) -> dict[str, Any]:
    """One run of a program, or of its function: arguments as a JSON list; TACO wraps the value in a list of one."""
    if entry_point is not None:
        arguments = given if isinstance(given, list) else [given]
        value = expected[0] if isinstance(expected, list) and len(expected) == 1 else expected
        return {"kind": "call", "input": json.dumps(arguments), "output": json.dumps(value)}
    return {"kind": "stdin", "input": _lines(given), "output": _lines(expected)}


def _lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def read_constraints(value: Any) -> list[dict[str, Any]] | None:
    """IFEval's form {instruction_id_list, kwargs}, or a list of {id or instruction_id, kwargs}, as ours."""
    value = _json("instruction_constrain", _given(value))
    if value is None or value in ([], {}):
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and "instruction_id_list" in value[0]:
        value = value[0]
    if isinstance(value, dict) and "instruction_id_list" in value:
        names, kwargs = value["instruction_id_list"], _json("kwargs", value.get("kwargs"))
        if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs):
            raise BadRecord("wrong_type", "instruction_id_list and kwargs must be lists of one length")
        value = [{"id": name, "kwargs": one} for name, one in zip(names, kwargs, strict=True)]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRecord("wrong_type", f"instruction_constrain is {_shape(value)}, expected ids with their kwargs")
    return [{"id": one.get("id", one.get("instruction_id")), "kwargs": one.get("kwargs") or {}} for one in value]


def _given(value: Any) -> Any:
    """None for the empty text by which published files say "nothing"."""
    return None if isinstance(value, str) and not value.strip() else value


def _json(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as fault:
        raise BadRecord("broken_json", f"{name} is a string that isn't JSON: {fault}") from fault


def _kind(value: Any) -> str:
    return "missing" if value is None else "empty" if value == "" else type(value).__name__


def _shape(value: Any) -> str:
    return (
        f"an object with {', '.join(sorted(map(str, value))) or 'no keys'}" if isinstance(value, dict) else _kind(value)
    )
