"""Both sides of `runner: {kind: prefect}` in one process: what a worker makes and when it stops, what a parent decides.

Proves: a worker means by the frozen recipe what its parent means; it renews its lease while it makes progress and
stops when it has lost it; of two workers on one shard the second to commit changes nothing (law 2); the parent gives
a range again whose run crashed, vanished or fell silent, not more than three times in vain, and waits for others'
workers. What the Prefect server says is played here; tests/faults/test_worker_faults.py has a real one.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from prefect.states import Completed, Crashed, Running, Scheduled

import flows.distribute as parent_side
from flows.distribute import Parent, RangesFailed
from flows.recipe import check_recipe
from flows.run import Range, Wish, plan, sent_out
from flows.workers import Heartbeat, NotTheSame, Order, frozen_recipe, left, ordered
from storage.errors import CommitLost
from storage.fingerprint import hash_text
from storage.lease import LeaseLost, Leases
from tasks.allotment import Allotment, Allotter
from tasks.step import Context
from tests.faults import bad_server
from tests.faults.bad_server import BadServer, answer


@pytest.fixture
def house(make_house):
    house = make_house(
        bits=3,
        teachers=[{"name": "t", "engine": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1", "samples": 1}],
        runner={"kind": "prefect", "shards_per_range": 4, "lease_s": 1},
    )
    house.write("sums.jsonl", [{"question": f"What is {number} + {number}?"} for number in range(64)])
    house.run("curate")
    return house


def orders_of(house, shards=None):
    _, _, work = house.step("generate.t")
    chosen = [one for one in work if shards is None or one.shard in shards]
    return [Order(shard=one.shard, seq=0, fingerprint=one.inputs.fingerprint) for one in chosen]


def make(house, server, shards, allotment=None):
    """Do a worker's work on some shards."""
    house.recipe["teachers"][0]["base_url"] = server.url
    context, step, work = house.step("generate.t")
    share = Allotment.model_validate(allotment) if allotment else None
    step.run(replace(context, allotment=share), step, [one for one in work if one.shard in shards])


# --- the worker


def test_a_worker_reads_the_frozen_recipe_as_its_parent_does(house):
    loaded = check_recipe(house.recipe, house.base)
    frozen = frozen_recipe(house.workspace, hash_text(loaded.as_yaml()), house.base)
    assert frozen.recipe == loaded.recipe
    assert frozen.base == house.base
    todo = plan(frozen, house.workspace, Wish(only="generate"))
    step = next(one for one in todo.steps if one.key == "generate.t")
    work = ordered(todo, step, orders_of(house, {"000", "110"}))
    assert [one.shard for one in work] == ["000", "110"]


def test_a_worker_that_means_something_else_makes_nothing(house):
    orders = orders_of(house)
    house.recipe["teachers"][0]["samples"] = 2
    todo = house.plan()
    step = next(one for one in todo.steps if one.key == "generate.t")
    with pytest.raises(NotTheSame, match="shard 000"):
        ordered(todo, step, orders)


def test_finished_shards_are_left_out(house):
    orders = orders_of(house)
    with BadServer(0) as server:
        make(house, server, {"000", "001"})
    assert [one.shard for one in left(house.workspace, "generate.t", orders)] == [one.shard for one in orders[2:]]
    again = [one.model_copy(update={"seq": 1}) for one in orders[:2]]  # ordered again since
    assert left(house.workspace, "generate.t", again) == again


def test_a_lease_is_renewed_while_there_is_progress(tmp_path):
    leases = Leases(tmp_path, "s")
    beats = []
    with Heartbeat(leases.take("0-1", 0, "run"), 0.1, 60) as heartbeat:
        heartbeat.expect("s", 3)
        heartbeat.advance("s", 2)
        while len(beats) < 3:
            if (beat := leases.newest("0-1").beat) not in beats:
                beats.append(beat)
    newest = leases.newest("0-1")
    assert (newest.state, newest.expected, newest.answered) == ("done", 3, 2)


def test_a_fault_gives_the_range_back_with_its_reason(tmp_path):
    leases = Leases(tmp_path, "s")
    with pytest.raises(ValueError, match="no such model"), Heartbeat(leases.take("0-1", 0, "run"), 60, 60):
        raise ValueError("no such model")
    newest = leases.newest("0-1")
    assert (newest.state, newest.reason) == ("failed", "ValueError: no such model")


def test_who_loses_the_lease_is_interrupted_while_waiting(tmp_path):
    leases = Leases(tmp_path, "s")
    with pytest.raises(LeaseLost, match="a later one is held by"), Heartbeat(leases.take("0-1", 0, "run"), 0.1, 60):
        leases.take("0-1", 1, "another")
        threading.Event().wait(60)
    assert leases.newest("0-1").run == "another"


