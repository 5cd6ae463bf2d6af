"""One run at a time on a workspace, so that no two pay for the same responses.

A record lock (POSIX `lockf`) on `run.lock` in the workspace: the kernel gives it back when its process dies, however it
dies, and processes that a run has forked don't hold it. Commits are safe without it (law 2); it saves money.

Covered: runs on one machine, and on a shared folder whose file system carries locks (NFS 4 does). Not covered: an
object store, which has no locks; two runs in one process.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from storage.errors import StorageError
from storage.place import is_local

PATIENCE_S = 10.0
"""Processes that a killed run has left may take so long to end."""


class RunningAlready(StorageError):
    """Another run works on the workspace; nothing was changed."""


@contextmanager
def run_lock(root: Path, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the workspace for a run. Raises RunningAlready if another one holds it for `patience_s` seconds more."""
    if not is_local(root):
        yield
        return
    with (root / "run.lock").open("a+") as file:
        deadline = time.monotonic() + patience_s
        while not _locked(file.fileno()):
            if time.monotonic() >= deadline:
                file.seek(0)
                raise RunningAlready(f"{root}: another run works on it ({file.read().strip() or 'not named'}); "
                                     "wait for its end or stop it, then run again")  # fmt: skip
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _locked(handle: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
