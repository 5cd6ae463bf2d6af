"""Taking everything away that a solution left: processes, files. Nothing here trusts the solution."""

# ruff: noqa: PTH101, PTH123, PTH208  (plain os calls: this runs with every test)
from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FOLDERS = ("/work", "/tmp", "/dev/shm")
BUILD = "/build"
_EMPTY = 'cd "$FOLDER" && chmod -R u+rwX . ; cd "$FOLDER" && find . -mindepth 1 -delete'
_OPEN_UP = 'cd "$FOLDER" && chmod -R u+rwX,g+rX .'


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
    """Give the (empty) writable folders to the next solution, and take away what was built for the last one.

    Raises RuntimeError when that can't be done: the container ends.
    """
    if os.listdir(BUILD):
        shell(_EMPTY, BUILD, 0)
        if os.listdir(BUILD):
            raise RuntimeError(f"{BUILD} could not be emptied")
    os.chown(BUILD, 0, uid)
    for folder in FOLDERS:
        os.chown(folder, uid, uid)


def place(name: str, content: bytes, uid: int) -> None:
    """Write a solution's source into /build, for `uid` to read."""
    with open(f"{BUILD}/{name}", "xb") as file:
        file.write(content)
    os.chmod(file.name, 0o640)
    os.chown(file.name, 0, uid)


def unseal(uid: int) -> None:
    """Let a compiler that runs as `uid` write into /build."""
    os.chown(BUILD, uid, uid)


def seal(uid: int) -> bool:
    """Make what lies in /build root's, for `uid` to read and run. No process of `uid` may be alive."""
    try:
        if any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(BUILD)):
            shell(_OPEN_UP, BUILD, uid)
        for _, folders, files, folder in os.fwalk(BUILD, onerror=_raise, follow_symlinks=False):
            for name in (*folders, *files):
                os.chown(name, 0, uid, dir_fd=folder, follow_symlinks=False)
        os.chown(BUILD, 0, uid)
    except (OSError, subprocess.SubprocessError, RecursionError):
        return False
    return True


def _raise(error: OSError) -> None:
    raise error


def wipe(uid: int) -> bool:
    """Empty the folders, acting as their owner; True when they are empty."""
    try:
        for folder in FOLDERS:
            with acting_as(uid):
                for name in attributes(folder):  # a default access list would bind the next solution's files
                    os.removexattr(folder, name)
                os.chmod(folder, 0o700)
                left = os.listdir(folder)
            if left:
                shell(_EMPTY, folder, uid)
        with acting_as(uid):
            for folder in FOLDERS:
                os.utime(folder, (0, 0))
            return not any(os.listdir(folder) for folder in FOLDERS)
    except (OSError, subprocess.SubprocessError):
        return False


def attributes(folder: str) -> list[str]:
    """Extended attributes, access lists among them; none where the kernel has none (gVisor)."""
    with suppress(OSError):
        return os.listxattr(folder)
    return []


def shell(script: str, folder: str, uid: int) -> None:
    """Run one of our own scripts on a folder, as `uid`. Raises TimeoutExpired after 10 s."""
    subprocess.run(
        ["sh", "-c", script],
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
