"""Proves that every source record becomes a question or a row of the ledger with its place, from every format."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UnreadableSource

GOOD = {"question": "What is 2 + 3?", "ground_truth": "5"}


def questions(house):
    return [row["messages"][-1]["content"] for row in house.rows("ingest", "questions")]


def test_every_format_gives_the_same_questions(make_house, make_source, tmp_path):
    rows = [
        {"question": f'What is {number} + 3, "exactly"?\nSay it.', "ground_truth": str(number + 3)}
        for number in range(5)
    ]
    house = make_house()
    house.write("a.jsonl", rows)
    house.write("lines.json", rows)
    (house.base / "array.json").write_text("\ufeff " + json.dumps(rows), encoding="utf-8")
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, house.base / "a.parquet")
    text = "question,ground_truth\r\n" + "".join(
        '"{}",{}\r\n'.format(row["question"].replace('"', '""'), row["ground_truth"]) for row in rows
    )
    (house.base / "a.csv").write_text(text, encoding="utf-8-sig", newline="")
    (house.base / "hub" / "data").mkdir(parents=True)
    pq.write_table(table, house.base / "hub" / "data" / "train-00000-of-00001.parquet")
    expected = None
    for number, path in enumerate(["a.jsonl", "lines.json", "array.json", "a.parquet", "a.csv", "hub"]):
        one = make_source("x", path)
        if path == "hub":
            one["kind"] = "huggingface"
        other = make_house(one).copy(tmp_path / f"ws{number}")
        other.run("ingest")
        found = other.rows("ingest", "questions")
        assert len(found) == 5 and other.ledger("ingest") == []
        assert expected in (None, found), path
        expected = found


def test_a_data_set_written_by_save_to_disk_is_read(make_house, make_source):
    import datasets

    house = make_house(make_source("x", "saved") | {"kind": "huggingface", "split": "test"})
    datasets.DatasetDict({"test": datasets.Dataset.from_list([GOOD])}).save_to_disk(house.base / "saved")
    house.run("ingest")
    assert questions(house) == [GOOD["question"]]


def test_a_generator_gives_questions_with_answers(make_house):
    chains = {
        "name": "g",
        "kind": "reasoning_gym",
        "dataset": "chain_sum",
        "size": 7,
        "seed": 1,
        "category": "math",
        "config": {"min_digits": 1, "max_digits": 1},
    }
    house = make_house(chains)
    house.run("ingest")
    rows = house.rows("ingest", "questions")
    assert len(rows) + len(house.ledger("ingest")) == 7
    assert all(row["ground_truth"].lstrip("-").isdigit() for row in rows)


def test_a_generator_is_a_function_of_its_settings(tmp_path):
    """ransom_note draws from sets: without a fixed hash seed each process has other questions."""
    program = """
from pathlib import Path
from tasks.sources import GeneratorSource, read_source
source = GeneratorSource(name="g", kind="reasoning_gym", dataset="ransom_note", size=12, seed=3, limit=9)
print([record.value["question"] for record in read_source(source, Path("."))])
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(ast.literal_eval(said[0].decode())) == 9


@pytest.mark.parametrize("change", [{"dataset": "no_such"}, {"config": {"no_such": 1}}, {"config": {"min_digits": -1}}])
def test_a_wrong_generator_is_an_error_that_names_it(make_house, change):
    one = {"name": "g", "kind": "reasoning_gym", "dataset": "chain_sum", "size": 3, "category": "math"} | change
    with pytest.raises(UnreadableSource, match="source g"):
        make_house(one).run("ingest")


def test_globs_are_read_in_order_and_a_file_named_twice_once(make_house, make_source):
    house = make_house(make_source("x", ["part-*.jsonl", "part-1.jsonl", "more/**/*.jsonl"]))
    (house.base / "more" / "deep").mkdir(parents=True)
    for name in ("part-1.jsonl", "part-2.jsonl", "more/deep/[odd] name.jsonl"):
        house.write(name, [{"question": f"Who is in {name}?"}])
    house.run("ingest")
    assert len(questions(house)) == 3 and house.ledger("ingest") == []


def test_a_folder_with_brackets_is_no_pattern(tmp_path, make_house, make_source):
    house = make_house(make_source("x", "*.jsonl"))
    house.base = tmp_path / "[a] recipe"
    house.base.mkdir()
    house.write("b.jsonl", [GOOD])
    house.run("ingest")
    assert questions(house) == [GOOD["question"]]


