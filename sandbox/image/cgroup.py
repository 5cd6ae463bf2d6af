"""This container's own counters, from cgroup v1 or v2 (State.OOMKilled of the engine is not reliable)."""

from __future__ import annotations

import os


class Cgroup:
    """Memory in bytes, CPU in seconds, and how often the kernel killed for memory."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        self.version = 2 if os.path.exists(f"{root}/cgroup.controllers") else 1
        if self.version == 2:
            memory, cpu, oom = "memory.current", "cpu.stat", "memory.events"
        else:
            memory, cpu, oom = "memory/memory.usage_in_bytes", "cpuacct/cpuacct.usage", "memory/memory.oom_control"
        self._memory = os.open(f"{root}/{memory}", os.O_RDONLY | os.O_CLOEXEC)
        self._cpu = os.open(f"{root}/{cpu}", os.O_RDONLY | os.O_CLOEXEC)
        self._oom = os.open(f"{root}/{oom}", os.O_RDONLY | os.O_CLOEXEC)

    def memory(self) -> int:
        return int(os.pread(self._memory, 64, 0))

    def cpu(self) -> float:
        text = os.pread(self._cpu, 4096, 0)
        return _field(text, b"usage_usec") / 1e6 if self.version == 2 else int(text) / 1e9

    def oom_kills(self) -> int:
        return _field(os.pread(self._oom, 4096, 0), b"oom_kill")


def _field(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0
