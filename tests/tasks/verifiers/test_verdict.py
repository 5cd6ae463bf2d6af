"""Proves that a judgement can't contradict itself."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.verifiers.verdict import Judgement, settings_hash, unscored


@pytest.mark.parametrize(
    ("score", "passed", "status"),
    [
        (None, None, "accepted"),
        (0.0, False, "infra_error"),
        (1.5, True, "accepted"),
        (None, True, "unverifiable"),
        (1.0, None, "accepted"),
        (1.0, True, "fine"),
    ],
)
def test_contradictions_are_refused(score: float | None, passed: bool | None, status: Any) -> None:
    with pytest.raises(ValueError, match=r"score|status"):
        Judgement(score, passed, status, None, {}, 0.0)


def test_unscored_keeps_its_reason() -> None:
    judgement = unscored("infra_error", "no server", model="m")
    assert (judgement.score, judgement.passed) == (None, None)
    assert judgement.evidence == {"reason": "no server", "model": "m"}


def test_settings_hash_does_not_depend_on_order() -> None:
    assert settings_hash({"a": 1, "b": (1, 2)}) == settings_hash({"b": [1, 2], "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})