def test_who_slept_longer_than_the_lease_asks_before_going_on(tmp_path):
    """As after a SIGSTOP: the first thing that the work reports ends it, even before the thread's next beat."""
    leases = Leases(tmp_path, "s")
    heartbeat = Heartbeat(leases.take("0-1", 0, "run"), 1000, 2000)
    with pytest.raises(LeaseLost), heartbeat:
        heartbeat.advance("s")
        leases.take("0-1", 1, "another")
        heartbeat.advance("s")
        heartbeat._renewed -= 1001  # what a sleep does to the monotonic clock's difference
        heartbeat.advance("s")
        raise AssertionError("it went on")


def test_a_range_without_progress_is_given_up(tmp_path):
    leases = Leases(tmp_path, "s")
    with pytest.raises(LeaseLost, match="nothing came"), Heartbeat(leases.take("0-1", 0, "run"), 0.1, 0.2):
        threading.Event().wait(60)
    assert leases.newest("0-1").state == "failed"


class BothAsked(BadServer):
    """Answers a request when it was asked twice: by two workers at once."""

    def __init__(self):
        super().__init__(1)
        self.both = threading.Event()

    async def _misbehave(self, fault, body, key, reader, writer):
        import asyncio

        while self.asked[key] < 2 and not self.both.is_set():
            await asyncio.sleep(0.01)
        self.both.set()
        writer.write(answer(body, key))
        await writer.drain()
        return True


def test_the_second_of_two_workers_on_one_shard_changes_nothing(house):
    """A zombie that knows nothing of leases: its commit finds its number taken, and no row comes twice."""
    with BothAsked() as server:
        house.recipe["teachers"][0]["base_url"] = server.url
        outcomes: list[str] = []

        def work(name):
            context, step, todo = house.step("generate.t")
            try:
                step.run(Context(context.workspace, name), step, todo[:1])
                outcomes.append(name)
            except CommitLost:
                outcomes.append("lost")

        threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "other")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    workspace = house.workspace
    head = workspace.head("generate.t", "000")
    assert sorted(outcomes) == sorted(["lost", head.run_id])
    assert head.seq == 1
    asked = Counter(workspace.read("generate.t", "000", "responses")["question_id"].to_pylist())
    assert set(asked.values()) == {1}
    assert set(asked) == set(workspace.read("curate", "000", "curated")["question_id"].to_pylist())


# --- the parent


class Played:
    """What the Prefect server and its workers do: one deed for each run that is sent, the last one for all others."""

    def __init__(self, house, monkeypatch, *deeds):
        self.house, self.deeds = house, list(deeds)
        self.sent: list[dict] = []
        self.stopped: list[uuid.UUID] = []
        self.states: dict = {}
        self.away = 0
        self.told: list[str] = []
        monkeypatch.setattr(parent_side, "run_deployment", self._run_deployment)

    def _run_deployment(self, name, *, parameters, **_):
        assert name == "generate/generate"
        run = uuid.uuid4()
        deed = self.deeds[min(len(self.sent), len(self.deeds) - 1)]
        self.sent.append(parameters)
        self.states[run] = deed(self, str(run), parameters)
        return SimpleNamespace(id=run)

    def read_flow_runs(self, *, flow_run_filter, limit):
        if self.away:
            self.away -= 1
            raise httpx.ConnectError("nobody there")
        found = {run: self.states[run] for run in flow_run_filter.id.any_}
        return [SimpleNamespace(id=run, state=state) for run, state in found.items() if state is not None]

    def set_flow_run_state(self, run, state):
        assert state.is_cancelling()
        self.stopped.append(run)

    def distribute(self, sleep=time.sleep):
        loaded = check_recipe(self.house.recipe, self.house.base)
        todo = self.house.plan("generate")
        step = next(one for one in todo.steps if one.key == "generate.t")
        ranges = [Range(step, tuple(todo.pending(step)))]
        context = Context(self.house.workspace, "test")
        allotter = Allotter(loaded.recipe.budget, loaded.recipe.teachers)
        return Parent(loaded, context, ranges, self.told.append, allotter, self, sleep).run()


def works(server):
    def deed(played, run, parameters):
        lease = Leases(played.house.root, parameters["step"]).take(parameters["range"], parameters["after"], run)
        make(played.house, server, {one["shard"] for one in parameters["orders"]})
        lease.end("done", 8, 8)
        return Completed()

    return deed


def dies(played, run, parameters):
    """Takes the lease, and is not heard of again; Prefect goes on to say that it runs."""
    Leases(played.house.root, parameters["step"]).take(parameters["range"], parameters["after"], run)
    return Running()


