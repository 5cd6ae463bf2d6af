"""Proves the score stage: its numbers on the real SmolLM2; on a tiny model that nothing is scored twice (a kill and a
repeated run included), laws 1 and 5; and that a limit of its own for each teacher leaves responses out, each with its
reason."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from aiohttp import web
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.database import open_views
from storage.workspace import Workspace
from tasks import score
from tasks.scorers.local import TransformersScorer
from tasks.scorers.scorer import Failure
from tasks.teachers import smollm2
from tests.tasks.scorers.serving import vllm_server
from tests.tasks.tiny_student import make_student

REAL = {"name": "own", "engine": "transformers", "device": "cpu"}
GIBBERISH = "qx zzv 7 wq blorp"


def ask(number: int) -> str:
    return f"What is {number} + 1?"


def said(number: int, *, sound: bool = True) -> str:
    return f"<think>I add one.</think>The answer is {number + 1}. \\boxed{{{number + 1}}}" if sound else (
        f"{GIBBERISH} \\boxed{{{number + 1}}}"
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A scorer that has learnt nothing and is loaded at once, for what doesn't depend on the numbers."""
    return REAL | {"model": str(make_student(tmp_path_factory.mktemp("tiny")))}


@pytest.fixture
def house(make_house, tiny):
    """Six sums, two teachers, gibberish at times: `plain` answers all twice, `odd` once and not the last one."""
    house = make_house(
        bits=1,
        teachers=[
            {"name": name, "engine": "replay", "path": "sums.jsonl", "samples": samples, "columns": {"response": name}}
            for name, samples in (("plain", 2), ("odd", 1))
        ],
        score={"scorers": [tiny]},
        runner={"max_workers": 1},
    )
    house.write("sums.jsonl", sums())
    return house


@pytest.fixture
def real_watched(monkeypatch):
    return Watched(monkeypatch, str(smollm2.model_path()))


@pytest.fixture
def real_house(house):
    """Read by SmolLM2."""
    house.recipe["score"] = {"scorers": [REAL]}
    return house


def sums(**more: Any) -> list[dict[str, Any]]:
    return [
        {"question": ask(n), "ground_truth": str(n + 1), "plain": [said(n), said(n, sound=n % 2 == 0)],
         "odd": [said(n, sound=n % 3 != 0)] if n < 5 else []} | more
        for n in range(6)
    ]  # fmt: skip


