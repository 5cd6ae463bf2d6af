"""Proves that every planned request has one fate, that nothing paid for is asked twice, that a kill loses little."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import CommitLost
from storage.manifest import Book
from storage.schemas import RESPONSES
from tasks import generate
from tasks.generate import generate_step
from tasks.shard_log import read_log
from tasks.teachers.replay import ReplayTeacher
from tasks.teachers.settings import OpenAITeacherSettings
from tasks.teachers.teacher import Reply, failed

PROJECT = Path(__file__).resolve().parents[2]


def replay(path="answers.jsonl", **more):
    return {"name": "t", "engine": "replay", "path": path, "samples": 2} | more


def ask(number):
    return f"Who is {number}?"


@pytest.fixture
def house(make_house):
    """Three questions; `zero` has two answers, `one` has one, `two` has none."""
    house = make_house(bits=1, teachers=[replay()])
    house.write("sums.jsonl", [{"question": ask(name)} for name in ("zero", "one", "two")])
    house.write(
        "answers.jsonl",
        [
            {"question": ask("zero"), "response": "<think>hm</think>first"},
            {"question": ask("one"), "response": "single", "finish_reason": "stop", "completion_tokens": 7},
            {"question": ask("zero") + " \r\n", "response": "second"},
            {"question": ask("zero"), "response": "third"},
            {"question": ask("nobody"), "response": "stray"},
            {"question": ask("one"), "response": 5},
            {"question": ask("one")},
        ],
    )
    return house


def responses(house, teacher="t"):
    rows = house.rows(f"generate.{teacher}", "responses")
    return sorted(row["answer_content"] for row in rows if row["answer_content"] is not None)


def books(house, unit, step="generate.t"):
    found = [
        book
        for shard in house.workspace.shards
        for book in house.workspace.head(step, shard).books
        if book.unit == unit
    ]
    drops = {}
    for book in found:
        for rule, number in book.dropped.items():
            drops[rule] = drops.get(rule, 0) + number
    return (sum(b.units_in for b in found), sum(b.units_out for b in found), drops, sum(b.pending for b in found))


def test_replay_answers_what_is_planned_and_books_the_rest(house):
    house.run("generate")
    rows = {(row["answer_content"], row["sample_index"]): row for row in house.rows("generate.t", "responses")}
    assert rows["first", 0]["think_content"] == "hm" and rows["second", 1]["think_content"] is None
    assert rows["single", 0]["completion_tokens"] == 7 and rows["single", 0]["finish_reason"] == "stop"
    assert books(house, "request") == (6, 3, {"not_in_replay": 3}, 0)
    assert books(house, "record") == (
        7,
        3,
        {"beyond_samples": 1, "question_not_asked": 1, "wrong_type": 1, "missing_response": 1},
        0,
    )
    strays = {row["unit_id"]: row["rule"] for row in house.ledger("generate.t") if row["unit"] == "record"}
    assert strays == {
        "t:answers.jsonl:4": "beyond_samples",
        "t:answers.jsonl:5": "question_not_asked",
        "t:answers.jsonl:6": "wrong_type",
        "t:answers.jsonl:7": "missing_response",
    }


def test_a_finished_shard_has_nothing_to_do(house):
    house.run("generate")
    assert house.run("generate") == []


@pytest.fixture
def asked(monkeypatch):
    """The sample indexes that the replay engine is asked for, by answer."""
    found = []
    real = ReplayTeacher.generate

    def watched(self, requests):
        found.extend(requests)
        return real(self, requests)

    monkeypatch.setattr(ReplayTeacher, "generate", watched)
    return found


def test_more_samples_ask_only_for_the_new_ones(house, asked):
    house.run("generate")
    asked.clear()
    house.recipe["teachers"][0]["samples"] = 4
    house.run("generate")
    assert {request.sample_index for request in asked} == {2, 3} and len(asked) == 6
    assert responses(house) == ["first", "second", "single", "third"]
    asked.clear()
    house.recipe["teachers"][0]["samples"] = 1  # fewer: nothing is asked, nothing is thrown away
    house.run("generate")
    assert asked == [] and responses(house) == ["first", "second", "single", "third"]
    assert books(house, "request")[3] == 0


def test_a_file_that_grows_answers_what_was_missing(house):
    house.run("generate")
    with (house.base / "answers.jsonl").open("a") as file:
        file.write(json.dumps({"question": ask("two"), "response": "late"}) + "\n")
    house.run("generate")
    assert responses(house) == ["first", "late", "second", "single"]
    assert books(house, "request") == (6, 4, {"not_in_replay": 2}, 0)


def test_a_corrected_column_or_file_corrects_the_responses(house):
    """A replayed answer costs nothing: it is not kept against the file that it came from."""
    house.write(
        "answers.jsonl",
        [
            {"question": ask("zero"), "response": "wrong", "right": "right"},
            {"question": ask("one"), "response": "gone", "right": "stays"},
        ],
    )
    house.run("generate")
    ids = {row["response_id"] for row in house.rows("generate.t", "responses")}
    house.recipe["teachers"][0]["columns"] = {"response": "right"}
    house.run("generate")
    assert responses(house) == ["right", "stays"]
    house.write("answers.jsonl", [{"question": ask("zero"), "response": "x", "right": "righter"}])
    house.run("generate")
    assert responses(house) == ["righter", "stays"]  # what vanished from the file was there once, and is kept
    assert {row["response_id"] for row in house.rows("generate.t", "responses")} == ids


def test_lists_and_conversations_of_responses(house):
    talk = [{"role": "user", "content": ask("one")}]
    house.write(
        "answers.jsonl",
        [
            {"question": ask("zero"), "response": ["a", None, "b"]},
            {"messages": [*talk, {"role": "assistant", "content": "old"}], "think_content": "t", "answer_content": "c"},
        ],
    )
    house.run("generate")
    assert responses(house) == ["a", "b", "c"]
    assert books(house, "record") == (4, 3, {"wrong_type": 1}, 0)


@pytest.mark.parametrize(
    "record",
    [
        {"response": "x"},
        {"question": None, "response": "x"},
        {"question": 5, "response": "x"},
        {"messages": "no json", "response": "x"},
        {"messages": [1], "response": "x"},
        {"messages": [{}], "response": "x"},
        {"messages": [{"role": "assistant", "content": "x"}], "response": "x"},
        {"messages": "[" * 9999, "response": "x"},
        {"question": ask("one"), "response": {"a": 1}},
        {"question": ask("one"), "response": "\ud800"},
        {"question": ask("one"), "response": "\x00"},
        {"question": ask("one"), "response": []},
        {"question": ask("one"), "answer_content": "x", "think_content": 5},
        {"question": ask("one"), "response": "x", "finish_reason": 3},
        {"question": ask("one"), "response": "x", "completion_tokens": "many"},
        {"question": ask("one"), "response": "x", "completion_tokens": 10**30},
        {"question": ask("one"), "response": "x", "prompt_tokens": -1},
    ],
)
def test_a_broken_record_goes_to_the_ledger_and_the_others_survive(house, record):
    house.write("answers.jsonl", [{"question": ask("zero"), "response": "good"}, record])
    house.run("generate")
    assert responses(house) == ["good"]
    total, out, drops, _ = books(house, "record")
    assert out == 1 and sum(drops.values()) == total - 1 <= 1
    assert "question_not_asked" not in drops


def test_the_cache_may_be_deleted_at_any_time(house, monkeypatch):
    import shutil

    real = ReplayTeacher._stored

    def robbed(self, shard):
        shutil.rmtree(self._workspace.cache, ignore_errors=True)
        return real(self, shard)

    monkeypatch.setattr(ReplayTeacher, "_stored", robbed)
    house.run("generate")
    assert responses(house) == ["first", "second", "single"]


class Flaky:
    """An engine that answers `answers` in all, then fails as told: a server that goes down."""

    def __init__(self, fate, counts):
        self.fate, self.counts = fate, counts

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def generate(self, requests):
        for request in requests:
            self.counts.append(request.response_id)
            kind = self.fate(request)
            if kind == "silent":
                continue
            if kind == "crash":
                raise RuntimeError("engine crashed")
            if kind:
                yield failed(request, f"no luck {len(self.counts)}", kind)
            else:
                yield Reply(request.response_id, None, "answer", "stop", 1, 1, None, 0.1)


@pytest.fixture
def flaky(make_house, monkeypatch):
    """Six questions × 2 samples; `fate` decides each request's end."""
    house = make_house(
        teachers=[{"name": "t", "engine": "openai", "model": "m", "base_url": "http://localhost:1/v1", "samples": 2}]
    )
    house.write("sums.jsonl", [{"question": ask(number)} for number in range(6)])
    house.asked = []
    house.fate = lambda request: None
    monkeypatch.setattr(generate, "open_teacher", lambda *_: Flaky(lambda request: house.fate(request), house.asked))
    return house


