"""Small tables for the storage tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from storage.schemas import SCREENED


@pytest.fixture
def screened() -> Callable[..., pa.Table]:
    """Rows of the table `screened`, one per id."""

    def make(*ids: str, **values: Any) -> pa.Table:
        row = {"text_hash": "0", "rule": None, "value": None, "threshold": None, "evidence": "{}"} | values
        return pa.Table.from_pylist([row | {"question_id": one} for one in ids], schema=SCREENED)

    return make