def crashes(*_):
    return Crashed(message="out of memory")


def vanishes(*_):
    return None


def test_ranges_are_blocks_of_shards_and_replayed_teachers_stay_here(house, monkeypatch):
    with BadServer(0) as server:
        played = Played(house, monkeypatch, works(server))
        spells = played.distribute()
    assert [one["range"] for one in played.sent] == ["000-011", "100-111"]
    assert [one["after"] for one in played.sent] == [0, 0]
    assert [(one.range, one.ended, one.answered) for one in spells] == [("000-011", "done", 8), ("100-111", "done", 8)]
    assert house.plan("generate").anything_to_do() is False
    loaded = check_recipe(house.recipe, house.base)
    assert sent_out(loaded) == {"generate.t"}
    replayed = {"name": "r", "engine": "replay", "path": "sums.jsonl", "columns": {"response": "question"}}
    assert sent_out(check_recipe(house.recipe | {"teachers": [replayed]}, house.base)) == set()


@pytest.mark.parametrize("fails", [crashes, vanishes])
def test_a_run_that_failed_before_it_began_is_sent_again(house, monkeypatch, fails):
    with BadServer(0) as server:
        played = Played(house, monkeypatch, works(server), fails, fails, works(server))
        played.distribute()
    assert [one["range"] for one in played.sent] == ["000-011", *3 * ["100-111"]]
    assert house.plan("generate").anything_to_do() is False


def test_a_range_that_comes_to_nothing_three_times_is_an_error(house, monkeypatch):
    played = Played(house, monkeypatch, lambda *_: Scheduled(), crashes)
    with pytest.raises(RangesFailed, match="range 100-111: given out 3 times, nothing came: out of memory"):
        played.distribute()
    assert [one["range"] for one in played.sent] == ["000-011", *3 * ["100-111"]]
    assert len(played.stopped) == 1  # the other range was still in the queue


def test_a_silent_worker_loses_its_range_and_the_cost_is_told(house, monkeypatch):
    with BadServer(0) as server:
        played = Played(house, monkeypatch, dies, works(server))
        spells = played.distribute()
    assert [(one["range"], one["after"]) for one in played.sent] == [("000-011", 0), ("100-111", 0), ("000-011", 1)]
    broken = next(one for one in spells if one.ended != "done")
    assert broken.range == "000-011" and broken.ended.startswith("silent for ") and broken.lost_s >= 1
    assert [text.split(":")[-1].split(";")[-1] for text in played.told] == [" given to another worker",
                                                                           f" {broken.lost_s} s lost"]  # fmt: skip


def test_a_living_worker_of_another_parent_is_waited_for(house, monkeypatch):
    """Also one whose parent had cut the shards into other ranges."""
    leases = Leases(house.root, "generate.t")
    theirs, other_cut = leases.take("000-011", 0, str(uuid.uuid4())), leases.take("110-111", 0, str(uuid.uuid4()))
    ended = threading.Event()
    with BadServer(0) as server:
        make(house, server, {"000", "001", "010"})  # the last shard of its range is still open

        def finish():
            for _ in range(3):
                theirs.renew(8, 8)
                other_cut.renew(4, 4)
                time.sleep(0.3)
            make(house, server, {"011"})
            theirs.end("done", 8, 8)
            other_cut.end("failed", 4, 4)
            ended.set()

        played = Played(house, monkeypatch, lambda *given: (ended.is_set(), works(server)(*given))[1])
        thread = threading.Thread(target=finish)
        thread.start()
        played.distribute()
        thread.join()
    assert [one["range"] for one in played.sent] == ["100-111"]
    assert house.plan("generate").anything_to_do() is False


def test_a_prefect_server_that_is_away_for_a_while_is_waited_for(house, monkeypatch):
    with BadServer(0) as server:
        played = Played(house, monkeypatch, works(server))
        played.away = 2
        played.distribute()
    assert house.plan("generate").anything_to_do() is False
    assert played.told == ["the Prefect server can't be reached: nobody there"]  # once, not in every round


def test_cancelling_takes_the_ranges_from_their_workers(house, monkeypatch):
    played = Played(house, monkeypatch, dies, lambda *_: Scheduled())

    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played.distribute(interrupted)
    leases = Leases(house.root, "generate.t")
    assert {name: (leases.newest(name).term, leases.newest(name).state) for name in leases.names()} == {
        "000-011": (2, "revoked"), "100-111": (1, "revoked"),
    }  # fmt: skip
    assert set(played.stopped) == set(played.states)


# --- a budget


def takes(played, run, parameters):
    """A worker takes its range, with what it is allotted."""
    leases = Leases(played.house.root, parameters["step"])
    return leases.take(parameters["range"], parameters["after"], run, allotment=parameters["allotment"])


