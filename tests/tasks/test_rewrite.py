"""Proves that a rewritten question keeps its id and reaches the teachers in new words, that failures wait, that nothing
is paid for twice, and that a text that lost a number is not used. Not covered: how good a model's rewritings are.
"""

from __future__ import annotations

import json

import pytest

from flows.errors import RecipeError
from flows.recipe import check_recipe
from storage.database import open_views
from tasks import asked
from tasks.plan import planned
from tasks.question import question_id
from tasks.teachers.settings import ReplayTeacherSettings
from tasks.teachers.teacher import Reply, failed

QUESTIONS = {"Add 2 and 3.": "What is the sum of 2 and 3?", "Add 4 and 5.": "What is 4 plus five?", "Who?": None}
ANSWERER = {"name": "t", "engine": "replay", "path": "a.jsonl", "samples": 1}
REWRITER = {"name": "w", "engine": "openai", "model": "m", "base_url": "http://localhost:1/v1"}


class Rewriter:
    """Answers from QUESTIONS, an empty text where that has none; `fate`: question → transient | refused | length."""

    def __init__(self, fate, asked):
        self.fate, self.asked = fate, asked

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def generate(self, requests):
        for one in requests:
            question = next(text for text in QUESTIONS if text in one.messages[-1]["content"])
            self.asked.append(question)
            fate = self.fate.get(question)
            if fate in ("transient", "refused"):
                yield failed(one, "no luck", fate)
            elif fate != "silent":
                yield Reply(one.response_id, None, QUESTIONS[question] or " ", fate or "stop", 1, 1, None, 0.1)


@pytest.fixture
def house(make_house, monkeypatch):
    house = make_house(teachers=[ANSWERER], bits=1)
    house.recipe["curate"] = house.recipe["curate"] | {"rewrite": {"teacher": REWRITER}}
    house.write("sums.jsonl", [{"question": text, "ground_truth": "5", "metadata": {}} for text in QUESTIONS])
    house.write("a.jsonl", [{"question": text, "response": "\\boxed{5}"} for text in QUESTIONS])
    house.asked, house.fate = [], {}
    monkeypatch.setattr(asked, "open_teacher", lambda *_: Rewriter(house.fate, house.asked))
    return house


def identity(text):
    return question_id([{"role": "user", "content": text}])


def curated(house):
    return {row["question_id"]: row for row in house.rows("curate", "curated")}


def statuses(house):
    return {row["question_id"]: row["status"] for row in house.rows("rewrite", "rewrites")}


def test_a_question_keeps_its_id_and_is_asked_in_new_words(house):
    house.run("verify")
    sums, lost, none = (curated(house)[identity(text)] for text in QUESTIONS)
    assert sums["messages"] == [{"role": "user", "content": "What is the sum of 2 and 3?"}]
    assert json.loads(sums["metadata"])["original_question"] == "Add 2 and 3."
    assert [one["messages"][0]["content"] for one in (lost, none)] == ["Add 4 and 5.", "Who?"]
    assert "original_question" not in json.loads(lost["metadata"])
    assert list(map(statuses(house).get, map(identity, QUESTIONS))) == ["rewritten", "numbers_lost", "unusable"]
    rows = {row["question_id"]: row for row in house.rows("generate.t", "responses")}
    teacher = ReplayTeacherSettings.model_validate(ANSWERER)
    for row in curated(house).values():  # the new words are in the request, so in the response's id
        wanted = next(planned([row], teacher, "replay")).request
        found = rows[row["question_id"]]
        assert (found["response_id"], found["error_kind"]) == (wanted.response_id, None)
    assert open_views(house.workspace).execute("select count(*) from verdicts where passed").fetchone() != (0,)


@pytest.mark.parametrize("fate", ["transient", "silent"])
def test_a_question_whose_rewriting_failed_waits_and_is_asked_again(house, fate):
    house.fate["Add 2 and 3."] = fate
    house.run("generate")
    assert identity("Add 2 and 3.") not in curated(house) and len(curated(house)) == 2
    heads = [house.workspace.head(step, shard) for step in ("rewrite", "curate") for shard in house.workspace.shards]
    assert sum(head.pending for head in heads) == 2
    house.fate.clear()
    house.asked.clear()
    house.run("generate")
    assert house.asked == ["Add 2 and 3."] and len(curated(house)) == 3
    assert house.run("generate") == []


@pytest.mark.parametrize(("fate", "status"), [("refused", "refused"), ("length", "unusable")])
def test_a_refusal_or_a_text_that_was_cut_off_leaves_the_question_as_it_was(house, fate, status):
    house.fate["Add 2 and 3."] = fate
    house.run("curate")
    row = curated(house)[identity("Add 2 and 3.")]
    assert row["messages"][0]["content"] == "Add 2 and 3." and statuses(house)[row["question_id"]] == status


def test_what_was_answered_is_not_asked_again_and_another_prompt_is_another_request(house):
    house.run("curate")
    assert sorted(house.asked) == sorted(QUESTIONS)
    house.write("sums.jsonl", [{"question": text} for text in list(QUESTIONS)[:2]])
    house.recipe["curate"]["rewrite"]["keep_numbers"] = False  # judged anew, not asked
    house.run("curate")
    assert len(house.asked) == 3
    assert {row["messages"][0]["content"] for row in curated(house).values()} == {
        "What is the sum of 2 and 3?", "What is 4 plus five?"}  # fmt: skip
    house.recipe["curate"]["rewrite"]["prompt"] = {"user": "Ask for steps: {question}"}
    house.run("curate")
    assert len(house.asked) == 5


def test_held_out_questions_and_other_categories_keep_their_words(house):
    house.recipe["curate"] |= {"heldout": 0.999999}
    house.run("curate")
    assert house.asked == [] and {row["split"] for row in curated(house).values()} == {"heldout"}
    house.recipe["curate"] |= {"heldout": 0.0}
    house.recipe["curate"]["rewrite"]["categories"] = ["code"]
    house.run("curate")
    assert house.asked == []


def test_a_replayed_rewriting_is_read_again_when_its_file_changes(house, monkeypatch):
    from tasks.generate import open_teacher

    monkeypatch.setattr(asked, "open_teacher", open_teacher)
    house.recipe["curate"]["rewrite"]["teacher"] = {"name": "w", "engine": "replay", "path": "w.jsonl"}
    for text in ("2 and 3: their sum?", "The sum of 2 and 3?"):
        house.write("w.jsonl", [{"question": "Add 2 and 3.", "response": text}])
        house.run("curate")
        assert curated(house)[identity("Add 2 and 3.")]["messages"][0]["content"] == text
    assert statuses(house)[identity("Who?")] == "refused"  # no rewriting in the file


@pytest.mark.parametrize("part", ["labels", "rewrite"])
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"until": "verified"}, "asked once about each question: leave `until` out, found verified"),
        ({"budget": {"requests": 5}}, "a budget counts what teachers cost"),
    ],
)
def test_what_only_teachers_follow_is_refused(house, part, more, expected):
    """A setting that would be passed over in silence; labellers and rewriters alike."""
    house.recipe["curate"] = {part: {"teacher": REWRITER | more}}
    with pytest.raises(RecipeError, match=expected):
        check_recipe(house.recipe, house.base)
