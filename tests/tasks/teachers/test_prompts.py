"""Proves what is sent for a question under each kind of prompt, and that responses say which prompt they came from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from flows.errors import RecipeError
from flows.recipe import check_recipe
from storage.database import open_views
from tasks.plan import planned
from tasks.teachers import smollm2
from tasks.teachers.chat import chat_body
from tasks.teachers.local import TransformersTeacher
from tasks.teachers.prompts import CHAIN_OF_THOUGHT, Prompt, render
from tasks.teachers.settings import OpenAITeacherSettings
from tasks.teachers.teacher import Request

ASKED = [{"role": "user", "content": "2 + 2?"}]
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    *ASKED,
]
SHOTS = [{"question": "1 + 1?", "answer": "2"}, {"question": "1 + 2?", "answer": "3"}]
DOCS = Path(__file__).parents[3] / "docs"


def said(messages, **prompt):
    return [(one["role"], one["content"]) for one in render(messages, Prompt.model_validate(prompt))]


def teacher(**more):
    return OpenAITeacherSettings.model_validate(
        {"name": "t", "engine": "openai", "model": "m", "base_url": "http://localhost:1/v1"} | more
    )


def test_the_bare_question_is_sent_as_it_is():
    assert render(TALK, Prompt()) == tuple(TALK)


def test_a_template_goes_around_the_last_message_and_a_system_message_takes_the_place_of_the_questions():
    found = said(TALK, system="Be terse.", user="Q: {question}")
    assert found == [("system", "Be terse."), ("user", "Hi."), ("assistant", "Hello."), ("user", "Q: 2 + 2?")]


def test_examples_as_turns_come_after_the_system_message_under_the_same_template():
    found = said(TALK, user="Q: {question}", examples=SHOTS)
    assert found == [
        ("system", "Be kind."), ("user", "Q: 1 + 1?"), ("assistant", "2"), ("user", "Q: 1 + 2?"), ("assistant", "3"),
        ("user", "Hi."), ("assistant", "Hello."), ("user", "Q: 2 + 2?"),
    ]  # fmt: skip


def test_examples_as_text_end_where_a_base_model_goes_on():
    text = "Be kind.\n\nQuestion: 1 + 1?\nAnswer: 2\n\nQuestion: 1 + 2?\nAnswer: 3\n\nQuestion: Hi.\nAnswer: Hello.\n\n"
    assert said(TALK, examples=SHOTS, examples_as="text") == [("user", f"{text}Question: 2 + 2?\nAnswer:")]
    assert said(ASKED, examples_as="text", shot="{question} = {answer}") == [("user", "2 + 2? =")]


def test_an_example_that_is_the_question_is_left_out():
    shots = [*SHOTS, {"question": " 2 + 2?\n", "answer": "4"}]
    for how in ("turns", "text"):
        assert said(ASKED, examples=shots, examples_as=how) == said(ASKED, examples=SHOTS, examples_as=how)


def test_marks_within_a_question_are_not_filled():
    asked = [{"role": "user", "content": "What does {answer} or {question} mean in {x}?"}]
    text = said(asked, examples=SHOTS[:1], examples_as="text")[0][1]
    assert text.endswith("Question: What does {answer} or {question} mean in {x}?\nAnswer:")


def test_ready_made_prompts_are_named_and_kept_in_words():
    for name in CHAIN_OF_THOUGHT:
        prompt = Prompt.model_validate(name)
        assert (prompt.name, prompt.user) == (name, CHAIN_OF_THOUGHT[name])
        assert said(ASKED, **prompt.as_json())[0][1].startswith("2 + 2?\n\n")


def recipe(**prompts):
    return {
        "name": "t",
        "sources": [{"name": "s", "kind": "file", "path": "s.jsonl"}],
        "teachers": [{"name": "t", "engine": "replay", "path": "a.jsonl", "prompts": prompts}],
    }


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        ({"maths": "math_boxed"}, "no category maths; there are math, code"),
        ({"math": "boxed"}, r"no ready-made prompt 'boxed'; there are math_boxed"),
        ({"math": ["math_boxed", {"user": "{question}"}]}, "prompts.math: several prompts need a `name` each"),
        ({"math": ["math_boxed", "math_boxed"]}, "prompts.math: several prompts need a `name` each"),
        ({"math": []}, "prompts.math: no prompt in the list"),
        ({"math": {"user": "no slot"}}, r"prompts.math.*must hold \{question\}"),
        ({"math": {"shot": "{answer} {question}"}}, r"prompts.math.*end with \{answer\}"),
        ({"math": {"examples": "none.jsonl"}}, r"prompts.math.*none.jsonl can't be read"),
        ({"math": {"usr": "{question}"}}, "prompts.math.usr: unknown key; did you mean user"),
        ({"math": {"examples": [{"question": "x"}]}}, "prompts.math.examples.0.answer: missing"),
    ],
)
def test_a_wrong_prompt_is_answered_with_its_path_and_what_is_allowed(tmp_path, prompts, complaint):
    with pytest.raises(RecipeError, match=complaint):
        check_recipe(recipe(**prompts), tmp_path)


def test_a_file_of_examples_is_kept_with_the_recipe(tmp_path):
    path = tmp_path / "shots.jsonl"
    path.write_text("".join(json.dumps(shot) + "\n" for shot in SHOTS))
    loaded = check_recipe(recipe(math={"examples": "shots.jsonl"}), tmp_path)
    path.unlink()
    kept = check_recipe(yaml.safe_load(loaded.as_yaml()), tmp_path)
    assert kept.recipe == loaded.recipe
    assert [one.answer for one in kept.recipe.teachers[0].prompts["math"][0].examples] == ["2", "3"]


def plan(**more):
    question = {"question_id": "q", "messages": ASKED, "category": "math"}
    return [one.request for one in planned([question], teacher(**more), "r")]


SEVERAL = ["math_boxed", {"name": "plain"}]


def test_samples_spread_over_several_prompts_and_more_samples_change_no_earlier_request():
    four, five = (plan(samples=count, prompts={"math": SEVERAL}) for count in (4, 5))
    assert [one.sampling["prompt"] for one in five] == ["math_boxed", "plain", "math_boxed", "plain", "math_boxed"]
    assert [one.messages[0]["content"] == "2 + 2?" for one in five] == [False, True, False, True, False]
    assert four == five[:4]
    assert len({one.response_id for one in five}) == 5


def test_a_template_is_part_of_the_request_and_its_name_is_not():
    bare = [one.response_id for one in plan()]
    assert [one.response_id for one in plan(prompts={"math": {"name": "bare"}})] == bare
    assert [one.response_id for one in plan(prompts={"math": SEVERAL})][1::2] == bare[1::2]
    others = plan(prompts={"math": {"examples": SHOTS}})
    assert not {one.response_id for one in others} & set(bare)


def test_the_name_of_a_prompt_is_sent_to_no_server():
    request = plan(prompts={"math": SEVERAL}, sampling={"temperature": 0.5})[0]
    body = json.loads(chat_body("m", request, {}, None, stream=False))
    assert request.sampling["prompt"] and "prompt" not in body and body["temperature"] == 0.5


def test_pass_rates_by_prompt_are_one_query(make_house):
    """The query of docs/prompts.md: of four samples the odd ones, of `plain`, are wrong."""
    house = make_house(
        teachers=[{"name": "t", "engine": "replay", "path": "a.jsonl", "samples": 4, "prompts": {"math": SEVERAL}}]
    )
    house.write("sums.jsonl", [{"question": "2 + 2?", "ground_truth": "4"}, {"question": "3?", "ground_truth": "3"}])
    house.write("a.jsonl", [
        {"question": "2 + 2?", "response": [f"\\boxed{{{n}}}" for n in (4, 5, 4, 4)], "completion_tokens": 5},
        {"question": "3?", "response": [f"\\boxed{{{n}}}" for n in (3, 4)], "completion_tokens": 5},
    ])  # fmt: skip
    house.run("verify")
    query = (DOCS / "prompts.md").read_text().split("```sql\n")[1].split("```")[0]
    rows = open_views(house.workspace).execute(query).fetchall()
    assert rows == [("t", "math", "math_boxed", 3, 1.0, 1.0, 5.0), ("t", "math", "plain", 3, 1 / 3, 1 / 3, 5.0)]
    kept = Counter(json.loads(row["sampling"])["prompt"] for row in house.rows("generate.t", "responses"))
    assert kept == {"math_boxed": 4, "plain": 4}


def test_a_model_without_a_chat_template_goes_on_from_the_text(smollm2_cache, tmp_path):
    for file in smollm2.model_path().iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    with TransformersTeacher(str(tmp_path), dtype="float32") as engine:
        messages = render([{"role": "user", "content": "5"}], Prompt.model_validate({
            "examples": [{"question": str(n), "answer": f"The number is {n}."} for n in (1, 2, 3)],
            "examples_as": "text"}))  # fmt: skip
        sampling = {"temperature": 0.0, "max_tokens": 12, "stop": ["\nQuestion:"], "prompt": "shots"}
        reply = next(engine.generate([Request("r", "q", 0, messages, sampling, None)]))
        assert reply.error is None and str(reply.answer_content).startswith("The number is 5.")
        two = (*messages, {"role": "assistant", "content": "x"}, *messages)
        refused = next(engine.generate([Request("r", "q", 0, two, sampling, None)]))
    assert refused.error_kind == "refused" and "chat_template" in str(refused.error)
