"""A small workspace as the stages would leave it, committed by hand so that every text in it is known."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import pyarrow as pa

from storage.manifest import Book, Inputs
from storage.schemas import TABLES
from storage.workspace import Workspace

NUMBER = 130
TEACHERS = ("good", "poor")
HOSTILE = (
    "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> "
    "[here](javascript:alert(1)) ![pixel](http://203.0.113.9/p.png) \x1b[31mred\x1b[0m \u202eright to left "
    "$\\href{javascript:alert(1)}{x}$ $\\style{background:url(http://203.0.113.9/)}{y}$ "
    "$\\text{<script>alert(2)</script>}$"
)
PROOF = """The roots are given by **Vieta**:
\\[
\\begin{aligned} x_1 + x_2 &= -\\frac{b}{a} \\\\ x_1 x_2 &= \\frac{c}{a} \\end{aligned}
\\]
so that \\(x_1^2 + x_2^2 = \\left(\\frac{b}{a}\\right)^2 - \\frac{2c}{a}\\). With $a = 1$:

| root | value |
|---|---|
| $x_1$ | $\\sqrt{2}$ |
| $x_2$ | $\\boxed{42}$ |

```python
def roots(a: int, b: int) -> list[int]:
    # both of them
    return [number for number in range(a, b) if number % 2 == 0]
```

1. First *this*,
2. then `that`.
"""


def identity(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()


HOSTILE_ID, PROOF_ID = identity("question 0"), identity("question 1")


def fill_workspace(workspace: Workspace) -> None:
    """Of every ten questions one is dropped as a duplicate; `good` is right on all but every fourth, `poor` on none."""
    questions = [_question(number) for number in range(NUMBER)]
    for shard in workspace.shards:
        mine = [one for one in questions if workspace.shard_of(one["question_id"]) == shard]
        kept = [one for one in mine if not _is_dropped(one)]
        _commit(workspace, "ingest", shard, "questions", mine, "record")
        _commit(workspace, "curate", shard, "curated", [one | {"split": "train"} for one in kept], "question",
                [_drop(one, questions) for one in mine if _is_dropped(one)])  # fmt: skip
        for teacher in TEACHERS:
            answered = [_response(one, teacher) for one in kept]
            _commit(workspace, f"generate.{teacher}", shard, "responses", answered, "request")
            verdicts = [_verdict(one, row, name) for one, row in zip(kept, answered, strict=True)
                        for name in ("math", "outcome")]  # fmt: skip
            _commit(workspace, f"verify.{teacher}", shard, "verdicts", verdicts, "response", counted=len(answered))
        _commit(workspace, "grade", shard, "grades", [_grade(one) for one in kept], "question")
        chosen = [_selected(one) for one in kept if _is_right(one)]
        _commit(workspace, "select", shard, "selection", chosen, "response")


def _commit(workspace: Workspace, step: str, shard: str, table: str, rows: list[dict[str, Any]], unit: str,
            dropped: list[dict[str, Any]] | None = None, counted: int | None = None) -> None:  # fmt: skip
    gone = dropped or []
    out = len(rows) if counted is None else counted
    book = Book(unit, out + len(gone), out, dict(Counter(one["rule"] for one in gone)))
    schema = TABLES[table].schema
    full = [dict.fromkeys(schema.names) | row for row in rows]
    begun = workspace.begin(step, shard, Inputs("1", {}, {}), run_id="made")
    begun.commit(table, pa.Table.from_pylist(full, schema=schema), gone, [book])


def _question(number: int) -> dict[str, Any]:
    text = {0: HOSTILE, 1: "Solve $x^2 - 5x + 6 = 0$ for \\(x\\)."}.get(number, f"What is {number} + {number}?")
    if number == 2:
        text = "def add(a, b):\n    return a + b\n"
    return {
        "question_id": identity(f"question {number}"), "messages": [{"role": "user", "content": text}],
        "category": ("math", "code", "science")[number % 3] if number > 2 else "math", "question_source": "sums",
        "source_id": str(number), "license": "MIT", "ground_truth": str(2 * number), "metadata": "{}",
    }  # fmt: skip


def _is_dropped(question: dict[str, Any]) -> bool:
    return int(question["source_id"]) % 10 == 9


def _is_right(question: dict[str, Any]) -> bool:
    return int(question["source_id"]) % 4 != 0


def _drop(question: dict[str, Any], questions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "stage": "curate", "unit": "question", "unit_id": question["question_id"], "rule": "near_duplicate",
        "value": 0.95, "threshold": 0.9, "evidence": json.dumps({"kept": questions[3]["question_id"]}),
        "run_id": "made",
    }  # fmt: skip


def response_id(question: dict[str, Any], teacher: str) -> str:
    return identity(f"{question['question_id']} {teacher}")


def _response(question: dict[str, Any], teacher: str) -> dict[str, Any]:
    number = int(question["source_id"])
    answer = {0: HOSTILE, 1: PROOF}.get(number, f"{teacher} says \\boxed{{{2 * number}}}.")
    return {
        "response_id": response_id(question, teacher), "question_id": question["question_id"], "teacher": teacher,
        "model_revision": "m@1", "round": 0, "sample_index": 0, "think_content": f"Let me think about {number}. " * 20,
        "answer_content": answer, "finish_reason": "stop", "prompt_tokens": 10, "completion_tokens": 100 + number,
        "sampling": '{"temperature": 0.7}',
    }  # fmt: skip


def _verdict(question: dict[str, Any], response: dict[str, Any], verifier: str) -> dict[str, Any]:
    right = response["teacher"] == "good" and _is_right(question)
    return {
        "response_id": response["response_id"], "question_id": question["question_id"],
        "teacher": response["teacher"], "sample_index": 0, "verifier": verifier, "verifier_version": "math 1",
        "verify_score": float(right), "passed": right, "status": "accepted" if right else "wrong_answer",
        "answer": HOSTILE if question["source_id"] == "0" else str(question["source_id"]),
        "evidence": json.dumps({"gold": question["ground_truth"], "seen": HOSTILE}), "timing": "{}",
    }  # fmt: skip


def _grade(question: dict[str, Any]) -> dict[str, Any]:
    right = int(_is_right(question))
    each = [{"teacher": one, "n": 1, "passes": right * (one == "good"), "pass_rate": float(right * (one == "good"))}
            for one in TEACHERS]  # fmt: skip
    return {
        "question_id": question["question_id"], "category": question["category"], "split": "train", "teachers": each,
        "n": 2, "passes": right, "pass_rate": right / 2, "mean_score": right / 2,
        "difficulty": "medium" if right else "unsolved", "basis": "verifiers", "reference_suspect": False,
    }  # fmt: skip


def _selected(question: dict[str, Any]) -> dict[str, Any]:
    return {
        "question_id": question["question_id"], "response_id": response_id(question, "good"), "teacher": "good",
        "rule": "best", "verify_score": 1.0, "pass_rate": 0.5, "difficulty": "medium", "basis": "verifiers",
    }  # fmt: skip
