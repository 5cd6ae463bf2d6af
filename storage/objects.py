"""Objects of a store: the verbs of storage/files.py for places that are no folder.

An object is there whole or not at all, so that nothing is written beside its place and renamed. `create` is a put
with `If-None-Match: *`, which the store refuses where the object exists (law 2).

Covered: answers that get lost (a put that is tried again finds its own object and has won), two puts at the same
moment (409), 500 and 503 (the client library tries again, for some seconds). Not covered: a store that takes the
condition and ignores it; a new workspace finds that out by `check_create_only`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.errors import NoConditionalPut, StorageError, StoreFailed

CONFLICT_TRIES = 6
"""A 409 says that another put of the same object is under way: it is tried again this often"""


def file_system(path: Path) -> Any:
    """fsspec's file system of an object path; one for all paths that were made from one."""
    return path.fs  # type: ignore[attr-defined]


def key(path: Path) -> str:
    """bucket/path, as fsspec names an object."""
    return str(path.path)  # type: ignore[attr-defined]


def read(path: Path) -> bytes:
    """Raises FileNotFoundError."""
    with _told(path):
        data: bytes = file_system(path).cat_file(key(path))
        return data


def read_range(path: Path, start: int, end: int) -> bytes:
    """The bytes from `start` up to `end`. Raises FileNotFoundError."""
    with _told(path):
        data: bytes = file_system(path).cat_file(key(path), start=start, end=end)
        return data


def read_many(paths: Sequence[Path]) -> list[bytes]:
    """Several objects, side by side. Raises FileNotFoundError if one isn't there."""
    if not paths:
        return []
    with _told(paths[0].parent):
        found = file_system(paths[0]).cat([key(path) for path in paths], on_error="raise")
    return [found] if isinstance(found, bytes) else [found[key(path)] for path in paths]


def create(path: Path, data: bytes) -> None:
    """Raises FileExistsError."""
    with _told(path, writes=True):
        for attempt in range(CONFLICT_TRIES):
            try:
                file_system(path).pipe_file(key(path), data, mode="create")
                return
            except FileExistsError:
                if read(path) == data:  # an earlier try of this put was carried out, and its answer lost
                    return
                raise
            except OSError as fault:
                if attempt + 1 == CONFLICT_TRIES or "conditional" not in str(fault).lower():
                    raise
                time.sleep(0.05 * 2**attempt)


def replace(path: Path, data: bytes) -> None:
    with _told(path, writes=True):
        file_system(path).pipe_file(key(path), data)


def upload(path: Path, file: Path) -> None:
    """Put a local file, in parts if it is a large one."""
    with _told(path, writes=True):
        file_system(path).put_file(str(file), key(path))


def download(path: Path, file: Path) -> None:
    """Raises FileNotFoundError."""
    with _told(path):
        file_system(path).get_file(key(path), str(file))


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """An object as a file that is read by ranges. Raises FileNotFoundError."""
    with _told(path), file_system(path).open(key(path), "rb", cache_type="readahead", block_size=1 << 20) as file:
        yield file


def names(folder: Path) -> list[str]:
    """What lies right below a prefix, sorted; empty if nothing does."""
    with _told(folder):
        try:
            found = file_system(folder).ls(key(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return sorted({name.rstrip("/").rpartition("/")[2] for name in found} - {""})


def tree(folder: Path) -> dict[str, str]:
    """All objects below a prefix by their path from there, each with what changes when it does (its ETag)."""
    with _told(folder):
        found = file_system(folder).find(key(folder), detail=True)
    start = len(key(folder).rstrip("/")) + 1
    return {name[start:]: _tag(entry) for name, entry in found.items() if name[start:]}


def tag(path: Path) -> str | None:
    """What changes when an object does (its ETag); None where there is none."""
    with _told(path):
        try:
            return _tag(file_system(path).info(key(path)))
        except FileNotFoundError:
            return None


def _tag(entry: dict[str, Any]) -> str:
    return str(entry.get("ETag") or (entry.get("size"), str(entry.get("LastModified"))))


def remove(paths: Sequence[Path]) -> None:
    """Remove objects; one that is gone already is no fault."""
    if not paths:
        return
    with _told(paths[0]):
        try:
            file_system(paths[0]).rm([key(path) for path in paths])
        except FileNotFoundError:
            for path in paths if len(paths) > 1 else ():
                remove([path])


def check_create_only(folder: Path) -> None:
    """Raises NoConditionalPut if the store would let two writers create the same object."""
    probe = folder / f".probe-{secrets.token_hex(8)}"
    create(probe, b"first")
    try:
        create(probe, b"second")
    except FileExistsError:
        return
    finally:
        remove([probe])
    raise NoConditionalPut(
        f"{folder}: this store creates an object that exists (it ignores If-None-Match: *), so that two runs would "
        "overwrite each other's commits; use a store that knows conditional writes, or a folder"
    )


@contextmanager
def _told(path: Path, *, writes: bool = False) -> Iterator[None]:
    """The client's faults as StoreFailed: they have no base class of their own."""
    try:
        yield
    except FileNotFoundError as fault:
        if not writes:
            raise
        raise StoreFailed(f"{path}: {_first_line(fault)}; make the bucket first, or name another one") from fault
    except (FileExistsError, StorageError):
        raise
    except PermissionError as fault:
        raise StoreFailed(
            f"{path}: the store refuses: {_first_line(fault)}; look at AWS_ACCESS_KEY_ID or AWS_PROFILE and at what "
            "they may do"
        ) from fault
    except Exception as fault:
        raise StoreFailed(
            f"{path}: the store failed: {_first_line(fault)}; what is committed stays, run the same command again "
            "(endpoint: AWS_ENDPOINT_URL)"
        ) from fault


def _first_line(fault: BaseException) -> str:
    text = str(fault).strip() or type(fault).__name__
    return text.splitlines()[0][:300]
