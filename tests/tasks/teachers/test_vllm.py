"""The vllm engine against a server program that plays vLLM (fake_vllm.py), with real processes, ports and signals.

Proves: what the servers are started with; that the first comes before the others; that each fault at start is told in
words that help, with the log's last lines; that a server's death costs only what was in flight, whatever kind of death;
that one that keeps dying ends the step with everything answered kept; that a build which dies of seeds is survived;
that no process is left on any exit, SIGKILL of the parent or of the guard included. Real vLLM: test_vllm_live.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.teachers import vllm_guard
from tasks.teachers.settings import VLLMTeacherSettings
from tasks.teachers.teacher import Reply, Request, TeacherError
from tasks.teachers.vllm import VLLMTeacher, gpu_groups
from tasks.teachers.vllm_faults import explain
from tasks.teachers.vllm_server import as_arguments, default_command

ROOT = Path(__file__).parents[3]
FAKE = Path(__file__).with_name("fake_vllm.py")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    return tmp_path / "cache"


@pytest.fixture
def make(tmp_path: Path, cache: Path) -> Callable[..., VLLMTeacher]:
    """A teacher over fake servers that play the given fault."""

    def teacher(play: str = "", **more: Any) -> VLLMTeacher:
        flags = {"play": play, "state": str(tmp_path / "state")} | more.pop("flags", {})
        settings = {"name": "t", "engine": "vllm", "model": "m", "command": [sys.executable, str(FAKE)], "gpus": 1,
                    "flags": flags, "attempts": 1, "concurrency": 4, "start_timeout_s": 20} | more  # fmt: skip
        return VLLMTeacher(VLLMTeacherSettings.model_validate(settings), tmp_path)

    return teacher


def ask(count: int, seed: int | None = 7) -> list[Request]:
    return [
        Request(f"r{n}", f"q{n}", 0, ({"role": "user", "content": f"question {n}"},), {"max_tokens": 5}, seed)
        for n in range(count)
    ]


def noted(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    file = tmp_path / "state" / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def tags(cache: Path) -> list[str]:
    """The tags of all servers ever started with this cache."""
    return [log.stem for log in (cache / "servers").glob("*.log")]


def running(cache: Path) -> list[int]:
    return [pid for tag in tags(cache) for pid in vllm_guard.tagged(tag)]


def answers(teacher: VLLMTeacher, requests: list[Request]) -> dict[str, Reply]:
    with teacher:
        replies = list(teacher.generate(requests))
    assert sorted(reply.response_id for reply in replies) == sorted(request.response_id for request in requests)
    return {reply.response_id: reply for reply in replies}


def wait_until(true: Callable[[], Any], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_servers_get_gpus_flags_and_environment_and_the_first_starts_alone(make, cache, tmp_path) -> None:
    teacher = make(gpus=4, tensor_parallel=2, flags={"max-model-len": 99})
    with teacher:
        assert not (cache / "servers").exists()  # nothing starts before there is a request
        assert list(teacher.generate([])) == []
        assert all(reply.error is None for reply in teacher.generate(ask(20)))
        first, second = noted(tmp_path, "starts")
        assert (first["gpus"], second["gpus"]) == ("0,1", "2,3")
        assert "--tensor-parallel-size 2" in " ".join(first["words"]) and "--max-model-len 99" in " ".join(
            first["words"]
        )
        [_, _] = {first["port"], second["port"]}
        assert {one["start"] for one in noted(tmp_path, "asked")} == {1, 2}
        assert len(running(cache)) == 6  # two guards, two servers, two engine cores
    assert running(cache) == []
    assert not list((cache / "servers").glob("*.json"))


@pytest.mark.parametrize(
    ("play", "words"),
    [
        ("memory", r"out of memory: lower gpu-memory-utilization.*CUDA out of memory"),
        ("model", r"can't load the model; see the teacher's model and revision.*not a valid model identifier"),
        ("arguments", r"doesn't know one of the teacher's flags.*--no-such-flag"),
        ("other", r"did not start: ZeroDivisionError: division by zero"),
    ],
)
def test_a_server_that_does_not_start_says_why_and_is_not_tried_again(make, cache, tmp_path, play, words) -> None:
    with make(play) as teacher, pytest.raises(TeacherError, match=r"(?s)of t on GPU 0 did not start.*") as told:
        list(teacher.generate(ask(3)))
    assert told.match(words)
    assert told.match(r"(?s)the end of its log \(.*\.log\):\n    loading\n")
    assert len(noted(tmp_path, "starts")) == 1 and running(cache) == []


def test_a_server_that_never_gets_healthy_is_ended_in_time(make, cache) -> None:
    with make("never_healthy", start_timeout_s=2) as teacher:
        with pytest.raises(TeacherError, match=r"not ready after 2 s; raise the teacher's start_timeout_s"):
            list(teacher.generate(ask(1)))
        assert running(cache) == []


def test_a_port_that_was_taken_meanwhile_is_changed(make, tmp_path) -> None:
    assert len(answers(make("port"), ask(3))) == 3
    first, second = noted(tmp_path, "starts")
    assert first["port"] != second["port"]


def test_a_server_that_does_not_start_leaves_the_work_to_the_others(make, tmp_path, caplog) -> None:
    replies = answers(make("gpu_0", gpus=[0, 3]), ask(10))
    assert all(reply.error is None for reply in replies.values())
    assert [one["gpus"] for one in noted(tmp_path, "starts")] == ["0", "3"]
    assert "on GPU 0 did not start: out of memory" in caplog.text


@pytest.mark.parametrize("play", ["dies_once", "dead_engine"])
def test_a_death_costs_only_what_was_in_flight(make, cache, tmp_path, caplog, play) -> None:
    """Killed with SIGKILL, or alive with a dead engine: 503 at /health, 500 for each request."""
    replies = answers(make(play), ask(30))
    assert all(reply.error is None for reply in replies.values())
    asked = Counter(one["text"] for one in noted(tmp_path, "asked"))
    assert sum(asked.values()) - 30 <= 4 and max(asked.values()) <= 2
    assert len(noted(tmp_path, "starts")) == 2
    assert "Starting it again in 1 s (1 of 5)" in caplog.text and "is back after" in caplog.text
    assert running(cache) == []


def test_while_one_server_is_down_the_other_goes_on_and_then_both(make, tmp_path) -> None:
    def feed() -> Iterator[Request]:
        """Until the server that was started again has been asked."""
        for request in ask(5000):
            yield request
            if any(one["start"] == 3 for one in noted(tmp_path, "asked")):
                return

    with make("slow_dies_once", gpus=2) as teacher:
        replies = list(teacher.generate(feed()))
    assert all(reply.error is None for reply in replies) and len(replies) < 5000
    asked = Counter(one["text"] for one in noted(tmp_path, "asked"))
    assert sum(asked.values()) - len(replies) <= 4
    assert {one["start"] for one in noted(tmp_path, "asked")} == {1, 2, 3}


def test_a_server_that_keeps_dying_ends_the_step_and_what_was_answered_was_handed_over(make, cache, tmp_path) -> None:
    got = []
    with make("dies_always", restarts=2) as teacher:
        with pytest.raises(TeacherError, match=r"(?s)died 3 times in a row and is given up; what was answered is kept"):
            for reply in teacher.generate(ask(40)):
                got.append(reply)
        assert len(noted(tmp_path, "starts")) == 3
        with pytest.raises(TeacherError, match="given up"):  # the next shard does not wait for ever
            list(teacher.generate(ask(1)))
    lost = len(noted(tmp_path, "asked")) - len(got)
    assert got and all(reply.error is None for reply in got) and lost <= 3 * 4
    assert running(cache) == []


def test_seeds_that_kill_the_server_are_left_out_after_the_second_death(make, tmp_path, caplog) -> None:
    replies = answers(make("seed"), ask(12))
    assert all(reply.error is None for reply in replies.values())
    starts = noted(tmp_path, "starts")
    assert len(starts) == 3
    assert all(one["seed"] is None for one in noted(tmp_path, "asked") if one["start"] == 3)
    assert (
        "dies when it is asked with seeds: it can't take requests with seeds (RuntimeError: CPU Generator"
        in caplog.text
    )
    assert "set `seeds: false`" in caplog.text


def test_a_request_that_kills_its_server_each_time_becomes_a_failed_row(make, tmp_path) -> None:
    poison = Request("bad", "q", 0, ({"role": "user", "content": "poison"},), {}, None)
    replies = answers(make("poison"), [poison, *ask(25)])
    assert replies["bad"].error_kind == "transient"
    assert replies["bad"].error.startswith("its server died 4 times meanwhile; last: ")
    assert all(replies[f"r{n}"].error is None for n in range(25))
    asked = Counter(one["text"] for one in noted(tmp_path, "asked"))
    assert asked["poison"] == 4


def test_leaving_early_leaves_nothing(make, cache) -> None:
    with pytest.raises(KeyboardInterrupt), make("slow") as teacher:
        for _ in teacher.generate(ask(50)):
            raise KeyboardInterrupt
    assert running(cache) == []


PARENT = """
import sys, json
from pathlib import Path
from tests.tasks.teachers.test_vllm import ask
from tasks.teachers.settings import VLLMTeacherSettings
from tasks.teachers.vllm import VLLMTeacher
with VLLMTeacher(VLLMTeacherSettings.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2])) as teacher:
    for reply in teacher.generate(ask(10_000)):
        print(reply.response_id, flush=True)
