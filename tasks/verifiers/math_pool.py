"""Worker processes for the math verifier, each started when it is first needed and started anew when a pair kills it.

What is not covered: what a worker does with a pair (`math_worker`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

START_TIMEOUT_S = 120.0


class MathWorkerError(RuntimeError):
    """A math worker could not be started; the message says what it printed."""


class Pair(NamedTuple):
    """What a worker compares; without a reference it gives the answer's canonical form alone."""

    reference: str | None
    answer: str


class _WorkerDied(Exception):
    """The worker ended or was silent; `by_clock` if we ended it because wall time ran out."""

    def __init__(self, returncode: int, *, by_clock: bool = False) -> None:
        super().__init__(returncode)
        self.returncode, self.by_clock = returncode, by_clock


class Worker:
    """One `math_worker` process at a time, restarted as pairs kill it. Used by one thread at a time."""

    def __init__(self, timeout_s: float, memory_mb: int) -> None:
        self.timeout_s, self.memory_mb = timeout_s, memory_mb
        self.wall_s = 10 * timeout_s + 30
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def compare(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """One outcome a pair: `status`, `seconds`, and `path`, `answer` or `reason`."""
        outcomes: list[dict[str, Any]] = []
        died_before = False
        while len(outcomes) < len(pairs):
            started = time.perf_counter()
            done_before = len(outcomes)
            try:
                self._start()
                self._send(pairs[len(outcomes) :])
                while len(outcomes) < len(pairs):
                    started = time.perf_counter()
                    outcomes.append(self._receive(self.wall_s))
                    if outcomes[-1]["status"] == "memory_limit":
                        self.stop()  # it ends by itself after one of these
                        break
                died_before = False
            except _WorkerDied as death:
                # All but its own time limit gets a second try: something outside may have killed it.
                final = death.returncode == -signal.SIGPROF or (died_before and len(outcomes) == done_before)
                died_before = not final
                if final:
                    outcomes.append(_outcome_of(death, time.perf_counter() - started))
            except MathWorkerError as error:
                missing = len(pairs) - len(outcomes)
                outcomes += [{"status": "infra_error", "reason": str(error), "seconds": 0.0}] * missing
        return outcomes

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        arguments = [
            sys.executable,
            "-P",
            "-m",
            "tasks.verifiers.math_worker",
            str(self.timeout_s),
            str(self.memory_mb),
        ]
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
            try:
                self._receive(START_TIMEOUT_S)
            except _WorkerDied as death:
                complaints.seek(0)
                said = complaints.read()[-400:].decode(errors="replace").strip()
                raise MathWorkerError(f"math worker did not start (exit {death.returncode}): {said}") from death

    def _send(self, pairs: Sequence[Pair]) -> None:
        request = {"pairs": [[pair.reference, pair.answer] for pair in pairs]}
        stream = self._stream("stdin")
        try:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
        except OSError:
            raise _WorkerDied(self._end()) from None

    def _receive(self, wall_s: float) -> dict[str, Any]:
        """The next line of the worker. Raises `_WorkerDied` if it ends, or says nothing for `wall_s`
        seconds."""
        stream = self._stream("stdout")
        poll = select.poll()
        poll.register(stream, select.POLLIN | select.POLLHUP)
        deadline = time.monotonic() + wall_s
        while b"\n" not in self._unread:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._end()
                raise _WorkerDied(-signal.SIGKILL, by_clock=True)
            part = os.read(stream.fileno(), 1 << 16)
            if not part:
                raise _WorkerDied(self._end())
            self._unread += part
        line, self._unread = self._unread.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _stream(self, name: str) -> IO[bytes]:
        stream: IO[bytes] | None = getattr(self._process, name, None)
        if stream is None:
            raise _WorkerDied(0)
        return stream

    def _end(self) -> int:
        """Kill what is left and give the exit status (negative: the signal that ended it)."""
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return 0
        try:
            process.wait(timeout=0.2 if process.stdout is not None and process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            process.kill()
        returncode = process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was still buffered for a dead worker
                    stream.close()
        return returncode

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._end()


def _outcome_of(death: _WorkerDied, seconds: float) -> dict[str, Any]:
    if death.by_clock:
        return {
            "status": "infra_error",
            "reason": "no answer in wall time; the machine is overloaded",
            "seconds": seconds,
        }
    if death.returncode == -signal.SIGPROF:
        return {"status": "time_limit", "reason": "CPU time of the pair used up", "seconds": seconds}
    # Out of memory where Python can't raise, or out of C stack: the pair's doing, since it happened twice.
    reason = f"the worker died twice on this pair (exit {death.returncode})"
    return {"status": "memory_limit", "reason": reason, "seconds": seconds}
