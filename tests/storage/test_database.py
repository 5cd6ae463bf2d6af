"""Proves that DuckDB sees every table, empty ones too, within its memory limit and with its spill folder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from storage.database import connect, open_views
from storage.manifest import Book
from storage.schemas import EMBEDDINGS, TABLES
from storage.workspace import Workspace


def test_every_table_of_an_empty_workspace_can_be_asked(workspace):
    with open_views(workspace) as connection:
        for name, spec in TABLES.items():
            found = connection.execute(f"select * from {name}")
            assert [column[0] for column in found.description] == spec.schema.names and found.fetchall() == []
        for name in ("ledger", "books"):
            assert connection.execute(f"select count(*) from {name}").fetchone() == (0,)


def test_views_hold_the_rows_of_the_newest_commits_of_all_shards(workspace, inputs, screened):
    dropped = {
        "stage": "screen",
        "unit": "question",
        "unit_id": "d",
        "rule": "short",
        "value": 1.0,
        "threshold": 8.0,
        "evidence": "{}",
        "run_id": "r",
    }
    for ids in (("old",), ("a", "b")):
        book = Book("question", len(ids) + 1, len(ids), {"short": 1})
        workspace.begin("screen", "0", inputs, run_id="r").commit("screened", screened(*ids), [dropped], [book])
    workspace.begin("screen", "1", inputs, run_id="r").commit("screened", screened("c"), [], [Book("question", 1, 1)])
    with open_views(workspace) as connection:
        assert connection.execute("select question_id from screened order by all").fetchall() == [
            ("a",),
            ("b",),
            ("c",),
        ]
        assert connection.execute("select unit_id, rule from ledger").fetchall() == [("d", "short")]
        books = connection.execute(
            "select shard, seq, units_in, units_out, dropped from books order by shard"
        ).fetchall()
        assert books == [("0", 2, 3, 2, 1), ("1", 1, 1, 1, 0)]


def test_vectors_and_folders_with_quotes_can_be_read(tmp_path, inputs):
    workspace = Workspace.create(tmp_path / "it's a [ws]", bits=0)
    vector = np.array([0.5, -0.25], np.float16)
    row = {"question_id": "a", "text_hash": "h", "model_revision": "m@1", "vector": vector}
    rows = pa.Table.from_pylist([row], schema=EMBEDDINGS)
    workspace.begin("embed", "0", inputs, run_id="r").commit("embeddings", rows, [], [Book("question", 1, 1)])
    with open_views(workspace) as connection:
        assert connection.execute("select vector from embeddings").fetchone() == ([0.5, -0.25],)


def test_the_memory_limit_and_the_spill_folder_are_in_force(tmp_path):
    with connect(tmp_path / "spill", 256, threads=1) as connection:
        limit, folder = connection.execute(
            "select current_setting('memory_limit'), current_setting('temp_directory')"
        ).fetchone()
        assert limit == "256.0 MiB" and folder == str(tmp_path / "spill")
        text = "md5(range::varchar) || md5((range + 1)::varchar)"
        connection.execute(f"create table big as select {text} as text from range(6_000_000)")  # about 480 MB
        assert connection.execute("select count(*) from big").fetchone() == (6_000_000,)
        assert any((tmp_path / "spill").iterdir())