def test_failed_requests_are_rows_asked_again_and_replaced(flaky):
    flaky.fate = lambda request: {0: "transient", 1: None}[request.sample_index]
    flaky.run("generate")
    rows = flaky.rows("generate.t", "responses")
    assert len(rows) == 12 and sum(row["error_kind"] == "transient" for row in rows) == 6
    assert books(flaky, "request") == (12, 6, {}, 6)
    flaky.asked.clear()
    flaky.fate = lambda request: None
    [done] = flaky.run("generate")
    assert done.why == ("6 units pending",) and len(flaky.asked) == 6
    assert [row["error_kind"] for row in flaky.rows("generate.t", "responses")] == [None] * 12
    assert books(flaky, "request") == (12, 12, {}, 0) and flaky.run("generate") == []


def test_refused_requests_are_dropped_with_their_error_and_not_asked_again(flaky):
    flaky.fate = lambda request: ["refused", "transient"][request.sample_index]
    flaky.run("generate")
    assert books(flaky, "request") == (12, 0, {"request_refused": 6}, 6)
    refused = flaky.ledger("generate.t")
    flaky.asked.clear()
    flaky.fate = lambda request: None
    flaky.run("generate")
    assert len(flaky.asked) == 6 and books(flaky, "request") == (12, 6, {"request_refused": 6}, 0)
    assert flaky.ledger("generate.t") == refused and "no luck" in json.loads(refused[0]["evidence"])["error"]
    flaky.run("generate", redo_from="generate")
    assert books(flaky, "request") == (12, 12, {}, 0)


