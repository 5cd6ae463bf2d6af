"""Bad-input campaign, recipes: every one is answered with the place and what to do, never with a traceback.

The command is called in this process as its entry point is, so that an exception that escapes fails the test.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.errors import RecipeError
from flows.recipe import check_recipe
from tests.faults.bad_recipes import GOOD, SETTINGS, TEXTS

REMEDY = re.compile(r"expected|[Aa]llowed|one of|there are|set `|set |needs|must|give|did you mean|reads")


def test_the_whole_recipe_is_good(tmp_path: Path) -> None:
    assert check_recipe(copy.deepcopy(GOOD), tmp_path).recipe.name == "good"


def broken(key: str, value: Any) -> dict[str, Any]:
    raw: Any = copy.deepcopy(GOOD)
    place = raw
    *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in parents:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    result: dict[str, Any] = raw
    return result


@pytest.mark.parametrize(("key", "value"), SETTINGS, ids=[f"{key}={value!r:.30}" for key, value in SETTINGS])
def test_a_wrong_setting_is_answered_with_its_place_and_a_remedy(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as fault:
        check_recipe(broken(key, value), tmp_path, path=tmp_path / "bad.yaml")
    text = str(fault.value)
    assert str(tmp_path / "bad.yaml") in text
    named = next(part for part in reversed(key.split(".")) if not part.isdigit())
    assert named in text
    assert REMEDY.search(text), text
    assert len(text) < 2000


@pytest.fixture
def stillhouse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Exit status and what stands on stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stillhouse", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        code = left.value.code
        return code if isinstance(code, int) else int(bool(code)), " ".join(capsys.readouterr().err.split())

    return call


@pytest.mark.parametrize(("data", "expected"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_file_that_is_no_recipe_is_named(command, data, expected, tmp_path, stillhouse) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    code, said = stillhouse(command, path)
    assert code == 1
    assert str(path) in said and expected in said
    assert "Traceback" not in said and len(said) < 2000


@pytest.mark.parametrize(
    ("name", "expected"), [("none.yaml", "no such recipe"), (".", "can't be read"), ("r.yaml/x", "can't be read")]
)
def test_a_path_that_is_no_file_is_named(name, expected, tmp_path, stillhouse) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(GOOD))
    code, said = stillhouse("run", tmp_path / name)
    assert code == 1 and expected in said


@pytest.mark.parametrize(
    "override",
    ["curate", "=1", "teachers.nobody.samples=1", "name.first=x", "sources=[", "curate.heldout=.inf", "a.b.c=1",
     "teachers.9.samples=1", "name=\x00", "expected_questions=1e999"],
)  # fmt: skip
def test_a_wrong_override_is_named(override, tmp_path, stillhouse) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    code, said = stillhouse("plan", path, "--set", override)
    assert code == 1
    assert override.partition("=")[0].partition(".")[0] in said


def test_equal_keys_under_a_merge_are_no_fault(tmp_path: Path, stillhouse) -> None:
    path = tmp_path / "r.yaml"
    (tmp_path / "sums.jsonl").write_text('{"question": "What is 2 + 2?", "ground_truth": "4"}\n')
    path.write_text(
        "name: m\nx-one: {deep: &one {<<: &base {kind: file, category: math}, category: math}}\n"
        "sources:\n- {<<: *one, name: a, path: sums.jsonl, category: math}\n- {<<: *one, name: b, path: sums.jsonl}\n"
    )
    assert stillhouse("plan", path)[0] == 0
