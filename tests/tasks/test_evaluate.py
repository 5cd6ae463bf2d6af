"""Proves what an evaluation's fingerprint covers. Not covered: an evaluation with a real student."""

from __future__ import annotations

import pytest

from tasks.evaluate import EvaluateSettings, evaluate_step
from tasks.grade import GradeSettings
from tasks.train import StudentSettings
from tasks.verifiers import math, quantity
from tasks.verifiers.settings import VerifySettings


def settings_of(folder):
    (folder / "config.json").write_text("{}")
    student = StudentSettings.model_validate({"name": "s", "model": str(folder)})
    return evaluate_step(EvaluateSettings(), student, VerifySettings(), GradeSettings(), workers=1).settings


@pytest.mark.parametrize("module", [math, quantity])
def test_it_follows_the_revisions_of_the_verifiers(tmp_path, monkeypatch, module):
    """Else a student would keep the accuracy that old rules gave it, beside teachers judged by new ones."""
    before = settings_of(tmp_path)
    assert settings_of(tmp_path) == before
    monkeypatch.setattr(module, "RULES_REVISION", 99)
    assert settings_of(tmp_path) != before
