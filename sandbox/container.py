"""One warm container, from the host's side: start it, speak frames with its supervisor, end it.

The supervisor's stdin and stdout are the attached socket. When this process dies, however it dies, the
engine closes the supervisor's stdin (`stdin_once`), the supervisor exits, and the engine removes the
container (`auto_remove`). `sweep` removes what a dead engine or machine may have left, by label.
"""

from __future__ import annotations

import os
import platform
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from docker.types import LogConfig, Ulimit

from sandbox.errors import BadTestCase, ContainerLost, EngineUnavailable, ImageMissing
from sandbox.image import frames
from sandbox.image.languages import LANGUAGES
from sandbox.verdict import MIB

LABEL = "org.stillhouse.sandbox"
OWNER = "org.stillhouse.sandbox.owner"
SUPERVISOR_MEMORY = 192 * MIB  # supervisor, zygote, memory files, and room to look before the kernel kills
RUNTIME_MEMORY = max(language.runtime_mb for language in LANGUAGES.values()) * MIB
START_S = 60.0


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A Docker client of its own (clients are not thread-safe), with the engine's faults named."""
    try:
        client = docker.from_env(version="auto", timeout=60)
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _unavailable(error) from None
    try:
        yield client
    except docker.errors.ImageNotFound as error:
        raise ImageMissing(f"no sandbox image: {error.explanation}; build it with deploy/sandbox_image.sh") from None
    except docker.errors.APIError as error:
        raise EngineUnavailable(f"the Docker engine refused: {error.explanation or error}") from None
    except (requests.RequestException, OSError) as error:
        raise _unavailable(error) from None
    finally:
        client.close()


def _unavailable(error: Exception) -> EngineUnavailable:
    return EngineUnavailable(
        f"the Docker engine does not answer ({str(error)[:200]}); start it (systemctl start docker, or dockerd)"
    )


def owner() -> str:
    """Who owns a container: host, pid, and the pid's start time, so that a reused pid is not mistaken."""
    return f"{platform.node()}:{os.getpid()}:{_started(os.getpid())}"


