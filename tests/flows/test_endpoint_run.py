"""A whole run over an OpenAI-compatible endpoint on loopback: teacher and judge, a broken answer, the next run.

Proves that a failed request is pending (exit status 3), that the next run asks for it alone, that the judge is asked
where the rule says wrong and nowhere else, and that the key stands in no file of the workspace.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

KEY = "sk-very-secret"
QUESTIONS = {f"What is {one} + 7?": one + 7 for one in range(11, 23)}
BROKEN, WORDED, WRONG = "What is 12 + 7?", "What is 13 + 7?", "What is 14 + 7?"


class Endpoint(ThreadingHTTPServer):
    """Right answers, but: BROKEN fails while `down`, WORDED is right in words that no rule knows, WRONG is wrong."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.down = True
        self.asked: list[str] = []
        self.judged: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> tuple[int, str]:
        text = body["messages"][-1]["content"]
        question = next(one for one in QUESTIONS if one in text)
        if body["model"] == "judge":
            self.judged.append(question)
            return 200, json.dumps({"score": 5 if question == WORDED else 0, "reason": "as told"})
        self.asked.append(question)
        if question == BROKEN and self.down:
            return 500, "broken"
        answer = {WORDED: "a score", WRONG: "0"}.get(question, str(QUESTIONS[question]))
        return 200, f"<think>so</think>\\boxed{{{answer}}}"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        assert self.headers["Authorization"] == f"Bearer {KEY}"
        status, content = self.server.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        message = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
                   "usage": {"prompt_tokens": 9, "completion_tokens": 5}}  # fmt: skip
        body = json.dumps(message).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_run_over_an_endpoint(stillhouse, endpoint: Endpoint, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(stillhouse.environment, "TEACHER_KEY", KEY)
    rows = [json.dumps({"question": question, "ground_truth": str(answer)}) for question, answer in QUESTIONS.items()]
    (tmp_path / "sums.jsonl").write_text("\n".join(rows))
    recipe = {
        "name": "endpoint",
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}],
        "curate": {"near_duplicates": None},
        "teachers": [
            {"name": "far", "engine": "openai", "model": "teacher", "base_url": endpoint.url, "samples": 2,
             "attempts": 1, "api_key_env": "TEACHER_KEY"},
        ],
        "verify": {
            "route": {"math": ["math", "judge"]},
            "policy": {"math": "rule_or_judge"},
            "judge": {"base_url": endpoint.url, "model": "judge", "api_key_env": "TEACHER_KEY", "attempts": 1},
        },
    }  # fmt: skip
    path, workspace = tmp_path / "endpoint.yaml", tmp_path / "workspace"
    path.write_text(yaml.safe_dump(recipe))

    first = stillhouse("run", path, "--workspace", workspace, "--until", "grade", code=3)
    assert "pending: generate.far 2, verify.far 2, grade 1" in first
    assert re.search(r"far\s+│\s+22 │\s+20 │", first), first
    assert set(endpoint.judged) == {WORDED, WRONG}

    endpoint.down = False
    endpoint.asked.clear()
    endpoint.judged.clear()
    second = stillhouse("run", path, "--workspace", workspace)
    assert re.search(r"far\s+│\s+24 │\s+22 │", second), second
    assert endpoint.asked == [BROKEN, BROKEN]
    assert endpoint.judged == []
    assert "nothing to do" in stillhouse("run", path, "--workspace", workspace)

    assert not [file for file in workspace.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