def test_an_engine_that_forgets_a_request_leaves_it_pending(flaky):
    flaky.fate = lambda request: "silent" if request.sample_index else None
    flaky.run("generate")
    assert books(flaky, "request") == (12, 6, {}, 6)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import House
from tasks import generate
from tasks.teachers.replay import ReplayTeacher
generate.COMMIT_EVERY_S = -1.0
real, count = ReplayTeacher._stored, [0]
def stored(self, shard):
    count[0] += 1
    if count[0] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, shard)
ReplayTeacher._stored = stored
house = House(Path({base!r}), {recipe!r}, Path({root!r}), 1)
house.run("generate")
"""


def logs(house):
    return sorted((house.root / "unfinished").rglob("*.jsonl"))


def test_what_was_answered_before_a_crash_is_in_the_log_and_not_asked_again(flaky):
    flaky.fate = lambda request: "crash" if len(flaky.asked) == 9 else "transient" if len(flaky.asked) == 3 else None
    with pytest.raises(RuntimeError):
        flaky.run("generate")
    assert flaky.workspace.head("generate.t", "0") is None
    [log] = logs(flaky)
    assert len(list(read_log(log, RESPONSES.names))) == 7
    failing = flaky.asked[2]
    flaky.asked.clear()
    flaky.fate = lambda request: None
    flaky.run("generate")
    assert len(flaky.asked) == 5 and failing in flaky.asked
    head = flaky.workspace.head("generate.t", "0")
    assert len(head.data()) == 1 and head.books == (Book("request", 12, 12),) and logs(flaky) == []


def test_a_log_gives_the_rows_that_one_go_gives(flaky, tmp_path):
    other = flaky.copy(tmp_path / "other")
    flaky.run("generate")
    flaky.asked.clear()
    flaky.fate = lambda request: "crash" if len(flaky.asked) == 5 else None
    with pytest.raises(RuntimeError):
        other.run("generate")
    flaky.fate = lambda request: None
    other.run("generate")
    heads = [one.workspace.head("generate.t", "0") for one in (flaky, other)]
    assert heads[0].content == heads[1].content and heads[1].seq == 1


def test_a_log_that_the_commit_already_holds_changes_nothing(flaky):
    """Killed between the commit and the removal of the log; then the recipe wants more samples."""
    flaky.fate = lambda request: "crash" if len(flaky.asked) == 5 else None
    with pytest.raises(RuntimeError):
        flaky.run("generate")
    [log] = logs(flaky)
    left = log.read_bytes()
    flaky.fate = lambda request: None
    flaky.run("generate")
    log.write_bytes(left)
    flaky.asked.clear()
    flaky.recipe["teachers"][0]["samples"] = 3
    flaky.run("generate")
    assert len(flaky.asked) == 6 and books(flaky, "request") == (18, 18, {}, 0) and logs(flaky) == []


def test_a_response_logged_for_another_plan_is_kept(flaky):
    flaky.fate = lambda request: "crash" if len(flaky.asked) == 5 else None
    with pytest.raises(RuntimeError):
        flaky.run("generate")
    flaky.fate = lambda request: None
    flaky.recipe["teachers"][0]["sampling"] = {"temperature": 0.5}
    flaky.run("generate")
    assert books(flaky, "request") == (16, 16, {}, 0)


def test_two_writers_of_one_shard_lose_nothing_and_double_nothing(flaky):
    """A zombie: it is overtaken in the middle of the shard, and goes on after its successor's commit."""
    zombie = {"waits": True}

    def fate(request):
        if zombie["waits"] and len(flaky.asked) == 6:
            zombie["waits"] = False
            flaky.run("generate")  # the successor, while this one stands still in its sixth request
            assert logs(flaky) != []  # the zombie lives, so its log stays
            return
        return

    flaky.fate = fate
    with pytest.raises(CommitLost):
        flaky.run("generate")
    rows = flaky.rows("generate.t", "responses")
    assert len(rows) == len({row["response_id"] for row in rows}) == 12
    assert len(flaky.asked) == 12 + 12 - 5  # the successor did not ask for the zombie's five
    flaky.recipe["teachers"][0]["samples"] = 3
    flaky.run("generate")
    assert books(flaky, "request") == (18, 18, {}, 0) and logs(flaky) == []  # the zombie is gone, and so is its log


