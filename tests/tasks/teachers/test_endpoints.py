"""Proves which endpoint is chosen, and how its limit follows what it can do. Health: see test_openai."""

from __future__ import annotations

import asyncio

import pytest

from tasks.teachers.endpoints import Endpoint, Endpoints, Unreachable, _queue


def finish(endpoint: Endpoint, number: int, overloaded: float = 0.0) -> None:
    """So many attempts end; the given share of them, spread evenly, finds the endpoint overloaded."""
    for one in range(number):
        endpoint.note(int((one + 1) * overloaded) > int(one * overloaded))


def test_an_overloaded_endpoint_gets_less_until_it_keeps_up() -> None:
    endpoint = Endpoint("http://a/v1", 1.0, most=64)
    finish(endpoint, 64, 0.5)
    assert endpoint.limit == 32
    finish(endpoint, 500, 0.5)
    assert endpoint.limit == 1
    finish(endpoint, 5000)
    assert endpoint.limit == 64


def test_stray_faults_slow_nothing() -> None:
    endpoint = Endpoint("http://a/v1", 1.0, most=64)
    finish(endpoint, 5000, 0.05)
    assert endpoint.limit == 64


def test_the_limit_follows_the_queue_of_vllm() -> None:
    endpoint = Endpoint("http://a/v1", 1.0, most=64, in_flight=64)
    endpoint.note_queue(running=16, waiting=48)
    assert endpoint.limit == 64 - (48 - 8)
    finish(endpoint, 5000)
    assert endpoint.limit == 24  # vLLM knows better than a window without a fault
    endpoint.note_queue(running=16, waiting=0)
    assert endpoint.limit > 24


def test_the_queue_is_read_from_metrics_over_all_engines() -> None:
    text = (
        "# HELP vllm:num_requests_waiting Number of requests waiting\n"
        'vllm:num_requests_running{engine="0",model_name="m"} 3.0\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 4.0\n'
        'vllm:num_requests_waiting{engine="0",model_name="m"} 5.0\n'
        'vllm:num_requests_waiting_by_reason{reason="capacity"} 99.0\n'
    )
    assert _queue(text) == (7.0, 5.0)
    assert _queue("process_cpu_seconds_total 12.0\n") is None


def test_endpoints_share_the_load_by_weight() -> None:
    async def taken() -> list[int]:
        endpoints = Endpoints(["http://a/v1", "http://b/v1"], most=64, weights=[3, 1])
        for _ in range(40):
            await endpoints.acquire()
        return [one.in_flight for one in endpoints.all]

    assert asyncio.run(taken()) == [30, 10]


def test_a_place_is_waited_for_and_given_on() -> None:
    async def scenario() -> None:
        endpoints = Endpoints(["http://a/v1"], most=1)
        first = await endpoints.acquire()
        second = asyncio.create_task(endpoints.acquire())
        await asyncio.sleep(0)
        assert not second.done()
        endpoints.release(first)
        assert await asyncio.wait_for(second, 10) is first

    asyncio.run(scenario())


def test_those_who_wait_for_a_place_are_told_when_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        endpoints = Endpoints(["http://a/v1"], most=1, patience_s=0.05)
        monkeypatch.setattr(endpoints, "_probe", lambda endpoint: asyncio.sleep(60))
        first = await endpoints.acquire()
        waiting = [asyncio.create_task(endpoints.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        endpoints.lost(first, "can't connect")
        for one in waiting:
            with pytest.raises(Unreachable, match=r"can't connect; no endpoint has answered for 0\.05 s"):
                await asyncio.wait_for(one, 10)

    asyncio.run(scenario())
