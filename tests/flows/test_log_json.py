"""Structured logs: each range of a run is told when it begins and ends, with run, stage and shards; a fault, too."""

from __future__ import annotations

import io
import json

import pytest

from flows.log_json import SWITCH, log_to, logged
from flows.run import Range
from tests.flows.conftest import write_replay_recipe


def test_a_run_logs_its_ranges(stillhouse, tmp_path):
    recipe = write_replay_recipe(tmp_path / "recipe")
    text = stillhouse("--log-json", "run", recipe, "--workspace", tmp_path / "ws", "--until", "generate")
    told = [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]
    assert {one["stage"] for one in told} == {"ingest", "curate", "generate"}
    assert len({one["run"] for one in told}) == 1
    of_good = [one for one in told if one["step"] == "generate.good"]
    assert [(one["message"], one["level"], one["shards"], one["why"]) for one in of_good] == [
        ("range begun", "INFO", ["00", "01", "10", "11"], ["first run"]),
        ("range done", "INFO", ["00", "01", "10", "11"], ["first run"]),
    ]
    assert of_good[1]["seconds"] >= 0 and "seconds" not in of_good[0]


def test_a_fault_is_logged_and_raised_on(make_house, monkeypatch):
    house = make_house()
    house.write("sums.jsonl", [{"question": "What is 1 + 1?"}])
    context, step, work = house.step("ingest")
    monkeypatch.setenv(SWITCH, "1")
    stream = io.StringIO()
    log_to(stream)
    with pytest.raises(ValueError, match="no disk"), logged(context, Range(step, tuple(work))):
        raise ValueError("no disk")
    begun, failed = map(json.loads, stream.getvalue().splitlines())
    assert (begun["message"], failed["message"]) == ("range begun", "range failed")
    assert (failed["level"], failed["fault"], failed["shards"]) == ("ERROR", "ValueError: no disk", ["0"])