def spends(server, only=None):
    """A worker that keeps to its allotment; `only`: the shards that it comes to before it dies."""

    def deed(played, run, parameters):
        lease = takes(played, run, parameters)
        shards = [one["shard"] for one in parameters["orders"]]
        make(played.house, server, shards[:only], parameters["allotment"])
        if only is None:
            lease.end("done", 8, 8)
        return Running() if only else Completed()

    return deed


def requests_of(parameters):
    return parameters["allotment"]["requests"]


def test_two_workers_side_by_side_keep_to_the_shares_of_one_budget(house, monkeypatch):
    """Both ranges are at work before either has spent anything; the lease says what each may cost."""
    house.recipe["teachers"][0]["budget"] = {"requests": 41}
    first = []

    def waits(played, run, parameters):
        first.append((takes(played, run, parameters), run, parameters))
        return Running()

    def both(played, run, parameters):
        state = spends(server)(played, run, parameters)
        lease, other, its = first[0]
        make(played.house, server, {one["shard"] for one in its["orders"]}, its["allotment"])
        lease.end("done", 8, 8)
        played.states[uuid.UUID(other)] = Completed()
        return state

    with BadServer(0) as server:
        played = Played(house, monkeypatch, waits, both)
        played.distribute()
        assert len(played.sent) == 2 and sum(map(requests_of, played.sent)) == 41
        assert min(map(requests_of, played.sent)) > 10  # by what each misses: 32 or so
        assert len(server.asked) == 41 and set(server.asked.values()) == {1}
    leases = Leases(house.root, "generate.t")
    assert [leases.newest(name).allotment["requests"] for name in leases.names()] == [*map(requests_of, played.sent)]
    heads = [house.workspace.head("generate.t", shard) for shard in house.workspace.shards]
    assert sum(head.pending for head in heads) == 64 - 41


def test_what_a_dead_worker_spent_is_counted(house, monkeypatch):
    house.recipe["budget"] = {"requests": 41}
    with BadServer(0) as server:
        played = Played(house, monkeypatch, spends(server, only=2), spends(server))
        spells = played.distribute()
        assert [one["range"] for one in played.sent] == ["000-011", "100-111", "000-011"]
        assert len(server.asked) == 41 and set(server.asked.values()) == {1}
    assert requests_of(played.sent[0]) == requests_of(played.sent[2])  # what it spent is within the same ceiling
    assert any(one.ended.startswith("silent") for one in spells)


def test_what_a_range_does_not_use_goes_to_others_and_round_once_more(house, monkeypatch):
    """The first worker's requests all fail, so that its share is there for the second one; what that one can't use
    comes back to the first range."""
    house.recipe["teachers"][0] |= {"budget": {"requests": 41}, "attempts": 1}
    monkeypatch.setattr(bad_server, "FAULTS", ("500",))

    def fails(played, run, parameters):
        server.share = 1.0
        state = spends(server)(played, run, parameters)
        server.share = 0.0
        return state

    with BadServer(0) as server:
        played = Played(house, monkeypatch, fails, spends(server))
        played.distribute()
        assert [one["range"] for one in played.sent] == ["000-011", "100-111", "000-011"]
        assert len(server.delivered) == 41
    missed = 64 - sum(house.workspace.need("curate", shard).data()[0].rows for shard in house.workspace.shards[:4])
    assert requests_of(played.sent[1]) == 41 and requests_of(played.sent[2]) == 41 - missed


def test_a_range_with_nothing_left_for_it_goes_to_no_worker(house, monkeypatch):
    house.recipe["budget"] = {"requests": 0}
    played = Played(house, monkeypatch)
    spells = played.distribute()
    assert played.sent == [] and {one.ended for one in spells} == {"done"}
    heads = [house.workspace.head("generate.t", shard) for shard in house.workspace.shards]
    assert sum(head.pending for head in heads) == 64 and all("budget" in head.extra for head in heads)


def test_under_a_budget_one_range_waits_in_the_queue(house, monkeypatch):
    """So that what the next one is allotted follows what is spent by then."""
    house.recipe["runner"]["shards_per_range"] = 2
    house.recipe["budget"] = {"requests": 1000}
    waiting = []

    def queued(played, run, parameters):
        assert not waiting
        waiting.append((run, parameters))
        return Scheduled()

    def work_off(_):
        if waiting:
            run, parameters = waiting.pop()
            played.states[uuid.UUID(run)] = spends(server)(played, run, parameters)

    with BadServer(0) as server:
        played = Played(house, monkeypatch, queued)
        played.distribute(work_off)
    assert len(played.sent) == 4 and house.plan("generate").anything_to_do() is False
