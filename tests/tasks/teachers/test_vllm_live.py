"""The vllm engine with a real vLLM (the CPU build of deploy/vllm_cpu.sh) that serves the real SmolLM2.

Proves: generation through servers that are killed with SIGKILL in the middle, first the API process, then the engine
core, completes and asks nothing twice but what was in flight; that the seed crash of this build is survived and told;
that a run killed with SIGKILL leaves no server process, and its successor asks only for what is missing. Not covered:
GPUs and tensor parallelism. Where the build isn't installed these tests are skipped; with CI=1 they fail.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.place import cache_home
from tasks.teachers import vllm_guard
from tasks.teachers.settings import VLLMTeacherSettings
from tasks.teachers.teacher import Request
from tasks.teachers.vllm import VLLMTeacher

ROOT = Path(__file__).parents[3]
VLLM = cache_home() / "vllm-cpu" / "bin" / "python"  # found at import: other tests set a cache of their own
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not VLLM.exists() and not os.environ.get("CI"), reason="run deploy/vllm_cpu.sh to test vLLM"),
]


@pytest.fixture
def cache(smollm2_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The converted model, but servers and logs of this test's own."""
    own = tmp_path / "cache"
    own.mkdir()
    (own / "models").symlink_to(smollm2_cache / "models")
    monkeypatch.setenv("STILLHOUSE_CACHE", str(own))
    return own


@pytest.fixture
def settings(cache: Path) -> Callable[..., dict[str, Any]]:
    """A teacher in the words of a recipe. `enforce-eager` saves a minute of compiling."""

    def make(**more: Any) -> dict[str, Any]:
        flags = {"max-model-len": 1024, "enforce-eager": True, "enable-log-requests": True} | more.pop("flags", {})
        command = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server"]
        return {"name": "small", "engine": "vllm", "command": command, "gpus": 0, "flags": flags, "concurrency": 8,
                "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"}, "seeds": False} | more  # fmt: skip

    return make


def teacher_of(settings: dict[str, Any]) -> VLLMTeacher:
    return VLLMTeacher(VLLMTeacherSettings.model_validate(settings), ROOT)


def ask(count: int, words: int = 1, seed: int | None = None, max_tokens: int = 40) -> list[Request]:
    return [
        Request(f"r{n}", f"q{n}", 0, ({"role": "user", "content": f"Tell of {n}. " * words},),
                {"max_tokens": max_tokens, "temperature": 0.7}, seed)
        for n in range(count)
    ]  # fmt: skip


def processes(cache: Path) -> dict[int, bytes]:
    """The running processes of all servers started with this cache, with their command lines."""
    tags = [log.stem for log in (cache / "servers").glob("*.log")]
    return {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for tag in tags for pid in vllm_guard.tagged(tag)}


def kill(cache: Path, words: bytes) -> None:
    [pid] = [pid for pid, command in processes(cache).items() if words in command and b"vllm_guard" not in command]
    os.kill(pid, signal.SIGKILL)


def sent(cache: Path) -> Counter[str]:
    """How many times each response was asked for, as the servers' own logs have it."""
    found: Counter[str] = Counter()
    for log in (cache / "servers").glob("*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if "Received request chatcmpl-" in line:
                found[line.split("chatcmpl-")[1].split("-")[0]] += 1
    return found


def test_generation_goes_on_through_kills(settings, cache, caplog) -> None:
    replies = []
    with teacher_of(settings()) as teacher:
        for reply in teacher.generate(ask(48)):
            replies.append(reply)
            if len(replies) == 8:
                kill(cache, b"api_server")
            elif len(replies) == 28:
                kill(cache, b"EngineCore")
    assert sorted(reply.response_id for reply in replies) == sorted(request.response_id for request in ask(48))
    assert all(reply.error is None and reply.answer_content and reply.completion_tokens for reply in replies)
    assert caplog.text.count("Starting it again in") == 2 and caplog.text.count("is back after") == 2
    asked = sent(cache)
    assert len(asked) == 48 and sum(asked.values()) <= 48 + 2 * 8
    assert processes(cache) == {}


def test_the_seed_crash_of_this_build_is_survived(settings, cache, caplog) -> None:
    """A prompt that is read in several steps, with a seed, kills the engine: here each prompt is."""
    flags = {"max-num-batched-tokens": 64, "max-num-seqs": 8}
    with teacher_of(settings(seeds=True, flags=flags)) as teacher:
        replies = list(teacher.generate(ask(10, words=30, seed=7)))
    assert len(replies) == 10 and all(reply.error is None for reply in replies)
    assert caplog.text.count("Starting it again in") == 2
    assert "dies when it is asked with seeds: it can't take requests with seeds (RuntimeError: CPU Gen" in caplog.text
    assert "set `seeds: false` for this teacher" in caplog.text


RUN = """
import json, sys
from pathlib import Path
from tests.conftest import House
House(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])).run("generate")
"""


def test_a_killed_run_leaves_no_server_and_the_next_one_asks_for_the_rest(settings, cache, make_house) -> None:
    teacher = settings(samples=2, sampling={"max_tokens": 40})
    house = make_house(teachers=[teacher])
    house.write("sums.jsonl", [{"question": f"Tell me about the number {n}."} for n in range(15)])
    command = [sys.executable, "-c", RUN, str(house.base), json.dumps(house.recipe), str(house.root)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as run:
        try:
            while len(sent(cache)) < 12:
                assert run.poll() is None
                time.sleep(0.1)
            assert len(processes(cache)) >= 3
        finally:
            run.kill()
    until = time.monotonic() + 30
    while processes(cache) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes(cache) == {}
    house.run("generate")
    rows = house.rows("generate.small", "responses")
    assert len({row["response_id"] for row in rows}) == len(rows) == 30
    assert all(row["error_kind"] is None and row["completion_tokens"] for row in rows)
    assert max(sent(cache).values()) <= 2
    assert processes(cache) == {}
