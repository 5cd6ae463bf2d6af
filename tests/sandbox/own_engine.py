"""A dockerd of a test's own, which may be stopped, killed and hung without touching the machine's. Needs root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import docker
import requests


class Engine:
    """A dockerd of our own, in one folder, with a containerd of its own; without networks, so that none is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder / 'docker.sock'}"
        self.namespace = f"faults-{os.getpid()}"  # where dockerd finds a containerd of the system, it takes that
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["dockerd", "-H", self.url, "--bridge=none", "--iptables=false", "--ip6tables=false"]
        command += ["--ip-forward=false", "--ip-masq=false"]
        command += [f"--containerd-{part}namespace={part}{self.namespace}" for part in ("", "plugins-")]
        command += [f"--{name}={self.folder / name}" for name in ("data-root", "exec-root", "pidfile")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        assert wait_until(lambda: self.answers() or self.dead(), 60) and self.answers(), (
            self.folder / "log"
        ).read_text()

    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def answers(self) -> bool:
        try:
            with self.client(timeout=5) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, requests.RequestException):
            return False

    def end(self, how: signal.Signals) -> None:
        assert self.process
        pidfile = self.folder / "exec-root/containerd/containerd.pid"
        containerd = Path("/proc", pidfile.read_text()) if pidfile.exists() else None
        self.process.send_signal(how)
        self.process.wait(timeout=60)
        # The next dockerd would take a dying containerd for a live one.
        assert containerd is None or wait_until(lambda: not containerd.exists())

    def client(self, timeout: int = 60) -> closing[docker.DockerClient]:
        return closing(docker.DockerClient(self.url, version="auto", timeout=timeout))

    def containers(self) -> set[str]:
        """Names of all containers, whatever their state; each is inspected, for an engine that died in the middle
        of a removal may go on listing what it no longer has (seen with 20.10)."""
        with self.client() as client:
            return {str(found.name) for found in client.containers.list(all=True, ignore_removed=True)}

    def load(self, image: str) -> None:
        with closing(docker.from_env()) as main, self.client() as client:
            client.images.load(main.api.get_image(image))

    def remove(self) -> None:
        """End dockerd and whatever it started, unmount, delete."""
        if not self.dead():
            self.end(signal.SIGTERM)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not self.processes())
        for mount in reversed(self.mounts()):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(self.folder)

    def processes(self) -> list[int]:
        """dockerd, containerd and shims: our folder or our namespace stands in their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                program, *rest = path.read_text(errors="replace").split("\0")
                ours = any(f"{self.folder}/" in word or word == self.namespace for word in rest)
                if ours and Path(program).name.startswith(("dockerd", "containerd")):
                    found.append(int(path.parent.name))
        return found

    def mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line.split()[1] for line in lines if line.split()[1].startswith(str(self.folder))]


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False
