"""The short form of the fault campaign: a replay run killed three times is row-identical to one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]


def test_killed_runs_end_row_identical(tmp_path: Path) -> None:
    with (tmp_path / "sums.jsonl").open("w") as file:
        for one in range(40):
            for other in range(40):
                row = {"question": f"What is {one} + {other}?", "ground_truth": str(one + other)}
                row["response"] = f"\\boxed{{{one + other + (one % 3 == 0)}}}"
                file.write(json.dumps(row) + "\n")
    recipe = {
        "name": "sums",
        "expected_questions": 60_000,
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}],
        "curate": {"near_duplicates": None},
        "teachers": [{"name": "stored", "engine": "replay", "path": "sums.jsonl", "samples": 1}],
    }
    path = tmp_path / "sums.yaml"
    path.write_text(yaml.safe_dump(recipe))
    campaign = PROJECT / "tests" / "faults" / "kill_campaign.py"
    done = subprocess.run(
        [sys.executable, campaign, path, "--kills", "3", "--compare", "--seed", "3", "--folder", tmp_path / "campaign"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kill ") == 3
    assert "row-identical to the uninterrupted run" in done.stdout
