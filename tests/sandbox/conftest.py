"""One real Sandbox for all tests of this folder; skipped where no Docker engine or image is at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sandbox import EngineUnavailable, ImageMissing, Limits, Sandbox
from sandbox.verdict import MIB

LIMITS = Limits(time_s=1.0, wall_s=5.0, memory_bytes=256 * MIB, output_bytes=8 * MIB)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    try:
        made = Sandbox(limits=LIMITS, containers=2)
    except (EngineUnavailable, ImageMissing) as error:
        if os.environ.get("CI"):
            raise  # CI has an engine: a skip there would hide that nothing was tested
        pytest.skip(str(error))
    with made:
        yield made