"""


@pytest.fixture
def parent(make, tmp_path, cache):
    """Another process that generates over a slow fake server, and has its first reply."""
    settings = json.dumps(make("slow").settings.model_dump(mode="json"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, settings, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("r")
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_when_the_parent_is_killed(parent, cache, tmp_path, number) -> None:
    """Neither the one in a session of its own nor the one without the tag."""
    assert len(running(cache)) == 3
    hidden = Path("/proc") / (tmp_path / "state" / "hidden").read_text()
    assert hidden.exists()
    parent.send_signal(number)
    parent.wait(20)
    assert wait_until(lambda: not running(cache) and not hidden.exists())


def test_what_even_the_guard_could_not_end_is_swept_at_the_next_start(parent, make, cache, caplog) -> None:
    """Guard and parent killed at once: the server goes with its guard, its engine core stays until the sweep."""
    [tag] = tags(cache)
    guards = [pid for pid in running(cache) if b"vllm_guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert vllm_guard.sweep(cache / "servers") == 0 and len(vllm_guard.tagged(tag)) == 3  # its run is alive
    for pid in guards:
        os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    for pid in guards:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: len(vllm_guard.tagged(tag)) == 1)
    answers(make(""), ask(1))
    assert vllm_guard.tagged(tag) == []
    assert "ended 1 processes of vLLM servers that a dead run had left" in caplog.text


def test_a_sweep_ends_only_what_carries_the_tag(tmp_path, cache) -> None:
    """A note whose run is dead, with a number that another process has now."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        vllm_guard.write_note(tmp_path / "a.json", "a")
        note = json.loads((tmp_path / "a.json").read_text()) | {"owner": bystander.pid, "started": "1"}
        (tmp_path / "a.json").write_text(json.dumps(note))
        (tmp_path / "torn.json").write_text('{"tag": "b", ')
        elsewhere = tmp_path / "c.json"
        elsewhere.write_text(json.dumps(note | {"host": "another"}))
        assert vllm_guard.sweep(tmp_path) == 0
        assert bystander.poll() is None
        assert not (tmp_path / "a.json").exists() and elsewhere.exists()
    finally:
        bystander.kill()
        bystander.wait()


