"""GPU workers through Prefect, for real: a server, a process pool, two workers, a teacher's endpoint on loopback.

Proves: whichever of worker and parent is killed, frozen or cancelled in the middle, each (question, sample) ends with
exactly one row, what was asked twice is no more than what was in flight, and the time lost is told. A frozen worker
whose range was given to another changes nothing when it wakes. Later rounds (`until`) are made by workers, one of which
is killed in a round; and a budget that workers share is kept when one is killed. Not covered: machines without a common
file system.
"""

from __future__ import annotations

import json
import re
import signal
from collections import Counter

import psutil
import pytest
import yaml

from flows.doctor import _gpu_workers
from storage.lease import Leases
from tasks.grade_settings import GradeSettings
from tasks.rounds import fate, rule
from tasks.teachers.settings import OpenAITeacherSettings
from tests.faults import bad_server
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


def held(house, step="generate.t"):
    """The terms that workers hold now."""
    leases = Leases(house.root, step)
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


def test_a_budget_is_kept_by_two_workers_of_which_one_is_killed(pool, house, server):
    """200 of 320 requests; what the dead worker spent counts, and its rest is spent by another."""
    house.recipe["teachers"][0]["budget"] = {"requests": 200}
    (house.base / "recipe.yaml").write_text(yaml.safe_dump(house.recipe))
    pool.have_workers(2)
    enough = server.when_delivered(60)
    parent = start(pool, house)
    assert enough.wait(120)
    term = wait_until(lambda: held(house))[0]
    assert 80 <= term.allotment["requests"] <= 120
    victim = pid_of(term)
    pool.worker_of(victim).kill()
    text = parent.finish(3)
    assert re.search(rf"at \S+:{victim}: silent for \d+ s; given to another worker", text), text
    rows = house.rows("generate.t", "responses")
    assert len(rows) == len({row["response_id"] for row in rows}) == 200
    assert 200 <= sum(map(len, server.delivered.values())) <= 200 + 2 * CONCURRENCY + 1
    pending = [house.workspace.head("generate.t", shard).pending for shard in house.workspace.shards]
    assert sum(pending) == QUESTIONS * SAMPLES - 200


ROUNDS = {until: {"samples_per_round": 2, "max_samples": 6} for until in ("verified", "settled")}
TEACHERS = dict(zip("vs", ROUNDS, strict=True))
"""name → until"""


@pytest.fixture
def sampled_again(make_house, server, monkeypatch):
    """Two teachers, `v` until verified and `s` until settled; round 0 is answered and judged. Whether a sample is right
    is drawn from its id: a quarter of them are."""

    def answer(body, key):
        message = {"role": "assistant", "content": f"\\boxed{{{7 if int(key[:2], 16) < 64 else 13}}}"}
        usage = {"prompt_tokens": 9, "completion_tokens": tokens(key)}
        choices = [{"message": message, "finish_reason": "stop"}]
        return bad_server._ok(json.dumps({"choices": choices, "usage": usage}).encode())

    monkeypatch.setattr(bad_server, "answer", answer)
    shared = {"engine": "openai", "model": "m", "base_url": server.url, "samples": SAMPLES, "concurrency": CONCURRENCY}
    house = make_house(
        bits=2,
        teachers=[shared | {"name": name, "until": until} | ROUNDS[until] for name, until in TEACHERS.items()],
        runner={"kind": "prefect", "shards_per_range": 2, "lease_s": 4},
    )
    rows = [{"question": f"What is {number} times 0 plus 7?", "ground_truth": "7"} for number in range(40)]
    house.write("sums.jsonl", rows)
    (house.base / "recipe.yaml").write_text(yaml.safe_dump(house.recipe))
    house.run("generate")
    for name in TEACHERS:
        context, step, work = house.step(f"verify.{name}")
        step.run(context, step, work)
    return house


@pytest.mark.timeout(600)
def test_rounds_go_on_when_a_worker_is_killed_in_one(pool, sampled_again, server):
    """`until: verified` and `until: settled`, each in two ranges; SIGKILL in the first round."""
    house, patience_s = sampled_again, 400.0  # two teachers' flow runs, one after the other
    first = len(server.delivered)
    assert first == 2 * SAMPLES * 40
    pool.have_workers(2)
    enough = server.when_delivered(first + 8)
    server.pause_s = 1.0  # so that it is killed in a round, however slow this machine is
    parent = pool.run(house.base / "recipe.yaml", house.root, "--until", "verify")
    assert enough.wait(120)
    ranges = [(name, one) for name in TEACHERS for one in held(house, f"generate.{name}.rounds")]
    victim = pid_of(ranges[0][1])
    pool.worker_of(victim).kill()
    server.pause_s = 0.05
    text = parent.finish(seconds=patience_s)
    assert re.search(rf"at \S+:{victim}: silent for \d+ s; given to another worker", text), text
    for name, until in TEACHERS.items():
        check_rounds(house, name, rule(OpenAITeacherSettings(**teacher_of(house, name)), GradeSettings()))
        assert len(house.rows(f"generate.{name}.rounds", "responses")) > 30, until
    assert sum(len(times) - 1 for times in server.delivered.values()) <= 2 * CONCURRENCY + 1
    assert "nothing to do" in pool.run(house.base / "recipe.yaml", house.root, "--until", "verify").finish()


def teacher_of(house, name):
    return next(one for one in house.recipe["teachers"] if one["name"] == name)


def check_rounds(house, name, rule):
    """Each question has the samples that the rule plans by the verdicts, each once and judged once, and is done."""
    steps = (name, f"{name}.rounds")
    samples = Counter((row["question_id"], row["sample_index"]) for part in steps
                      for row in house.rows(f"generate.{part}", "responses") if row["error_kind"] is None)  # fmt: skip
    assert set(samples.values()) == {1}
    outcomes = [
        row for part in steps for row in house.rows(f"verify.{part}", "verdicts") if row["verifier"] == "outcome"
    ]
    assert Counter((row["question_id"], row["sample_index"]) for row in outcomes) == samples
    for question in {question for question, _ in samples}:
        fates = {row["sample_index"]: fate(row) for row in outcomes if row["question_id"] == question}
        number, done = rule.planned(fates)
        assert done in ("verified", "settled", "capped") and sorted(fates) == list(range(number))


def test_doctor_counts_the_workers(pool, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", pool.url)
    pool.have_workers(1)
    found = wait_until(lambda: (one := _gpu_workers()).state == "ok" and one, what="a worker that is online")
    assert "online on pool gpu" in found.detail
