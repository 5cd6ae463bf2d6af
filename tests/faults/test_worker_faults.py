"""GPU workers through Prefect, for real: a server, a process pool, two workers, a teacher's endpoint on loopback.

Proves: whichever of worker and parent is killed, frozen or cancelled in the middle, each (question, sample) ends with
exactly one row, what was asked twice is no more than what was in flight, and the time lost is told. A frozen worker
whose range was given to another changes nothing when it wakes. Not covered: machines without a common file system.
"""

from __future__ import annotations

import re
import signal
from collections import Counter

import psutil
import pytest
import yaml

from flows.doctor import _gpu_workers
from storage.lease import Leases
from tests.faults.bad_server import BadServer, tokens
from tests.faults.worker_pool import Pool, wait_until

CONCURRENCY, SAMPLES, QUESTIONS, SHARDS = 4, 2, 160, 8


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with Pool(tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest.fixture
def server():
    with BadServer(0, pause_s=0.08) as server:
        yield server


@pytest.fixture
def house(make_house, server):
    house = make_house(
        bits=3,
        teachers=[{"name": "t", "engine": "openai", "model": "m", "base_url": server.url, "samples": SAMPLES,
                   "concurrency": CONCURRENCY}],
        runner={"kind": "prefect", "shards_per_range": 4, "lease_s": 4},
    )  # fmt: skip
    house.write("sums.jsonl", [{"question": f"What is {number} + {number}?"} for number in range(QUESTIONS)])
    assert house.workspace.bits == 3
    (house.base / "recipe.yaml").write_text(yaml.safe_dump(house.recipe))
    return house


def start(pool, house, *more):
    return pool.run(house.base / "recipe.yaml", house.root, "--until", "generate", *more)


def held(house):
    """The terms that workers hold now."""
    leases = Leases(house.root, "generate.t")
    newest = [leases.newest(name) for name in leases.names()]
    return [one for one in newest if one and one.state == "held"]


def pid_of(term):
    return int(term.holder.rpartition(":")[2])


def check_rows(house, server, lost: int):
    """One row each, no gaps, every token that was delivered counted once; at most `lost` responses were paid twice."""
    rows = house.rows("generate.t", "responses")
    asked = Counter((row["question_id"], row["sample_index"]) for row in rows)
    assert len(asked) == QUESTIONS * SAMPLES and set(asked.values()) == {1}
    assert {row["error_kind"] for row in rows} == {None}
    assert sum(row["completion_tokens"] for row in rows) == sum(map(tokens, server.delivered))
    assert server.delivered.keys() == {row["response_id"] for row in rows}
    assert sum(len(times) - 1 for times in server.delivered.values()) <= lost


def heads(house):
    return {path: path.read_bytes() for path in sorted((house.root / "manifest" / "generate.t").rglob("*.json"))}


def test_a_cancelled_parent_stops_its_workers(pool, house, server):
    """Ctrl-C with one range at work and one queued: the worker keeps what was answered, the next run goes on there."""
    pool.have_workers(1)
    enough = server.when_delivered(60)
    parent = start(pool, house)
    assert enough.wait(120)
    runs = [psutil.Process(pid_of(one)) for one in wait_until(lambda: held(house))]
    parent.process.send_signal(signal.SIGINT)
    parent.finish(130)
    psutil.wait_procs(runs, timeout=60)
    assert not held(house)
    assert not any(run.is_running() for run in runs)
    living = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}}
    wait_until(lambda: not pool.flow_runs(flow_runs=living), what="no run is left at the Prefect server")
    assert len(server.delivered) < QUESTIONS * SAMPLES
    start(pool, house).finish()
    check_rows(house, server, 2 * CONCURRENCY + 1)


def test_a_killed_worker_is_replaced(pool, house, server):
    """SIGKILL of a worker and its flow run in the middle of a shard."""
    enough = server.when_delivered(60)
    pool.have_workers(2)
    parent = start(pool, house)
    assert enough.wait(120)
    victim = pid_of(wait_until(lambda: held(house))[0])
    pool.worker_of(victim).kill()
    text = parent.finish()
    assert re.search(rf"at \S+:{victim}: silent for \d+ s; given to another worker", text), text
    assert re.search(r"is at work again: \d+\.\d s lost", text), text
    check_rows(house, server, 2 * CONCURRENCY + 1)
    assert not held(house)


def test_a_killed_parent_finds_its_workers_again(pool, house, server):
    """The second parent waits for the ranges that the first one's workers have, and no range is made twice."""
    pool.have_workers(2)
    enough = server.when_delivered(60)
    cut = ("--set", "runner.shards_per_range=3")  # three ranges: one is still in the queue
    first = start(pool, house, *cut)
    assert enough.wait(120)
    first.kill()
    living = {one.range: one.holder for one in held(house)}
    assert living
    text = start(pool, house, *cut).finish()
    assert "given to another worker" not in text
    check_rows(house, server, 0)
    leases = Leases(house.root, "generate.t")
    assert leases.names() == ["000-010", "011-101", "110-111"]
    assert {(leases.newest(name).term, leases.newest(name).state) for name in leases.names()} == {(1, "done")}
    assert {name: leases.newest(name).holder for name in living} == living


def test_a_frozen_worker_changes_nothing_when_it_wakes(pool, house, server):
    """SIGSTOP in the middle of a shard, until the range was made by another worker; then SIGCONT."""
    pool.have_workers(2)
    enough = server.when_delivered(60)
    parent = start(pool, house)
    assert enough.wait(120)
    term = wait_until(lambda: held(house))[0]
    zombie = pool.worker_of(pid_of(term))
    run = psutil.Process(pid_of(term))
    zombie.send(signal.SIGSTOP)
    try:
        text = parent.finish()
        before, rows = heads(house), house.rows("generate.t", "responses")
        asked = sum(server.asked.values())
    finally:
        zombie.send(signal.SIGCONT)
    run.wait(60)
    assert re.search(rf"at {re.escape(term.holder)}: silent for \d+ s; given to another worker", text), text
    assert heads(house) == before
    assert house.rows("generate.t", "responses") == rows
    check_rows(house, server, 2 * CONCURRENCY + 1)
    assert sum(server.asked.values()) - asked <= 2 * CONCURRENCY
    newest = Leases(house.root, "generate.t").newest(term.range)
    assert newest.term > term.term and newest.holder != term.holder and newest.state == "done"


def test_doctor_counts_the_workers(pool, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", pool.url)
    pool.have_workers(1)
    found = wait_until(lambda: (one := _gpu_workers()).state == "ok" and one, what="a worker that is online")
    assert "online on pool gpu" in found.detail