def test_bad_lines_go_to_the_ledger_with_place_and_reason_and_good_ones_survive(make_house):
    house = make_house()
    bad = {
        b'{"question": "broken': "broken_json",
        b'{"ground_truth": "5"}': "missing_question",
        b'{"question": 5}': "wrong_type",
        b"[1, 2]": "wrong_type",
        b"NaN": "wrong_type",
        b'{"question": "a\\u0000b"}': "nul_byte",
        b'{"question": "a\x00b"}': "nul_byte",
        b'{"question": "caf\xe9?"}': "invalid_utf8",
        b'{"question": "lone \\ud800"}': "invalid_utf8",
        b'{"question": "' + b"x" * 200 + b'"}': "too_long",
        b'{"question": "Why?", "category": "poetry"}': "unknown_category",
        b'{"question": "Why?", "instruction_constraints": [{"id": "no:such"}]}': "unknown_constraint",
        b'{"question": "Why?", "x": ' + b"[" * 100_000 + b"}": "broken_json",
        b'{"question": "Why?", "x": ' + b"9" * 10_000 + b"}": "broken_json",
        b'{"question": "Why?", "x": Infinity}': "broken_json",
    }
    lines = [json.dumps(GOOD).encode(), b"", *bad, json.dumps({"question": "Another one?", "x": 10**30}).encode()]
    (house.base / "sums.jsonl").write_bytes(b"\n".join(lines))
    house.recipe["ingest"] = {"max_question_chars": 100}
    house.run("ingest")
    assert sorted(questions(house)) == ["Another one?", GOOD["question"]]
    found = {row["unit_id"]: row for row in house.ledger("ingest")}
    for number, rule in enumerate(bad.values(), 3):
        row = found.pop(f"sums:sums.jsonl:{number}")
        assert row["rule"] == rule and json.loads(row["evidence"])["detail"], row
    assert not found
    [book] = house.workspace.head("ingest", "0").books
    assert (book.units_in, book.units_out) == (17, 2)


def test_csv_rows_are_placed_by_their_first_line(make_house, make_source):
    house = make_house(make_source("x", "a.csv", columns={"question": "q"}))
    (house.base / "a.csv").write_bytes(
        b'q,ground_truth\n"one\nlong ""question""?",1\n\ntwo,2,3\nthree,\n"fo"ur,4\n"caf\xe9?",5\n,6\nseven,7\n'
        b'"never closed,8\n'
    )
    house.run("ingest")
    assert sorted(questions(house)) == ['one\nlong "question"?', "seven", "three"]
    assert {row["unit_id"]: row["rule"] for row in house.ledger("ingest")} == {
        "x:a.csv:5": "wrong_columns",
        "x:a.csv:7": "broken_csv",
        "x:a.csv:8": "invalid_utf8",
        "x:a.csv:9": "missing_question",
        "x:a.csv:11": "broken_csv",
    }


def test_parquet_with_invalid_text_loses_that_row_only(make_house, make_source):
    house = make_house(make_source("x", "a.parquet"))
    binary = pa.array([b"Who is one?", b"caf\xe9?", b"Who is three?"], pa.binary())
    pq.write_table(
        pa.table({"question": pa.Array.from_buffers(pa.string(), 3, binary.buffers())}), house.base / "a.parquet"
    )
    house.run("ingest")
    assert sorted(questions(house)) == ["Who is one?", "Who is three?"]
    assert [(row["unit_id"], row["rule"]) for row in house.ledger("ingest")] == [("x:a.parquet:2", "invalid_utf8")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b"[{"),
        ("a.json", b"[1, 2"),
        ("a.json", b"[" * 100_000),
        ("a.json", b'["\xff"]'),
        ("a.parquet", b"PAR1"),
        ("a.csv", b""),
        ("a.csv", b"a,a\n1,2\n"),
        ("a.dat", b"x"),
        ("folder.jsonl", None),
        ("folder.json", None),
    ],
)
def test_a_file_that_can_not_be_read_is_an_error_that_names_it(make_house, make_source, name, data):
    house = make_house(make_source("x", name))
    path = house.base / name
    path.write_bytes(data) if data is not None else path.mkdir()
    with pytest.raises(UnreadableSource, match=name):
        house.run("ingest")
    assert house.workspace.head("ingest", "0") is None


def test_a_source_that_is_not_there_is_an_error_that_names_it(make_house, make_source):
    with pytest.raises(UnreadableSource, match="source x"):
        make_house(make_source("x", "no/such")).run("ingest")


