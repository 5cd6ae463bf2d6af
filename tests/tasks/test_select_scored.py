"""Proves that the best of n by reward and by perplexity is what the models themselves say, on whole runs: real tiny
models, the verify and score stages, selection and export. The numbers are computed a second time here, by hand.

Not covered: whether a reward or a perplexity chooses what trains better (docs/ablations.md says how to find out).
"""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tasks.export import export_folder
from tests.tasks.tiny_student import make_student
from tests.tasks.verifiers.test_reward import make_model

ANSWERS = ["gravity pulls them", "no", "because because because", "the earth", "why not"]


@pytest.fixture
def house(make_house, make_source):
    """Questions without a reference, five answers each, in another order for every question."""
    house = make_house(
        make_source("talk", "talk.jsonl", category="other"),
        bits=1,
        teachers=[{"name": "t", "engine": "replay", "path": "talk.jsonl", "samples": 5}],
        runner={"max_workers": 1},
        export={"validation": 0},
    )
    house.write(
        "talk.jsonl",
        [
            {"question": f"Why do {thing} fall?", "response": [*ANSWERS[place:], *ANSWERS[:place]]}
            for place, thing in enumerate(("apples", "stones", "leaves", "prices"))
        ],
    )
    return house


def exported(house):
    """(question, answer, rule) of each exported example."""
    rows = pq.read_table(export_folder(house.workspace) / "data").to_pylist()
    return {row["messages"][0]["content"]: (row["messages"][1]["content"], row["rule"]) for row in rows}


def asked(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_the_best_by_reward_is_the_reward_models_own_choice(house, tmp_path):
    model = make_model(tmp_path / "reward", ["reward"])
    house.recipe |= {
        "verify": {"reward": {"model": model, "threshold": 0.0}, "route": {"other": ["reward"]}},
        "select": {"max_per_question": 1, "best_by": "reward", "trace": None},
    }
    house.run("export")
    found = exported(house)
    tokenizer, net = AutoTokenizer.from_pretrained(model), AutoModelForSequenceClassification.from_pretrained(model)
    choices = set()
    for question, (answer, rule) in found.items():
        rewards = {}
        for one in ANSWERS:
            text = tokenizer.apply_chat_template(asked(question, one), tokenize=False)
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                rewards[one] = float(net.float()(ids).logits[0, 0])
        assert answer == max(rewards, key=lambda one: rewards[one]) and rule == "verified+reward"
        choices.add(answer)
    assert len(found) == 4
    scores = {
        row["response_id"]: row["verify_score"]
        for row in house.rows("verify.t", "verdicts")
        if row["verifier"] == "reward"
    }
    assert len(set(scores.values())) > 4 and house.rules("select") == {"over_max_per_question": 16}


def test_the_best_by_perplexity_is_the_one_that_the_scorer_finds_likeliest(house, tmp_path):
    model = str(make_student(tmp_path / "scorer"))
    house.recipe |= {
        "score": {"scorers": [{"name": "small", "engine": "transformers", "model": model, "device": "cpu"}]},
        "select": {"method": "all", "max_per_question": 1, "best_by": "perplexity"},
    }
    house.run("export")
    found = exported(house)
    tokenizer, net = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    for question, (answer, rule) in found.items():
        perplexities = {}
        for one in ANSWERS:
            prompt = tokenizer.apply_chat_template(asked(question, "")[:1], tokenize=False, add_generation_prompt=True)
            begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            ids = torch.tensor([tokenizer(prompt + one, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                logprobs = net(ids).logits.float().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[begin - 1 :, 0]
            perplexities[one] = math.exp(-float(logprobs.mean()))
        assert answer == min(perplexities, key=lambda one: perplexities[one]) and rule == "all+perplexity"
        assert any(math.isclose(one, perplexities[answer], rel_tol=1e-3) for one in scored(house))
    assert len(found) == 4 and len(scored(house)) == 20


def scored(house):
    """The perplexities that the score stage committed (volatile, so not among `house.rows`)."""
    tables = [house.workspace.read("score.t", shard, "scores", ["perplexity"]) for shard in house.workspace.shards]
    return [one for table in tables for one in table.column("perplexity").to_pylist()]
