"""The pool of warm containers and the one call that judges a solution.

A `Sandbox` may be used from many threads: `judge` waits for a free container (that is the back-pressure) and
nothing else is shared. A container is replaced when it is dirty, worn out, or lost; a lost one's solution is
judged again from the start on another, and an engine that goes away is waited for (`outage.py`). Referee
containers (assert code) are a second set, started when first needed, which no solution ever enters.

Not covered: sharing containers between processes. Each process has its own pool; size them together.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from sandbox.container import Container, engine, remove_ended, sweep
from sandbox.errors import BadTestCase, ContainerLost, LanguageMissing, SandboxError
from sandbox.image.languages import LANGUAGES
from sandbox.outage import Outages
from sandbox.runner import Session, Solution, check_checker, check_test, infra_verdict
from sandbox.verdict import MIB, Limits, SolutionVerdict, TestCase, TestVerdict

DEFAULT_IMAGE = "stillhouse-sandbox:core"
SOLUTIONS_PER_CONTAINER = 1000
MAX_PROGRAM = 16 * MIB
RETRIES = 2  # after an infra_error, each on another container
ENGINE_WAIT_S = 60.0


class Slots:
    """A fixed number of places for containers; a place is empty until someone needs it."""

    def __init__(self, size: int, image: str, memory_bytes: int, runtime: str | None, outages: Outages) -> None:
        self.image, self.memory_bytes, self.runtime = image, memory_bytes, runtime
        self.outages = outages
        self.places: queue.LifoQueue[Container | None] = queue.LifoQueue()
        self.known: set[Container] = set()
        self.lock = threading.Lock()
        self.closed = False
        for _ in range(size):
            self.places.put(None)

    def take(self) -> Container:
        """Wait for a place; start its container if it has none, or if it was killed while it lay idle."""
        container = self.places.get()
        try:
            if self.closed:
                raise SandboxError("the sandbox is closed")
            if container and container.lost():
                self._end(container)
                container = None
            return container or self._start()
        except BaseException:
            self.places.put(container)
            raise

    def _start(self) -> Container:
        container = self.outages.outlast(lambda: Container(self.image, self.memory_bytes, self.runtime))
        with self.lock:
            if not self.closed:
                self.known.add(container)
                return container
        container.close()
        raise SandboxError("the sandbox is closed")

    def give_back(self, container: Container, sound: bool) -> None:
        """Return a container; it is ended unless it is sound and not worn out."""
        keep = sound and container.solutions < SOLUTIONS_PER_CONTAINER and not self.closed
        if not keep:
            self._end(container)
        self.places.put(container if keep else None)

    def _end(self, container: Container) -> None:
        with self.lock:
            self.known.discard(container)
        if not container.close():
            self.outages.notice()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            known, self.known = self.known, set()
        for container in known:
            container.hang_up()
        remove_ended()
        self._close_idle()

    def _close_idle(self) -> None:
        idle = []
        with suppress(queue.Empty):
            while True:
                idle.append(self.places.get_nowait())
        for container in idle:
            if container:
                container.close()
            self.places.put(None)


class Sandbox:
    """Judges untrusted programs. Use as a context manager; one for a whole process is enough.

    `containers` (default: the number of cores) run at the same time. `max_memory_bytes` is what a container
    allows; limits given to `judge` may be lower, not higher. When the engine goes away, `judge` waits up to
    `engine_wait_s` for it to come back, and judges again what it took along.
    """

    def __init__(
        self,
        image: str | None = None,
        limits: Limits | None = None,
        containers: int | None = None,
        max_memory_bytes: int | None = None,
        runtime: str | None = None,
        engine_wait_s: float = ENGINE_WAIT_S,
    ) -> None:
        """Sweeps what dead runs left. Raises EngineUnavailable and ImageMissing."""
        self.image = image or os.environ.get("STILLHOUSE_SANDBOX_IMAGE", DEFAULT_IMAGE)
        self.limits = limits or Limits()
        self.containers = containers or len(os.sched_getaffinity(0))
        self.max_memory_bytes = max(max_memory_bytes or 1024 * MIB, self.limits.memory_bytes)
        with engine() as client:
            self.image_id = str(client.images.get(self.image).id)
        self.swept = sweep()
        # By id: a rebuild of the tag in the middle of a run must not mix two versions.
        self._outages = Outages(engine_wait_s)
        self._solutions = Slots(self.containers, self.image_id, self.max_memory_bytes, runtime, self._outages)
        self._referees = Slots(self.containers, self.image_id, self.max_memory_bytes, runtime, self._outages)
        self._languages: dict[str, str] | None = None
        atexit.register(self.close)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every container. Threads still in `judge` get a SandboxError."""
        atexit.unregister(self.close)
        self._outages.closed.set()
        self._solutions.close()
        self._referees.close()

    def languages(self) -> dict[str, str]:
        """The languages that the image speaks, with their versions. Starts a container the first time."""
        if self._languages is None:
            container = self._solutions.take()
            self._languages = dict(sorted(container.hello["languages"].items()))
            self._solutions.give_back(container, sound=True)
        return self._languages

    def version(self) -> str:
        """What a verdict depends on: image digest and language versions. Starts a container the first time."""
        spoken = ",".join(f"{name}={version}" for name, version in self.languages().items())
        return f"{self.image_id.removeprefix('sha256:')[:16]};{spoken}"

    def judge(
        self,
        code: str | None,
        tests: Sequence[TestCase],
        *,
        language: str = "python",
        entry_point: str | None = None,
        limits: Limits | None = None,
        exact: bool = False,
        checker: str | None = None,
    ) -> SolutionVerdict:
        """Judge `code` on the first `limits.max_tests` of `tests`. Safe to call from many threads.

        `exact` compares stdout by character. `checker` judges instead of a comparison, for stdin and call tests:
        trusted Python that defines `check(input, expected, output)`, which returns True, False, or a reason why
        not. It runs in a container that no solution enters. A checker that fails on an output refuses it.

        Raises BadTestCase (the tests, not the program, are at fault), LanguageMissing, EngineUnavailable,
        ImageMissing; ValueError for a language that no image speaks.
        """
        limits = limits or self.limits
        if language not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}; got {language!r}")
        solution = Solution(code or "", language, entry_point, checker, exact)
        if not tests:
            raise BadTestCase("a solution is judged by at least one test, got none")
        for test in tests[: limits.max_tests]:
            check_test(test, solution)
        if checker:
            check_checker(checker)
        if language not in self.languages():
            raise LanguageMissing(
                f"image {self.image} speaks {', '.join(self.languages())}, not {language}; "
                f"build the full one (deploy/sandbox_image.sh full) and name it: stillhouse-sandbox:full"
            )
        if limits.memory_bytes > self.max_memory_bytes:
            raise ValueError(
                f"memory_bytes {limits.memory_bytes} is over this sandbox's max_memory_bytes "
                f"{self.max_memory_bytes}; raise that where the Sandbox is made"
            )
        if len(solution.content) > MAX_PROGRAM:
            return SolutionVerdict(
                "compile_error", detail=f"a program over {MAX_PROGRAM // MIB} MiB", skipped=len(tests)
            )
        if not solution.code.strip():
            return SolutionVerdict("no_code", skipped=len(tests))
        reason, attempts, failures = "", 0, 0
        while failures <= RETRIES:
            attempts += 1
            mark = self._outages.mark()
            try:
                return self._judge_once(solution, tests, limits, attempts)
            except ContainerLost as lost:
                if self._solutions.closed:
                    raise SandboxError("the sandbox was closed while judging") from None
                reason = str(lost)
                failures += not self._outages.hit(mark)  # an engine that went away is nobody's failure
        return SolutionVerdict(
            "infra_error", detail=reason, tests=(infra_verdict(reason),), skipped=len(tests), attempts=attempts
        )

    def _judge_once(
        self, solution: Solution, tests: Sequence[TestCase], limits: Limits, attempt: int
    ) -> SolutionVerdict:
        # Lists, because between giving one back and taking the next there is none to give back.
        boxes = [self._solutions.take()]
        referees: list[Container] = []
        session: Session | None = None
        done: list[TestVerdict] = []
        sound = False  # no program is running in either

        def borrow_referee() -> Container:
            if not referees:
                referees.append(self._referees.take())
            return referees[0]

        def give_back() -> None:
            dirty = session.dirty if session else set()
            for slots, held in ((self._solutions, boxes), (self._referees, referees)):
                while held:
                    box = held.pop()
                    slots.give_back(box, sound and box not in dirty)

        try:
            session = Session(boxes[0], solution, limits, borrow_referee)
            for test in tests[: limits.max_tests]:
                if session.dirty and not session.unbuilt:
                    give_back()
                    boxes.append(self._solutions.take())
                    session = Session(boxes[0], solution, limits, borrow_referee)
                sound = False
                done.append(session.judge(test))
                sound = True
                if done[-1].status != "accepted" and limits.stop_at_first_failure:
                    break
        finally:
            give_back()
        return summarize(done, len(tests), attempt)


def summarize(done: Sequence[TestVerdict], total: int, attempts: int = 1) -> SolutionVerdict:
    """The verdict on a solution from the verdicts on its tests."""
    passed = sum(verdict.status == "accepted" for verdict in done)
    first = next((verdict for verdict in done if verdict.status != "accepted"), None)
    return SolutionVerdict(
        status=first.status if first else "accepted",
        score=passed / len(done) if done else 0.0,
        passed=passed,
        run=len(done),
        skipped=total - len(done),
        detail=first.detail if first else "",
        tests=tuple(done),
        attempts=attempts,
    )
