"""Proves that rows that stay are copied unchanged between all formats, and that a file that changed is refused."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import UsageError
from flows.kept_rows import BATCH, write_kept, write_ledger
from tasks.sources import FileSource, read_file

LINES = ['{"question":   "a", "n": 1.50}', '{"question": "b", "n": 2, "late": {"x": [1]}}', '{"question": "ü"}']
KEPT = np.array([True, True, False])


def copy(file, out, kept=KEPT):
    source = FileSource(name="file", kind="file", path=str(file))
    write_kept(file, out, kept, lambda: read_file(file, source, file.parent))
    return out


def test_json_lines_stay_byte_for_byte(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text(f"{LINES[2]}\n\n{LINES[0]}\n  \n{LINES[1]}")
    assert copy(file, tmp_path / "out.ndjson").read_text() == f"{LINES[2]}\n{LINES[0]}\n"


def test_parquet_rows_keep_their_types_and_the_schema_its_metadata(tmp_path):
    table = pa.table({"question": ["a", "b", "c"], "n": pa.array([1, None, 3], pa.int8())}).replace_schema_metadata(
        {"made by": "us"}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    found = pq.read_table(copy(tmp_path / "in.parquet", tmp_path / "out.pq"))
    assert found.equals(table.slice(0, 2)) and found.schema.metadata[b"made by"] == b"us"
    nothing = pq.read_table(copy(tmp_path / "in.parquet", tmp_path / "none.parquet", np.zeros(3, bool)))
    assert nothing.num_rows == 0 and nothing.schema == table.schema


def test_columns_that_only_later_rows_have_are_columns_of_the_parquet_file(tmp_path):
    rows = [{"question": "a", "n": 1}] * BATCH + [{"question": "b", "n": 1.5, "late": {"x": [1]}}, {"question": "c"}]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = np.ones(len(rows), bool)
    kept[-1] = False
    found = pq.read_table(copy(file, tmp_path / "out.parquet", kept))
    assert found.num_rows == BATCH + 1 and found.schema.field("n").type == pa.float64()
    assert found.slice(BATCH).to_pylist() == [rows[BATCH]]


def test_compressed_lines_arrays_and_tables_go_through_the_records(tmp_path):
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as file:
        file.write("\n".join(LINES))
    (tmp_path / "in.json").write_text(json.dumps([json.loads(line) for line in LINES]))
    expected = [json.loads(line) for line in LINES[:2]]
    for name in ("in.jsonl.gz", "in.json"):
        out = copy(tmp_path / name, tmp_path / "out.jsonl")
        assert [json.loads(line) for line in out.read_text().splitlines()] == expected
    (tmp_path / "in.csv").write_text("question,n\na,1\nb,2\nc,3\n")
    assert pq.read_table(copy(tmp_path / "in.csv", tmp_path / "out.parquet")).to_pylist() == [
        {"question": "a", "n": "1"}, {"question": "b", "n": "2"},
    ]  # fmt: skip


def test_values_of_several_types_in_one_column_are_refused_for_parquet_even_far_apart(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"n": 1}\n' * BATCH + '{"n": "one"}\n')
    with pytest.raises(UsageError, match=r"several types.*\.jsonl"):
        copy(file, tmp_path / "out.parquet", np.ones(BATCH + 1, bool))
    assert not list(tmp_path.glob("*out.parquet*"))


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_a_file_that_changed_since_it_was_judged_is_refused(tmp_path, name):
    pq.write_table(pa.table({"question": ["a", "b", "c", "d"]}), tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text("\n".join([*LINES, LINES[0]]))
    out = (tmp_path / "out").with_suffix((tmp_path / name).suffix)
    with pytest.raises(UsageError, match="had 3 rows when they were judged and has 4"):
        copy(tmp_path / name, out)
    assert not out.exists()


def test_a_ledger_of_no_rows_has_its_columns(tmp_path):
    write_ledger(tmp_path / "out.jsonl", [])
    found = pq.read_table(tmp_path / "out.jsonl.ledger.parquet")
    assert found.num_rows == 0 and found.column_names == ["row", "rule", "value", "threshold", "evidence"]
