"""Durable files: written beside their place, fsynced, then renamed or linked.

Covered: a reader never sees half a file, on a local or shared POSIX file system, whatever was killed when. The same
verbs take the paths of an object store (storage/place.py); what they do there stands in storage/objects.py.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage import objects
from storage.place import cache_home, is_local


@dataclass(frozen=True)
class Written:
    """A file as it was written: size in bytes and sha256."""

    bytes: int
    sha256: str


def fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each one's entry in its parent as durable as the files to come."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def beside(path: Path) -> Path:
    """A fresh temporary name in the same folder, so that a rename stays on one file system."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def write_file(path: Path, write: Callable[[Path], None]) -> Written:
    """Run `write` on a temporary name, fsync it, rename it to `path`; on any fault the temporary is removed."""
    if not is_local(path):
        return _upload_file(path, write)
    make_folder(path.parent)
    temporary = beside(path)
    try:
        write(temporary)
        written = _measure(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return written


def _measure(path: Path) -> Written:
    """Read a file once, for its hash, and have it on the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        os.fsync(file.fileno())
        return Written(file.tell(), digest.hexdigest())


def _upload_file(path: Path, write: Callable[[Path], None]) -> Written:
    """Write it here, then put it whole; a killed writer leaves no object."""
    folder = cache_home() / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / path.name
        write(file)
        written = _measure(file)
        objects.upload(path, file)
        return written


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step; the last writer wins."""
    if not is_local(path):
        objects.replace(path, data)
        return
    write_file(path, lambda temporary: _write_bytes(temporary, data))


def create_file(path: Path, data: bytes) -> None:
    """Create `path` with `data` in one step, or raise FileExistsError and change nothing (law 2)."""
    if not is_local(path):
        objects.create(path, data)
        return
    make_folder(path.parent)
    temporary = beside(path)
    try:
        _write_bytes(temporary, data)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def read_file(path: Path) -> bytes:
    """All of a file. Raises FileNotFoundError."""
    return path.read_bytes() if is_local(path) else objects.read(path)


def names(folder: Path) -> list[str]:
    """What lies right in a folder, sorted; empty where there is none."""
    if not is_local(folder):
        return objects.names(folder)
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_files(paths: Sequence[Path]) -> None:
    """Remove files; one that is gone already is no fault."""
    if paths and not is_local(paths[0]):
        objects.remove(paths)
        return
    for path in paths:
        path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        objects.remove([folder / name for name in objects.tree(folder)])


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
