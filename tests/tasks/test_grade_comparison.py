"""Proves the teacher comparison against a second, plain count, and that shards and threads change no bit of it."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import duckdb
import pyarrow as pa
import pytest

from storage.schemas import COMPARISON, RESPONSES, VERDICTS
from storage.workspace import ALL
from tasks.grade_comparison import Histograms
from tasks.grade_standards import Standards
from tests.tasks.test_grade import asked, outcome, tables

STANDARDS = Standards({("math", "a"): 70, ("math", "b"): 50}, 0.25, 0.75)


def response(identity, question, teacher, tokens=None, logprob=None, error=None):
    return {
        "response_id": identity, "question_id": question, "teacher": teacher, "completion_tokens": tokens,
        "mean_logprob": logprob, "error_kind": error,
    }  # fmt: skip


def verdict(identity, question, teacher, score, answer=None):
    return outcome(score, teacher=teacher, answer=answer, question=question) | {"response_id": identity}


def compare(questions, verdicts, responses, standards=STANDARDS, teachers=("a", "b")):
    connection = duckdb.connect()
    tables(connection, questions, [])
    for name, schema, rows in (("verdicts", VERDICTS, verdicts), ("responses", RESPONSES, responses)):
        fields = pa.schema([schema.field(key) for key in rows[0]])
        connection.register(name, pa.Table.from_pylist(rows, schema=fields))
    histograms = Histograms()
    histograms.add(connection)
    rows = pa.Table.from_pylist(histograms.rows(standards, teachers), schema=COMPARISON).to_pylist()
    return {row["teacher"]: row for row in rows}


@pytest.fixture
def found():
    """Four questions, three samples of two teachers."""
    draw = random.Random(5)
    verdicts, responses = [], []
    for question, teacher, sample in itertools.product("wxyz", "ab", range(3)):
        identity = f"{question}{teacher}{sample}"
        verdicts.append(verdict(identity, question, teacher, float(draw.random() < 0.6), draw.choice(["1", "2", None])))
        tokens = 10 * len(responses) if teacher == "a" else None
        responses.append(response(identity, question, teacher, tokens, -math.log(2.5) if teacher == "b" else None))
    responses.append(response("unplanned", "w", "a", 10**6))
    return verdicts, compare(asked(*"wxyz"), verdicts, responses)


def test_pass_rates_and_their_interval_are_over_questions(found):
    verdicts, compared = found
    for teacher, row in compared.items():
        rates = [
            statistics.mean(one["passed"] for one in verdicts if (one["teacher"], one["question_id"]) == (teacher, q))
            for q in "wxyz"
        ]
        half = 1.959963984540054 * statistics.stdev(rates) / 2
        assert (row["questions"], row["n"]) == (4, 12) and row["passes"] == round(sum(rates) * 3)
        assert row["pass_rate"] == pytest.approx(statistics.mean(rates)) and half > 0
        assert row["low"] == pytest.approx(max(0, row["pass_rate"] - half))
        assert row["high"] == pytest.approx(min(1, row["pass_rate"] + half))
    best = max(compared, key=lambda name: compared[name]["pass_rate"])
    assert [row["rank"] for row in compared.values()] == [1 if name == best else 2 for name in compared]
    assert [row["weight"] for row in compared.values()] == [0.7, 0.5]


def test_agreement_is_the_mean_share_of_equal_pairs(found):
    verdicts, compared = found
    for one, other in itertools.product("ab", repeat=2):
        shares = []
        for question in "wxyz":
            mine, yours = (
                [(n, row["answer"]) for n, row in enumerate(verdicts)
                 if (row["question_id"], row["teacher"]) == (question, name) and row["answer"]]
                for name in (one, other)
            )  # fmt: skip
            pairs = [left[1] == right[1] for left, right in itertools.product(mine, yours) if left[0] != right[0]]
            shares += [statistics.mean(pairs)] if pairs else []
        listed = {cell["other"]: cell for cell in compared[one]["agreement"]}[other]
        assert listed["questions"] == len(shares) > 0
        assert listed["equal"] == pytest.approx(statistics.mean(shares))
        assert listed["equal"] == {cell["other"]: cell for cell in compared[other]["agreement"]}[one]["equal"]


def test_lengths_and_perplexities_are_those_of_planned_responses(found):
    _, compared = found
    assert compared["a"]["tokens"]["p95"] < 10**6 and compared["a"]["tokens"]["p5"] == 0
    assert compared["a"]["perplexity"] is compared["b"]["tokens"] is None
    assert set(compared["b"]["perplexity"].values()) == {2.5}


def test_equal_rates_have_an_interval_all_the_same():
    rows = [verdict(f"{q}{n}", q, "a", 1.0) for q in "wxyz" for n in range(2)]
    found = compare(asked(*"wxyz"), rows, [response("w0", "w", "a")])
    assert found["a"]["high"] == 1.0 and 0.4 < found["a"]["low"] < 0.6
    nothing = found["b"]
    assert (nothing["n"], nothing["rank"], nothing["low"], nothing["tokens"]) == (0, None, None, None)
    assert [cell["equal"] for cell in nothing["agreement"]] == [None, None]


def test_the_number_of_shards_changes_no_bit(make_house, tmp_path):
    house = make_house(
        teachers=[
            {"name": name, "engine": "replay", "path": "sums.jsonl", "samples": 3, "columns": {"response": name}}
            for name in ("a", "b")
        ],
        grade={"bands": "quantile"},
        runner={"max_workers": 1},
    )
    house.write("sums.jsonl", [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1),
         "a": [f"\\boxed{{{n + 1 + (n * k) % 3}}}" for k in range(3)], "b": [f"\\boxed{{{n + k}}}" for k in range(3)]}
        for n in range(40)
    ])  # fmt: skip
    other = house.copy(tmp_path / "other", bits=3)
    house.run("grade")
    other.run("grade")
    one, two = (built.workspace.read("compare", ALL, "comparison") for built in (house, other))
    assert one.equals(two) and one.num_rows == 2
    weighed = [built.workspace.need("weigh", ALL) for built in (house, other)]
    assert weighed[0].extra == weighed[1].extra and weighed[0].content == weighed[1].content
    assert house.rows("grade", "grades") == other.rows("grade", "grades")
    assert house.run("grade") == []
