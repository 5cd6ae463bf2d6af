"""Durable files: written beside their place, fsynced, then renamed or linked.

Covered: a reader never sees half a file, on a local or shared POSIX file system, whatever was killed when. Not
covered: object stores (a later module with the same three verbs).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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
    make_folder(path.parent)
    temporary = beside(path)
    try:
        write(temporary)
        digest = hashlib.sha256()
        with temporary.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            os.fsync(file.fileno())
            size = file.tell()
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return Written(size, digest.hexdigest())


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step; the last writer wins."""
    write_file(path, lambda temporary: _write_bytes(temporary, data))


def create_file(path: Path, data: bytes) -> None:
    """Create `path` with `data` in one step, or raise FileExistsError and change nothing (law 2)."""
    make_folder(path.parent)
    temporary = beside(path)
    try:
        _write_bytes(temporary, data)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