def test_flags_are_words() -> None:
    flags = {"max-model-len": 2048, "enable_prefix_caching": False, "--enforce-eager": True, "stop": ["a", "b"],
             "rope": {"factor": 2}, "left-out": None}  # fmt: skip
    assert as_arguments(flags) == ["--max-model-len", "2048", "--no-enable-prefix-caching", "--enforce-eager", "--stop",
                                   "a", "b", "--rope", '{"factor": 2}']  # fmt: skip


def test_gpus_are_grouped_within_what_this_process_may_use(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab,6,7")
    assert gpu_groups(None, 2) == [("4", "GPU-ab"), ("6", "7")]
    assert gpu_groups([1, "MIG-x"], 1) == [("GPU-ab",), ("MIG-x",)]
    assert gpu_groups(0, 1) == []
    with pytest.raises(TeacherError, match="wants 5 gpus, 4 are seen here"):
        gpu_groups(5, 1)
    with pytest.raises(TeacherError, match="names gpu 4, 4 are seen here, counted from 0"):
        gpu_groups([4], 1)
    with pytest.raises(TeacherError, match="4 gpus can't be divided among servers with tensor_parallel 3"):
        gpu_groups(None, 3)
    with pytest.raises(ValueError, match="3 gpus don't divide into groups of tensor_parallel 2"):
        VLLMTeacherSettings(name="t", engine="vllm", gpus=3, tensor_parallel=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_groups(None, 1) == []
    with pytest.raises(TeacherError, match="0 gpus can't be divided among servers with tensor_parallel 2"):
        gpu_groups(None, 2)


def test_the_command_is_found_or_its_absence_explained(make, monkeypatch, tmp_path) -> None:
    with (
        make(command=["no-such-program", "serve"]) as teacher,
        pytest.raises(TeacherError, match="there is no program"),
    ):
        list(teacher.generate(ask(1)))
    monkeypatch.setattr("tasks.teachers.vllm_server.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TeacherError, match=r"vLLM is not installed: pip install 'stillhouse\[vllm\]'"):
        default_command()
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    assert default_command() == (str(tmp_path / "vllm"), "serve")


def test_a_kill_without_words_points_to_the_kernel() -> None:
    death = explain(["(APIServer pid=1) INFO 11-24 13:20:38 [a.py:1] all is well"], 137)
    assert (death.kind, death.cause) == (
        "killed",
        "it was killed with SIGKILL; the kernel does that when memory runs out",
    )
    assert explain(["INFO 11-24 13:20:38 [a.py:1] trust_remote_code=True, out of memory"], 1).cause == (
        "it ended with status 1 and said nothing"
    )


def test_a_line_behind_one_without_its_newline_is_read_as_a_line_of_its_own() -> None:
    """The processes of a server share its log."""
    torn = ("(APIServer pid=1) ERROR 11-24 13:20:38 [a.py:1] EngineDeadError: EngineCore died."
            "(Worker pid=1) INFO 11-24 13:20:38 [arg_utils.py:1] trust_remote_code=False, out of memory")  # fmt: skip
    death = explain(
        [torn, "(Worker pid=1) ERROR 11-24 13:20:38 [e.py:1] RuntimeError: CPU Generator does not use offset"], 1
    )
    assert death.kind == "seed" and death.tail[1].startswith("(Worker pid=1) INFO")


def test_where_it_runs_is_no_part_of_what_is_asked(make) -> None:
    """Else another flag or GPU would pay for everything again."""
    one, other = make().settings, make("x", gpus=[2], environment={"A": "b"}, restarts=1, concurrency=9).settings
    assert one.asks() == other.asks()