class Watched:
    """Which texts the model read, and switches to make it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
        self.read: list[str] = []
        self.fails = lambda text: False
        tokenizer = AutoTokenizer.from_pretrained(folder)
        logprobs = TransformersScorer.logprobs

        def watched(scorer: TransformersScorer, sequences: list[list[int]]) -> list[np.ndarray | Failure]:
            texts = [tokenizer.decode(ids) for ids in sequences]
            self.read += texts
            found = logprobs(scorer, sequences)
            return [Failure("down") if self.fails(text) else one for text, one in zip(texts, found, strict=True)]

        monkeypatch.setattr(TransformersScorer, "logprobs", watched)


@pytest.fixture
def watched(monkeypatch, tiny):
    return Watched(monkeypatch, tiny["model"])


def scores(house: Any, teacher: str = "plain") -> list[dict[str, Any]]:
    """With their numbers, which `rows` leaves out."""
    workspace = house.workspace
    return [
        row for shard in workspace.shards for row in workspace.read(f"score.{teacher}", shard, "scores").to_pylist()
    ]


def book(house: Any, step: str = "score.plain", unit: str = "score") -> tuple[int, int, int, int]:
    heads = [house.workspace.head(step, shard) for shard in house.workspace.shards]
    found = [one for head in heads for one in head.books if one.unit == unit]
    dropped = sum(sum(one.dropped.values()) for one in found)
    return (sum(b.units_in for b in found), sum(b.units_out for b in found), dropped, sum(b.pending for b in found))


@functools.cache
def model() -> tuple[Any, Any]:
    net: Any = AutoModelForCausalLM.from_pretrained(smollm2.model_path(), dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(smollm2.model_path()), net


def by_hand(question: str, response: str) -> tuple[float, float, list[float]]:
    """Perplexity of the response and of question and response, and the log-probabilities of the response's tokens:
    transformers alone, one dialogue, no batch."""
    tokenizer, net = model()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    head, body = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response))
    asked = tokenizer(prompt[: prompt.rindex(question)], add_special_tokens=False)["input_ids"]
    inner = tokenizer(question, add_special_tokens=False)["input_ids"]
    assert head[len(asked) : len(asked) + len(inner)] == inner
    with torch.inference_mode():
        table = torch.log_softmax(net(torch.tensor([head + body])).logits[0], dim=-1)
    each = [0.0] + [float(table[place, token]) for place, token in enumerate((head + body)[1:])]
    own = each[len(head) :]
    both = each[len(asked) : len(asked) + len(inner)] + own
    return math.exp(-sum(own) / len(own)), math.exp(-sum(both) / len(both)), own


def test_scores_are_those_of_transformers_alone(real_house):
    real_house.run("score")
    rows = scores(real_house, "odd")
    texts = {row["response_id"]: row for row in real_house.rows("generate.odd", "responses")}
    questions = {row["question_id"]: row["messages"][0]["content"] for row in real_house.rows("curate", "curated")}
    assert (
        len(rows) == 5
        and book(real_house, "score.odd") == (6, 5, 1, 0)
        and real_house.rules("score.odd") == {"no_response": 1}
    )
    for row in rows:
        text = texts[row["response_id"]]
        think = f"<think>\n{text['think_content']}\n</think>\n\n" if text["think_content"] else ""
        own, both, tokens = by_hand(questions[row["question_id"]], think + text["answer_content"])
        assert row["perplexity"] == pytest.approx(own, rel=1e-4)
        assert row["perplexity_with_question"] == pytest.approx(both, rel=1e-4)
        assert row["mean_logprob"] == pytest.approx(-math.log(own), abs=1e-4)
        assert (row["tokens"], row["response_tokens"], row["truncated"]) == (len(tokens), len(tokens), False)
        last = row["sentences"][-1]
        assert last["mean_logprob"] == pytest.approx(sum(tokens[-last["tokens"] :]) / last["tokens"], abs=1e-4)
        shown = [text[f"{one['part']}_content"][one["start"] : one["end"]] for one in row["sentences"]]
        assert " ".join(shown) == " ".join(filter(None, [text["think_content"], text["answer_content"]]))
    gibberish = {row["perplexity"] > 500 for row in rows if GIBBERISH in texts[row["response_id"]]["answer_content"]}
    sound = {row["perplexity"] < 100 for row in rows if GIBBERISH not in texts[row["response_id"]]["answer_content"]}
    assert gibberish == sound == {True}


def test_only_what_changed_is_scored_again(real_house, real_watched):
    real_house.run("score")
    assert len(real_watched.read) == 12 + 5 and real_house.run("score") == []
    real_watched.read.clear()
    real_house.run("score", redo_from="score")
    assert real_watched.read == []
    changed = sums()
    changed[2]["odd"] = ["Two and one is \\boxed{3}"]
    real_house.write("sums.jsonl", changed)
    real_house.run("score")
    assert len(real_watched.read) == 1 and "Two and one" in real_watched.read[0]
    real_watched.read.clear()
    real_house.recipe["score"]["scorers"] = [REAL | {"max_tokens": 60}]
    real_house.run("score")
    assert len(real_watched.read) == 17 and any(row["truncated"] for row in scores(real_house))


def test_a_second_scorer_costs_the_first_one_nothing(house, tiny, watched):
    house.run("score")
    before = {row["response_id"]: row for row in scores(house)}
    watched.read.clear()
    house.recipe["score"]["scorers"] = [tiny, tiny | {"name": "half", "dtype": "bfloat16"}]
    house.run("score")
    rows = scores(house)
    assert len(watched.read) == 17 and len(rows) == 24 and book(house) == (24, 24, 0, 0)
    assert {row["response_id"]: row for row in rows if row["scorer"] == "own"} == before
    half = [row for row in rows if row["scorer"] == "half"]
    assert all("bfloat16" in row["scorer_version"] for row in half)
    assert all(row["perplexity"] == pytest.approx(before[row["response_id"]]["perplexity"], rel=0.2) for row in half)
    house.recipe["score"]["scorers"] = [tiny]
    house.run("score")
    assert {row["response_id"]: row for row in scores(house)} == before


def test_what_a_scorer_could_not_score_is_pending_and_tried_again(house, watched):
    watched.fails = lambda text: ask(3) in text and "zzv" in text
    house.run("score")
    assert book(house) == (12, 11, 0, 1) and book(house, "score.odd") == (6, 4, 1, 1)
    failed = [row for row in scores(house) if row["error"]]
    assert [row["error"] for row in failed] == ["down"] and failed[0]["perplexity"] is None
    watched.read.clear()
    watched.fails = lambda text: False
    done = {one.step: one.why for one in house.run("score")}
    assert done["score.plain"] == ("1 units pending",) and len(watched.read) == 2
    assert book(house) == (12, 12, 0, 0) and not any(row["error"] for row in scores(house))


def test_the_reasons_of_one_scorer_outlast_the_pass_of_the_next_and_go_with_the_next_run(house, tiny, watched):
    house.recipe["score"]["scorers"] = [tiny, tiny | {"name": "again"}]
    watched.fails = lambda text: ask(3) in text and "zzv" in text
    house.run("score")
    assert sorted(row["scorer"] for row in scores(house) if row["error"]) == ["again", "own"]
    assert book(house) == (24, 22, 0, 2)
    watched.fails = lambda text: False
    house.run("score")
    assert not any(row["error"] for row in scores(house)) and book(house) == (24, 24, 0, 0)


def test_a_scorer_that_is_gone_is_asked_no_more(house, watched, monkeypatch):
    monkeypatch.setattr(score, "BATCH", 1)
    monkeypatch.setattr(score, "DOWN_AFTER", 3)
    watched.fails = lambda text: True
    house.run("score")
    assert len(watched.read) == 3 + 3  # for each teacher
    assert book(house) == (12, 0, 0, 12) and {row["error"] for row in scores(house)} == {"down"}


def test_what_can_never_be_scored_is_in_the_ledger_with_its_reason(real_house):
    long = " ".join(["long"] * 40)
    rows = sums()
    rows[0] |= {"question": f"{long}?", "plain": [said(0)] * 2}
    rows[1] |= {"plain": [said(1), "<think></think> "]}
    real_house.write("sums.jsonl", rows)
    real_house.recipe["score"]["scorers"] = [REAL | {"max_tokens": 55}]
    real_house.run("score")
    assert real_house.rules("score.plain") == {"question_too_long": 2, "empty_response": 1}
    assert book(real_house) == (12, 9, 3, 0)
    entry = next(one for one in real_house.ledger("score.plain") if one["rule"] == "question_too_long")
    assert entry["unit_id"].endswith("/own") and entry["value"] > entry["threshold"] == 54
    assert any(row["truncated"] and row["tokens"] < row["response_tokens"] for row in scores(real_house))


def test_commits_within_the_shard_and_one_go_give_the_same_table(house, tmp_path, monkeypatch):
    other = house.copy(tmp_path / "other", bits=0)
    house.run("score")
    monkeypatch.setattr(score, "BATCH", 1)
    monkeypatch.setattr(score, "COMMIT_EVERY_S", -1.0)
    other.run("score")
    assert house.rows("score.plain", "scores") == other.rows("score.plain", "scores")
    head = other.workspace.head("score.plain", "0")
    assert head.seq > 10 and len(head.data()) == 1


KILLED = """
import os, sys
from pathlib import Path
from flows.recipe import load_recipe
from flows.run import Wish, carry_out, open_workspace, plan, run_range
from tasks import score
from tasks.scorers.local import TransformersScorer
from tasks.step import Context

