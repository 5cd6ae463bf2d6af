"""A converted SmolLM2 in a cache of this session's own, made by two processes that race for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def smollm2_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`STILLHOUSE_CACHE` for the session, with the converted model in it."""
    cache = tmp_path_factory.mktemp("cache")
    program = "from tasks.teachers.smollm2 import model_path; print(model_path())"
    env = {**os.environ, "STILLHOUSE_CACHE": str(cache), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    racers = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [racer.communicate(timeout=240)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert said[0] == said[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLHOUSE_CACHE", str(cache))
        yield cache