def test_each_shard_is_committed_while_others_are_asked(make_house, monkeypatch):
    """A straggler holds up its own shard alone, and the requests of several shards are in flight together."""
    house = make_house(
        bits=3,
        teachers=[{"name": "t", "engine": "openai", "model": "m", "base_url": "http://localhost:1/v1", "samples": 1}],
    )
    house.write("sums.jsonl", [{"question": ask(number)} for number in range(40)])
    committed = []

    class Straggling(Flaky):
        def generate(self, requests):
            requests = iter(requests)
            straggler = next(requests)
            first = house.workspace.shard_of(straggler.question_id)
            for request in requests:
                yield Reply(request.response_id, None, "answer", "stop", 1, 1, None, 0.1)
            committed.extend(shard for shard in house.workspace.shards if house.workspace.head("generate.t", shard))
            assert first not in committed
            yield Reply(straggler.response_id, None, "answer", "stop", 1, 1, None, 0.1)

    monkeypatch.setattr(generate, "COMMITS_WAITING", 0)
    monkeypatch.setattr(generate, "open_teacher", lambda *_: Straggling(None, []))
    house.run("generate")
    assert len(committed) >= 5
    assert books(house, "request") == (40, 40, {}, 0)


def test_truncated_responses_are_counted_and_by_setting_dropped_and_taken_back(flaky, monkeypatch):
    class Cutting(Flaky):
        def generate(self, requests):
            for request in requests:
                self.counts.append(request)
                yield Reply(request.response_id, None, "answ", ["stop", "length"][request.sample_index], 1, 5, None, 1)

    monkeypatch.setattr(generate, "open_teacher", lambda *_: Cutting(None, flaky.asked))
    flaky.run("generate")
    assert books(flaky, "request") == (12, 12, {}, 0)
    whole = flaky.rows("generate.t", "responses")
    assert flaky.workspace.head("generate.t", "0").extra == {
        "truncated": 6, "prompt_tokens": 12, "completion_tokens": 60,
    }  # fmt: skip
    flaky.asked.clear()
    flaky.recipe["teachers"][0]["drop_truncated"] = True
    flaky.run("generate")
    assert books(flaky, "request") == (12, 6, {"truncated": 6}, 0)
    assert [row["answer_content"] for row in flaky.rows("generate.t", "responses")] == ["answ"] * 12
    assert flaky.rules("generate.t") == {"truncated": 6} and flaky.run("generate") == []
    flaky.recipe["teachers"][0]["drop_truncated"] = False
    flaky.run("generate")
    assert flaky.rows("generate.t", "responses") == whole and flaky.asked == []


def test_what_a_killed_run_had_committed_is_not_asked_again(house, asked, tmp_path):
    """Replayed responses have no log, but a commit every half minute (here: after each)."""
    house.write(
        "answers.jsonl", [{"question": ask(n), "response": [f"{n} a", f"{n} b"]} for n in ("zero", "one", "two")]
    )
    script = KILLED.format(
        tests=str(PROJECT / "tests"), base=str(house.base), recipe=house.recipe, root=str(house.root)
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, env=os.environ)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    house.run("generate")
    assert 0 < len(asked) < 6
    whole = house.copy(tmp_path / "whole")
    whole.run("generate")
    assert house.rows("generate.t", "responses") == whole.rows("generate.t", "responses")


def test_settings_that_change_no_request_change_no_fingerprint(tmp_path):
    def step(**more):
        settings = {"name": "t", "engine": "openai", "model": "m", "base_url": "http://a/v1"} | more
        return generate_step(OpenAITeacherSettings(**settings), tmp_path).settings

    same = [
        {"base_url": "http://b/v1"},
        {"concurrency": 3},
        {"attempts": 9},
        {"price_per_million_tokens": 2},
        {"api_key_env": "K"},
    ]
    assert all(step(**one) == step() for one in same)
    other = [
        {"samples": 5},
        {"revision": "r"},
        {"sampling": {"temperature": 1}},
        {"prompts": {"default": {"system": "s"}}},
    ]
    assert all(step(**one) != step() for one in other)
