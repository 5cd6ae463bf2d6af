"""PID 1 of a sandbox container: runs one program at a time and says how it ended.

Covered. Each solution gets a uid that no other solution of this container had, the three writable folders
(/work, /tmp, /dev/shm: small tmpfs mounts, owned by that uid while it runs and by root otherwise), and each of
its tests a fresh process forked from a zygote that has seen no program. When a run ends, one kill(-1) under
that uid takes every process it left, fork bombs included; the folders are emptied before the next test. A
compiler is run like a program, as that uid, in /build; what it made becomes root's before the first test, so no
test can change it, and is deleted before the next solution. System V IPC and message queues are switched off by
sysctl, so nothing else can be left behind.

Privileges. The container keeps CAP_SETUID and CAP_SETGID (become the solution's user, and act as it to
kill and wipe) and CAP_CHOWN (hand the folders over). CAP_KILL and CAP_DAC_OVERRIDE are not needed: the kill
is sent with the solution's effective uid while real and saved uid stay 0, so it cannot strike back, and the
zygote has a real uid of its own, so the kill spares it.

Not covered. The kernel is shared: a kernel exploit gets out (run under gVisor where that matters). Timing
and load of a neighbour container can be observed. What can't be cleaned is reported as `dirty`, and the host
discards the container. Comparing outputs is not done here: no expected output ever enters.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from sandbox.image import frames
from sandbox.image.cgroup import Cgroup
from sandbox.image.cleanup import hand_over, place, seal, unseal, wipe
from sandbox.image.program import HEAD, Program, read_file
from sandbox.image.zygote_link import HostGone, Zygote

LANGUAGES = "/opt/stillhouse/languages.json"  # noted when the image was built


class Supervisor:
    """The loop: one frame in, one frame out."""

    def __init__(self, uid_base: int) -> None:
        self.uid = uid_base
        self.cgroup = Cgroup()
        self.zygote = Zygote(uid_base)
        self.program: Program | None = None

    def hello(self) -> dict[str, Any]:
        languages = json.loads(Path(LANGUAGES).read_text())
        return {"op": "hello", "languages": languages, "cgroup": self.cgroup.version}

    def answer(self, header: dict[str, Any], blobs: list[bytes]) -> bytes:
        op = header["op"]
        if op == "open":  # a new solution: a uid that nobody had, and the folders
            self.uid += 1
            hand_over(self.uid)
            return frames.pack({"op": "ok", "id": header["id"]})
        if op == "place":  # a source that is run as it stands, or compiled by the next start
            place(header["name"], blobs[0], self.uid)
            return frames.pack({"op": "ok", "id": header["id"]})
        if op == "start":
            if header.get("seal"):
                unseal(self.uid)
            self.program = Program(self.zygote, self.cgroup, self.uid, header, blobs)
        elif op == "talk" and self.program:
            self.program.message = None
            self.program.outgoing += blobs[0]
        elif op != "stop" or not self.program:
            raise HostGone
        program = self.program
        if op != "stop":
            program.wait(header["until"])
            if program.exit is None and program.limit is None and not header.get("final"):
                return frames.pack({"op": "message", "id": header["id"]}, program.message or b"")
        report = program.end()
        size = self.program.limits["output"] if header.get("full_output") else HEAD
        out, err = read_file(program.out, size), read_file(program.err, HEAD)
        message = program.message or b""
        program.close()
        self.program = None
        if header.get("seal"):
            report["dirty"] |= not seal(self.uid)
        report["dirty"] |= not wipe(self.uid)
        return frames.pack({"op": "end", "id": header["id"], **report}, out, err, message)

    def serve(self) -> None:
        os.write(1, frames.pack(self.hello()))
        while True:
            header, blobs = frames.read(read_stdin)
            reply = memoryview(self.answer(header, blobs))
            while reply:
                reply = reply[os.write(1, reply) :]


def read_stdin(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            raise HostGone
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main() -> None:
    supervisor = Supervisor(int(sys.argv[1]))
    try:
        supervisor.serve()
    except HostGone:
        sys.exit(0)


if __name__ == "__main__":
    main()
