"""The endpoint engine against a real server on loopback that really misbehaves."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

from tasks.teachers.openai import OpenAITeacher
from tasks.teachers.teacher import Reply, Request, TeacherError

KEY = "sk-a-secret-that-must-not-show"


def completion(message: dict[str, Any] | str = "fine", **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": message} if isinstance(message, str) else message
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"choices": [{"message": message, "finish_reason": "stop", **choice}], "usage": usage}


class Server:
    """Does what the user message says: `500 2` fails twice with 500 and then answers, `hang` never answers, …"""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.ids: list[str | None] = []
        self.capacity: int | None = None
        """in flight at most; more are told 429"""
        self.queue = 0
        """what /metrics says is waiting"""
        self.in_flight = self.most_in_flight = 0
        self.together: list[int] = []
        """in flight when each request came, itself included"""
        self.hanging = threading.Event()
        self.cancelled = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.full, self.others_done = asyncio.Event(), asyncio.Event()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        app.router.add_get("/metrics", self.metrics)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()

    def _serve(self) -> None:
        async def start() -> None:
            await self.runner.setup()
            await web.TCPSite(self.runner, "127.0.0.1", 0).start()
            self.port = self.runner.addresses[0][1]
            self._ready.set()

        self.loop.run_until_complete(start())
        self.loop.run_forever()

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=f"vllm:num_requests_running 8.0\nvllm:num_requests_waiting {self.queue}.0\n")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.together.append(self.in_flight)
        if self.in_flight >= 4:
            self.full.set()
        try:
            if self.capacity and self.in_flight > self.capacity:
                self.seen["too many"] += 1
                return web.Response(status=429, headers={"Retry-After": "0.05"})
            what = [message["content"] for message in body["messages"] if message["role"] == "user"][-1]
            return await self.act(request, body, what)
        finally:
            self.in_flight -= 1

    async def act(self, request: web.Request, body: dict[str, Any], what: str) -> web.StreamResponse:
        self.bodies.append(body)
        self.keys.add(request.headers.get("Authorization"))
        self.ids.append(request.headers.get("X-Request-Id"))
        self.seen[what] += 1
        command, _, argument = what.partition(" ")
        times = int(argument) if argument.isdigit() else 1
        if command == "json":
            return web.json_response(json.loads(argument))
        if command == "stream":
            return await self.stream(request, argument)
        if command == "count":  # a truncated answer, and what continues it
            return web.json_response(counted(body))
        if command == "half":  # a truncated answer of a server that continues none
            if body["messages"][-1]["role"] == "assistant":
                return web.json_response({"message": "unknown field continue_final_message"}, status=400)
            return web.json_response(completion("half", finish_reason="length"))
        if command == "work":
            await asyncio.sleep(0.02)
        elif command == "moved":
            return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/v1/chat/completions"})
        elif command == "last":
            await self.others_done.wait()
        elif command == "full":
            await self.full.wait()
        elif command == "hang":
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        elif command == "400":
            return web.json_response(
                {"error": {"message": "max_tokens is\ntoo large", "type": "BadRequest"}}, status=400
            )
        elif command == "401":
            return web.Response(text=f"no such key: {request.headers['Authorization']}", status=401)
        elif self.seen[what] <= times:
            if command == "500":
                return web.Response(text="Internal Server Error", status=500)
            if command == "429":
                return web.json_response({"detail": "slow down"}, status=429, headers={"Retry-After": "1"})
            if command == "429-date":
                headers = {"Retry-After": formatdate(time.time() + 2, usegmt=True)}
                return web.Response(status=429, headers=headers)
            if command == "slow":
                await asyncio.sleep(5)
            if command == "torn":  # a whole HTTP body that holds half a JSON text
                return web.Response(text=json.dumps(completion())[:40], content_type="application/json")
            if command == "empty":
                return web.json_response({"choices": []})
            if command == "cut":  # the connection ends in the middle of the body
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b'{"choices": [')
                assert request.transport is not None
                request.transport.close()
                return response
        return web.json_response(completion())

    async def stream(self, request: web.Request, fault: str) -> web.StreamResponse:
        """A streamed answer; once it stops `silent` in the middle, is `cut` off or ends `early`."""
        deltas: list[dict[str, Any]] = [{"reasoning": "2+"}, {"reasoning": "2"}, {"content": "fo"}, {"content": "ur"}]
        events = [{"choices": [{"delta": delta, "logprobs": {"content": [{"logprob": -0.5}]}}]} for delta in deltas]
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        events.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        first = self.seen[f"stream {fault}"] == 1
        for number, event in enumerate(events):
            if first and number == 3 and fault == "silent":
                await asyncio.sleep(5)
            if first and number == 3 and fault in ("cut", "early"):
                if fault == "cut":
                    assert request.transport is not None
                    request.transport.close()
                return response
            text = f": ping\n\ndata: {json.dumps(event)}\r\n\r\n".encode()
            await response.write(text[:9])
            await response.write(text[9:])
        await response.write(b"data: [DONE]\n\n")
        return response


def counted(body: dict[str, Any]) -> dict[str, Any]:
    """Two words more of a count to six in each answer, which is what vLLM gives back when it continues a message."""
    *_, last = body["messages"]
    said = last["content"].split() if last["role"] == "assistant" else []
    if said:
        assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    words = ["<think>one", "two", "three", "four</think>", "five", "six"]
    more = words[len(said) : len(said) + 2]
    text = " ".join(more) if not said else " " + " ".join(more)
    done = len(said) + 2 >= len(words)
    return completion(text, finish_reason="stop" if done else "length")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


def ask(*what: str, **sampling: Any) -> list[Request]:
    return [
        Request(f"r{i}", f"q{i}", 0, ({"role": "user", "content": text},), sampling, None)
        for i, text in enumerate(what)
    ]


def replies(teacher: OpenAITeacher, requests: list[Request]) -> list[Reply]:
    """In the order of the requests, of which each must have exactly one."""
    with teacher:
        got = sorted(teacher.generate(requests), key=lambda reply: int(reply.response_id[1:]))
    assert [reply.response_id for reply in got] == [request.response_id for request in requests]
    return got


def test_what_is_sent_and_what_comes_back(server: Server) -> None:
    request = Request("r0", "q0", 0, ({"role": "user", "content": "hi"},), {"temperature": 0.5, "stop": []}, 17)
    (reply,) = replies(OpenAITeacher([server.url], "m", KEY, extra_body={"min_p": 0.1}), [request])
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0.5,
            "min_p": 0.1,
            "seed": 17,
        }
    ]
    assert server.keys == {f"Bearer {KEY}"}
    assert (reply.think_content, reply.answer_content, reply.finish_reason) == (None, "fine", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.mean_logprob) == (7, 3, None)
    assert 0 < reply.latency_s < 10 and reply.error is None


def test_thinking_is_read_from_new_field_old_field_and_tags(server: Server) -> None:
    said = [
        completion({"content": "4", "reasoning": "2+2"}),
        completion({"content": "4", "reasoning_content": "2+2"}),
        completion("<think>2+2</think>4"),
        completion("2+2</think>4"),
        completion({"content": None, "reasoning": "2+2"}, finish_reason="length"),
    ]
    got = replies(OpenAITeacher([server.url], "m", None), ask(*[f"json {json.dumps(body)}" for body in said]))
    assert [(r.think_content, r.answer_content) for r in got] == [("2+2", "4")] * 4 + [("2+2", "")]
    assert got[-1].finish_reason == "length"
    assert server.keys == {None}


def test_logprobs_are_asked_for_and_averaged(server: Server) -> None:
    body = completion(logprobs={"content": [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]})
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask(f"json {json.dumps(body)}", logprobs=True))
    assert reply.mean_logprob == -1.5
    assert server.bodies[0]["logprobs"] is True


@pytest.mark.parametrize("fault", ["500 1", "cut 1", "torn 1", "empty 1"])
def test_a_passing_fault_is_asked_again(server: Server, fault: str) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask(fault))
    assert (reply.error, reply.answer_content) == (None, "fine")
    assert server.seen[fault] == 2


@pytest.mark.parametrize("fault", ["429 1", "429-date 1"])
def test_retry_after_is_honoured(server: Server, fault: str) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask(fault))
    assert reply.error is None and reply.latency_s >= 0.99


def test_a_slow_answer_is_a_time_out_and_asked_again(server: Server) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None, timeout_s=0.5), ask("slow 1"))
    assert reply.error is None and server.seen["slow 1"] == 2


def test_a_fault_that_stays_is_a_transient_failure_and_spares_the_others(server: Server) -> None:
    what = ["500 99", "fine", "cut 99", "torn 99", "hang", "also fine"]
    got = replies(OpenAITeacher([server.url], "m", None, timeout_s=0.5, attempts=2), ask(*what))
    assert [reply.error_kind for reply in got] == [
        "transient",
        None,
        "transient",
        "transient",
        "transient",
        None,
    ]
    assert "HTTP 500" in str(got[0].error) and "no answer within 0.5 s" in str(got[4].error)
    assert "connection" in str(got[2].error) and "not a chat completion" in str(got[3].error)
    assert server.seen["500 99"] == 2
    assert all(reply.answer_content is None for reply in got if reply.error)


def test_a_refusal_is_kept_and_not_asked_again(server: Server) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask("400"))
    assert reply.error_kind == "refused" and server.seen["400"] == 1
    assert str(reply.error).endswith("max_tokens is too large") and "HTTP 400" in str(reply.error)


def test_the_key_shows_nowhere(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    teacher = OpenAITeacher([server.url, "http://127.0.0.1:1/v1"], "m", KEY, attempts=1)
    got = replies(teacher, ask("401", "401", "fine"))
    assert any("no such key: Bearer ***" in str(reply.error) for reply in got)
    assert KEY not in f"{got} {teacher!r} {caplog.text}"


def test_a_dead_endpoint_is_set_aside(server: Server) -> None:
    with socket.socket() as closed:  # bound but not listening: refuses
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        teacher = OpenAITeacher([dead, server.url], "m", None, concurrency=4)
        start = time.perf_counter()
        got = replies(teacher, ask(*["fine"] * 200))
    assert all(reply.error is None for reply in got)
    assert time.perf_counter() - start < 10  # with every second attempt at the dead one: 100 pauses / 4 workers


def test_no_endpoint_reachable_is_a_failure_a_request() -> None:
    (reply,) = replies(OpenAITeacher(["http://127.0.0.1:1/v1"], "m", None, attempts=2), ask("fine"))
    assert reply.error_kind == "transient" and "can't connect to http://127.0.0.1:1/v1" in str(reply.error)


def test_the_number_in_flight_is_bounded_and_a_slow_request_holds_up_nobody(server: Server) -> None:
    teacher = OpenAITeacher([server.url], "m", None, concurrency=4)
    order = []
    for reply in teacher.generate(ask("last", *["full"] * 3, *["fine"] * 57)):
        order.append(reply.response_id)
        if len(order) == 60:
            server.loop.call_soon_threadsafe(server.others_done.set)
    assert order[-1] == "r0" and len(order) == 61
    assert server.most_in_flight == 4


def test_closing_early_cancels_what_is_in_flight(server: Server) -> None:
    teacher = OpenAITeacher([server.url], "m", None, concurrency=2)
    stream = iter(teacher.generate(ask("hang", "fine", "fine")))
    next(stream)
    assert server.hanging.wait(10)
    stream.close()  # type: ignore[attr-defined]
    assert server.cancelled.wait(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "openai-teacher"]


def test_a_streamed_answer_is_put_together(server: Server) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None, idle_timeout_s=5), ask("stream"))
    assert (reply.think_content, reply.answer_content, reply.finish_reason) == ("2+2", "four", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.mean_logprob) == (7, 4, -0.5)
    assert server.bodies[0]["stream"] is True and server.bodies[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("fault", ["silent", "cut", "early"])
def test_a_broken_stream_is_asked_again(server: Server, fault: str) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None, idle_timeout_s=0.4), ask(f"stream {fault}"))
    assert reply.error is None and reply.answer_content == "four"
    assert server.seen[f"stream {fault}"] == 2


def test_a_response_that_was_cut_off_is_continued(server: Server) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask("count", continuations=5))
    assert (reply.think_content, reply.answer_content) == ("one two three four", "five six")
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("stop", 7, 9)
    assert not any("continuations" in body for body in server.bodies)
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask("count", continuations=1))
    assert (reply.think_content, reply.finish_reason, reply.completion_tokens) == ("one two three four", "length", 6)


def test_what_is_paid_for_stays_where_the_server_cannot_continue(server: Server) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask("half", continuations=1))
    assert (reply.error, reply.answer_content, reply.finish_reason) == (None, "half", "length")
    assert server.seen["half"] == 2


def test_each_attempt_carries_the_id_of_its_response(server: Server) -> None:
    replies(OpenAITeacher([server.url], "m", None), ask("500 1"))
    assert server.ids == ["r0-1", "r0-2"]


def test_requests_wait_for_a_server_that_is_down_and_that_is_no_attempt(server: Server) -> None:
    """The server's port refuses at first; it is up when requests have failed to connect."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    teacher = OpenAITeacher([f"http://127.0.0.1:{port}/v1"], "m", None, attempts=1, patience_s=60)

    async def up() -> None:
        await asyncio.sleep(1)
        await web.TCPSite(server.runner, "127.0.0.1", port).start()

    coming = asyncio.run_coroutine_threadsafe(up(), server.loop)
    got = replies(teacher, ask(*["fine"] * 5))
    coming.result(10)
    assert [reply.error for reply in got] == [None] * 5


