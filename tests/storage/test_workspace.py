"""Proves laws 1 and 2 at the workspace: books balance or nothing is written, one commit wins, ids choose the shard."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import BooksDontBalance, CommitLost, NotAWorkspace, NotCommitted, SchemaMismatch, StorageError
from storage.manifest import Book
from storage.schemas import LEDGER, RESPONSES, TABLES
from storage.workspace import ALL, MAX_SHARD_BITS, MOST_SMALL_PARTS, Workspace, shard_bits


def drop(unit_id, rule="short", unit="question"):
    return {
        "stage": "screen",
        "unit": unit,
        "unit_id": unit_id,
        "rule": rule,
        "value": None,
        "threshold": None,
        "evidence": "{}",
        "run_id": "r",
    }


def begin(workspace, inputs, shard="0", step="screen"):
    return workspace.begin(step, shard, inputs, run_id="r")


def files(workspace):
    return sorted(path for path in workspace.root.rglob("*") if path.is_file() and path.name != "workspace.json")


def test_a_commit_is_read_back_in_the_order_of_the_key(workspace, inputs, screened):
    head = begin(workspace, inputs).commit(
        "screened", screened("b", "a"), [drop("c")], [Book("question", 3, 2, {"short": 1})]
    )
    assert workspace.head("screen", "0") == head and head.seq == 1
    assert workspace.read("screen", "0", "screened").column("question_id").to_pylist() == ["a", "b"]
    assert workspace.ledger("screen", "0").column("unit_id").to_pylist() == ["c"]
    assert workspace.read("screen", "0", "screened", ["rule", "question_id"]).column_names == ["rule", "question_id"]


def test_an_empty_commit_is_a_commit(workspace, inputs, screened):
    begin(workspace, inputs).commit("screened", screened(), [], [Book("question", 0, 0)])
    rows = workspace.read("screen", "0", "screened")
    assert rows.num_rows == 0 and rows.schema.equals(TABLES["screened"].schema, check_metadata=True)
    assert workspace.ledger("screen", "0").schema.equals(LEDGER)


def test_what_was_never_committed_is_an_error_that_names_the_step(workspace):
    with pytest.raises(NotCommitted, match="screen shard 0"):
        workspace.read("screen", "0", "screened")


@pytest.mark.parametrize(
    ("books", "dropped"),
    [
        ([Book("question", 3, 1)], []),  # a unit is lost
        ([Book("question", 1, 1)], []),  # more rows than the books say
        ([Book("question", 3, 2, {"short": 1})], []),  # booked as dropped, not in the ledger
        ([Book("question", 2, 2)], ["c"]),  # in the ledger, not booked
        ([Book("question", 3, 2, {"long": 1})], ["c"]),  # another rule
        ([Book("record", 2, 2)], []),  # not the table's own unit
        ([], []),
        ([Book("question", 2, 2), Book("question", 2, 2)], []),
        ([Book("question", 1, 2, {}, -1)], []),
    ],
)
def test_books_that_do_not_balance_raise_and_write_nothing(workspace, inputs, screened, books, dropped):
    with pytest.raises(BooksDontBalance):
        begin(workspace, inputs).commit("screened", screened("a", "b"), [drop(one) for one in dropped], books)
    assert files(workspace) == [] and workspace.head("screen", "0") is None


def test_results_without_a_table_keep_books_too(workspace, inputs):
    transaction = begin(workspace, inputs, ALL, "export")
    with pytest.raises(BooksDontBalance):
        transaction.commit_result([Book("example", 2, 1)], content="x")
    head = transaction.commit_result(
        [Book("example", 2, 1, {"over": 1})], content="x", ledger=[drop("e", "over", "example")]
    )
    assert head.content == "x" and workspace.ledger("export", ALL).num_rows == 1


def test_pending_units_count_and_a_failed_request_is_no_response(workspace, inputs):
    row = dict.fromkeys(RESPONSES.names) | {
        "question_id": "q",
        "teacher": "t",
        "model_revision": "m",
        "round": 0,
        "sample_index": 0,
        "sampling": "{}",
    }
    rows = pa.Table.from_pylist(
        [row | {"response_id": "a"}, row | {"response_id": "b", "error_kind": "transient"}], schema=RESPONSES
    )
    transaction = begin(workspace, inputs, step="generate.t")
    with pytest.raises(BooksDontBalance):
        transaction.commit("responses", rows, [], [Book("request", 2, 2)])
    assert transaction.commit("responses", rows, [], [Book("request", 2, 1, {}, 1)]).pending == 1


@pytest.mark.parametrize("fault", ["twice", "null", "columns", "type"])
def test_rows_that_do_not_fit_the_schema_raise_and_write_nothing(workspace, inputs, screened, fault):
    rows = {
        "twice": screened("a", "a"),
        "null": screened("a", evidence=None),
        "columns": screened("a").drop(["rule"]),
        "type": screened("a").set_column(3, "value", pa.array(["much"])),
    }[fault]
    with pytest.raises(SchemaMismatch, match="screen shard 0"):
        begin(workspace, inputs).commit("screened", rows, [], [Book("question", rows.num_rows, rows.num_rows)])
    assert files(workspace) == []


def test_kept_parts_stay_and_count(workspace, inputs, screened):
    transaction = begin(workspace, inputs)
    first = transaction.commit("screened", screened("b"), [], [Book("question", 1, 1)])
    second = transaction.commit("screened", screened("a"), [], [Book("question", 2, 2)], keep=first.data())
    assert second.seq == 2 and len(second.data()) == 2
    assert workspace.read("screen", "0", "screened").column("question_id").to_pylist() == ["a", "b"]


def test_a_row_can_not_stand_in_a_kept_part_and_in_a_new_one(workspace, inputs, screened):
    transaction = begin(workspace, inputs)
    first = transaction.commit("screened", screened("a"), [], [Book("question", 1, 1)])
    with pytest.raises(SchemaMismatch):
        transaction.commit("screened", screened("a"), [], [Book("question", 2, 2)], keep=first.data())


def test_a_zombie_that_read_its_base_before_anothers_commit_loses(workspace, inputs, screened):
    zombie = begin(workspace, inputs)
    begin(workspace, inputs).commit("screened", screened("a"), [], [Book("question", 1, 1)])
    with pytest.raises(CommitLost, match="Run the same command again"):
        zombie.commit("screened", screened("z"), [], [Book("question", 1, 1)])
    assert workspace.read("screen", "0", "screened").column("question_id").to_pylist() == ["a"]


def test_content_does_not_depend_on_how_many_shards_other_rows_have(workspace, inputs, screened):
    one = begin(workspace, inputs).commit("screened", screened("a", "b"), [], [Book("question", 2, 2)])
    other = begin(workspace, inputs, "1").commit("screened", screened("b", "a"), [], [Book("question", 2, 2)])
    assert one.content == other.content


@pytest.mark.parametrize(
    ("expected", "bits"), [(1, 0), (4096, 0), (4097, 1), (3_340_000, 10), (10**12, MAX_SHARD_BITS)]
)
def test_shards_hold_about_4096_questions(expected, bits):
    assert shard_bits(expected) == bits


def test_splitting_by_one_bit_refines_the_shards(tmp_path):
    ids = [format((number * 2654435761) % 2**32, "08x") + "0" * 24 for number in range(500)] + ["f" * 32, "0" * 32]
    coarse = [Workspace(tmp_path, bits) for bits in range(6)]
    for before, after in zip(coarse, coarse[1:], strict=False):
        for one in ids:
            name = after.shard_of(one)
            assert name in after.shards
            assert before.shard_of(one) == (name[:-1] or "0")


def test_a_folder_with_other_things_in_it_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(NotAWorkspace, match="isn't empty"):
        Workspace.create(tmp_path, bits=0)
    with pytest.raises(NotAWorkspace, match="stillhouse run"):
        Workspace.open(tmp_path / "nothing")
    with pytest.raises(NotAWorkspace):
        Workspace.create(tmp_path / "thesis.tex", bits=0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99, "shard_bits": 0}', "null"])
def test_a_broken_workspace_file_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "workspace.json").write_text(text)
    with pytest.raises(NotAWorkspace, match="workspace"):
        Workspace.open(tmp_path)


def test_opening_again_never_changes_the_number_of_shards(tmp_path):
    assert Workspace.create(tmp_path, bits=3).bits == Workspace.create(tmp_path, bits=0).bits == 3


def test_a_relative_workspace_survives_a_change_of_folder(tmp_path, monkeypatch, inputs, screened):
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.create(Path("ws"), bits=0)
    begin(workspace, inputs).commit("screened", screened("a"), [], [Book("question", 1, 1)])
    monkeypatch.chdir("/")
    assert workspace.read("screen", "0", "screened").num_rows == 1


def test_a_damaged_manifest_is_an_error_that_names_it(workspace, inputs, screened):
    begin(workspace, inputs).commit("screened", screened("a"), [], [Book("question", 1, 1)])
    path = workspace.root / "manifest" / "screen" / "0" / "00000001.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(StorageError, match=r"00000001\.json"):
        workspace.head("screen", "0")


def test_no_temporary_file_counts_as_a_commit(workspace, inputs, screened):
    begin(workspace, inputs).commit("screened", screened("a"), [], [Book("question", 1, 1)])
    folder = workspace.root / "manifest" / "screen" / "0"
    (folder / ".00000002.json.abc.tmp").write_text("{")
    (workspace.root / "manifest" / ".DS_Store").write_text("")
    assert workspace.head("screen", "0").seq == 1
    assert workspace.manifest.steps() == ["screen"] and workspace.manifest.shards("screen") == ["0"]


def test_the_recipe_is_kept_with_its_folder(workspace):
    workspace.keep_recipe("name: a\n", "/one")
    workspace.keep_recipe("name: b\n", "/two")
    assert workspace.kept_recipe() == ("name: b\n", "/two")
    assert len(list((workspace.root / "recipes").iterdir())) == 2


def test_the_manifest_says_what_a_slice_was_made_from(workspace, inputs, screened):
    head = begin(workspace, inputs).commit("screened", screened("a"), [], [Book("question", 1, 1)])
    raw = json.loads((workspace.root / "manifest/screen/0/00000001.json").read_text())
    assert raw["inputs"]["reads"] == {"ingest": "abc"} and raw["reason"] == "first run"
    assert workspace.head("screen", "0").fingerprint == head.fingerprint == inputs.fingerprint
    part = workspace.root / raw["parts"][0]["path"]
    assert part.stat().st_size == raw["parts"][0]["bytes"] and os.access(part, os.R_OK)


def test_a_part_older_than_a_column_is_read_with_nulls(workspace, inputs, screened):
    head = begin(workspace, inputs).commit("screened", screened("a"), [], [Book("question", 1, 1)])
    (part,) = head.data()
    rows = pq.read_table(workspace.root / part.path, partitioning=None)
    nullable = next(field.name for field in TABLES["screened"].schema if field.nullable)
    needed = next(field.name for field in TABLES["screened"].schema if not field.nullable)
    pq.write_table(rows.drop([nullable]), workspace.root / part.path)
    read = workspace.read("screen", "0", "screened")
    assert read.column(nullable).to_pylist() == [None] and read.schema == TABLES["screened"].schema
    pq.write_table(rows.drop([needed]), workspace.root / part.path)
    with pytest.raises(SchemaMismatch, match=f"before its column {needed}"):
        workspace.read("screen", "0", "screened")


def test_many_small_parts_become_one(workspace, inputs, screened):
    transaction = begin(workspace, inputs)
    head = None
    for number in range(MOST_SMALL_PARTS + 1):
        keep = head.data() if head else []
        books = [Book("question", number + 1, number + 1)]
        head = transaction.commit("screened", screened(f"{number:02d}"), [], books, keep=keep)
        assert len(head.data()) == (number + 1 if number < MOST_SMALL_PARTS else 1)
    ids = workspace.read("screen", "0", "screened").column("question_id").to_pylist()
    assert ids == [f"{number:02d}" for number in range(MOST_SMALL_PARTS + 1)]
    kept = transaction.commit("screened", screened(), [], [Book("question", len(ids), len(ids))], keep=head.data())
    assert kept.content == head.content