def test_a_split_that_is_not_there_is_an_error_that_names_the_source(make_house, make_source):
    house = make_house(make_source("x", "hub") | {"kind": "huggingface", "split": "test"})
    (house.base / "hub" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([GOOD]), house.base / "hub" / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(UnreadableSource, match="source x"):
        house.run("ingest")


def test_the_same_question_from_two_sources_is_kept_once_by_priority(make_house, make_source):
    house = make_house(
        make_source("low", "low.jsonl"),
        make_source("high", "high.jsonl", priority=1),
        make_source("late", "late.jsonl", priority=1),
    )
    for name, answer in (("low", "6"), ("high", "5"), ("late", "5")):
        house.write(f"{name}.jsonl", [GOOD | {"ground_truth": answer}])
    house.run("ingest")
    [row] = house.rows("ingest", "questions")
    assert row["question_source"] == "high"
    by_unit = {row["unit_id"]: row for row in house.ledger("ingest")}
    assert by_unit["low:low.jsonl:1"]["rule"] == "conflicting_reference"
    assert json.loads(by_unit["low:low.jsonl:1"]["evidence"]) == {
        "kept": "high:high.jsonl:1",
        "reference": "6",
        "kept_reference": "5",
    }
    assert by_unit["late:late.jsonl:1"]["rule"] == "same_question"


def test_the_same_question_twice_in_one_file_keeps_the_first(make_house):
    house = make_house()
    house.write("sums.jsonl", [GOOD, GOOD | {"ground_truth": "6"}, GOOD])
    house.run("ingest")
    assert house.rows("ingest", "questions")[0]["ground_truth"] == "5"
    assert house.rules("ingest") == {"conflicting_reference": 1, "same_question": 1}


@pytest.mark.parametrize(
    ("mode", "left"), [("mirror", ["Who is b?", "Who is c?"]), ("append", ["Who is a?", "Who is b?", "Who is c?"])]
)
def test_what_vanishes_from_a_source_retires_or_stays(make_house, make_source, mode, left):
    house = make_house(make_source("x", "x.jsonl", mode=mode))
    for names in ("ab", "bc", "bc"):
        house.write("x.jsonl", [{"question": f"Who is {name}?"} for name in names])
        house.run("ingest")
    assert sorted(questions(house)) == left
    assert house.ledger("ingest") == [] and house.workspace.head("ingest", "0").books[0].units_in == len(left)


def test_a_limit_counts_records(make_house, make_source):
    house = make_house(make_source("x", "x.jsonl", limit=2))
    house.write("x.jsonl", [{"question": f"Who is {name}?"} for name in "abc"])
    house.run("ingest")
    assert len(questions(house)) == 2


def test_ingesting_an_unchanged_source_again_changes_no_content(make_house):
    house = make_house(bits=2)
    house.write("sums.jsonl", [{"question": f"Who is {number}?"} for number in range(30)])
    house.run("ingest")
    before = [house.workspace.head("ingest", shard) for shard in house.workspace.shards]
    os.utime(house.base / "sums.jsonl", ns=(1, 1))
    assert house.run("ingest") == []
    [done] = house.run("ingest", redo_from="ingest")
    assert done.shards == 4
    after = [house.workspace.head("ingest", shard) for shard in house.workspace.shards]
    assert [head.content for head in before] == [head.content for head in after]
    assert all(head.seq == 2 for head in after)


def test_the_number_of_shards_does_not_change_the_rows(make_house, tmp_path):
    house = make_house()
    rows = [{"question": f"Who is {number}?"} for number in range(40)]
    house.write("sums.jsonl", [*rows, {"question": 1}, *rows[:3], {"question": None}])
    other = house.copy(tmp_path / "other", bits=3)
    house.run("ingest")
    other.run("ingest")
    assert len(other.workspace.shards) == 8
    assert house.rows("ingest", "questions") == other.rows("ingest", "questions")
    assert house.ledger("ingest") == other.ledger("ingest")


def test_a_zombie_ingest_that_read_before_anothers_commit_loses(make_house):
    from storage.errors import CommitLost

    house = make_house()
    house.write("sums.jsonl", [GOOD])
    context, step, work = house.step("ingest")

    class Overtaken:
        """While the zombie reads, another run finishes."""

        done = False

        def expect(self, step, units):
            if not self.done:
                self.done = True
                house.run("ingest")

        def advance(self, step, units=1):
            pass

    slow = type(context)(context.workspace, "zombie", Overtaken())
    with pytest.raises(CommitLost):
        step.run(slow, step, work)
    assert house.workspace.head("ingest", "0").run_id == "test"


def test_memory_is_bounded_by_what_is_spilled(make_house, monkeypatch, tmp_path):
    """Rows that go through many small spills are the rows of one big one."""
    house = make_house(bits=1)
    house.write("sums.jsonl", [{"question": f"Who is {number}?"} for number in range(50)] + [{"question": 1}] * 9)
    other = house.copy(tmp_path / "other")
    house.run("ingest")
    monkeypatch.setattr("tasks.spill.BUFFERED_CHARS", 300)
    other.run("ingest")
    assert house.rows("ingest", "questions") == other.rows("ingest", "questions")
    assert house.ledger("ingest") == other.ledger("ingest") and len(house.ledger("ingest")) == 9
