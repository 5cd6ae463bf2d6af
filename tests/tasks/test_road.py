"""Proves law 11 on the whole road: the same rows whatever the number of shards, however often it is cut off."""

from __future__ import annotations

import itertools
import shutil

import pyarrow.parquet as pq
import pytest

from flows.run import Range, ranges, run_range
from storage.compare import differences
from tasks import generate, verify
from tasks.export import export_folder

TABLES = [
    ("ingest", "questions"),
    ("screen", "screened"),
    ("dedup", "duplicates"),
    ("curate", "curated"),
    ("generate.a", "responses"),
    ("generate.b", "responses"),
    ("verify.a", "verdicts"),
    ("verify.b", "verdicts"),
    ("grade", "grades"),
    ("select", "selection"),
]


@pytest.fixture
def house(make_house):
    """40 questions, among them duplicates, a broken one, and one with an address; two teachers, right now and then."""
    house = make_house(
        curate={"near_duplicates": None, "heldout": 0.2},
        teachers=[
            {"name": name, "engine": "replay", "path": "answers.jsonl", "samples": 3, "columns": {"response": name}}
            for name in ("a", "b")
        ],
        select={"max_per_question": 2},
        export={"validation": 0.3},
        runner={"max_workers": 1},
    )
    questions = [f"What is {n} + {n % 7}?" for n in range(34)]
    rows = [{"question": text, "ground_truth": str(n + n % 7)} for n, text in enumerate(questions)]
    rows += [{"question": text.upper(), "ground_truth": "0"} for text in questions[:4]]
    house.write("sums.jsonl", [*rows, {"question": 5}, {"question": "See https://example.org please"}])
    house.write(
        "answers.jsonl",
        [
            {
                "question": text,
                "a": [f"\\boxed{{{n + n % 7 + (n + k) % 3 // 2}}}" for k in range(4)],
                "b": [f"<think>x</think>\\boxed{{{n + n % 7 + (n * k) % 2}}}" for k in range(n % 4)] or "?",
            }
            for n, text in enumerate(questions)
        ],
    )
    return house


def same(one, other):
    for step, table in TABLES:
        assert one.rows(step, table) == other.rows(step, table), step
        assert one.ledger(step) == other.ledger(step), step
    left, right = (sorted((export_folder(house.workspace) / "data").iterdir()) for house in (one, other))
    assert [path.name for path in left] == [path.name for path in right]
    assert all(pq.read_table(a).equals(pq.read_table(b)) for a, b in zip(left, right, strict=True))


def test_the_number_of_shards_changes_no_row(house, tmp_path):
    other = house.copy(tmp_path / "other", bits=2)
    house.run("export")
    other.run("export")
    same(house, other)
    assert house.workspace.head("export", "all").content == other.workspace.head("export", "all").content
    assert len(house.rows("select", "selection")) > 10 and house.rules("curate")


def test_a_road_walked_in_pieces_is_the_road_walked_in_one_go(house, tmp_path, monkeypatch):
    """Every range is cut off once after its first shard, then begun again; commits are made all the time."""
    house.bits = 2
    other = house.copy(tmp_path / "other")
    house.run("export")
    monkeypatch.setattr(generate, "COMMIT_EVERY_S", -1.0)
    monkeypatch.setattr(verify, "COMMIT_EVERY_S", -1.0)
    monkeypatch.setattr(verify, "BATCH", 3)
    for stage in ("ingest", "curate", "generate", "verify", "grade", "select", "export"):
        todo = other.plan(stage)
        for step in todo.wanted():
            context, _, work = other.step(step.key)
            for one in ranges(step, work) if work else ():
                run_range(context, Range(step, one.work[:1]))
        other.run(stage)
    same(house, other)
    assert differences(house.workspace, other.workspace) == []
    assert other.run("export") == []


def test_a_workspace_with_its_caches_deleted_has_nothing_to_do(house):
    house.run("export")
    for name in ("cache", "tmp"):
        shutil.rmtree(house.root / name)
    assert house.run("export") == []


def test_questions_that_come_and_go_leave_what_is_there_as_it_was(house, tmp_path):
    house.run("export")
    sums = (house.base / "sums.jsonl").read_text()
    before = {step: house.rows(step, table) for step, table in TABLES}
    house.write(
        "sums.jsonl", [{"question": f"What is {n} + {n % 7}?", "ground_truth": str(n + n % 7)} for n in range(0, 60, 3)]
    )
    house.run("export")
    (house.base / "sums.jsonl").write_text(sums)
    house.run("export")
    after = {step: house.rows(step, table) for step, table in TABLES}
    assert before["ingest"] == after["ingest"]
    splits = [{row["question_id"]: row["split"] for row in rows["curate"]} for rows in (before, after)]
    assert len(splits[0].keys() & splits[1].keys()) >= 30  # an incumbent may have kept its place against its twin
    assert all(splits[0][one] == splits[1][one] for one in splits[0].keys() & splits[1].keys())
    paid = {row["response_id"] for row in after["generate.a"] if row["error_kind"] is None}
    assert paid >= {row["response_id"] for row in before["generate.a"] if row["error_kind"] is None}


def test_all_orders_of_two_sources_files_give_the_same_questions(make_house, make_source, tmp_path):
    found = []
    for order in itertools.permutations(("x.jsonl", "y.jsonl", "z.jsonl")):
        house = make_house(make_source("s", list(order))).copy(tmp_path / "-".join(order))
        for name in order:
            house.write(name, [{"question": f"Who is {name}?"}, {"question": "Who is everybody?", "ground_truth": "1"}])
        house.run("ingest")
        found.append([row["question_id"] for row in house.rows("ingest", "questions")])
    assert all(one == found[0] for one in found)
