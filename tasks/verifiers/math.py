r"""Math answers against a reference: normal forms first, Math-Verify for the rest, in worker processes that
can be killed.

A pair that passes its time or memory limit costs its own worker only, gets `time_limit` or `memory_limit`
(never `wrong_answer`), and the pairs behind it go on in a fresh worker. The limits: CPU seconds, enforced by
the kernel, so that a busy machine does not change verdicts; address space; and a generous wall clock above
both, which counts as `infra_error`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tasks.verifiers.answer import (
    MAX_ANSWER_CHARS,
    Extracted,
    QuickVerdict,
    check_rules,
    extract,
    quick_compare,
)
from tasks.verifiers.verdict import Item, Judgement, Status, settings_hash, unscored

RULES_REVISION = 1  # raise it whenever a rule in answer.py or math_worker.py can change a verdict
CHUNK = 32
START_TIMEOUT_S = 120.0
EVIDENCE_CHARS = 500


class MathWorkerError(RuntimeError):
    """A math worker could not be started; the message says what it printed."""


@dataclass(frozen=True)
class _Pair:
    reference: str
    answer: str
    whole_text: bool


class MathVerifier:
    """Rule-based math verdicts: score 1.0 or 0.0, `passed` if the score is above `threshold`.

    `answer_from` and `reference_from` are extraction rules in order (see `answer.extract`). Without
    `reference_from` the reference is read from its last box or from the markers that `answer_from` names,
    else it is taken whole. `timeout_s` is CPU time a pair, `memory_mb` the address space of a worker. Raises
    `UnknownAnswerRule`, `ValueError` for settings out of range. Workers start at the first pair that needs
    one; `close()` or the end of a `with` block ends them. Threads may share one.
    """

    name = "math"

    def __init__(
        self,
        *,
        workers: int = 1,
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
        answer_from: Sequence[str] = ("boxed", "last_expression"),
        reference_from: Sequence[str] | None = None,
        threshold: float = 0.99,
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mb < 512:
            raise ValueError(
                f"wanted workers >= 1, timeout_s > 0, memory_mb >= 512; got {workers}, {timeout_s}, {memory_mb}"
            )
        self.threshold = threshold
        self.answer_from = check_rules(answer_from)
        markers = [rule for rule in self.answer_from if rule.startswith("marker:")]
        self.reference_from = check_rules(reference_from or ("boxed", *markers, "whole"), reference=True)
        self.timeout_s, self.memory_mb, self.workers = timeout_s, memory_mb, workers
        self._slots: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = [_Worker(timeout_s, memory_mb) for _ in range(workers)]
        for worker in self._all:
            self._slots.put(worker)

    @property
    def version(self) -> str:
        """Versions of the libraries that decide, revision of our rules, hash of the settings (not of the
        worker count)."""
        libraries = " ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("math-verify", "latex2sympy2_extended", "sympy")
        )
        settings = {
            "answer_from": self.answer_from,
            "reference_from": self.reference_from,
            "timeout_s": self.timeout_s,
            "memory_mb": self.memory_mb,
            "threshold": self.threshold,
        }
        return f"{libraries}; rules {RULES_REVISION}; settings {settings_hash(settings)}"

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item. Statuses: accepted, wrong_answer, no_answer, wrong_format (an answer over
        4,000 characters), time_limit, memory_limit, unverifiable (no reference, or one over 4,000
        characters), infra_error."""
        judgements: list[Judgement | None] = [None] * len(items)
        open_pairs: list[tuple[int, Extracted, Extracted, _Pair]] = []
        for index, item in enumerate(items):
            started = time.perf_counter()
            reference = extract(item.ground_truth or "", self.reference_from)
            if reference is None or len(reference.text) > MAX_ANSWER_CHARS:
                reason = "no reference answer" if reference is None else f"reference over {MAX_ANSWER_CHARS} characters"
                judgements[index] = unscored("unverifiable", reason)
                continue
            answer = extract(item.answer_content, self.answer_from)
            if answer is None:
                looked: dict[str, object] = {
                    "reason": f"nothing found by {', '.join(self.answer_from)}",
                    "reference": _shown(reference.text),
                }
                judgements[index] = Judgement(0.0, False, "no_answer", None, looked, time.perf_counter() - started)
                continue
            whole_text = answer.rule == "last_expression"
            if len(answer.text) > MAX_ANSWER_CHARS and not whole_text:
                evidence = _evidence(answer, reference, "none") | {
                    "reason": f"answer over {MAX_ANSWER_CHARS} characters"
                }
                judgements[index] = Judgement(0.0, False, "wrong_format", None, evidence, time.perf_counter() - started)
                continue
            quick = quick_compare(reference.text, answer.text, whole_text=whole_text)
            if quick is None:
                open_pairs.append((index, answer, reference, _Pair(reference.text, answer.text, whole_text)))
            else:
                judgements[index] = self._quick_judgement(quick, answer, reference, time.perf_counter() - started)
        outcomes = self._compare([pair for *_, pair in open_pairs])
        for (index, answer, reference, _), outcome in zip(open_pairs, outcomes, strict=True):
            judgements[index] = self._judgement(outcome, answer, reference)
        return [judgement for judgement in judgements if judgement is not None]

    def _quick_judgement(
        self, quick: QuickVerdict, answer: Extracted, reference: Extracted, seconds: float
    ) -> Judgement:
        score = 1.0 if quick.decision == "accepted" else 0.0
        evidence = _evidence(answer, reference, quick.path)
        return Judgement(score, score > self.threshold, quick.decision, quick.answer, evidence, seconds)

    def _judgement(self, outcome: dict[str, Any], answer: Extracted, reference: Extracted) -> Judgement:
        status: Status = outcome["status"]
        evidence = _evidence(answer, reference, outcome.get("path", "math_verify"))
        if status == "infra_error":
            return unscored("infra_error", outcome["reason"], outcome["seconds"], **evidence)
        if "reason" in outcome:
            evidence["reason"] = outcome["reason"]
        score = 1.0 if status == "accepted" else 0.0
        return Judgement(score, score > self.threshold, status, outcome.get("answer"), evidence, outcome["seconds"])

    def _compare(self, pairs: Sequence[_Pair]) -> list[dict[str, Any]]:
        chunk = max(1, min(CHUNK, -(-len(pairs) // self.workers)))
        chunks = [pairs[start : start + chunk] for start in range(0, len(pairs), chunk)]
        if len(chunks) <= 1:
            return self._compare_chunk(chunks[0]) if chunks else []
        with ThreadPoolExecutor(min(self.workers, len(chunks)), thread_name_prefix="math") as threads:
            return [outcome for done in threads.map(self._compare_chunk, chunks) for outcome in done]

    def _compare_chunk(self, pairs: Sequence[_Pair]) -> list[dict[str, Any]]:
        worker = self._slots.get()
        try:
            return worker.compare(pairs)
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """End the workers. A later `judge` starts new ones."""
        for worker in self._all:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shown(text: str) -> str:
    return text if len(text) <= EVIDENCE_CHARS else "…" + text[-EVIDENCE_CHARS:]


def _evidence(answer: Extracted, reference: Extracted, path: str) -> dict[str, object]:
    return {
        "extracted": _shown(answer.text),
        "answer_from": answer.rule,
        "reference": _shown(reference.text),
        "reference_from": reference.rule,
        "path": path,
    }


# ------------------------------------------------------------------------------------------------- workers


class _WorkerDied(Exception):
    """The worker ended or was silent; `by_clock` if we ended it because wall time ran out."""

    def __init__(self, returncode: int, *, by_clock: bool = False) -> None:
        super().__init__(returncode)
        self.returncode, self.by_clock = returncode, by_clock


class _Worker:
    """One `math_worker` process at a time, restarted as pairs kill it. Used by one thread at a time."""

    def __init__(self, timeout_s: float, memory_mb: int) -> None:
        self.timeout_s, self.memory_mb = timeout_s, memory_mb
        self.wall_s = 10 * timeout_s + 30
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def compare(self, pairs: Sequence[_Pair]) -> list[dict[str, Any]]:
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

    def _send(self, pairs: Sequence[_Pair]) -> None:
        request = {"pairs": [[pair.reference, pair.answer, pair.whole_text] for pair in pairs]}
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
