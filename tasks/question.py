"""A question: its id, its text, and what makes a source record a good one."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.fingerprint import hash_text
from storage.schemas import CATEGORIES
from tasks.verifiers.instructions import InvalidConstraint, UnknownConstraint, validate_constraints
from tasks.verifiers.verdict import Constraint

ROLES = ("system", "user", "assistant", "tool")
TEST_KINDS = ("stdin", "call", "assert")
TEXT_COLUMNS = ("difficulty_label", "license", "ground_truth", "checker", "language", "entry_point")


@dataclass
class BadRecord(Exception):
    """A record that can't become a question; `rule` goes to the ledger."""

    rule: str
    detail: str
    value: float | None = None
    threshold: float | None = None


def normalise(text: str) -> str:
    """NFC, LF line ends, no trailing blanks: the form that question_id is a hash of."""
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n").rstrip()


def question_id(messages: Sequence[dict[str, str]]) -> str:
    """128-bit content hash of the normalised messages, 32 hex digits."""
    parts: list[str] = []
    for message in messages:
        parts += [message["role"], normalise(message["content"])]
    return hash_text(*parts)


def question_text(messages: Sequence[dict[str, str]]) -> str:
    """All of the question's text, as filters, dedup and embeddings see it."""
    return "\n".join(message["content"] for message in messages if message["role"] != "assistant")


def lookup(record: dict[str, Any], path: str) -> Any:
    """A column of a record; `a.b` also reads key b of the object a. None where there is nothing."""
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def to_question(
    record: dict[str, Any], columns: dict[str, str], constants: dict[str, Any], keep: Sequence[str], max_chars: int
) -> dict[str, Any]:
    """A row of `questions` from a source record, or BadRecord.

    `columns` maps our names to the record's; `constants` (category, license, language) fill what it lacks.
    """
    try:
        return _to_question(record, columns, constants, keep, max_chars)
    except RecursionError as fault:
        raise BadRecord("broken_json", "nested too deeply") from fault


def _to_question(
    record: dict[str, Any], columns: dict[str, str], constants: dict[str, Any], keep: Sequence[str], max_chars: int
) -> dict[str, Any]:
    def get(name: str) -> Any:
        value = lookup(record, columns.get(name, name))
        return constants.get(name) if value is None else value

    messages = read_messages(get)
    check_last_message(messages)
    size = sum(len(message["content"]) for message in messages)
    if size > max_chars:
        raise BadRecord("too_long", f"{size} characters", size, max_chars)
    category = get("category")
    if category not in CATEGORIES:
        raise BadRecord("unknown_category", f"{category!r}; allowed: {', '.join(CATEGORIES)}")
    identity = question_id(messages)
    row: dict[str, Any] = {
        "question_id": identity,
        "messages": messages,
        "category": category,
        "question_source": constants["question_source"],
        "source_id": _text("source_id", get("source_id")) or identity,
        "test_cases": _test_cases(get),
        "time_limit_s": _number("time_limit_s", get("time_limit_s")),
        "memory_limit_mb": _number("memory_limit_mb", get("memory_limit_mb")),
        "instruction_constraints": _constraints(get("instruction_constraints")),
    }
    row |= {name: _text(name, get(name)) for name in TEXT_COLUMNS}
    metadata = {name: _plain(lookup(record, name)) for name in keep}
    check_characters([row, metadata])
    return row | {"metadata": json.dumps(metadata, ensure_ascii=False, allow_nan=False)}


