"""Proves that a recipe gives the same data set on an object store as in a folder, and that commands read it there.

The store is a real S3 server on loopback. Not covered: a student (slow to train); that what is trained is published and
fetched is proved on files in tests/storage/test_mirror.py.
"""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from typer.testing import CliRunner

from flows.cli import app
from storage.compare import differences
from storage.errors import LocalOnly
from storage.workspace import Workspace
from tasks.export import export_folder
from tasks.viewer.catalogue import Catalogue


@pytest.fixture
def house(make_house):
    """20 questions, a replayed teacher that is right two times of three."""
    house = make_house(
        curate={"near_duplicates": None, "heldout": 0.2},
        teachers=[
            {"name": "a", "engine": "replay", "path": "answers.jsonl", "samples": 3, "columns": {"response": "a"}}
        ],
        select={"max_per_question": 2},
        export={"validation": 0.3, "formats": ["huggingface", "openai"]},
        bits=1,
    )
    questions = [f"What is {n} + {n % 7}?" for n in range(20)]
    house.write("sums.jsonl", [{"question": text, "ground_truth": str(n + n % 7)} for n, text in enumerate(questions)])
    answers = [[f"\\boxed{{{n + n % 7 + (n + k) % 3 // 2}}}" for k in range(3)] for n in range(20)]
    house.write("answers.jsonl", [{"question": text, "a": some} for text, some in zip(questions, answers, strict=True)])
    return house


def files(house):
    """Names of the exported files and the page of a workspace in a folder."""
    found = [*house.root.rglob("exports/*/**/*"), house.root / "report.html"]
    return {path.relative_to(house.root).as_posix() for path in found if path.is_file()}


def test_the_data_set_is_the_same_as_in_a_folder(house, s3):
    house.run()
    stored = house.copy(s3.place())
    stored.run()
    assert differences(house.workspace, stored.workspace, skip=("report",)) == []
    held = {key.removeprefix("ws/") for key in s3.held()}
    assert {name for name in held if name.startswith(("exports/", "report"))} == files(house)
    assert stored.run() == []


def test_another_machine_finds_all_of_it(house, s3, tmp_path, monkeypatch):
    stored = house.copy(s3.place())
    stored.run()
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "another machine"))
    assert stored.run() == []
    folder = export_folder(Workspace.open(s3.place()))
    assert (tmp_path / "another machine") in folder.parents
    assert len((folder.parent / "huggingface" / "README.md").read_text()) > 100
    before = s3.seen()["GET"]
    export_folder(Workspace.open(s3.place()))
    assert s3.seen()["GET"] - before <= 4  # workspace.json, the heads' listing, the export's


def test_planning_a_step_lists_once_whatever_the_number_of_shards(house, s3):
    few, many = house.copy(s3.place("few"), bits=1), house.copy(s3.place("many"), bits=3)
    counts = []
    for one in (few, many):
        one.run("curate")
        before = s3.seen()["GET"]
        assert one.run("curate") == []
        counts.append(s3.seen()["GET"] - before)
    assert counts[0] == counts[1]


def test_commands_and_the_viewer_read_the_store(house, s3, tmp_path):
    stored = house.copy(s3.place())
    stored.run()
    question = stored.rows("curate", "curated")[0]["question_id"]
    for command, found in (
        (["status"], "verify.a"), (["sql", "select count(*) as found from responses", "--json"], '{"found": 60}'),
        (["show", question], question), (["report"], "report: "),
    ):  # fmt: skip
        name, *rest = command
        done = CliRunner().invoke(app, [name, str(s3.place()), *rest])
        assert done.exit_code == 0, done.output
        assert found in done.output
    with closing(Catalogue(Workspace.open(s3.place()), tmp_path / "spill")) as catalogue:
        assert catalogue.rows("select count(*) as found from responses", {}, ["0", "1"]) == [{"found": 60}]


def test_what_needs_a_folder_says_so(house, s3):
    recipe = house.base / "recipe.yaml"
    recipe.write_text(json.dumps(house.recipe))
    options = ["--workspace", str(s3.place()), "--over", "select.max_per_question=1,2"]
    done = CliRunner().invoke(app, ["ablate", str(recipe), *options])
    assert isinstance(done.exception, LocalOnly) and "stillhouse ablate works on a folder" in str(done.exception)
    assert s3.held() == []
