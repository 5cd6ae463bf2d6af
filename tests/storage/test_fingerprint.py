"""Proves that the content hash covers all values and no encoding, and that a changed file is hashed anew."""

from __future__ import annotations

import os
from itertools import combinations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.fingerprint import combine, content_hash, hash_file, hash_json, hash_text
from storage.manifest import Inputs, explain
from storage.schemas import column

SCHEMA = pa.schema(
    [
        column("id", pa.string(), ""),
        column("n", pa.int64(), ""),
        column("x", pa.float64(), ""),
        column("yes", pa.bool_(), ""),
        column("words", pa.list_(pa.string()), ""),
        column("pair", pa.struct([("a", pa.string()), ("b", pa.int64())]), ""),
        column("many", pa.list_(pa.struct([("a", pa.string())])), ""),
        column("vector", pa.list_(pa.float16()), ""),
        column("seconds", pa.float64(), "", volatile=True),
    ]
)
HALF = [np.float16(0.5), np.float16(0.25)]
ROW = {
    "id": "é",
    "n": 1,
    "x": 0.5,
    "yes": True,
    "words": ["a", "b"],
    "pair": {"a": "p", "b": 2},
    "many": [{"a": "m"}, {"a": "n"}],
    "vector": HALF,
    "seconds": 1.0,
}


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


ROWS = [ROW | {"id": str(number), "n": number} for number in range(40)] + [dict.fromkeys(SCHEMA.names), ROW]


def test_chunks_and_slices_do_not_matter():
    whole = table(*ROWS)
    pieces = pa.concat_tables([table(*ROWS[:7]), table(), table(*ROWS[7:])])
    inside = pa.concat_tables([table(ROW, ROW), whole, table(ROW)]).combine_chunks().slice(2, len(ROWS))
    assert content_hash(whole) == content_hash(pieces) == content_hash(inside)


@pytest.mark.parametrize("settings", [{"compression": "zstd", "row_group_size": 5}, {"use_dictionary": False}])
def test_the_encoding_of_the_file_does_not_matter(tmp_path, settings):
    pq.write_table(table(*ROWS), tmp_path / "t.parquet", **settings)
    back = pq.read_table(tmp_path / "t.parquet", partitioning=None)
    assert content_hash(back) == content_hash(table(*ROWS))


def test_another_writer_does_not_matter(tmp_path):
    rows = table(*ROWS).select(["id", "n", "words", "many"])
    duckdb.sql("select * from rows").write_parquet(str(tmp_path / "t.parquet"))
    assert content_hash(pq.read_table(tmp_path / "t.parquet")) == content_hash(rows)


def test_volatile_columns_do_not_matter():
    assert content_hash(table(ROW)) == content_hash(table(ROW | {"seconds": 2.0}))


def test_every_other_value_matters_and_so_do_null_empty_and_order():
    changed = [
        {"id": "è"},
        {"id": ""},
        {"id": None},
        {"n": 2},
        {"n": None},
        {"n": 2**62},
        {"n": 2**62 + 1},
        {"x": 0.25},
        {"x": None},
        {"yes": False},
        {"yes": None},
        {"words": []},
        {"words": None},
        {"words": [None]},
        {"words": ["ab"]},
        {"words": ["a", "b", ""]},
        {"words": ["b", "a"]},
        {"pair": None},
        {"pair": {"a": None, "b": None}},
        {"pair": {"a": "p", "b": None}},
        {"many": [{"a": "m"}]},
        {"many": [{"a": "m"}, None]},
        {"many": [{"a": "m"}, {"a": None}]},
        {"vector": HALF[::-1]},
        {"vector": None},
        {"vector": []},
    ]
    tables = [table(ROW), *(table(ROW | change) for change in changed), table(), table(ROW, ROW)]
    hashes = [content_hash(one) for one in tables]
    for (one, left), (other, right) in combinations(enumerate(hashes), 2):
        assert left != right, (one, other)
    other = table(ROW, ROW | {"id": "z"})
    assert content_hash(other) != content_hash(other.take([1, 0]))


def test_large_whole_numbers_beside_a_null_are_told_apart():
    assert content_hash(table({"n": 2**60}, {"n": None})) != content_hash(table({"n": 2**60 + 1}, {"n": None}))


def test_rows_that_move_a_boundary_are_told_apart():
    one, other = table({"id": "ab"}, {"id": "c"}), table({"id": "a"}, {"id": "bc"})
    assert content_hash(one) != content_hash(other)
    assert hash_text("ab", "c") != hash_text("a", "bc") and hash_text("a") != hash_text("a", "")


def test_a_kind_that_has_no_hash_is_refused_rather_than_hashed_by_address():
    with pytest.raises(TypeError, match="dictionary"):
        content_hash(pa.table({"a": pa.array(["x"]).dictionary_encode()}))


def test_slices_combine_in_any_order():
    assert combine(["a", "b"]) == combine(["b", "a"]) != combine(["a"])
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})


def test_a_changed_file_is_hashed_again_even_if_size_and_mtime_are_kept(tmp_path):
    path, cache = tmp_path / "f", tmp_path / "cache"
    path.write_text("one")
    stat = path.stat()
    first = hash_file(path, cache)
    assert first == hash_file(path, cache) == hash_file(path)
    path.write_text("two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hash_file(path, cache) == hash_file(path) != first


def test_why_a_slice_is_made_again_is_said_in_words():
    old = Inputs("1", {"near": {"threshold": 0.9}, "same": 1}, {"ingest": "a", "gone": "g"}, {"f": "1"})
    new = Inputs("2", {"near": {"threshold": 0.8}, "same": 1}, {"ingest": "b", "new": "n"}, {"f": "2"})
    assert explain(None, new) == "first run" and explain(old, old) == ""
    assert explain(old, new) == (
        "stage version 1 → 2; near.threshold 0.9 → 0.8; input gone changed; input ingest changed; input new changed; "
        "file f changed"
    )
    assert explain(Inputs("1", {"near": {"threshold": 0.9}}, {}), Inputs("1", {"near": None}, {})) == (
        'near {"threshold": 0.9} → null'
    )
    assert len({one.fingerprint for one in (old, new, Inputs("1", {}, {}))}) == 3
