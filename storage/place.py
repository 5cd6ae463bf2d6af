"""Where a workspace lies: a folder, or a prefix of an object store, named by its URL.

An object store's path is a UPath of universal_pathlib, over fsspec. It is typed as a Path, whose names and `/` it has;
but it is no local file, so that rows and files go through the verbs of storage/files.py, and what needs a real file
(exports, students, spills) lies in the workspace's local folder.

Covered: S3 and what speaks its protocol. Not tested: other stores of fsspec that can create an object only where there
is none; a new workspace tries that, and is refused where the store can't.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from storage.errors import LocalOnly, NotAPlace

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def place(text: str | Path) -> Path:
    """The place that a person names: `folder/name`, or `s3://bucket/path`. Raises NotAPlace.

    Credentials come from the environment, a profile or the machine's role, never from the URL.
    """
    if not isinstance(text, str):
        return text
    found = _URL.match(text)
    if not found:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    protocol = found[1].lower()
    parts = urlsplit(text)
    if "@" in parts.netloc:
        shown = f"{protocol}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise NotAPlace(
            f"{shown}: found a user or password in the URL, expected none; leave it out and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a profile (AWS_PROFILE)"
        )
    if not parts.netloc:
        raise NotAPlace(f"{text}: found no bucket, expected {protocol}://BUCKET/PATH")
    if parts.query or parts.fragment:
        raise NotAPlace(f"{text}: found a ? or # in the URL, expected {protocol}://BUCKET/PATH")
    try:
        from upath import UPath

        where = UPath(text.rstrip("/"), use_listings_cache=False)
        _ = where.fs  # so that a missing library is told here
    except ImportError as fault:
        raise NotAPlace(f"{text}: {fault}; pip install 'stillhouse[s3]'") from fault
    except ValueError as fault:
        raise NotAPlace(f"{text}: {fault}; expected a folder or s3://BUCKET/PATH") from fault
    return cast(Path, where)


def is_local(path: Path) -> bool:
    """Whether a path is one of this machine's file systems; a shared folder is, too."""
    return isinstance(path, Path)


def need_folder(path: Path, what: str) -> None:
    """Raises LocalOnly on an object store; `what`: the command, as a person types it."""
    if not is_local(path):
        raise LocalOnly(
            f"{path}: {what} works on a folder, not yet on an object store; copy the workspace to a folder and name it"
        )


def cache_home() -> Path:
    """`$STILLHOUSE_CACHE`, else `~/.cache/stillhouse`; may not exist yet."""
    return Path(os.environ.get("STILLHOUSE_CACHE") or Path.home() / ".cache" / "stillhouse").expanduser()
