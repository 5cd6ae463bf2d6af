"""Proves that the pool serves many threads, heals itself, and leaves nothing behind however it ends."""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from sandbox import EngineUnavailable, ImageMissing, Limits, Sandbox, SandboxError, TestCase
from sandbox.container import LABEL, OWNER, owner, sweep
from tests.sandbox.own_engine import wait_until

ONE = TestCase("stdin", "1", "2")
ADD = "print(int(input()) + 1)"
SLOW = "import time; time.sleep(1.5); " + ADD


def containers(who: str) -> list[docker.models.containers.Container]:
    client = docker.from_env()
    found = client.containers.list(all=True, filters={"label": f"{OWNER}={who}"}, ignore_removed=True)
    client.close()
    return found


def test_many_threads_share_two_containers(sandbox: Sandbox) -> None:
    def judge(number: int) -> bool:
        test = TestCase("stdin", str(number), str(number * 2))
        right = number % 2 == 0
        code = "print(int(input()) * 2)" if right else "print(int(input()) * 2 + 1)"
        return (sandbox.judge(code, [test]).status == "accepted") == right

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(judge, range(60)))


def test_a_container_killed_in_the_middle_is_replaced_and_the_verdict_right() -> None:
    with Sandbox(containers=1) as pool:
        pool.version()
        (victim,) = [found for found in containers(owner()) if found.id in {c.id for c in pool._solutions.known}]
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(pool.judge, SLOW, [ONE])
            assert wait_until(lambda: pool._solutions.places.empty())
            time.sleep(0.3)
            victim.kill()
            verdict = future.result(timeout=30)
        assert (verdict.status, verdict.attempts) == ("accepted", 2)


def test_three_lost_containers_are_an_infra_error_not_a_verdict() -> None:
    with Sandbox(containers=1) as pool:
        stop = threading.Event()

        def reaper() -> None:
            while not stop.is_set():
                for container in list(pool._solutions.known):
                    client = docker.from_env()
                    with suppress(docker.errors.APIError):
                        client.containers.get(container.id).kill()
                    client.close()

        thread = threading.Thread(target=reaper)
        thread.start()
        verdict = pool.judge(SLOW, [ONE])
        stop.set()
        thread.join()
        assert (verdict.status, verdict.attempts, verdict.run) == ("infra_error", 3, 0)
        assert pool.judge(ADD, [ONE]).status == "accepted"


def test_worn_out_containers_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.SOLUTIONS_PER_CONTAINER", 3)
    with Sandbox(containers=1) as pool:
        code = "import os; print(open('/proc/sys/kernel/random/boot_id') and os.getuid() >> 12)"
        seen = [pool.judge(code, [ONE]).tests[0].stdout for _ in range(7)]
        assert len(set(seen)) == 3


PROGRAM = """
import signal, sys, time, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would we
from sandbox import Sandbox, TestCase
pool = Sandbox(containers=2)
tests = [TestCase("stdin", "1", "2")]
pool.version()
for _ in range(2):
    threading.Thread(target=lambda: pool.judge("import time; time.sleep(60)", tests), daemon=True).start()
time.sleep(0.5)
from sandbox.container import owner
print(owner(), flush=True)
{end}
"""


def start(end: str) -> tuple[subprocess.Popen[str], str]:
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(end=end)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        cwd=root,
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("end", "signal_"),
    [("time.sleep(60)", signal.SIGINT), ("raise ValueError", None), ("sys.exit(0)", None)],
    ids=["ctrl-c", "exception", "exit"],
)
def test_nothing_is_left_when_the_process_ends(end: str, signal_: int | None) -> None:
    process, who = start(end)
    if signal_:
        assert containers(who)
        process.send_signal(signal_)
    process.wait(timeout=30)
    assert wait_until(lambda: not containers(who))


def test_a_killed_process_leaves_nothing() -> None:
    process, who = start("time.sleep(60)")
    assert len(containers(who)) == 2
    process.kill()
    process.wait()
    # The engine closes the supervisors' stdin, they exit, and auto-remove takes the containers.
    assert wait_until(lambda: not containers(who))


def test_stale_containers_are_swept_and_living_ones_kept(sandbox: Sandbox) -> None:
    sandbox.version()
    host, pid, started = owner().rsplit(":", 2)
    client = docker.from_env()
    labels = {LABEL: "1", OWNER: f"{host}:{pid}:{int(started) - 1}"}
    stale = client.containers.run(
        sandbox.image, ["1000000"], labels=labels, stdin_open=True, detach=True, network_mode="none"
    )
    mine = {container.id for container in containers(owner())}
    assert mine
    assert sweep() == 1
    assert stale.id not in {container.id for container in client.containers.list(all=True)}
    assert mine == {container.id for container in containers(owner())}
    client.close()


def test_faults_of_the_engine_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageMissing, match=r"deploy/sandbox_image\.sh"):
        Sandbox(image="stillhouse-no-such-image:x")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(EngineUnavailable, match="start it"):
        Sandbox()


def test_a_closed_sandbox_says_so() -> None:
    pool = Sandbox(containers=1)
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        pool.judge(ADD, [ONE])


def test_version_names_image_and_languages(sandbox: Sandbox) -> None:
    digest, _, languages = sandbox.version().partition(";")
    assert len(digest) == 16 and ",python=3." in languages and "cpp=" in languages
    assert Limits().wall == 15.0


def test_a_container_soiled_in_the_middle_of_a_solution_is_changed(sandbox: Sandbox) -> None:
    hog = "import os\nif os.fork():\n    os.wait(); print(1)\nelse:\n    x = []\n    while True: x.append(bytearray(b'x') * (1 << 20))"
    limits = Limits(time_s=3, stop_at_first_failure=False)
    verdict = sandbox.judge(hog, [TestCase("stdin", "", "1")] * 3, limits=limits)
    assert {test.status for test in verdict.tests} == {"memory_limit"} and verdict.run == 3
    assert sandbox.judge(ADD, [ONE]).status == "accepted"
