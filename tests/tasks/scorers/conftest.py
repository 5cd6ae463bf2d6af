"""The converted SmolLM2, in the user's own cache where it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.teachers import smollm2


@pytest.fixture(scope="session")
def smollm2_cache() -> Path:
    return smollm2.model_path()
