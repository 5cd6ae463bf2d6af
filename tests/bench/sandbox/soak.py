"""Soak of the sandbox: many programs, right, wrong and hostile, and nothing may leak or waver.

    python tests/bench/sandbox/soak.py --programs 20000 --hostile 0.1 --runs 2

Proves, over thousands of programs in one process: every verdict is the one that the program was written to
get, at the first attempt; a second run of the same programs gives the same verdicts (which threads and
containers they meet differs); the host process keeps no containers, threads, file descriptors or memory; a
container at rest holds no process but its supervisor and zygote. Exits 1 when one of these is not so.

Not covered: what a program can reach (tests/sandbox/test_isolation.py), faults of the engine
(tests/sandbox/test_pool.py), memory of the engine itself.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import psutil
from docker.models.containers import Container
from programs import FIVE, LANGUAGES, LIMITS, Job, job
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sandbox import Sandbox, SolutionVerdict, Status
from sandbox.container import OWNER, engine, owner
from sandbox.verdict import MIB

AT_REST = 2  # processes: supervisor and zygote
SAMPLES = 10  # looks at this process in a run
MEMORY_GROWTH, MEMORY_SLACK = 1.10, 20 * MIB  # the end against the first tenth


@dataclass(frozen=True)
class Sample:
    """What this process holds at a moment. `memory` is resident bytes."""

    when: str
    done: int
    containers: int
    descriptors: int
    threads: int
    memory: int


def containers() -> list[Container]:
    """All containers of this process, ended ones too."""
    with engine() as client:  # a client of its own each time: it holds a descriptor for every container asked about
        return client.containers.list(all=True, filters={"label": f"{OWNER}={owner()}"}, ignore_removed=True)


def sample(when: str, done: int = 0) -> Sample:
    process = psutil.Process()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is not held by anyone
    descriptors, threads, memory = process.num_fds(), threading.active_count(), process.memory_info().rss
    return Sample(when, done, len(containers()), descriptors, threads, memory)


def processes(sandbox: Sandbox) -> list[int]:
    """How many processes and threads each container of the pool holds, zombies included."""
    known = [*sandbox._solutions.known, *sandbox._referees.known]
    with engine() as client:
        found = [client.api.stats(one.id, stream=False, one_shot=True) for one in known]
    return [one["pids_stats"]["current"] for one in found]


def wait_until_removed(seconds: float = 10.0) -> None:
    """The engine removes an ended container a moment after it was told to."""
    deadline = time.monotonic() + seconds
    while containers() and time.monotonic() < deadline:
        time.sleep(0.1)


@dataclass(frozen=True)
class Wrong:
    """A verdict that was not as expected, or that took more than one attempt."""

    run: int
    number: int
    job: Job
    verdict: SolutionVerdict


class Soak:
    """Runs the same programs through a sandbox, as often as asked."""

    def __init__(self, sandbox: Sandbox, jobs: Callable[[int], Job], programs: int) -> None:
        self.sandbox, self.jobs, self.programs = sandbox, jobs, programs
        self.wrong: list[Wrong] = []
        self.samples: list[Sample] = []
        self.processes: list[int] = []

    def run(self, number: int, progress: Progress) -> list[Status | None]:
        """One run; the status of each program."""
        statuses: list[Status | None] = [None] * self.programs
        todo = iter(range(self.programs))  # next() of a range is one step, so threads can share it
        task = progress.add_task(f"run {number}", total=self.programs)
        every = max(1, self.programs // SAMPLES)
        sampling, stop = threading.Lock(), threading.Event()

        def work() -> None:
            for index in todo:
                if stop.is_set():
                    return
                one = self.jobs(index)
                verdict = self.sandbox.judge(
                    one.code, one.tests, language=one.language, entry_point=one.entry_point, limits=one.limits
                )
                statuses[index] = verdict.status
                if verdict.status != one.expected or verdict.attempts != 1:
                    self.wrong.append(Wrong(number, index, one, verdict))
                    progress.console.print(
                        f"run {number}, program {index}, {one.name}: {explain(one, verdict)}", markup=False
                    )
                progress.advance(task)
                if (index + 1) % every == 0:
                    with sampling:
                        self.samples.append(sample(f"run {number}", index + 1))

        workers = 2 * self.sandbox.containers  # more than there are containers, so that some wait
        with ThreadPoolExecutor(workers) as threads:
            try:
                for future in as_completed([threads.submit(work) for _ in range(workers)]):
                    future.result()
            finally:
                stop.set()
        self.processes += processes(self.sandbox)
        return statuses


def explain(one: Job, verdict: SolutionVerdict) -> str:
    last = verdict.tests[-1] if verdict.tests else None
    return f"expected {one.expected}, got {verdict.status} at attempt {verdict.attempts}: {verdict.detail} {last}"


def leaks(before: Sample, samples: Sequence[Sample], after: Sample, processes: Sequence[int], pool: int) -> list[str]:
    """What leaked, in words: `before` the sandbox was made, in its runs, `after` it was closed."""
    found = []
    most = max(one.containers for one in samples)
    bound = 4 * pool  # solutions and referees, and as many that the engine is just removing
    if most > bound:
        found.append(f"containers: {most} at one time, a pool of {pool} may have {bound}")
    if after.containers:
        found.append(f"containers: {after.containers} are left")
    for what in ("descriptors", "threads"):
        if getattr(after, what) > getattr(before, what):
            found.append(f"{what}: {getattr(before, what)} before, {getattr(after, what)} after")
    allowed = int(samples[0].memory * MEMORY_GROWTH) + MEMORY_SLACK
    if samples[-1].memory > allowed:
        found.append(f"memory: {samples[-1].memory / MIB:.1f} MiB at the end, bound {allowed / MIB:.1f}")
    if any(count != AT_REST for count in processes):
        found.append(f"processes: containers at rest hold {sorted(processes)}, not {AT_REST} each")
    return found


def flaky(runs: Sequence[Sequence[Status | None]]) -> list[int]:
    """The programs whose verdicts differ between runs."""
    return [number for number, statuses in enumerate(zip(*runs, strict=True)) if len(set(statuses)) > 1]


def spoken(sandbox: Sandbox, languages: Sequence[str]) -> Iterator[str]:
    """The languages among `languages` that this sandbox judges."""
    for language in languages:
        try:
            sandbox.judge(None, FIVE, language=language)
            yield language
        except ValueError as error:
            print(f"{language} is left out: {error}")


def report(console: Console, soak: Soak, before: Sample, after: Sample, counts: Counter[tuple[str, Status]]) -> None:
    table = Table(title="programs by expected verdict")
    for name in ("program", "expected", "number"):
        table.add_column(name, justify="right" if name == "number" else "left")
    for (name, expected), number in sorted(counts.items()):
        table.add_row(name, expected, str(number))
    console.print(table)
    table = Table(title="what this process holds")
    for name in ("when", "programs", "containers", "descriptors", "threads", "memory MiB"):
        table.add_column(name, justify="right")
    for one in (before, *soak.samples, after):
        held = (one.done, one.containers, one.descriptors, one.threads, f"{one.memory / MIB:.1f}")
        table.add_row(one.when, *map(str, held))
    console.print(table)
    console.print(f"processes in containers at rest: {soak.processes}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--hostile", type=float, default=0.1, help="share of attacks")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--containers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--languages", nargs="+", default=["python"], choices=LANGUAGES)
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    containers()  # what the first request opens and imports is no leak
    before = sample("before")
    with Sandbox(containers=given.containers, limits=LIMITS) as sandbox:
        languages = tuple(spoken(sandbox, given.languages))

        def jobs(number: int) -> Job:
            return job(given.seed, number, given.hostile, languages)

        soak = Soak(sandbox, jobs, given.programs)
        with Progress(console=console) as progress:
            runs = [soak.run(number, progress) for number in range(1, given.runs + 1)]
    wait_until_removed()
    after = sample("after")
    report(console, soak, before, after, Counter((j.name, j.expected) for j in map(jobs, range(given.programs))))
    leaked, wavering = leaks(before, soak.samples, after, soak.processes, given.containers), flaky(runs)
    for wrong in soak.wrong:
        print(f"WRONG: run {wrong.run}, program {wrong.number}, {wrong.job.name}: {explain(wrong.job, wrong.verdict)}")
    for number in wavering:
        print(f"FLAKY: program {number}, {jobs(number).name}: {[run[number] for run in runs]}")
    for leak in leaked:
        print(f"LEAK: {leak}")
    print(
        f"{given.runs} x {given.programs} programs: {len(soak.wrong)} wrong, {len(wavering)} flaky, {len(leaked)} leaks"
    )
    sys.exit(1 if soak.wrong or wavering or leaked else 0)


if __name__ == "__main__":
    main()
