"""A small workspace with all that a report shows, and a reader of the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.manifest import Book, Inputs
from storage.schemas import TABLES
from storage.workspace import ALL, Workspace
from tasks.grade import GradeSettings, grade_steps
from tasks.grade_comparison import compare_step
from tasks.report import write_report
from tasks.step import Context, Work

INPUTS = Inputs("1", {}, {})
TEACHERS = ("counts_tokens", "counts_none")
HOSTILE = "<script>alert('question')</script> \x00 \x1b[31mred\x1b[0m </pre></details> \u202eevil"
HOSTILE_ANSWER = "<img src=https://example.org/x onerror=alert(1)> \x00\x1b]0;title\x07 {{ 7 * 6 }} $x^2$"
CATEGORIES = ("math", "code")


def rows(table: str, *given: dict[str, Any]) -> pa.Table:
    """Rows of a table; columns that are not given are null."""
    schema = TABLES[table].schema
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in given], schema=schema)


def identity(number: int) -> str:
    """An id whose shard alternates."""
    return f"{number % 2 * 8:x}{number:031x}"


def question(number: int) -> dict[str, Any]:
    text = HOSTILE if number == 0 else f"What is {number} + 1?"
    return {
        "question_id": identity(number),
        "messages": [{"role": "user", "content": text}],
        "category": CATEGORIES[number % 3 == 0],
        "question_source": "made",
        "source_id": str(number),
        "ground_truth": str(number + 1),
        "metadata": "{}",
        "split": "train",
    }


def response(number: int, teacher: str, sample: int) -> dict[str, Any]:
    tokens = teacher == "counts_tokens"
    failed = number == 5 and sample == 1 and tokens
    answer = HOSTILE_ANSWER if number == 0 else f"It is {number + 1}"
    return {
        "response_id": f"{number % 2 * 8:x}{number:015x}{TEACHERS.index(teacher):08x}{sample:08x}",
        "question_id": identity(number),
        "teacher": teacher,
        "model_revision": "1",
        "round": 0,
        "sample_index": sample,
        "think_content": "hmm " * (2_000 if number == 1 else 1) if tokens else None,
        "answer_content": None if failed else answer,
        "finish_reason": None if failed else "length" if number == 2 and tokens else "stop",
        "completion_tokens": 10 + number if tokens and not failed else None,
        "sampling": "{}",
        "error": "<b>timed out</b>" if failed else None,
        "error_kind": "transient" if failed else None,
    }


def verdict(answered: dict[str, Any], number: int) -> dict[str, Any]:
    passed = (number + answered["sample_index"]) % 3 == 0
    return {
        **{name: answered[name] for name in ("response_id", "question_id", "teacher", "sample_index")},
        "verifier": "outcome",
        "verifier_version": "1",
        "verify_score": float(passed),
        "passed": passed,
        "status": "accepted" if passed else "wrong_answer",
        "answer": str(number + 1) if passed else "17",
        "evidence": "{}",
        "timing": "{}",
    }


def drop(stage: str, unit: str, unit_id: str, rule: str) -> dict[str, Any]:
    evidence = json.dumps({"matched": "<script>alert('evidence')</script>", "question_id": identity(0)})
    return {
        "stage": stage, "unit": unit, "unit_id": unit_id, "rule": rule, "value": 0.97, "threshold": 0.9,
        "evidence": evidence, "run_id": "run",
    }  # fmt: skip


def build(root: Path) -> Workspace:
    """Nine questions, one of them dropped; two teachers, two samples each, one failed request; two shards."""
    made = Workspace.create(root, bits=1)
    for shard in made.shards:
        numbers = [number for number in range(9) if made.shard_of(identity(number)) == shard]
        kept = [number for number in numbers if number != 8]
        _commit_questions(made, shard, numbers, kept)
        for teacher in TEACHERS:
            _commit_teacher(made, shard, teacher, kept)
    _commit_grades(made)
    made.begin("export", ALL, INPUTS, run_id="run").commit_result([Book("example", 11, 11)], content="export")
    return made


def _commit_questions(made: Workspace, shard: str, numbers: list[int], kept: list[int]) -> None:
    read = [{**question(number)} for number in numbers]
    for row in read:
        del row["split"]
    bad = [drop("ingest", "record", "made:f.jsonl:3", "broken_json")] if shard == "0" else []
    book = Book("record", len(read) + len(bad), len(read), {"broken_json": 1} if bad else {})
    begun = made.begin("ingest", shard, INPUTS, run_id="run")
    begun.commit("questions", rows("questions", *read), bad, [book])
    gone = [drop("curate", "question", identity(8), "near_duplicate")] if 8 in numbers else []
    book = Book("question", len(numbers), len(kept), {"near_duplicate": len(gone)} if gone else {})
    curated = rows("curated", *map(question, kept))
    made.begin("curate", shard, INPUTS, run_id="run").commit("curated", curated, gone, [book])


def _commit_teacher(made: Workspace, shard: str, teacher: str, kept: list[int]) -> None:
    asked = [(number, response(number, teacher, sample)) for number in kept for sample in (0, 1)]
    answered = [(number, row) for number, row in asked if row["error_kind"] is None]
    waiting = len(asked) - len(answered)
    book = Book("request", len(asked), len(answered), {}, waiting)
    table = rows("responses", *(row for _, row in asked))
    made.begin(f"generate.{teacher}", shard, INPUTS, run_id="run").commit("responses", table, [], [book])
    verdicts = [verdict(row, number) for number, row in answered]
    book = Book("response", len(asked), len(answered), {}, waiting)
    made.begin(f"verify.{teacher}", shard, INPUTS, run_id="run").commit(
        "verdicts", rows("verdicts", *verdicts), [], [book]
    )


def _commit_grades(made: Workspace) -> None:
    for step in (*grade_steps(GradeSettings(), TEACHERS), compare_step(TEACHERS)):
        step.run(Context(made, "run"), step, [Work(shard, INPUTS, "first run") for shard in step.shards(made)])


def train(made: Workspace, name: str = "student", *, base: bool = True) -> None:
    """A committed training and evaluation, as the stages leave them; without `base` only the student was asked."""
    folder = made.root / "students" / name / "train"
    folder.mkdir(parents=True)
    result = {
        "examples_in": 11, "examples": 10, "overlong": 1, "overlong_ids": ["r"], "overlong_action": "drop",
        "prompt_mismatches": 0, "eval_examples": 0, "eval_overlong": 0, "steps": 3, "tokens": 1234,
        "loss_tokens": 567, "train_loss": 0.5, "loss_curve": [[1, 2.0], [2, 1.0], [3, 0.5]],
        "eval_loss": None, "resumed_from": None, "seconds": {}, "versions": {},
    }  # fmt: skip
    (folder / "train_result.json").write_text(json.dumps(result))
    dropped = [drop(f"train.{name}", "example", "r", "overlong")]
    book = Book("example", 11, 10, {"overlong": 1})
    made.begin(f"train.{name}", ALL, INPUTS, run_id="run").commit_result([book], content="w", ledger=dropped)
    before = {"questions": 40, "accuracy": 0.3, "low": 0.18, "high": 0.45, "pass@1": 0.3, "pass@2": 0.4}
    after = {"questions": 40, "accuracy": 0.525, "low": 0.375, "high": 0.67, "pass@1": 0.525, "pass@2": 0.613}
    metrics: dict[str, Any] = {
        "questions": 41, "samples": 2, "all": {"before": before, "after": after},
        "by_category": {"math": {"before": before, "after": after}},
        "by_difficulty": {
            "hard": {"before": before, "after": after},
            "easy": {"before": before, "after": {"questions": 0}},
        },
    }  # fmt: skip
    if not base:
        for sides in (metrics["all"], *metrics["by_category"].values(), *metrics["by_difficulty"].values()):
            del sides["before"]
    book = Book("question", 41, 40, {}, 1)
    made.begin(f"evaluate.{name}", ALL, INPUTS, run_id="run").commit_result(
        [book], content="m", extra={"metrics": metrics}
    )


def page_of(made: Workspace, student: str | None = None) -> str:
    return write_report(made, "a recipe", student).read_bytes().decode()


class Page(HTMLParser):
    """What a browser would make of the page: elements, links and the cells of each table by its caption."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.headings: list[int] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._caption = ""
        self._in: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("td", "th", "caption"):
            self._in = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[self._caption] = self._rows
            self._caption = ""
        if tag == self._in:
            self._in = None

    def handle_data(self, data: str) -> None:
        if self._in == "caption":
            self._caption += data
        elif self._in:
            self._rows[-1][-1] += data

    def table(self, caption: str) -> list[list[str]]:
        """The table's cells, without its head."""
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[caption][1:]]
