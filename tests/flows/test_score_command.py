"""Proves that the command line shows scores where a user looks for them, and that a recipe with limits that nothing can
keep is answered with what is there."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from flows.errors import RecipeError
from flows.recipe import check_recipe

LOCAL = {"name": "own", "engine": "transformers", "device": "cpu"}


def test_a_run_shows_perplexities_and_so_do_status_show_sql_and_plan(stillhouse, replay_recipe, tmp_path) -> None:
    recipe = yaml.safe_load(replay_recipe.read_text())
    recipe |= {"score": {"scorers": [LOCAL]}, "select": {"perplexity": {"of": "response", "max": 1000}}}
    replay_recipe.write_text(yaml.safe_dump(recipe))
    workspace = tmp_path / "workspace"
    told = stillhouse("plan", replay_recipe)
    assert re.search(r"scorer own\s+│\s+72 │", told), told
    stillhouse("run", replay_recipe, "--workspace", workspace, "--until", "generate")
    told = stillhouse("score", replay_recipe, "--workspace", workspace, "--teacher", "good")
    assert re.search(r"score.good\s+│ score\s+│ 36 │\s+36 │", told), told
    told = stillhouse("run", replay_recipe, "--workspace", workspace)
    table = r"good\s+│ own\s+│\s+36 │\s+0 │\s+[\d.,]+ \([\d.,]+\)"
    assert re.search(table, told), told
    assert "nothing to do" in stillhouse("run", replay_recipe, "--workspace", workspace)
    assert re.search(table, stillhouse("status", workspace))
    query = "select min(response_id) as one, count(*) as n from scores"
    row = json.loads(stillhouse("sql", workspace, query, "--json"))
    assert row["n"] == 72
    shown = stillhouse("show", workspace, row["one"])
    assert '"perplexity_with_question"' in shown and '"scorer": "own"' in shown
    assert stillhouse("report", workspace)


@pytest.mark.parametrize(
    ("scorers", "limits", "said"),
    [
        (None, {"max": 20}, "needs scores: set `score.scorers`"),
        ([LOCAL], {"max": 20, "scorer": "x"}, "no scorer x; there are own"),
        ([LOCAL, LOCAL | {"name": "b"}], {"max": 20}, "several: own, b"),
        ([LOCAL], {"by_teacher": {"x": 2}}, "no teacher x; there are t"),
        ([LOCAL], {}, "perplexity has no limit"),
        ([LOCAL], {"by_teacher": {"t": 0.5}}, "no perplexity is under 1"),
        ([LOCAL, LOCAL], None, "the name own is used twice"),
        ([], None, "score.scorers"),
    ],
)
def test_limits_that_nothing_can_keep_are_refused(scorers, limits, said, tmp_path) -> None:
    recipe = {
        "name": "t",
        "sources": [{"name": "s", "kind": "file", "path": "s.jsonl", "category": "math", "license": "MIT"}],
        "teachers": [{"name": "t", "engine": "replay", "path": "s.jsonl"}],
    }
    recipe["score"] = None if scorers is None else {"scorers": scorers}
    recipe["select"] = {"perplexity": limits}
    with pytest.raises(RecipeError, match=re.escape(said)):
        check_recipe(recipe, tmp_path)
