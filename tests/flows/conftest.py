"""A small replay recipe on real files, and the command line as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]

QUESTIONS = [(f"What is {one} + {other}?", one + other) for one in range(4, 16) for other in (3, 17, 28)]


def write_replay_recipe(folder: Path) -> Path:
    """36 sums, two replayed teachers: `good` is right but on every sixth, `poor` on every third question only."""
    folder.mkdir()
    with (folder / "sums.jsonl").open("w") as file:
        for number, (question, answer) in enumerate(QUESTIONS):
            row = {
                "question": question,
                "ground_truth": str(answer),
                "good": f"The answer is \\boxed{{{answer + (number % 6 == 0)}}}.",
                "poor": f"The answer is \\boxed{{{answer + (number % 3 != 0)}}}.",
            }
            file.write(json.dumps(row) + "\n")
    recipe = {
        "name": "sums",
        "expected_questions": 10_000,
        "sources": [
            {"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "Apache-2.0"}
        ],
        "curate": {"near_duplicates": None},
        "teachers": [
            {"name": name, "engine": "replay", "path": "sums.jsonl", "samples": 1, "columns": {"response": name}}
            for name in ("good", "poor")
        ],
    }
    path = folder / "sums.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def replay_recipe(tmp_path: Path) -> Path:
    return write_replay_recipe(tmp_path / "recipe")


class CommandLine:
    """Runs `stillhouse` in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.environment = os.environ | {
            "PREFECT_HOME": str(home), "COLUMNS": "200", "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }  # fmt: skip

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """Standard output and error of a command that must end with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *map(str, arguments)], cwd=PROJECT, env=self.environment,
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        text = done.stdout + done.stderr
        assert done.returncode == code, f"exit status {done.returncode}, expected {code}:\n{text}"
        return text


@pytest.fixture(scope="session")
def stillhouse(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("prefect"))


@dataclass(frozen=True)
class Finished:
    """A run that is done."""

    recipe: Path
    workspace: Path
    output: str


@pytest.fixture(scope="session")
def finished(stillhouse: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One finished run for the tests that only look."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_replay_recipe(folder / "recipe")
    output = stillhouse("run", recipe, "--workspace", folder / "workspace")
    return Finished(recipe, folder / "workspace", output)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """The same, to be changed."""
    shutil.copytree(finished.workspace, tmp_path / "workspace")
    return replace(finished, workspace=tmp_path / "workspace")
