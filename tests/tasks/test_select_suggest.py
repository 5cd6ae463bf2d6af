"""Proves where a proposed CV_t lies, and that the command prints a line that a recipe takes and draws a plot."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from tasks.select_settings import SelectSettings
from tasks.select_suggest import Suggestion, divide


def test_the_proposal_lies_in_the_gap_between_two_groups():
    counts = [(0.0, 50), (0.1, 30), (0.2, 20), (1.0, 30), (1.1, 20)]
    assert divide(counts) == pytest.approx(0.6)
    found = Suggestion("code", counts, divide(counts))
    assert (found.questions, found.kept) == (150, 50) and "near to a pass rate" in found.reason


def test_four_binary_scores_are_divided_between_one_pass_and_more():
    """METHODS.md: 1, 2, 3, 4 passes of 4 have a CV of 2, 1.155, 0.667, 0."""
    assert divide([(0.0, 10), (0.667, 10), (1.155, 10), (2.0, 10)]) == pytest.approx((0.667 + 1.155) / 2)


def test_equal_cvs_are_not_divided():
    assert divide([(0.5, 9)]) is None and divide([]) is None
    assert Suggestion("math", [(0.5, 9)], None).reason == "all CVs are equal: nothing to divide"


def test_the_command_proposes_a_line_for_the_recipe_and_draws_a_plot(make_house, tmp_path):
    house = make_house(teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 4}])
    house.write("sums.jsonl", [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1),
         "response": [f"\\boxed{{{n + 1 if place <= n % 4 else 0}}}" for place in range(4)]}
        for n in range(1, 41)
    ])  # fmt: skip
    house.run("grade")
    plot = tmp_path / "cv.svg"
    result = CliRunner().invoke(app, ["suggest-cv", str(house.root), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("select:"))
    settings = SelectSettings(**yaml.safe_load(line)["select"])
    assert settings.cv_threshold == {"math": 0.911}
    assert "<svg" in plot.read_text() and "CV_t = 0.911" in plot.read_text()
    house.recipe["select"] = settings.as_json()
    house.run("select")
    assert {round(row["cv"], 3) for row in house.rows("select", "selection")} == {1.155, 2.0}