def test_when_patience_is_over_the_rest_fails_at_once() -> None:
    teacher = OpenAITeacher(["http://127.0.0.1:1/v1"], "m", None, concurrency=4, patience_s=0.5)
    start = time.perf_counter()
    got = replies(teacher, ask(*["fine"] * 300))
    assert {reply.error_kind for reply in got} == {"transient"}
    assert "no endpoint has answered for 0.5 s" in str(got[-1].error)
    assert time.perf_counter() - start < 20  # with pauses between four attempts each: 300 s and more


def test_a_server_with_less_room_than_concurrency_is_not_run_over(server: Server) -> None:
    server.capacity = 8
    got = replies(OpenAITeacher([server.url], "m", None, concurrency=64, attempts=99), ask(*["work"] * 1500))
    assert {reply.error for reply in got} == {None}
    assert server.seen["too many"] < 1500 / 2


def test_the_queue_of_vllm_holds_back_what_would_only_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.teachers.endpoints.QUEUE_EVERY_S", 0.05)
    server.queue = 30
    teacher = OpenAITeacher([server.url], "m", None, concurrency=32)
    replies(teacher, ask(*["work"] * 250))
    assert max(server.together[:40]) > 16 and max(server.together[-80:]) < 8


def test_a_wrong_key_is_not_the_fault_of_the_requests(server: Server) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", KEY), ask("401"))
    assert reply.error_kind == "transient" and server.seen["401"] == 1


