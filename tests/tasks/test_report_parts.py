"""The report's charts of spread, cost, pairs and editions have the numbers of the tables behind them.

Numbers are computed again from the rows in Python. Not covered: how the charts look
(tests/tasks/viewer/test_report_page.py opens them in a browser).
"""

from __future__ import annotations

import json
import math
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from storage.database import open_views
from storage.editions import Edition, create_edition, promote
from storage.manifest import Book
from storage.schemas import LEDGER, TABLES
from storage.workspace import ALL, Workspace
from tasks.report import prices_of, report_step
from tasks.report_cost import cost_facts, duration, step_seconds
from tasks.report_spread import CV_BANDS, cv_bands
from tasks.teachers.settings import OpenAITeacherSettings, ReplayTeacherSettings
from tests.tasks.made_report import HOSTILE, INPUTS, TEACHERS, Page, build, identity, page_of, rows


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return build(tmp_path_factory.mktemp("parts") / "ws")


@pytest.fixture(scope="module")
def page(workspace: Workspace) -> Page:
    return Page(page_of(workspace))


def table(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    with closing(open_views(workspace)) as connection:
        return connection.sql(f"select * from {name}").to_arrow_table().to_pylist()


def test_pass_rates_by_category_count_every_graded_question(workspace: Workspace, page: Page) -> None:
    grades = table(workspace, "grades")
    shown = {(row[0], row[1]): row[2:] for row in page.table("Questions by category and pass rate")}
    assert set(shown) == {(category, who) for category in ("code", "math") for who in ("all teachers", *TEACHERS)}
    for (category, who), cells in shown.items():
        group = [row for row in grades if row["category"] == category]
        profiles = group if who == "all teachers" else [
            one for row in group for one in row["teachers"] if one["teacher"] == who
        ]  # fmt: skip
        rates = [one["passes"] / one["n"] for one in profiles if one["n"]]
        assert int(cells[-1]) == len(rates)
        assert int(cells[0]) == rates.count(0.0) and int(cells[5]) == rates.count(1.0)
        for place in range(1, 5):
            assert int(cells[place]) == sum((place - 1) / 4 < rate <= place / 4 and rate < 1 for rate in rates)


def test_the_ends_of_a_band_of_cv_belong_to_it(tmp_path: Path) -> None:
    made = Workspace.create(tmp_path / "ws", bits=0)
    given = [None, 0.0, 0.5, 0.5001, 1.0, 1.5, 2.0, 2.0001, 3.0, 3.0001]
    common = {"category": "math", "split": "train", "teachers": [], "n": 4, "passes": 1, "difficulty": "hard",
              "basis": "verifiers", "reference_suspect": False}  # fmt: skip
    graded = [common | {"question_id": identity(number), "cv": cv} for number, cv in enumerate(given)]
    book = Book("question", len(given), len(given))
    made.begin("grade", "0", INPUTS, run_id="run").commit("grades", rows("grades", *graded), [], [book])
    with closing(open_views(made)) as connection:
        assert cv_bands(connection) == {"math": dict(zip(CV_BANDS, (1, 1, 2, 1, 1, 2, 1, 1), strict=True))}


def test_lengths_by_status_are_those_of_the_responses(workspace: Workspace, page: Page) -> None:
    outcomes = {row["response_id"]: row["status"] for row in table(workspace, "verdicts")}
    tokens = {row["response_id"]: row["completion_tokens"] for row in table(workspace, "responses")}
    shown = [row for row in page.table("Quantiles of the length by status") if row[1] == "tokens"]
    assert [row[0] for row in shown] == ["accepted", "wrong answer"]
    for row in shown:
        status = row[0].replace(" ", "_")
        lengths = sorted(tokens[one] for one, found in outcomes.items() if found == status and tokens[one] is not None)
        assert int(row[2]) == len(lengths)
        assert int(row[5]) == lengths[math.ceil(len(lengths) / 2) - 1]
        assert int(row[7]) == lengths[math.ceil(len(lengths) * 0.95) - 1]


def test_perplexity_by_the_teacher_and_by_a_scorer(tmp_path: Path) -> None:
    made = build(tmp_path / "ws")
    responses = [row for row in table(made, "responses") if row["teacher"] == TEACHERS[0] and row["error_kind"] is None]
    for shard in made.shards:
        own = [row for row in responses if made.shard_of(row["question_id"]) == shard]
        scores = [
            {"response_id": row["response_id"], "question_id": row["question_id"], "teacher": row["teacher"],
             "scorer": "judge_7b", "scorer_version": "1", "text_hash": "t", "perplexity": 3.0 if place else 400.0}
            for place, row in enumerate(own)
        ]  # fmt: skip
        made.begin(f"score.{TEACHERS[0]}", shard, INPUTS, run_id="run").commit(
            "scores", rows("scores", *scores), [], [Book("score", len(own), len(own))]
        )
        again = [row | {"mean_logprob": -math.log(2.0)} for row in own]
        made.begin(f"generate.{TEACHERS[0]}", shard, INPUTS, run_id="run").commit(
            "responses", rows("responses", *again), [], [Book("request", len(own), len(own))]
        )
    html = page_of(made)
    shown = Page(html).table("Quantiles of the perplexity")
    assert {(row[0], row[1]) for row in shown} == {(TEACHERS[0], "judge_7b"), (TEACHERS[0], "the teacher itself")}
    assert {cell for row in shown if row[1] != "judge_7b" for cell in row[4:]} == {"2"}
    judged = [row for row in shown if row[1] == "judge_7b"]
    assert sum(int(row[3]) for row in judged) == len(responses)
    assert {row[6] for row in judged} == {"3"} and max(float(row[8]) for row in judged) == pytest.approx(400, rel=0.01)
    assert "Perplexity" in html


def test_without_log_probabilities_there_is_no_perplexity(page: Page) -> None:
    assert "Quantiles of the perplexity" not in page.tables


def test_tokens_are_divided_by_the_fate_of_their_responses(tmp_path: Path) -> None:
    made = build(tmp_path / "ws")
    responses = {row["response_id"]: row for row in table(made, "responses")}
    passed = [row for row in table(made, "verdicts") if row["passed"] and row["teacher"] == TEACHERS[0]]
    chosen = passed[:2]
    for shard in made.shards:
        picked = [
            {"question_id": row["question_id"], "response_id": row["response_id"], "teacher": row["teacher"],
             "rule": "best", "difficulty": "easy", "basis": "verifiers"}
            for row in chosen if made.shard_of(row["question_id"]) == shard
        ]  # fmt: skip
        book = Book("response", len(picked), len(picked))
        made.begin("select", shard, INPUTS, run_id="run").commit("selection", rows("selection", *picked), [], [book])
    prices = {TEACHERS[0]: (1_000.0, 1_000_000.0)}
    with closing(open_views(made)) as connection:
        facts = cost_facts(connection, prices)
    by_name = {row.teacher: row for row in facts["costs"]}
    cost = by_name[TEACHERS[0]]
    asked = [row for row in responses.values() if row["teacher"] == TEACHERS[0] and row["error_kind"] is None]
    total = sum(row["completion_tokens"] for row in asked)
    assert cost.responses == {"selected": 2, "passed": len(passed) - 2, "failed": len(asked) - len(passed),
                              "not judged": 0}  # fmt: skip
    assert cost.tokens["selected"] == sum(responses[row["response_id"]]["completion_tokens"] for row in chosen)
    assert cost.total == total
    assert facts["money"] == cost.money == total  # a token costs 1, the prompts weren't counted
    assert cost.money_each == total / 2
    other = by_name[TEACHERS[1]]
    assert (other.money, other.total, other.uncounted) == (None, 0, 16)


def test_only_teachers_with_a_price_cost_money_and_a_new_price_makes_the_page_again() -> None:
    common = {"name": "a", "engine": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    priced = OpenAITeacherSettings.model_validate(common | {"price_per_million_tokens": 2.0})
    free = OpenAITeacherSettings.model_validate(common | {"name": "b"})
    replayed = ReplayTeacherSettings.model_validate(
        {"name": "c", "engine": "replay", "path": "f", "price_per_million_tokens": 2.0}
    )
    prices = prices_of([priced, free, replayed])
    assert prices == {"a": (0.0, 2.0)}
    assert report_step("r", (), None, prices).settings != report_step("r", (), None, {"a": (0.0, 3.0)}).settings


def test_a_commit_with_two_books_counts_its_seconds_once(workspace: Workspace) -> None:
    books = [Book("question", 1, 1), Book("response", 1, 1)]
    workspace.begin("negatives", ALL, INPUTS, run_id="run").commit_result(books, content="c")
    with closing(open_views(workspace)) as connection:
        found = {row.step: row for row in step_seconds(connection)}
    head = workspace.need("negatives", ALL)
    assert found["negatives"].shards == 1 and found["negatives"].seconds == pytest.approx(head.seconds)


def test_durations_are_said_in_two_units_at_most() -> None:
    given = (0.01, 0.34, 42.2, 59.7, 200, 18_720)
    assert [duration(one) for one in given] == ["< 0.1 s", "0.3 s", "42 s", "1 min 0 s", "3 min 20 s", "5 h 12 min"]


def dropped(unit_id: str, rule: str, value: float, evidence: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(LEDGER.names) | {
        "stage": "curate", "unit": "question", "unit_id": unit_id, "rule": rule, "value": value, "threshold": 0.9,
        "evidence": json.dumps(evidence), "run_id": "run",
    }  # fmt: skip


def test_pairs_stand_side_by_side_nearest_to_the_threshold_first(tmp_path: Path) -> None:
    made = build(tmp_path / "ws")
    near = [dropped(identity(number), "near_duplicate", value, {"kept": identity(1), "like": identity(3)})
            for number, value in ((2, 0.99), (4, 0.91), (6, 0.95), (8, 0.97))]  # fmt: skip
    item = {"verdict": "contaminated", "benchmark": "gsm8k", "item": 7, "item_text": f"{HOSTILE} What is 5 + 1?",
            "matched": "What is 5 + 1", "found_by": "benchmark_ngram"}  # fmt: skip
    hit = dropped(identity(5), "benchmark_ngram", 0.93, item)
    odd = dropped(identity(7), "exact_duplicate", 1.0, {"kept": ["no", "id"]})
    drops = [*near, hit, odd]
    counted = {rule: sum(one["rule"] == rule for one in drops) for rule in {one["rule"] for one in drops}}
    made.begin("curate", "0", INPUTS, run_id="run").commit(
        "curated", TABLES["curated"].schema.empty_table(), drops, [Book("question", len(drops), 0, counted)]
    )
    html = page_of(made)
    section = html[html.index('<section id="pairs">') : html.index("</section>", html.index('<section id="pairs">'))]
    assert re.findall(r"<h3>(\w+)</h3>", section) == ["exact_duplicate", "near_duplicate", "benchmark_ngram"]
    assert re.findall(r"<h4>(\w{8})</h4>", section) == [
        identity(number)[:8] for number in (7, 4, 6, 8, 5)
    ]  # of the near-duplicates the three nearest to 0.9
    assert "4 dropped." in section and f"stays: {identity(3)[:8]}" in section and "What is 3 + 1?" in section
    assert section.count("<mark>What is 5 + 1</mark>") == 2
    assert "gsm8k, item 7" in section and "<script>" not in section and "[U+202E]evil" in section


def test_editions_stand_there_with_their_changes_newest_first(tmp_path: Path) -> None:
    made = build(tmp_path / "ws")
    for number, examples in ((1, 10), (2, 12)):
        diff = {"against": None, "changes": {"added": {"new_question": 10}}} if number == 1 else {
            "against": 1, "changes": {"added": {"new_question": 2, "<b>": 1}, "gone": {"retired": 1}, "regraded": {}},
        }  # fmt: skip
        create_edition(made, Edition(
            number=number, created=f"2026-11-2{number}T02:00:00+00:00", name="r", recipe="h", run_id="run", versions={},
            steps={}, slices=(), files=(), counts={"examples": examples, "questions": 5, "pass_rate": 0.25}, diff=diff,
        ))  # fmt: skip
    promote(made, 1, {})
    html = page_of(made)
    assert Page(html).table("Editions") == [
        ["2", "2026-11-22 02:00", "no", "12", "25.0 %", "3", "1", "0",
         "added: new question 2 added: <b> 1 gone: retired 1"],
        ["1", "2026-11-21 02:00", "yes", "10", "25.0 %", "10", "0", "0", "added: new question 10"],
    ]  # fmt: skip
    assert "examples by edition" in html


def test_a_part_without_rows_is_left_out_with_its_link(tmp_path: Path) -> None:
    html = page_of(Workspace.create(tmp_path / "ws", bits=0))
    for name in ("cost", "pairs", "editions"):
        assert f'id="{name}"' not in html and f'"#{name}"' not in html
