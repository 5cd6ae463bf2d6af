"""Proves that a file is there whole or not at all, and that creation is exclusive, also on a full disk."""

from __future__ import annotations

import os
import subprocess

import pyarrow as pa
import pytest

from storage.files import create_file, replace_file, write_file
from storage.manifest import Book
from storage.workspace import Workspace


def test_create_is_exclusive_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "deep" / "er" / "a.json"
    create_file(path, b"first")
    with pytest.raises(FileExistsError):
        create_file(path, b"second")
    assert path.read_bytes() == b"first" and [one.name for one in path.parent.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    replace_file(path, b"old")

    def half(temporary):
        temporary.write_bytes(b"ne")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError):
        write_file(path, half)
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == ["a"]


def test_size_and_checksum_are_those_of_the_file(tmp_path):
    written = write_file(tmp_path / "a", lambda place: place.write_bytes(b"abc"))
    assert written.bytes == 3 and written.sha256.startswith("ba7816bf")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("no mount here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_the_old_head_and_no_half_file(small_disk, inputs, screened):
    workspace = Workspace.create(small_disk / "ws", bits=0)
    workspace.begin("screen", "0", inputs, run_id="r").commit("screened", screened("a"), [], [Book("question", 1, 1)])
    before = sorted(small_disk.rglob("*"))
    noise = pa.Table.from_pylist(
        [
            {**screened("x").to_pylist()[0], "question_id": str(number), "evidence": os.urandom(500).hex()}
            for number in range(4000)
        ],
        schema=screened().schema,
    )
    with pytest.raises(OSError, match="No space left"):
        workspace.begin("screen", "0", inputs, run_id="r").commit("screened", noise, [], [Book("question", 4000, 4000)])
    assert sorted(small_disk.rglob("*")) == before
    assert workspace.read("screen", "0", "screened").column("question_id").to_pylist() == ["a"]


def test_a_disk_that_fills_up_before_the_manifest_leaves_the_old_head(small_disk, inputs, screened):
    workspace = Workspace.create(small_disk / "ws", bits=0)
    begin = lambda: workspace.begin("screen", "0", inputs, run_id="r")  # noqa: E731
    begin().commit("screened", screened("a"), [], [Book("question", 1, 1)])
    late = begin()
    part = late._write("screened", "data", screened("b"))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError, match="No space left"):
        late._create([part], [Book("question", 1, 1)], {})
    assert workspace.read("screen", "0", "screened").column("question_id").to_pylist() == ["a"]
    filler.unlink()
    assert late._create([part], [Book("question", 1, 1)], {}).seq == 2
    assert workspace.read("screen", "0", "screened").column("question_id").to_pylist() == ["b"]
