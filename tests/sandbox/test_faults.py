"""What breaks under the sandbox, broken for real: no verdict is lost or wrong, and nothing is left behind.

Proved on a dockerd of this module's own, which it stops, kills and hangs in the middle of a batch; containers
are killed from outside, the image is removed, the process that owns the pool is interrupted or killed together
with its engine. What ends a process while the engine lives is in test_pool.py. Not covered: a machine that
loses power, a full disk, an engine on another host. Needs root, dockerd, and the sandbox image on the main engine.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import docker
import pytest
import requests

from sandbox import (
    DEFAULT_IMAGE,
    EngineUnavailable,
    ImageMissing,
    Limits,
    Sandbox,
    SandboxError,
    SolutionVerdict,
    TestCase,
)
from sandbox.verdict import MIB
from tests.sandbox.own_engine import Engine, wait_until

IMAGE = os.environ.get("STILLHOUSE_SANDBOX_IMAGE", DEFAULT_IMAGE)
LIMITS = Limits(time_s=0.5, wall_s=8.0, memory_bytes=128 * MIB, output_bytes=1 * MIB)
ONE = TestCase("stdin", "1", "2")
ADD = "print(int(input()) + 1)"
SLOW = "import time; time.sleep(1.5); " + ADD
KINDS = (
    ("accepted", "import time; time.sleep(0.1); " + ADD, ONE),
    ("wrong_answer", "print(int(input()) + 2)", ONE),
    ("accepted", "def f(a): return sorted(a)", TestCase("call", "[[2, 1]]", "[1, 2]")),
    ("runtime_error", ADD + "; raise SystemExit(3)", ONE),
    ("accepted", "def f(a): return a + 1", TestCase("assert", code="x = f(1)\nassert x == 2")),
    ("wrong_answer", "def f(a): return a", TestCase("assert", code="x = f(1)\nassert x == 2")),
    ("output_limit", "while True: print('x' * 4096)", ONE),
    ("memory_limit", "kept = []\nwhile True: kept.append(bytearray(b'x') * 4_000_000)", ONE),
    ("time_limit", "while True: pass", ONE),
    ("accepted", SLOW, ONE),
)
BATCH = 60


@pytest.fixture(scope="module")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if os.geteuid() or not shutil.which("dockerd"):
        pytest.skip("a dockerd of our own needs root and dockerd")
    engine = Engine(tmp_path_factory.mktemp("engine"))
    try:
        try:
            engine.start()
            engine.load(IMAGE)
        except (AssertionError, docker.errors.DockerException, requests.RequestException) as error:
            if os.environ.get("CI"):
                raise  # CI has all of it: a skip there would hide that nothing was tested
            pytest.skip(f"no dockerd of our own: {error}")
        yield engine
    finally:
        engine.remove()
    assert not engine.processes() and not engine.mounts()


@pytest.fixture
def engine(own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The engine, running; after each test it runs again and must hold no container."""
    monkeypatch.setenv("DOCKER_HOST", own_engine.url)
    yield own_engine
    if own_engine.dead():
        own_engine.start()
    assert wait_until(lambda: not own_engine.containers()), own_engine.containers()


@contextmanager
def hung(engine: Engine) -> Iterator[None]:
    """The engine takes connections and doesn't answer."""
    assert engine.process
    engine.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.process.send_signal(signal.SIGCONT)


def known(pool: Sandbox) -> set[str]:
    names = set()
    for slots in (pool._solutions, pool._referees):
        with slots.lock:
            names |= {container.name for container in slots.known}
    return names


