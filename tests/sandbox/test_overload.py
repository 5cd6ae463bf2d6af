"""Proves that a busy machine judges no program wrongly: waiting for a processor is not counted as its time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox import Limits, Sandbox, TestCase

NOTHING = [TestCase("stdin", "", "done")]
SPIN = "open('/work/spinning', 'w')\nwhile True: pass"
BURN = "import time\nwhile time.process_time() < 0.4: pass\nprint('done')"
LIMITS = Limits(time_s=3.0, wall_s=0.45)


@pytest.fixture
def busy() -> Iterator[Sandbox]:
    """A sandbox in which a spinning program keeps each processor busy, and one container is free."""
    hogs = os.cpu_count() or 1
    enough = threading.Event()

    def spin() -> None:
        while not enough.is_set():
            made.judge(SPIN, NOTHING, limits=Limits(time_s=0.5, wall_s=30))

    with Sandbox(containers=hogs + 1) as made, ThreadPoolExecutor(hogs) as threads:
        spinning = [threads.submit(spin) for _ in range(hogs)]
        while len(made._solutions.known) < hogs:
            time.sleep(0.05)
        made.judge("print('done')", NOTHING)  # the free container has started too
        yield made
        enough.set()
        for one in spinning:
            one.result()


def test_a_program_that_waits_for_a_processor_is_not_over_time(busy: Sandbox) -> None:
    tests = [busy.judge(BURN, NOTHING, limits=LIMITS).tests[0] for _ in range(3)]
    # Where far more than these programs keep the machine busy, there is no verdict: never a wrong one.
    assert {test.status for test in tests} <= {"accepted", "infra_error"}, tests
    busy_enough = [test for test in tests if test.status == "infra_error" or test.wall_s > LIMITS.wall]
    assert busy_enough, "nothing was shown: the machine wasn't busy"


def test_a_sleeper_is_over_time_on_a_busy_machine_too(busy: Sandbox) -> None:
    assert busy.judge("import time\ntime.sleep(60)", NOTHING, limits=LIMITS).status == "time_limit"