def read_messages(get: Callable[[str], Any]) -> list[dict[str, str]]:
    """The conversation of a record, from `messages`, or from `question` and `system`; BadRecord if there is none."""
    messages = get("messages")
    if messages is None:
        text = get("question")
        if text is None:
            raise BadRecord("missing_question", "no column `question` or `messages`; map it with `columns`")
        if not isinstance(text, str):
            raise BadRecord("wrong_type", f"question is {type(text).__name__}, expected text")
        messages = [{"role": "user", "content": text}]
        if isinstance(system := get("system"), str) and system.strip():
            messages.insert(0, {"role": "system", "content": system})
    messages = _json_value("messages", messages)
    if not isinstance(messages, list) or not messages:
        raise BadRecord("wrong_type", "messages must be a list of {role, content}")
    for message in messages:
        fits = isinstance(message, dict) and isinstance(message.get("content"), str) and message.get("role") in ROLES
        if not fits:
            raise BadRecord("wrong_type", "each message must be {role, content}, both text, role one of "
                                          f"{', '.join(ROLES)}")  # fmt: skip
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def read_question(get: Callable[[str], Any]) -> list[dict[str, str]]:
    """The conversation of a record that asks something, all of it characters of Unicode; BadRecord if it doesn't."""
    messages = read_messages(get)
    check_last_message(messages)
    check_characters(messages)
    return messages


def check_last_message(messages: Sequence[dict[str, str]]) -> None:
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise BadRecord("missing_question", "the last message must be the user's and not empty")


def _json_value(name: str, value: Any) -> Any:
    """JSON may stand as JSON or as a JSON string."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as fault:
            raise BadRecord("wrong_type", f"{name} is a string that isn't JSON: {fault}") from fault
    return value


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):  # how data frames write "nothing"
        return None
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and len(value) == 1:  # some data sets wrap the one answer in a list
        return _text(name, value[0])
    raise BadRecord("wrong_type", f"{name} is {type(value).__name__}, expected text")


def _number(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as fault:
        raise BadRecord("wrong_type", f"{name} is {value!r}, expected a number") from fault
    if not 0 < number < float("inf"):
        raise BadRecord("wrong_type", f"{name} is {value!r}, expected a positive number")
    return number


def _test_cases(get: Any) -> list[dict[str, str | None]] | None:
    asserts = get("asserts")
    if asserts is not None:
        codes = [asserts] if isinstance(asserts, str) else asserts
        if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
            raise BadRecord("wrong_type", "asserts must be text or a list of texts")
        return [{"kind": "assert", "input": None, "output": None, "code": code} for code in codes]
    value = _json_value("test_cases", get("test_cases"))
    if value is None:
        return None
    if not isinstance(value, list):
        raise BadRecord("wrong_type", "test_cases must be a list of {kind, input, output, code}")
    cases = []
    for case in value:
        if not isinstance(case, dict) or case.get("kind") not in TEST_KINDS:
            raise BadRecord("wrong_type", f"each test case needs a kind out of {', '.join(TEST_KINDS)}")
        texts = {part: _case_text(case.get(part)) for part in ("input", "output", "code")}
        cases.append({"kind": case["kind"]} | texts)
    return cases


def _case_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _constraints(value: Any) -> list[dict[str, str]] | None:
    value = _json_value("instruction_constraints", value)
    if value is None:
        return None
    fits = isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in value)
    if not fits:
        raise BadRecord("wrong_type", "instruction_constraints must be a list of {id, kwargs}")
    found = [{"id": one["id"], "kwargs": _json_value("kwargs", one.get("kwargs") or {})} for one in value]
    if not all(isinstance(one["kwargs"], dict) for one in found):
        raise BadRecord("wrong_type", "the kwargs of a constraint must be an object")
    check_characters(found)
    try:
        validate_constraints([Constraint(one["id"], one["kwargs"]) for one in found])
    except (UnknownConstraint, InvalidConstraint) as fault:
        raise BadRecord("unknown_constraint", str(fault)) from fault
    return [{"id": one["id"], "kwargs": json.dumps(_plain(one["kwargs"]), sort_keys=True)} for one in found]


def _plain(value: Any) -> Any:
    """The value as JSON has it: NaN and infinities become null, what JSON doesn't know becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def check_characters(value: Any) -> None:
    """NUL bytes and lone surrogates break Parquet readers, terminals and tokenizers downstream."""
    if isinstance(value, str):
        if "\x00" in value:
            raise BadRecord("nul_byte", "the record holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError as fault:
            raise BadRecord("invalid_utf8", "the record holds bytes that are no UTF-8") from fault
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_characters(key)
            check_characters(inner)
    elif isinstance(value, list):
        for inner in value:
            check_characters(inner)