def wrong(verdicts: list[SolutionVerdict]) -> list[tuple[str, SolutionVerdict]]:
    """Verdicts of a batch that are not what they should be, behind what they should be."""
    expected = [KINDS[number % len(KINDS)][0] for number in range(BATCH)]
    return [(want, got) for want, got in zip(expected, verdicts, strict=True) if want != got.status]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_engine_restarted_in_the_middle_costs_no_verdict(
    engine: Engine, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    halfway, struck = threading.Event(), threading.Event()

    def judge(number: int) -> SolutionVerdict:
        if number == BATCH // 2:
            halfway.set()  # the other threads are in the middle of something
        elif number >= BATCH * 2 // 3:
            assert struck.wait(60)
        _, code, test = KINDS[number % len(KINDS)]
        return pool.judge(code, [test], entry_point="f")

    with ThreadPoolExecutor(4) as threads, Sandbox(limits=LIMITS, containers=4) as pool:
        futures = [threads.submit(judge, number) for number in range(BATCH)]
        assert halfway.wait(60)
        engine.end(how)
        struck.set()
        engine.start()
        verdicts = [future.result() for future in futures]
        assert not wrong(verdicts)
        assert any(verdict.attempts > 1 for verdict in verdicts)
        # Nothing that the old engine left stays beside what is in use.
        assert wait_until(lambda: engine.containers() <= known(pool))
    told = [record.getMessage() for record in caplog.records if record.name == "sandbox.outage"]
    assert len(told) == 2 and "Waiting up to 60 s" in told[0] and "is back" in told[1], told


def test_outages_do_not_use_up_the_retries(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.RETRIES", 0)
    struck: set[str] = set()

    def under_way() -> set[str]:
        with pool._solutions.lock:
            return {container.name for container in pool._solutions.known if container.solutions} - struck

    with ThreadPoolExecutor(1) as thread, Sandbox(limits=LIMITS, containers=1) as pool:
        future = thread.submit(pool.judge, SLOW, [ONE])
        for _ in range(2):
            assert wait_until(lambda: bool(under_way()))
            struck |= under_way()
            engine.end(signal.SIGKILL)
            engine.start()
        verdict = future.result()
        assert (verdict.status, verdict.attempts) == ("accepted", 3)


def test_an_engine_that_stays_away_is_an_error_and_the_same_sandbox_resumes(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with Sandbox(containers=1, engine_wait_s=0.6) as pool:
        assert pool.judge(ADD, [ONE]).status == "accepted"
        engine.end(signal.SIGTERM)
        with pytest.raises(EngineUnavailable, match=r"waited [\d.]+ s for the Docker engine, in vain.*start it"):
            pool.judge(ADD, [ONE])
        assert caplog.text.count("Waiting up to 0.6 s") == 1
        engine.start()
        verdict = pool.judge(ADD, [ONE])
        assert (verdict.status, verdict.attempts) == ("accepted", 1)
        assert caplog.text.count("is back") == 1


def test_an_engine_that_hangs_counts_as_away(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.container.ANSWER_S", 1)
    with Sandbox(containers=1, engine_wait_s=0.5) as pool:
        with hung(engine), pytest.raises(EngineUnavailable, match=r"waited \d\.\d s"):
            pool.judge(ADD, [ONE])
        assert pool.judge(ADD, [ONE]).status == "accepted"


def test_closing_ends_the_wait_at_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    pool = Sandbox(containers=1, engine_wait_s=60)
    engine.end(signal.SIGKILL)
    with ThreadPoolExecutor(2) as threads:  # one waits for the engine, one for the place
        futures = [threads.submit(pool.judge, ADD, [ONE]) for _ in range(2)]
        assert wait_until(lambda: "Waiting up to 60 s" in caplog.text)
        pool.close()
        for future in futures:
            with pytest.raises(SandboxError, match="closed"):
                future.result(timeout=15)


def test_a_container_whose_making_was_never_confirmed_is_removed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: set[str] = set()

    class Unconfirmed(docker.models.containers.ContainerCollection):
        def create(self, *args: object, **named: object) -> docker.models.containers.Container:
            container = super().create(*args, **named)
            if made:
                return container
            made.update(engine.containers())
            hanging.enter_context(hung(engine))
            raise requests.ReadTimeout("no answer")

    monkeypatch.setattr("sandbox.container.ANSWER_S", 1)
    monkeypatch.setattr(docker.DockerClient, "containers", property(lambda client: Unconfirmed(client=client)))
    with ThreadPoolExecutor(1) as thread, Sandbox(containers=1) as pool, ExitStack() as hanging:
        future = thread.submit(pool.judge, ADD, [ONE])
        assert wait_until(lambda: "Waiting up to 60 s" in caplog.text)
        assert len(made) == 1
        hanging.close()
        assert future.result().status == "accepted"
        assert engine.containers() == known(pool)


def test_containers_killed_at_random_cost_no_verdict(engine: Engine) -> None:
    changed = threading.Condition()
    at_work: set[int] = set()

    def judge(number: int) -> SolutionVerdict:
        with changed:
            at_work.add(number)
        try:
            _, code, test = KINDS[number % len(KINDS)]
            return pool.judge(code, [test], entry_point="f")
        finally:
            with changed:
                at_work.discard(number)
                changed.notify_all()

    kills = 0
    choice = random.Random(0)
    with engine.client() as client, ThreadPoolExecutor(4) as threads, Sandbox(limits=LIMITS, containers=4) as pool:
        futures = [threads.submit(judge, number) for number in range(BATCH)]
        while not all(future.done() for future in futures):
            names = sorted(known(pool))
            for name in choice.sample(names, k=min(2, len(names))):
                with suppress(docker.errors.APIError):  # it has just been replaced
                    client.api.kill(name)
                    kills += 1
            # No solution is struck more often than RETRIES allow: those now at work must come through first.
            with changed:
                struck = set(at_work)
                changed.wait_for(lambda: not struck & at_work)  # noqa: B023
        verdicts = [future.result() for future in futures]
        assert not wrong(verdicts)
        assert kills > 5 and any(verdict.attempts > 1 for verdict in verdicts)


def test_a_container_killed_while_idle_costs_no_attempt(engine: Engine) -> None:
    with Sandbox(containers=1) as pool, engine.client() as client:
        pool.version()
        (idle,) = engine.containers()
        client.api.kill(idle)
        assert wait_until(lambda: not engine.containers())
        verdict = pool.judge(ADD, [ONE])
        assert (verdict.status, verdict.attempts) == ("accepted", 1)


PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would we
from sandbox import Limits, Sandbox, TestCase
tests = [TestCase("stdin", "1", "2")]
with ThreadPoolExecutor(4) as threads, Sandbox(limits=Limits(wall_s=60), containers=2) as pool:
    pool.version()
    print("ready", flush=True)
    for verdict in threads.map(lambda _: pool.judge("import time; time.sleep(50)", tests), range(100)):
        print(verdict.status, flush=True)
"""


def batch_process() -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_ctrl_c_ends_a_threaded_batch_promptly_and_leaves_nothing(engine: Engine) -> None:
    process = batch_process()
    assert wait_until(lambda: len(engine.containers()) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)  # its programs sleep for 50 s
    assert process.returncode == -signal.SIGINT and errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert wait_until(lambda: not engine.containers())


def test_a_pool_killed_together_with_its_engine_leaves_nothing(engine: Engine) -> None:
    process = batch_process()
    assert wait_until(lambda: len(engine.containers()) == 2)
    engine.end(signal.SIGKILL)
    process.kill()
    process.communicate()
    engine.start()
    Sandbox(containers=1).close()  # sweeps what the engine itself has not removed
    assert wait_until(lambda: not engine.containers())


def test_an_image_removed_in_the_middle_is_a_clear_error(engine: Engine) -> None:
    with engine.client() as client:
        base = client.containers.create(IMAGE, ["1"])
        copy = base.commit("stillhouse-sandbox", "removed")  # same layers, an id of its own
        base.remove()
        with Sandbox(image="stillhouse-sandbox:removed", containers=1) as pool:
            assert pool.judge(ADD, [ONE]).status == "accepted"
            client.api.kill(next(iter(known(pool))))
            assert wait_until(lambda: not engine.containers())
            client.images.remove(copy.id, force=True)
            with pytest.raises(ImageMissing, match=r"deploy/sandbox_image\.sh"):
                pool.judge(ADD, [ONE])