score.BATCH, score.COMMIT_EVERY_S = 1, -1.0
loaded = load_recipe(Path(sys.argv[1]))
workspace = open_workspace(loaded, Path(sys.argv[2]))
logprobs = TransformersScorer.logprobs

def counted(self, sequences):
    with open(sys.argv[3], "a") as file:
        file.write("x")
    return logprobs(self, sequences)

TransformersScorer.logprobs = counted
todo = plan(loaded, workspace, Wish("score"))
carry_out(todo, lambda batch: [run_range(Context(workspace, "killed"), one) for one in batch])
"""


def test_a_run_killed_while_it_scores_goes_on_where_it_was(real_house, tmp_path, real_watched):
    recipe, read = real_house.base / "t.yaml", tmp_path / "read"
    real_house.bits = 0
    real_house.run("generate")
    recipe.write_text(yaml.safe_dump(real_house.recipe))
    command = [sys.executable, "-c", KILLED, str(recipe), str(real_house.root), str(read)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    while process.poll() is None and not (read.exists() and read.stat().st_size >= 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    units, out, dropped, pending = book(real_house)
    assert units == 12 == out + pending and dropped == 0 and out >= 4
    real_house.run("score")
    assert len(real_watched.read) == pending + 5 and book(real_house) == (12, 12, 0, 0)  # the five of the other teacher
    assert len(scores(real_house)) == 12


def test_a_limit_for_each_teacher_leaves_out_what_is_over_it_with_the_reason(real_house):
    real_house.recipe["select"] = {"perplexity": {"of": "response", "max": 500, "by_teacher": {"odd": 5}}}
    real_house.run("select")
    perplexities = {row["response_id"]: row["perplexity"] for row in scores(real_house) + scores(real_house, "odd")}
    chosen = real_house.rows("select", "selection")
    limits = {"plain": 500, "odd": 5}
    assert {row["teacher"] for row in chosen} >= {"plain"}
    assert all(perplexities[row["response_id"]] <= limits[row["teacher"]] for row in chosen)
    dropped = [row for row in real_house.ledger("select") if row["rule"] == "perplexity"]
    over = {key for teacher in limits for key in (r["response_id"] for r in scores(real_house, teacher))
            if perplexities[key] > limits[teacher]}  # fmt: skip
    assert {row["unit_id"] for row in dropped} == over and len(over) > 4
    assert {row["threshold"] for row in dropped} == {500, 5}
    assert all(row["value"] == pytest.approx(perplexities[row["unit_id"]], abs=1e-3) for row in dropped)
    assert all(json.loads(row["evidence"])["where"]["of"] == "response" for row in dropped)


def test_nothing_is_left_out_where_no_limit_is_set(house):
    house.run("select")
    assert "perplexity" not in house.rules("select")
    judged = sum(
        row["verifier"] == "outcome" and row["passed"] is True for row in house.rows("verify.plain", "verdicts")
    )
    assert sum(row["teacher"] == "plain" for row in house.rows("select", "selection")) == judged > 6


def test_a_response_whose_score_is_pending_is_neither_chosen_nor_dropped(house, watched):
    house.recipe["select"] = {"perplexity": {"max": 1e6}}
    watched.fails = lambda text: ask(3) in text
    house.run("select")
    assert book(house, "select", "response")[3] == 3 and book(house, "select", "question")[3] == 1
    without = {row["question_id"] for row in scores(house) if row["error"]}
    assert not without & {row["question_id"] for row in house.rows("select", "selection")}
    watched.fails = lambda text: False
    house.run("select")
    assert book(house, "select", "response")[3] == book(house, "select", "question")[3] == 0
    assert without <= {row["question_id"] for row in house.rows("select", "selection")}


def test_a_response_that_can_not_be_scored_is_left_out_by_that_rule(house, tiny):
    house.recipe["score"]["scorers"] = [tiny | {"max_tokens": 5}]
    house.recipe["select"] = {"perplexity": {"by_teacher": {"odd": 1e6}}}
    house.run("select")
    assert house.rules("select") == {"no_perplexity": 5}
    entry = house.ledger("select")[0]
    assert json.loads(entry["evidence"])["where"] == {"scorer": "own", "rule": "question_too_long"}
    assert entry["threshold"] == 1e6 and {row["teacher"] for row in house.rows("select", "selection")} == {"plain"}


def test_a_server_gives_the_numbers_of_the_model_in_this_process(real_house):
    with vllm_server() as server:
        served = {
            "name": "served",
            "engine": "vllm",
            "model": "smol",
            "tokenizer": smollm2.NAME,
            "base_url": server.url,
        }
        real_house.recipe["score"]["scorers"] = [REAL, served]
        real_house.run("score")
        asked = len(server.bodies)
        server.twist = lambda body, reply: web.Response(status=500)
        real_house.run("score", redo_from="score")
        assert len(server.bodies) == asked == 17
    assert book(real_house) == (24, 24, 0, 0)
    own, other = (
        {row["response_id"]: row for row in scores(real_house) if row["scorer"] == name} for name in ("own", "served")
    )
    for key, row in own.items():
        assert other[key]["perplexity"] == pytest.approx(row["perplexity"], rel=1e-4)
        assert [one["tokens"] for one in other[key]["sentences"]] == [one["tokens"] for one in row["sentences"]]


def test_the_whole_road_with_score_on(real_house):
    real_house.recipe["select"] = {"perplexity": {"of": "response", "max": 500}}
    real_house.run("export")
    chosen = real_house.rows("select", "selection")
    assert book(real_house, "select", "response")[1:] == (len(chosen), sum(real_house.rules("select").values()), 0)
    assert real_house.workspace.head("export", "all").books[0].units_in == len(chosen) == 12
    with open_views(Workspace.open(real_house.root)) as views:
        assert views.execute("select count(*), count(distinct scorer) from scores").fetchone() == (17, 1)
    assert real_house.run("export") == []
