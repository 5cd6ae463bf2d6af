"""Bad-input campaign, data files: a file without one usable row is answered with its place and what to do; a bad row
beside good ones goes to the ledger, and the good ones stay.

The commands are called in this process as the entry point is, so that an exception that escapes fails the test.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from flows import cli
from tasks.errors import StageError
from tests.faults.bad_files import FILES, RECORDS

REMEDY = re.compile(r"[Cc]heck|expected|set `|--column|names columns")
GOOD = [{"question": f"What is {n} + {n}?", "ground_truth": str(2 * n), "response": f"\\boxed{{{2 * n}}}"}
        for n in range(5)]  # fmt: skip
WITHOUT_QUESTIONS = [
    name for name in FILES if name.endswith((".jsonl", ".parquet"))
    and RECORDS.get(name.removeprefix("record_").removesuffix(".jsonl"), {}).get("response") is None
]  # fmt: skip


@pytest.fixture
def stillhouse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Exit status and what stands on stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stillhouse", *map(str, arguments)])
        try:
            cli.main()
            code: object = 0
        except SystemExit as left:
            code = left.code
        return code if isinstance(code, int) else int(bool(code)), " ".join(capsys.readouterr().err.split())

    return call


@pytest.mark.parametrize("name", FILES)
def test_verify_names_what_is_wrong(name, tmp_path, stillhouse) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    code, said = stillhouse("verify", path, "--out", tmp_path / "out.jsonl", "--category", "math")
    assert code == 1
    assert str(path) in said and REMEDY.search(said), said
    assert "Traceback" not in said and len(said) < 3000


@pytest.mark.parametrize("command", ["dedup", "decontaminate"])
@pytest.mark.parametrize("name", WITHOUT_QUESTIONS)
def test_curation_of_a_file_names_what_is_wrong(command, name, tmp_path, stillhouse) -> None:
    path, items = tmp_path / name, tmp_path / "items.jsonl"
    path.write_bytes(FILES[name])
    items.write_text('{"question": "What is the capital of France?"}\n')
    options = {
        "dedup": ["--no-near"],
        "decontaminate": ["--against", items, "--set", "curate.decontaminate.signals=false"],
    }[command]
    code, said = stillhouse(command, path, "--out", tmp_path / f"out{path.suffix}", *options)
    assert code == 1
    assert str(path) in said and REMEDY.search(said), said
    assert "Traceback" not in said and len(said) < 3000


@pytest.mark.parametrize("name", FILES)
def test_ingest_names_what_is_wrong(name, make_house) -> None:
    house = make_house({"name": "s", "kind": "file", "path": name, "category": "math", "license": "MIT"})
    (house.base / name).write_bytes(FILES[name])
    with pytest.raises(StageError) as fault:
        house.run("ingest")
    said = str(fault.value)
    assert name in said and REMEDY.search(said), said
    assert len(said) < 3000
    assert house.workspace.head("ingest", house.workspace.shards[0]) is None


@pytest.mark.parametrize("name", RECORDS)
def test_a_bad_row_costs_no_good_one(name, make_house, stillhouse, tmp_path) -> None:
    house = make_house({"name": "s", "kind": "file", "path": "rows.jsonl", "category": "math", "license": "MIT"})
    path = house.write("rows.jsonl", [*GOOD[:2], RECORDS[name], *GOOD[2:]])
    house.run("ingest")
    assert len(house.rows("ingest", "questions")) == len(GOOD)
    (dropped,) = house.ledger("ingest")
    assert dropped["unit_id"].endswith("rows.jsonl:3") and json.loads(dropped["evidence"])["detail"]

    code, said = stillhouse("verify", path, "--out", tmp_path / "out.parquet", "--category", "math")
    assert (code, said) == (0, "")
    passed = pq.read_table(tmp_path / "out.parquet")["passed"].to_pylist()
    assert passed == [True, True, None, True, True, True]
