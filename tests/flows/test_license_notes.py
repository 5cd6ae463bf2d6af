"""Proves that `plan` says beforehand what `export` would refuse, from the recipe alone and from curated questions, and
that it then does. Not covered: licences of records that nobody has read yet; the note says that it can't know them.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.license_notes import license_notes
from flows.recipe import check_recipe
from tasks.export_licenses import UnknownLicense


@pytest.fixture
def house(make_house):
    house = make_house(teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 1}])
    rows = [{"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": f"{n + 1}"} for n in range(5)]
    house.write("sums.jsonl", rows)
    house.recipe["teachers"][0]["license"] = "MIT"
    return house


def notes(house, workspace=None):
    return license_notes(check_recipe(house.recipe, house.base), workspace)


def test_what_is_known_needs_no_note(house):
    assert notes(house) == []
    house.recipe["sources"][0]["license"] = "MIT OR Apache-2.0"
    assert notes(house) == []


def test_a_teacher_that_states_nothing_is_a_warning(house):
    del house.recipe["teachers"][0]["license"]
    [line] = notes(house)
    assert "these teachers write: t. Their terms may forbid" in line and "Set `license` of the teacher" in line
    house.run("export")  # and no refusal
    assert notes(house, house.workspace) == [line]


def test_a_source_without_a_licence_is_told_before_and_after_it_is_read(house):
    del house.recipe["sources"][0]["license"]
    [line] = notes(house)
    assert "states no licence for the sources sums; unless each of their records states one, export will refuse" in line
    house.run("curate")
    [line] = notes(house, house.workspace)
    assert line.startswith("export would refuse in the end. export: unknown licence of source sums: none stated.")
    with pytest.raises(UnknownLicense):
        house.run("export")
    house.recipe["export"] = {"allow_unknown_license": True}
    assert notes(house, house.workspace) == []


def test_records_that_state_one_are_seen_once_they_are_curated(house):
    del house.recipe["sources"][0]["license"]
    house.write("sums.jsonl", [{"question": "What is 1 + 1?", "ground_truth": "2", "response": "2", "license": "MIT"}])
    house.run("curate")
    assert notes(house, house.workspace) == []


def test_terms_that_nobody_knows_are_a_refusal_and_the_command_says_so(house, tmp_path):
    house.recipe["teachers"][0]["license"] = "ask our lawyers"
    assert "teacher t: 'ask our lawyers'" in notes(house)[0]
    path = house.base / "recipe.yaml"
    path.write_text(json.dumps(house.recipe))
    said = CliRunner().invoke(app, ["plan", str(path)], catch_exceptions=False)
    assert said.exit_code == 0 and "export would refuse in the end" in " ".join(said.output.split())
