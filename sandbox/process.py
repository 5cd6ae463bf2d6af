"""One program in a container, from the host's side: start it, take turns with it, read how it ended."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from sandbox.container import Container
from sandbox.errors import ContainerLost
from sandbox.image import frames
from sandbox.image.program import PATIENCE
from sandbox.verdict import Limits, Status, TestVerdict

GRACE_S = 15.0  # beyond the supervisor's own deadlines: kill, wipe, and a busy machine
HEAD = 2000  # characters of stdout/stderr kept as evidence
_LIMITS: dict[str, Status] = {
    "time": "time_limit",
    "wall": "time_limit",
    "memory": "memory_limit",
    "output": "output_limit",
}
_SIGXCPU = 24


@dataclass(frozen=True)
class End:
    """How a program ended: the supervisor's report, its outputs, and its last message."""

    report: dict[str, Any]
    stdout: bytes
    stderr: bytes
    said: dict[str, Any]

    @property
    def dirty(self) -> bool:
        """Whether the container must be discarded."""
        return bool(self.report["dirty"])

    def verdict(self, status: Status, detail: str = "") -> TestVerdict:
        """A verdict with this end's numbers."""
        return TestVerdict(
            status=status,
            detail=detail.encode("utf-8", "replace").decode(),  # half surrogates can't be written anywhere
            cpu_s=round(float(self.report["cpu_s"]), 4),
            wall_s=round(float(self.report["wall_s"]), 4),
            peak_memory_bytes=int(self.report["peak"]),
            exit_code=self.report["exit_code"],
            signal=self.report["signal"],
            stdout=self.stdout[:HEAD].decode("utf-8", "replace"),
            stderr=self.stderr[:HEAD].decode("utf-8", "replace"),
        )

    def fault(self, limits: Limits, out_of_memory: str = "") -> TestVerdict | None:
        """What was wrong with the run as such, whatever it answered: a limit, a compile error, a bad exit.

        `out_of_memory` is what the language's runtime says on stderr when it is refused memory.
        """
        report = self.report
        if report["limit"]:
            what = "wall-clock time" if report["limit"] == "wall" else report["limit"]
            return self.verdict(_LIMITS[report["limit"]], f"over the {what} limit")
        if self.said.get("op") == "compile_error":
            return self.verdict("compile_error", str(self.said.get("text"))[-300:].strip())
        if self.said.get("op") == "memory_error":
            return self.verdict("memory_limit", "MemoryError")
        bad = report["signal"] or report["exit_code"]
        if bad and out_of_memory and out_of_memory.encode() in self.stderr:
            return self.verdict("memory_limit", out_of_memory)
        if report["signal"] == _SIGXCPU or (report["signal"] and report["cpu_s"] > limits.time_s):
            return self.verdict("time_limit", "over the time limit")
        if report["signal"]:
            return self.verdict("runtime_error", f"ended by signal {report['signal']}")
        if report["exit_code"]:
            last = self.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            return self.verdict("runtime_error", f"exit code {report['exit_code']}: {last[:300]}")
        return None


@dataclass(frozen=True)
class Command:
    """What another language's program is run by, and where; a compiler may write there (`seal`)."""

    argv: list[str]
    environment: dict[str, str]
    folder: str = "/work"
    seal: bool = False


@dataclass
class Process:
    """A program being run. After `start`, `talk` and `stop` either `end` is set or `said` is its message.

    `code` and `job` are for the warm Python interpreter, by `mode`; a `command` needs neither.
    """

    container: Container
    mode: str
    code: bytes
    limits: Limits
    job: dict[str, Any] = field(default_factory=dict)
    command: Command | None = None
    said: dict[str, Any] = field(default_factory=dict)
    end: End | None = None

    def run(self, stdin: bytes) -> End:
        """Run to the end with `stdin`; the end carries the whole stdout."""
        self._ask({"op": "start", "until": "exit", "final": True, "full_output": True}, self.code, stdin)
        return self.ended()

    def start(self, first: dict[str, Any] | None = None, final: bool = False) -> None:
        """Start, with a first message waiting; returns with its first message (`final`: and ends it then)."""
        blobs = [self.code, b""] + ([frames.pack_message(first)] if first else [])
        self._ask({"op": "start", "until": "message", "final": final, "first": bool(first)}, *blobs)

    def talk(self, message: dict[str, Any]) -> None:
        """Send a message; returns with the next one."""
        self._ask({"op": "talk", "until": "message"}, frames.pack_message(message))

    def stop(self) -> End:
        """End the program, if it has not ended."""
        if self.end is None:
            self._ask({"op": "stop"})
        return self.ended()

    def ended(self) -> End:
        assert self.end is not None, "the supervisor answers the last question with an end"
        return self.end

    def _ask(self, header: dict[str, Any], *blobs: bytes) -> None:
        limits = {
            "time_s": self.limits.time_s,
            "wall_s": self.limits.wall,
            "memory": self.limits.memory_bytes,
            "output": self.limits.output_bytes,
            "processes": self.limits.processes,
        }
        deadline = time.monotonic() + PATIENCE * self.limits.wall + GRACE_S
        question = {**header, "mode": self.mode, "job": self.job, "limits": limits}
        if self.command:
            question |= {"command": asdict(self.command), "seal": self.command.seal}
        answer, received = self.container.ask(deadline, question, *blobs)
        if answer["op"] == "message":
            self.said = read_message(received[0])
            return
        if answer["limit"] == "starved":
            raise ContainerLost(f"the machine is too busy: no processor was free for {answer['wall_s']:.0f} s")
        stdout, stderr, message = received
        self.end = End(answer, stdout, stderr, read_message(message))
        self.said = self.end.said


def read_message(raw: bytes) -> dict[str, Any]:
    """A program's message; {} when it said nothing, `unreadable` when it is no JSON object."""
    if not raw:
        return {}
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        return {"op": "unreadable"}
    return message if isinstance(message, dict) else {"op": "unreadable"}
