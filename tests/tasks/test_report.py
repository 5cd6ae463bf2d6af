"""The report says what the books say, shows what models wrote as text only, and is the same every time."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.database import open_views
from storage.manifest import Book, Inputs
from storage.schemas import TABLES
from storage.workspace import ALL, Workspace
from tasks.grade import GradeSettings, grade_steps
from tasks.grade_comparison import compare_step
from tasks.page import visible
from tasks.report import report_step, write_report
from tasks.report_comparison import best_teachers
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


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return build(tmp_path_factory.mktemp("plain") / "ws")


@pytest.fixture(scope="module")
def page(workspace: Workspace) -> str:
    return page_of(workspace)


@pytest.fixture(scope="module")
def with_student(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = build(tmp_path_factory.mktemp("student") / "ws")
    train(made)
    return made


@pytest.fixture(scope="module")
def student_page(with_student: Workspace) -> str:
    return page_of(with_student, "student")


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


def train(made: Workspace, name: str = "student") -> None:
    """A committed training and evaluation, as the stages leave them."""
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
    metrics = {
        "questions": 41, "samples": 2, "all": {"before": before, "after": after},
        "by_category": {"math": {"before": before, "after": after}},
        "by_difficulty": {
            "hard": {"before": before, "after": after},
            "easy": {"before": before, "after": {"questions": 0}},
        },
    }  # fmt: skip
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


def test_what_models_and_sources_wrote_stands_there_as_text(page: str) -> None:
    assert {"script", "img", "b"}.isdisjoint(Page(page).tags)
    assert "&lt;script&gt;alert(&#39;question&#39;)&lt;/script&gt; [U+0000] [U+001B][31mred" in page
    assert "[U+202E]evil" in page
    assert "&lt;img src=https://example.org/x onerror=alert(1)&gt; [U+0000][U+001B]]0;title[U+0007]" in page
    assert "{{ 7 * 6 }} $x^2$" in page
    assert "&lt;script&gt;alert(&#39;evidence&#39;)" in page.replace("\\u0027", "&#39;")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)


def test_a_hostile_recipe_name_is_text_too(workspace: Workspace) -> None:
    page = write_report(workspace, "<script>x</script>\x1b", None).read_text()
    assert "<h1>&lt;script&gt;x&lt;/script&gt;[U+001B]</h1>" in page


def test_visible_keeps_ordinary_text() -> None:
    assert visible("a\tb\nc\r\nd – é 数 🙂") == "a\tb\nc\nd – é 数 🙂"
    assert visible("\x9b31m\x7f\ufeff") == "[U+009B]31m[U+007F][U+FEFF]"


def test_the_page_reaches_for_nothing(student_page: str) -> None:
    for name, value in Page(student_page).attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value is not None and value.startswith("#"), f"{name}={value}"
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in student_page
    assert re.findall(r"url\((?!#)|@import", student_page) == []


def test_books_on_the_page_are_the_books(workspace: Workspace, page: str) -> None:
    with open_views(workspace) as connection:
        expected = connection.execute("""
            select step, unit, sum(units_in), sum(units_out), sum(dropped), sum(pending)
            from books
            group by all
        """).fetchall()
    shown = Page(page).table("Books of every step")
    numbers = [(row[0], row[1], *(int(cell) for cell in (row[2], row[3], row[4], row[6]))) for row in shown]
    assert sorted(numbers) == sorted(expected)
    assert [row[0] for row in shown][:3] == ["ingest", "curate", "generate.counts_none"]
    assert {row[5] for row in shown} == {"", "broken_json 1", "near_duplicate 1"}


def test_balance_and_pending_are_said(page: str) -> None:
    text = " ".join(page.split())
    assert "The books balance" in text
    assert "1 of generate.counts_tokens (request), 1 of verify.counts_tokens (response)" in text


def test_numbers_of_a_teacher(page: str) -> None:
    shown = {row[0]: row[1:] for row in Page(page).table("Responses by teacher")}
    # 8 questions × 2 samples; one sample in three passes: (number + sample) % 3 = 0
    assert shown["counts_none"] == ["16", "16", "5", "31.2 %", "16 chars", "0", "0"]
    assert shown["counts_tokens"] == ["15", "15", "4", "26.7 %", "13 tok", "2", "1"]


def test_pass_rates_and_difficulty_count_every_graded_question(page: str) -> None:
    shown = Page(page)
    rates = shown.table("Questions by pass rate")
    assert [row[0] for row in rates] == ["all teachers", "counts_none", "counts_tokens"]
    assert [row[-1] for row in rates] == ["8", "8", "8"]
    assert [row[0] for row in shown.table("Questions by category and difficulty")] == ["code", "math"]
    assert sum(int(row[-1]) for row in shown.table("Questions by category and difficulty")) == 8


def test_a_cut_text_says_how_much_is_left_out(page: str) -> None:
    assert "4,000 characters left out" in page  # of 2,000 × "hmm "


def test_two_writes_give_the_same_bytes_whatever_the_reports_own_commit(with_student: Workspace) -> None:
    step = report_step("a recipe", ("export",), "student")
    step.run(Context(with_student, "run"), step, [Work(ALL, INPUTS, "first run")])
    first = (with_student.root / "report.html").read_bytes()
    step.run(Context(with_student, "run"), step, [Work(ALL, INPUTS, "again")])
    assert page_of(with_student, "student").encode() == first


def test_student_is_shown_when_there_is_one(student_page: str) -> None:
    shown = Page(student_page).table("student on 41 held-out questions, 2 answers each")
    assert [row[0] for row in shown] == ["all", "math", "easy", "hard"]
    assert shown[0] == ["all", "40", "30.0 % 18.0 % – 45.0 %", "52.5 % 37.5 % – 67.0 %", "40.0 %", "61.3 %"]
    assert shown[2][3] == "–"
    assert "Training loss on the answers" in student_page
    assert "10 of 11 examples" in student_page


def test_student_is_absent_when_there_is_none(workspace: Workspace) -> None:
    for student in (None, "student"):
        page = page_of(workspace, student)
        assert 'id="student"' not in page
        assert "Training loss" not in page


def test_ids_are_unique_and_headings_skip_no_level(student_page: str) -> None:
    page = Page(student_page)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(level <= before + 1 for before, level in zip([0, *page.headings], page.headings, strict=False))
    assert page.headings.count(1) == 1
    targets = {value for name, value in page.attributes if name in ("href", "xlink:href")}
    assert {target.removeprefix("#") for target in targets if target} <= set(ids)


def test_an_empty_workspace_has_a_page(tmp_path: Path) -> None:
    page = page_of(Workspace.create(tmp_path / "ws", bits=0))
    assert "Nothing has been made" in page
    assert Page(page).tables == {}


def test_the_comparison_of_teachers_stands_there_as_the_table_has_it(workspace: Workspace, page: str) -> None:
    with open_views(workspace) as connection:
        rows = connection.execute(
            "select category, teacher, questions, n, pass_rate from comparison order by category, rank, teacher"
        ).fetchall()
    shown = Page(page).table("Pass rate by category and teacher")
    assert len(rows) == 4
    assert [(row[0], row[1], int(row[2]), int(row[3]), row[4]) for row in shown] == [
        (category, teacher, questions, n, f"{100 * rate:.1f} %") for category, teacher, questions, n, rate in rows
    ]
    assert re.fullmatch(r"\d+\.\d % to \d+\.\d %", shown[0][5])
    assert [row[:2] for row in Page(page).table("Quantiles of tokens by category")] == [
        ["code", "counts_tokens"], ["math", "counts_tokens"],
    ]  # fmt: skip


def test_who_is_best_says_whether_that_is_clear(page: str) -> None:
    told = " ".join(re.search(r'<ul id="best">(.*?)</ul>', page, re.DOTALL)[1].split())  # type: ignore[index]
    assert re.search(r"<li>math: counts_\w+.*? \(\d+\.\d.%\), but not clearly", told)

    def row(teacher: str, low: float, rate: float, high: float, rank: int) -> dict[str, Any]:
        return {"category": "c", "teacher": teacher, "low": low, "pass_rate": rate, "high": high, "rank": rank}

    (clear,) = best_teachers([row("a", 0.8, 0.9, 1.0, 1), row("b", 0.1, 0.2, 0.3, 2)])
    (close,) = best_teachers([row("a", 0.5, 0.6, 0.7, 1), row("b", 0.4, 0.5, 0.6, 2)])
    (equal,) = best_teachers([row("a", 0.8, 0.9, 1.0, 1), row("b", 0.8, 0.9, 1.0, 1)])
    assert (clear.clear, close.clear, equal.clear) == (True, False, False)
    assert equal.teachers == ("a", "b") and best_teachers([row("a", 0.8, 0.9, 1.0, 1)]) == []


def test_the_agreement_of_teachers_is_a_matrix(workspace: Workspace, page: str) -> None:
    with open_views(workspace) as connection:
        equal = dict(
            connection.execute(
                """
                select (teacher, pair.other), pair.equal
                from (select teacher, unnest(agreement) as pair from comparison where category = 'math')
                """
            ).fetchall()
        )
    shown = Page(page).table("Equal answers in math")
    assert [row[0] for row in shown] == sorted(TEACHERS)
    for row in shown:
        assert row[1:] == [f"{100 * equal[row[0], other]:.1f} %" for other in sorted(TEACHERS)]
    assert equal[TEACHERS[0], TEACHERS[1]] == equal[TEACHERS[1], TEACHERS[0]]


def test_what_a_judge_said_of_references_is_counted(tmp_path: Path, page: str) -> None:
    assert 'id="repairs"' not in page
    made = build(tmp_path / "ws")
    common = {"category": "math", "majority_answer": "1", "vote_share": 1.0, "votes": [], "judge": "j", "asked": "h"}
    given = [common | {"question_id": identity(number), "status": status}
             for number, status in ((0, "repaired"), (2, "repaired"), (4, "infra_error"))]  # fmt: skip
    book = Book("reference", 3, 2, {}, 1)
    made.begin("repair", "1", INPUTS, run_id="run").commit("repairs", rows("repairs", *given), [], [book])
    told = re.search(r'<p id="repairs">(.*?)</p>', page_of(made), re.DOTALL)[1]  # type: ignore[index]
    assert "put to a judge: 1 wait for it, 2 repaired." in " ".join(told.split())


def test_without_a_comparison_the_page_has_none(tmp_path: Path) -> None:
    assert 'id="comparison"' not in page_of(Workspace.create(tmp_path / "empty", bits=0))
