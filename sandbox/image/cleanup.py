"""Taking everything away that a solution left: processes, files. Nothing here trusts the solution."""

# ruff: noqa: PTH101, PTH208  (plain os calls: this runs with every test)
from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FOLDERS = ("/work", "/tmp", "/dev/shm")
_EMPTY = 'cd "$FOLDER" && chmod -R u+rwX . ; cd "$FOLDER" && find . -mindepth 1 -delete'


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Effective uid of the solution; real and saved uid stay 0, so it can't signal or trace us."""
    os.setresuid(-1, uid, -1)
    try:
        yield
    finally:
        os.setresuid(-1, 0, -1)


def kill_all(uid: int) -> None:
    """SIGKILL every process of `uid` in one step that no fork can outrun (the kernel holds its task list)."""
    with acting_as(uid), suppress(ProcessLookupError, PermissionError):
        os.kill(-1, signal.SIGKILL)


def only_we_are_left(zygote: int) -> bool:
    """True when this container holds no process but the supervisor and the zygote, not even a zombie."""
    return all(int(name) in (1, zygote) for name in os.listdir("/proc") if name.isdigit())


def reap(zygote: int) -> float:
    """Collect orphans; their CPU seconds. Ends the container when the zygote is among them."""
    cpu = 0.0
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu
        if pid == 0:
            return cpu
        if pid == zygote:
            raise RuntimeError("the zygote died")
        cpu += usage.ru_utime + usage.ru_stime


def hand_over(uid: int) -> None:
    """Give the (empty) writable folders to the next solution."""
    for folder in FOLDERS:
        os.chown(folder, uid, uid)


def wipe(uid: int) -> bool:
    """Empty the folders, acting as their owner; True when they are empty."""
    try:
        for folder in FOLDERS:
            with acting_as(uid):
                os.chmod(folder, 0o700)
                left = os.listdir(folder)
            if left:
                subprocess.run(
                    ["sh", "-c", _EMPTY],
                    env={"PATH": "/usr/bin:/bin", "FOLDER": folder},
                    user=uid,
                    group=uid,
                    extra_groups=[],
                    timeout=10,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
        with acting_as(uid):
            return not any(os.listdir(folder) for folder in FOLDERS)
    except (OSError, subprocess.SubprocessError):
        return False
