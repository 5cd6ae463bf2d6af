"""Proves that the judge is asked about suspects only, and that one who fails leaves a question undecided, never clean.
The server is a real one on loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import Item
from tasks.decontaminate_judge import ContaminationJudgeSettings, prompt, read_reply
from tasks.embeddings import EmbeddingSettings
from tasks.verifiers.judge_endpoint import EndpointFault

ITEM = "A baker has twelve trays with nine rolls each and sells seven of them before noon on every single day"
CHANGED = "On a market day " + ITEM.replace("twelve", "31").replace("nine", "57").replace("before noon", "by 10")
OTHER = "How tall is the mountain behind the town hall in metres?"


@pytest.fixture
def server():
    """A judge that says what `replies` holds for each call, the last one again and again."""

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][-1]["content"])
            status, content = replies[min(len(asked), len(replies)) - 1]
            reply = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    asked: list[str] = []
    replies: list[tuple[int, str]] = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked, replies
    running.shutdown()
    running.server_close()


def check(url, texts):
    judge = ContaminationJudgeSettings(base_url=url, model="m", attempts=1, timeout_s=5)
    settings = DecontaminateSettings(judge=judge, suspect=-30.0, contaminated=30.0, ngram=None)
    index = Benchmarks([Item("b", 0, ITEM)], settings, EmbeddingSettings())
    return index, index.check(texts)


def test_the_judge_decides_on_suspects_only(server):
    url, asked, replies = server
    replies += [(200, '{"reason": "same trays", "same": true}'), (200, '{"reason": "no", "same": false}')]
    index, found = check(url, [CHANGED])
    assert (found[0].verdict, found[0].rule, found[0].reason) == ("contaminated", "benchmark_judge", "same trays")
    assert len(asked) == 1 and CHANGED in asked[0] and ITEM in asked[0]
    assert json.loads(index.evidence(found[0]))["reason"] == "same trays"
    assert check(url, [CHANGED, ITEM, OTHER])[1][0].verdict == "clean"
    assert len(asked) == 2


@pytest.mark.parametrize("reply", [(500, ""), (200, "I think so"), (200, '{"same": "maybe"}'), (400, "no such model")])
def test_a_judge_that_fails_leaves_the_question_undecided_and_out(server, reply):
    url, _, replies = server
    replies.append(reply)
    index, [found] = check(url, [CHANGED])
    assert (found.verdict, index.drops(found)) == ("undecided", "benchmark_undecided")
    assert found.reason


def test_undecided_questions_are_pending_and_asked_again(server, make_house):
    url, asked, replies = server
    replies += [(500, ""), (200, '{"reason": "other numbers", "same": false}')]
    judge = {"base_url": url, "model": "m", "attempts": 1, "timeout_s": 5}
    house = make_house(curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "decontaminate": {
        "benchmarks": [{"name": "b", "path": "b.jsonl"}], "ngram": 5, "coverage": 0.3, "judge": judge,
        "contaminated": 90.0, "suspect": -90.0}})  # fmt: skip
    house.write("b.jsonl", [{"question": ITEM}])
    house.write("sums.jsonl", [{"question": CHANGED}])
    house.run("curate")
    assert house.rules("curate") == {"benchmark_undecided": 1}
    assert house.workspace.head("screen", house.workspace.shards[0]).pending == 1
    house.run("curate")
    assert house.rules("curate") == {} and len(house.rows("curate", "curated")) == 1
    house.run("curate")
    assert len(asked) == 2


def test_a_reply_is_read_after_thinking_and_a_text_cannot_close_its_part():
    content = '<think>{"same": false}</think> {"reason": "r", "same": true}'
    assert read_reply(json.dumps({"choices": [{"message": {"content": content}}]})).same is True
    with pytest.raises(EndpointFault):
        read_reply("not json")
    assert prompt("a", "b") != prompt("a", "c") and "[[/TRAINING " in prompt("a", "b")