def _started(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def alive(label: str) -> bool:
    """Whether the owner that a label names still runs; owners on other hosts count as alive."""
    host, pid, started = label.rsplit(":", 2)
    return host != platform.node() or _started(int(pid)) == started


def sweep() -> int:
    """Remove the containers of owners that are dead; returns how many."""
    removed = 0
    with engine() as client:
        for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
            if not alive(container.labels.get(OWNER, "?:0:0")):
                removed += _remove(container)
    return removed


def _remove(container: Any) -> bool:
    try:
        container.remove(force=True)
    except docker.errors.APIError:
        return False  # already gone, or being removed by the engine
    return True


class Container:
    """A started container whose supervisor has said hello."""

    def __init__(self, image: str, memory_bytes: int, runtime: str | None = None) -> None:
        """Start one. Raises EngineUnavailable, ImageMissing, ContainerLost (it did not come up)."""
        self.solutions = 0
        self.memory_bytes = memory_bytes
        self._stream = bytearray()
        self._socket: socket.socket | None = None
        self.id = ""
        with engine() as client:
            container = client.containers.create(image, **options(memory_bytes, runtime))
            self.id = str(container.id)
            try:
                attach = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                self._io = container.attach_socket(params=attach)
                io: Any = self._io
                self._socket = getattr(io, "_sock", io)
                container.start()
                self.hello, _ = self.receive(time.monotonic() + START_S)
            except BaseException as error:
                self.close()
                if isinstance(error, ContainerLost):
                    raise ContainerLost(f"a sandbox container did not start: {error}") from None
                raise
        if self.hello.get("op") != "hello":
            self.close()
            raise ContainerLost(f"expected hello from the supervisor, got {str(self.hello)[:200]}")

    def ask(self, deadline: float, header: dict[str, Any], *blobs: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Send a frame and return its answer; anything odd is ContainerLost."""
        number = secrets.token_hex(4)
        try:
            data = memoryview(frames.pack({**header, "id": number}, *blobs))
        except frames.FrameError as error:
            raise BadTestCase(f"the test is too large: {error}") from None
        sock = self._open()
        try:
            while data:
                if not select.select([], [sock], [], max(0.0, deadline - time.monotonic()))[1]:
                    raise ContainerLost("the supervisor does not take its input")
                data = data[sock.send(data[: 1 << 16]) :]
        except OSError as error:
            raise ContainerLost(f"the supervisor is gone: {error}") from None
        answer, received = self.receive(deadline)
        if answer.get("id") != number:
            raise ContainerLost(f"the supervisor answered another question: {str(answer)[:200]}")
        return answer, received

    def receive(self, deadline: float) -> tuple[dict[str, Any], list[bytes]]:
        """The next frame of the supervisor."""

        def read_exactly(size: int) -> bytes:
            while len(self._stream) < size:
                self._fill(deadline)
            part = bytes(self._stream[:size])
            del self._stream[:size]
            return part

        try:
            return frames.read(read_exactly)
        except frames.FrameError as error:
            raise ContainerLost(f"the supervisor sent no frame: {error}") from None

    def _fill(self, deadline: float) -> None:
        kind, size = struct.unpack(">BxxxI", self._raw(8, deadline))
        data = self._raw(size, deadline)
        if kind == 1:
            self._stream += data
        elif kind == 2:
            raise ContainerLost(f"the supervisor failed: {data[-500:].decode(errors='replace')}")

    def _raw(self, size: int, deadline: float) -> bytes:
        parts = bytearray()
        sock = self._open()
        try:
            while len(parts) < size:
                if not select.select([sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise ContainerLost("the supervisor does not answer in time")
                part = sock.recv(min(size - len(parts), 1 << 20))
                if not part:
                    raise ContainerLost("the container ended")
                parts += part
        except OSError as error:
            raise ContainerLost(f"the supervisor is gone: {error}") from None
        return bytes(parts)

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise ContainerLost("the container is closed")
        return self._socket

    def close(self) -> None:
        """End the container now; never raises. Its processes die with the supervisor, which is PID 1."""
        if self._socket is not None:
            self._io.close()
            self._socket.close()
            self._socket = None
        if self.id:
            try:
                with engine() as client:
                    _remove(client.containers.get(self.id))
            except docker.errors.NotFound:
                pass
            except EngineUnavailable:
                pass  # swept at the next start
            self.id = ""


def options(memory_bytes: int, runtime: str | None = None) -> dict[str, Any]:
    """How a container is locked down. `uid_base` keeps uids, which nproc counts by, apart between containers."""
    memory = memory_bytes + RUNTIME_MEMORY + SUPERVISOR_MEMORY
    uid_base = (16 + secrets.randbelow(1 << 18)) << 12
    tmpfs = "rw,nosuid,nodev,mode=0700,nr_inodes=4096"
    chosen: dict[str, Any] = {
        "command": [str(uid_base)],
        "labels": {LABEL: "1", OWNER: owner()},
        "stdin_open": True,  # docker-py then sets StdinOnce too, unless told to detach
        "auto_remove": True,
        "network_mode": "none",
        "ipc_mode": "private",
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": ["SETUID", "SETGID", "CHOWN"],
        "security_opt": ["no-new-privileges:true"],
        "mem_limit": memory,
        "memswap_limit": memory,
        "pids_limit": 320,
        "nano_cpus": 1_000_000_000,
        "shm_size": 16 * MIB,
        "tmpfs": {
            "/work": f"{tmpfs},exec,size=64m",
            "/tmp": f"{tmpfs},exec,size=64m",
            "/dev/shm": f"{tmpfs},noexec,size=16m",
            "/build": "rw,nosuid,nodev,exec,mode=0750,nr_inodes=4096,size=128m",
        },
        "sysctls": {
            "kernel.shmmni": "0",
            "kernel.msgmni": "0",
            "kernel.sem": "0 0 0 0",
            "fs.mqueue.queues_max": "0",
            "net.ipv4.tcp_max_tw_buckets": "0",  # a port is free as soon as its solution has gone
        },
        "ulimits": [Ulimit(name="core", soft=1, hard=1)],
        "log_config": LogConfig(type=LogConfig.types.NONE),
        "hostname": "sandbox",
    }
    if runtime:
        chosen["runtime"] = runtime
    return chosen
