"""Proves that `stillhouse dedup` writes the rows that stay unchanged, with a reason beside for each of the others."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.errors import UsageError

BAKER = "A baker bakes twelve trays of nine rolls and sells seven. How many rolls are left?"
ALIKE = "A baker bakes twelve trays with nine rolls and sells seven. How many rolls are left over?"
OTHER = "What is the capital of Mongolia, and on which river does it lie?"
LINES = [
    json.dumps({"question": BAKER}),
    '{"question":   "' + OTHER + '", "n": 1.50}',
    json.dumps({"question": ALIKE}),
    json.dumps({"question": OTHER.upper(), "ground_truth": "Ulaanbaatar"}),
    "",
    json.dumps({"nothing": 1}),
    "{broken",
    json.dumps({"question": "  "}),
]


@pytest.fixture
def run(tmp_path):
    def run(file, out, *options):
        result = CliRunner().invoke(app, ["dedup", str(file), "--out", str(out), *options])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def ledger(out):
    return pq.read_table(out.with_name(out.name + ".ledger.parquet")).to_pylist()


def test_lines_that_stay_are_unchanged_and_each_other_has_its_reason(tmp_path, run):
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("\n".join(LINES), encoding="utf-8")
    said = run(file, out, "--threshold", "0.9")
    assert out.read_text() == LINES[2] + "\n" + LINES[3] + "\n" and "2 of 7 rows stay" in said
    rows = {row["row"]: row for row in ledger(out)}
    assert {row: one["rule"] for row, one in rows.items()} == {
        0: "near_duplicate",
        1: "exact_duplicate",
        4: "missing_question",
        5: "broken_json",
        6: "missing_question",
    }
    assert json.loads(rows[0]["evidence"]) == {"kept_row": 2, "like_row": 2} and rows[0]["threshold"] == 0.9
    assert 0.9 <= rows[0]["value"] < 1
    page = out.with_name("out.jsonl.findings.html").read_text()
    assert BAKER in page and ALIKE in page and "near_duplicate: 1" in page


def test_parquet_keeps_its_columns_and_types(tmp_path, run):
    file, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    rows = pa.table({
        "problem": [BAKER, OTHER, BAKER], "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
        "level": pa.array([1, 2, 3], pa.int8()),
    })  # fmt: skip
    pq.write_table(rows, file)
    run(file, out, "--column", "question=problem", "--no-near")
    kept = pq.read_table(out)
    assert kept.schema == rows.schema and kept.equals(rows.slice(0, 2))


def test_the_order_of_rows_changes_no_text_that_stays(tmp_path, run):
    texts = [BAKER, ALIKE, OTHER, OTHER.lower(), "Write a function that reverses a list in place.", BAKER + " Explain."]
    found = []
    for order in (texts, texts[::-1]):
        file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        file.write_text("".join(json.dumps({"question": text}) + "\n" for text in order))
        run(file, out, "--threshold", "0.85", "--by", "representatives", "--lexical", "0.5")
        found.append(sorted(out.read_text().splitlines()))
    assert found[0] == found[1] and 2 <= len(found[0]) < 6


def test_a_hundred_thousand_copies_make_no_pairs(tmp_path, run):
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps({"question": OTHER}) + "\n" + (json.dumps({"question": BAKER}) + "\n") * 100_000)
    run(file, out, "--lexical", "0.8")
    assert len(out.read_text().splitlines()) == 2 and len(ledger(out)) == 99_999


def test_long_texts_are_no_fault(tmp_path, run):
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    long = "word and sign, " * 70_000
    file.write_text("".join(json.dumps({"question": text}) + "\n" for text in (long, long, OTHER)))
    assert "2 of 3 rows stay" in run(file, out, "--lexical", "0.8")


@pytest.mark.parametrize(
    ("name", "out", "options", "complaint"),
    [
        ("in.jsonl", "out.parquet", [], "expected two .jsonl or two .parquet files"),
        ("in.csv", "out.csv", [], "expected two .jsonl or two .parquet files"),
        ("none.jsonl", "out.jsonl", [], "no such file"),
        ("in.jsonl", "in.jsonl", [], "is the input"),
        ("in.jsonl", "out.jsonl", ["--column", "question"], "expected OURS=THEIRS"),
        ("in.jsonl", "out.jsonl", ["--threshold", "2"], "--threshold: found 2.0"),
        ("in.jsonl", "out.jsonl", ["--by", "magic"], "--by: found 'magic'"),
        ("in.jsonl", "out.jsonl", ["--prefer", "newest"], "--prefer: found 'newest'"),
    ],
)
def test_wrong_use_says_what_was_expected(tmp_path, run, name, out, options, complaint):
    (tmp_path / "in.jsonl").write_text(json.dumps({"question": OTHER}) + "\n")
    with pytest.raises(UsageError, match=complaint):
        run(tmp_path / name, tmp_path / out, *options)
    assert (tmp_path / "in.jsonl").read_text() == json.dumps({"question": OTHER}) + "\n"
