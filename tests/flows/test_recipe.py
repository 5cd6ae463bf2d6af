"""A wrong recipe is answered with the path in the file, what was found, and what is allowed."""

from pathlib import Path

import pytest
import yaml

from flows.errors import RecipeError
from flows.recipe import check_recipe, load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "deploy" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    assert load_recipe(path).recipe.name == path.stem


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "curate.near_duplicates.treshold=0.9",
            "curate.near_duplicates.treshold: unknown key; did you mean threshold?",
        ),
        ("teachers.good.engine=vlm", "teachers.0.engine: found 'vlm', expected"),
        ("teachers.good.samples=0", "teachers.0.samples: found 0, expected: greater than or equal to 1"),
        ("teachers.good.columsn={}", "teachers.0.columsn: unknown key; did you mean columns?"),
        ("sources.sums.kind=sql", "sources.0.kind: found 'sql', expected"),
        ("sources.sums.category=maths", "sources.0.category: found 'maths', expected 'math', 'code'"),
        ("curate.heldout=much", "curate.heldout: found 'much', expected"),
        ("verify.route={science: [judge]}", "route.science names judge, but verify.judge is not set"),
        ("grade={easy_from: 0.2, hard_below: 0.5}", "hard_below (0.5) must lie below easy_from (0.2)"),
        ("evaluate={}", "evaluate needs a student"),
        ("colour=blue", "colour: unknown key"),
    ],
)
def test_wrong_setting_names_path_found_and_allowed(replay_recipe: Path, override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as fault:
        load_recipe(replay_recipe, (override,))
    assert expected in str(fault.value)
    assert str(replay_recipe) in str(fault.value)


def test_missing_key_is_named(replay_recipe: Path) -> None:
    raw = yaml.safe_load(replay_recipe.read_text())
    del raw["sources"][0]["path"]
    with pytest.raises(RecipeError, match=r"sources\.0\.path: missing"):
        check_recipe(raw, replay_recipe.parent)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("name: [", "no valid YAML"), ("- a\n- b\n", "found list"), ("", "found NoneType")],
)
def test_no_recipe_at_all(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["curate", "=1", "teachers.nobody.samples=1", "name.first=x", "sources=["])
def test_bad_override_is_an_error(replay_recipe: Path, override: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(replay_recipe, (override,))


def test_overrides_reach_lists_by_name_and_number(replay_recipe: Path) -> None:
    recipe = load_recipe(
        replay_recipe, ("teachers.poor.samples=3", "teachers.0.samples=2", "curate.heldout=0.25")
    ).recipe
    assert [teacher.samples for teacher in recipe.teachers] == [2, 3]
    assert recipe.curate.heldout == 0.25


def test_recipe_is_frozen(replay_recipe: Path) -> None:
    recipe = load_recipe(replay_recipe).recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


def test_two_teachers_of_one_name_are_refused(replay_recipe: Path) -> None:
    with pytest.raises(RecipeError, match="the name good is used twice"):
        load_recipe(replay_recipe, ("teachers.poor.name=good",))


def test_a_models_folder_is_meant_from_the_recipes_folder(tmp_path: Path) -> None:
    for name in ("teacher", "student", "encoder", "scorer"):
        (tmp_path / name).mkdir()
    raw = {
        "name": "models",
        "sources": [{"name": "a", "kind": "file", "path": "a.jsonl"}],
        "curate": {"embedding": {"model": "encoder"}},
        "teachers": [{"name": "near", "engine": "transformers", "model": "teacher"},
                     {"name": "far", "engine": "openai", "model": "teacher", "base_url": "http://localhost:1/v1"}],
        "score": {"scorers": [{"name": "s", "engine": "transformers", "model": "scorer"}]},
        "student": {"model": "student"},
    }  # fmt: skip
    recipe = check_recipe(raw, tmp_path).recipe
    assert recipe.student and recipe.score
    models = [recipe.curate.embedding, recipe.teachers[0], recipe.score.scorers[0], recipe.student]
    assert [one.model for one in models] == [
        str(tmp_path / name) for name in ("encoder", "teacher", "scorer", "student")
    ]
    assert recipe.teachers[1].model == "teacher"  # a server's own name for it
    raw["student"] = {"model": "Qwen/Qwen2.5-0.5B"}
    student = check_recipe(raw, tmp_path).recipe.student
    assert student and student.model == "Qwen/Qwen2.5-0.5B"
