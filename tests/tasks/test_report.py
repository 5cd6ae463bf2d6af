"""The report says what the books say, shows what models wrote as text only, and is the same every time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from storage.database import open_views
from storage.manifest import Book
from storage.workspace import ALL, Workspace
from tasks.page import visible
from tasks.report import report_step, write_report
from tasks.report_comparison import best_teachers
from tasks.step import Context, Work
from tests.tasks.made_report import INPUTS, TEACHERS, Page, build, identity, page_of, rows, train


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


def test_a_student_that_was_asked_alone_has_no_before(tmp_path: Path) -> None:
    made = build(tmp_path / "ws")
    train(made, base=False)
    page = page_of(made, "student")
    assert ">after training</dd>" in page and "before training" not in page
