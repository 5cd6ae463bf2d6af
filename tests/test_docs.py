"""The documentation is true where a machine can tell: links lead somewhere, tests exist, the reference is current.

Not covered: what the pages claim in words, and links to other sites.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from flows.recipe_reference import reference

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted([PROJECT / "README.md", PROJECT / "deploy" / "README.md", *(PROJECT / "docs").glob("*.md")])
STRANGERS = "tests/security/test_strangers.py"


def anchors(page: str) -> set[str]:
    """The fragments that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    kept = ("".join(char for char in one.lower() if char.isalnum() or char in " -_") for one in headings)
    return {one.replace(" ", "-") for one in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert links or page.name not in ("README.md", "guarantees.md")
    for link in links:
        if "://" in link:
            continue
        place, _, fragment = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if fragment and target.suffix == ".md":
            assert fragment in anchors(target.read_text(encoding="utf-8")), f"{page.name}: {link}: no such heading"


@pytest.mark.parametrize("name", ["guarantees.md", "security.md"])
def test_every_test_that_a_page_names_is_there(name: str) -> None:
    text = (PROJECT / "docs" / name).read_text(encoding="utf-8")
    named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", text)
    assert len(named) > 10
    for file, test in named:
        tree = ast.parse((PROJECT / (file or STRANGERS)).read_text(encoding="utf-8"))
        assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}: {test}"


def test_every_law_of_the_design_is_there() -> None:
    text = (PROJECT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+)\. ", text, re.MULTILINE) == [str(number) for number in range(1, 13)]


def test_the_recipes_reference_is_what_the_models_say() -> None:
    written = (PROJECT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert written == reference(), "run `python -m flows.recipe_reference > docs/recipe.md`"
