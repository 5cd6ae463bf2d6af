"""Proves that the command keeps clean rows unchanged, writes ledger and page beside them, and measures by planting."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.errors import UsageError

BAKER = "A baker has twelve trays with nine rolls each and sells seven of them before noon. How many are left?"
NUMBER = "Which number between 40 and 60 is divisible by 7 and leaves a remainder of 3 when divided by 23?"
ITEMS = [{"question": BAKER, "answer": "101"}, {"question": NUMBER, "answer": "49"}]
CLEAN = {"question": "How tall is Mont Blanc in metres?", "extra": [1, {"a": None}], "ground_truth": "4807"}


def run(*arguments):
    result = CliRunner().invoke(app, ["decontaminate", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def files(tmp_path):
    rows = [CLEAN, {"question": "Solve: " + ITEMS[0]["question"]}, {"quest": 1}, {"question": ITEMS[1]["question"]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ITEMS))
    return tmp_path


def test_kept_rows_are_unchanged_and_every_other_row_is_in_the_ledger(files):
    result = run(files / "in.jsonl", "--against", files / "bench.jsonl", "--out", files / "out.jsonl")
    assert result.exit_code == 0
    assert [json.loads(line) for line in (files / "out.jsonl").read_text().splitlines()] == [CLEAN]
    ledger = pq.read_table(files / "out.jsonl.ledger.parquet").to_pylist()
    assert [(row["row"], row["rule"]) for row in ledger] == [(1, "benchmark_ngram"), (2, "missing_question"),
                                                             (3, "benchmark_exact")]  # fmt: skip
    evidence = json.loads(ledger[0]["evidence"])
    assert (evidence["benchmark"], evidence["item"]) == ("bench", 0) and "twelve trays" in evidence["matched"]
    page = (files / "out.jsonl.html").read_text()
    assert "benchmark_ngram" in page and "twelve" in page
    assert "1 of 4 rows kept" in result.output


def test_suspects_that_stay_are_counted_and_shown(files):
    result = run(files / "in.jsonl", "--against", files / "bench.jsonl", "--out", files / "out.jsonl",
                 "--set", "curate.decontaminate.suspect=-40", "--set", "curate.decontaminate.contaminated=90",
                 "--set", "curate.decontaminate.ngram=null")  # fmt: skip
    table = pq.read_table(files / "out.jsonl.ledger.parquet").to_pylist()
    assert [row["row"] for row in table] == [2, 3] and len((files / "out.jsonl").read_text().splitlines()) == 2
    page = (files / "out.jsonl.html").read_text()
    assert "Rows that are kept, but look like an item." in page and "row 1" in page
    assert result.exit_code == 0


def test_planting_prints_recall_by_kind_and_false_flags(files):
    (files / "plain.jsonl").write_text(json.dumps({"question": CLEAN["question"]}))
    result = run(files / "plain.jsonl", "--against", f"{files / 'bench.jsonl'}:question:answer", "--out",
                 files / "out.parquet", "--plant", 1)  # fmt: skip
    assert "verbatim" in result.output and "false flags" in result.output and "100.0%" in result.output
    assert pq.read_table(files / "out.parquet").num_rows == 1


def test_wrong_arguments_are_errors_that_name_the_way_out(files):
    with pytest.raises(UsageError, match="aime24"):
        run(files / "in.jsonl", "--out", files / "out.jsonl")
    with pytest.raises(UsageError, match=r"several types.*\.jsonl"):
        run(files / "in.jsonl", "--against", files / "bench.jsonl", "--out", files / "out.parquet")
    with pytest.raises(UsageError, match="is the input"):
        run(files / "in.jsonl", "--against", files / "bench.jsonl", "--out", files / "in.jsonl")
    with pytest.raises(UsageError, match="expected OURS=THEIRS"):
        run(files / "in.jsonl", "--against", files / "bench.jsonl", "--out", files / "o.jsonl", "--column", "question")
    with pytest.raises(UsageError, match=r"\.parquet or \.jsonl"):
        run(files / "in.jsonl", "--against", files / "bench.jsonl", "--out", files / "out.csv")