def test_the_key_follows_no_redirect(server: Server) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", KEY), ask("moved"))
    assert reply.error_kind == "transient" and "redirects" in str(reply.error) and server.seen["moved"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        [], {"choices": {}}, {"choices": [{"message": {"content": 5}}]}, {"choices": [{"message": {"content": ["x"]}}]},
        {"choices": [{"message": {"content": "x", "reasoning": {"a": 1}}}]}, {"choices": [{"message": None}]},
        completion(logprobs={"content": [{"token": "a"}]}),
    ],
)  # fmt: skip
def test_what_is_no_completion_is_a_failure(server: Server, answer: Any) -> None:
    (reply,) = replies(OpenAITeacher([server.url], "m", None, attempts=1), ask(f"json {json.dumps(answer)}"))
    assert reply.error_kind == "transient" and "not a chat completion" in str(reply.error)


def test_what_parquet_cannot_hold_is_replaced(server: Server) -> None:
    answer = completion("a\x00b\ud800c") | {"usage": {"prompt_tokens": "many", "completion_tokens": 10**30}}
    answer["choices"][0]["finish_reason"] = 7
    (reply,) = replies(OpenAITeacher([server.url], "m", None), ask(f"json {json.dumps(answer)}"))
    assert reply.answer_content == "a\ufffdb\ufffdc"
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == (None, None, None)


def test_requests_are_drawn_as_they_are_sent(server: Server) -> None:
    drawn = []

    def requests() -> Iterator[Request]:
        for request in ask(*["fine"] * 500):
            drawn.append(request)
            yield request

    stream = OpenAITeacher([server.url], "m", None, concurrency=4).generate(requests())
    next(stream)
    time.sleep(0.5)  # nobody reads the replies: no more are drawn than may wait
    assert len(drawn) <= 4 + 4 * 4 + 4 + 1
    assert len(list(stream)) == 499


def test_a_fault_of_the_requests_is_raised_to_the_reader(server: Server) -> None:
    def requests() -> Iterator[Request]:
        yield from ask("fine")
        raise LookupError("no such shard")

    with pytest.raises(LookupError, match="no such shard"):
        list(OpenAITeacher([server.url], "m", None).generate(requests()))


def test_nothing_asked_and_no_endpoint(server: Server) -> None:
    assert replies(OpenAITeacher([server.url], "m", None), []) == []
    with pytest.raises(TeacherError, match="has no endpoint"):
        OpenAITeacher([], "m", None)
