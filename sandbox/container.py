"""One warm container, from the host's side: start it, speak frames with its supervisor, end it.

The supervisor's stdin and stdout are the attached socket. When this process dies, however it dies, the
engine closes the supervisor's stdin (`stdin_once`), the supervisor exits, and the engine removes the
container (`auto_remove`). `sweep` removes what a dead engine or machine may have left, by label. A container
whose removal the engine has not confirmed is remembered, and asked for again with the next one started or ended.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import requests
from docker.types import LogConfig, Ulimit

from sandbox.errors import BadTestCase, ContainerLost, EngineRefused, EngineUnavailable, ImageMissing
from sandbox.image import frames
from sandbox.image.languages import LANGUAGES
from sandbox.verdict import MIB

LABEL = "org.stillhouse.sandbox"
OWNER = "org.stillhouse.sandbox.owner"
SUPERVISOR_MEMORY = 192 * MIB  # supervisor, zygote, memory files, and room to look before the kernel kills
RUNTIME_MEMORY = max(language.runtime_mb for language in LANGUAGES.values()) * MIB
START_S = 60.0
ANSWER_S = 5  # for an engine to answer at all; one that takes longer counts as away
REQUEST_S = 60

_ended: set[str] = set()  # ids, or names, of containers that must go and that the engine may still have


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A Docker client of its own (clients are not thread-safe), with the engine's faults named."""
    try:
        client = docker.from_env(version="auto", timeout=ANSWER_S)
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _unavailable(error) from None
    client.api.timeout = REQUEST_S
    try:
        yield client
    except docker.errors.ImageNotFound as error:
        raise ImageMissing(f"no sandbox image: {error.explanation}; build it with deploy/sandbox_image.sh") from None
    except docker.errors.APIError as error:
        raise _told(error.status_code, str(error.explanation or error)) from None
    except (requests.RequestException, OSError) as error:
        raise _unavailable(error) from None
    finally:
        client.close()


def _told(status: int | None, text: str) -> Exception:
    if status in (404, 409):
        return ContainerLost(f"the engine no longer has the container: {text}")
    if status is not None and status < 500:
        return EngineRefused(f"the Docker engine refuses: {text}")
    return EngineUnavailable(f"the Docker engine fails: {text}; look at its log (journalctl -u docker)")


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
                removed += _remove(client, str(container.id))
    return removed


def remove_ended() -> bool:
    """Remove the containers of this process that have ended. False: the engine is away; they stay remembered."""
    try:
        with engine() as client:
            _remove_ended(client)
    except EngineUnavailable:
        return False
    return True


def _remove_ended(client: docker.DockerClient) -> None:
    for one in list(_ended):
        if _remove(client, one):
            _ended.discard(one)


def _remove(client: docker.DockerClient, one: str) -> bool:
    """Whether it is gone. Not while it is being removed: an engine that dies now may come back with it."""
    try:
        client.api.remove_container(one, force=True)
    except docker.errors.APIError as error:
        return error.status_code == 404
    return True


class Container:
    """A started container whose supervisor has said hello."""

    def __init__(self, image: str, memory_bytes: int, runtime: str | None = None) -> None:
        """Start one. Raises EngineUnavailable, EngineRefused, ImageMissing, ContainerLost (it did not come up)."""
        self.solutions = 0
        self.memory_bytes = memory_bytes
        self._stream = bytearray()
        self._socket: socket.socket | None = None
        self.id = ""
        # A name of ours, to remove it by if the engine goes away before it tells us the id.
        self.name = f"stillhouse-sandbox-{secrets.token_hex(8)}"
        with engine() as client:
            _remove_ended(client)
            try:
                # The supervisor, as PID 1, ignores SIGTERM: with it, an engine takes 10 s to stop or to come back.
                given = options(memory_bytes, runtime)
                container = client.containers.create(image, name=self.name, stop_signal="SIGKILL", **given)
                self.id = str(container.id)
                attach = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                self._io = container.attach_socket(params=attach)
                io: Any = self._io
                self._socket = getattr(io, "_sock", io)
                container.start()
                self.hello, _ = self.receive(time.monotonic() + START_S)
            except BaseException as error:
                removed = self.close()
                if isinstance(error, ContainerLost):
                    kind = ContainerLost if removed else EngineUnavailable
                    raise kind(f"a sandbox container did not start: {error}") from None
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
                if not _ready(sock, select.POLLOUT, deadline):
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
                if not _ready(sock, select.POLLIN, deadline):
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

    def lost(self) -> bool:
        """Whether the container ended, or spoke unasked, while nobody used it."""
        return self._socket is None or _ready(self._socket, select.POLLIN, 0.0)

    def hang_up(self) -> None:
        """From any thread: wakes the one that waits for an answer, and the supervisor exits. `close` follows."""
        # By id where we know it: what an engine was removing when it died, it may bring back without a name.
        _ended.add(self.id or self.name)
        sock = self._socket
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> bool:
        """End the container now; never raises. Its processes die with the supervisor, which is PID 1.

        Only by the thread that uses it: a descriptor that is closed while another thread polls it may be given
        to a new socket, and that thread would wait for the wrong one. False: the engine is away; what is left
        of the container goes when the engine is back.
        """
        self.hang_up()
        sock, self._socket = self._socket, None
        if sock is not None:
            self._io.close()
            sock.close()
        return remove_ended()


def _ready(sock: socket.socket, event: int, deadline: float) -> bool:
    poller = select.poll()  # select() takes no descriptor over 1023
    poller.register(sock, event)
    return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))


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
