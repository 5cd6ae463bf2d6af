"""Proves each check on a response's trace: what it counts, where it saw it, and what it must leave alone; that no pass
rate changes by it, and that select leaves out what is over a limit, with rule, value and place in the ledger."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from tasks.verifiers.bench import Subject
from tasks.verifiers.settings import TraceSettings
from tasks.verifiers.trace import TraceVerifier
from tasks.verifiers.trace_limits import CHECKS, TraceLimits, over_limits
from tasks.verifiers.trace_repeats import MAX_NGRAM, find_repeats, split_words
from tasks.verifiers.trace_scripts import find_foreign


def measured(answer="It is 4.", think="Two and two.", *, question="What is 2 + 2?", finish="stop", turns=None, said=()):
    messages = [*said, {"role": "user", "content": question}]
    response = {"think_content": think, "answer_content": answer, "finish_reason": finish, "turns": turns}
    return TraceVerifier(TraceSettings()).judge([Subject("r", {"messages": messages}, response)])[0]


def value(check, *arguments, **more):
    return measured(*arguments, **more).evidence["checks"][check]["value"]


def words(number, seed=0):
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(10**6)}" for _ in range(number))


# ---------------------------------------------------------------------------------------------------- format


def test_a_whole_response_passes_every_check():
    found = measured()
    assert (found.status, found.score, found.passed, found.answer) == ("accepted", 1.0, True, None)
    assert {name: check["value"] for name, check in found.evidence["checks"].items()} == dict.fromkeys(CHECKS, 0)


@pytest.mark.parametrize(("finish", "expected"), [("length", 1), ("max_tokens", 1), ("stop", 0), (None, 0)])
def test_truncated_is_what_the_engine_says(finish, expected):
    found = measured(finish=finish)
    assert found.evidence["checks"]["truncated"]["value"] == expected
    assert found.status == ("wrong_format" if expected else "accepted")


def test_the_parts_of_a_response():
    assert value("empty_answer", " \n") == value("empty_answer", None) == 1
    assert value("no_think", think=None) == value("no_think", think=" ") == 1
    assert measured(think=None).status == "accepted"  # not every teacher thinks
    assert measured("").evidence["wrong"] == ["empty_answer"]


def test_turns_are_even_with_the_response_counted():
    system, asked = {"role": "system", "content": "s"}, {"role": "user", "content": "q"}
    reply = {"role": "assistant", "content": "a"}
    assert value("odd_turns", said=[system]) == 0
    assert value("odd_turns", said=[system, asked, reply]) == 0
    assert value("odd_turns", said=[asked]) == 3  # two questions in a row


def test_calls_of_tools_belong_to_the_turn_that_makes_them():
    call = {"role": "assistant", "content": "", "tool_calls": "[{}]"}
    result = {"role": "tool", "content": "4", "tool_calls": None}
    reply = {"role": "assistant", "content": "4", "tool_calls": None}
    assert value("odd_turns", turns=[call, result, reply]) == 0
    assert value("odd_turns", turns=[call, result, reply, reply | {"role": "user"}]) == 3


@pytest.mark.parametrize(
    "mark",
    ["<|im_end|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "[INST]", "[/INST]", "<<SYS>>", "</s>", "<end_of_turn>",
     "<eos>", "[gMASK]"],
)  # fmt: skip
def test_left_over_marks_are_found_with_their_place(mark):
    check = measured(f"It is 4.{mark}").evidence["checks"]["template_marks"]
    assert check == {"value": 1, "where": [{"part": "answer", "at": 8, "text": mark}]}
    assert value("template_marks", think=f"so {mark}{mark}") == 2
    assert value("template_marks", f"It is {mark}", question=f"What does {mark} mean?") == 0


@pytest.mark.parametrize("text", ["a <| b |> c", "x < y | z", "<s>struck</s"[:10], "List<T>", "a[INT]", "1 <|> 2"])
def test_operators_and_tags_of_programs_are_no_marks(text):
    assert value("template_marks", text) == 0


def test_think_tags_are_wrong_in_the_answer_only():
    assert value("think_tags", "so</think> It is <think>4") == 2
    assert value("think_tags", think="a <think> b") == 0
    assert value("think_tags", "put it in <think>", question="What is <think> for?") == 0


# ------------------------------------------------------------------------------------------------ repetition


def naive(think, answer, ngram):
    """Most frequent run, and share of words in runs that occurred before, counted run by run."""
    every = split_words(think) + split_words(answer)
    runs = [tuple(every[start : start + ngram]) for start in range(len(every) - ngram + 1)]
    seen, covered = {}, np.zeros(len(every), bool)
    for start, run in enumerate(runs):
        if run in seen:
            covered[start : start + ngram] = True
        seen[run] = seen.get(run, 0) + 1
    return max(seen.values(), default=0), covered.mean() if every else 0.0


@pytest.mark.parametrize("seed", range(40))
def test_runs_are_counted_as_a_dictionary_counts_them(seed):
    draw = random.Random(seed)
    letters = draw.choice(["ab", "abcde", "abcdefghijklmnopqrstuvwxyz"])
    think, answer = (" ".join(draw.choices(letters, k=draw.randrange(300))) for _ in range(2))
    if draw.random() < 0.5:
        think += " " + " ".join([think] * 3)
    ngram = draw.choice([2, 3, 5, 20, MAX_NGRAM])
    found = find_repeats(think, answer, ngram)
    most, share = naive(think, answer, ngram)
    assert (found.most, found.share) == (most, pytest.approx(share))
    assert found.most_text or most <= 1


def test_the_paper_s_rule_takes_more_than_twenty_occurrences():
    """DeepDistill drops 20-token strings that occur more than 20 times."""
    run = words(20)

    def trace(times):
        return "\n".join(f"{run} {words(5, seed)}" for seed in range(times))

    limits = TraceLimits(loop=None)
    for times, over in ((20, []), (21, ["repeated_run"])):
        evidence = measured(think=trace(times)).evidence
        assert evidence["checks"]["repeated_run"] == {"value": times, "where": run}
        assert [one.rule for one in over_limits(evidence, limits, "t")] == over


def test_an_answer_that_quotes_its_thinking_is_repeated_but_no_loop():
    code = words(200)
    found = measured(f"Here: {code}", think=f"Let me write {code}")
    assert found.evidence["checks"]["repeated_run"]["value"] == 2
    assert 0.45 < found.evidence["checks"]["repeated_share"]["value"] < 0.5
    assert over_limits(found.evidence, TraceLimits(), "t") == []
    assert [one.rule for one in over_limits(found.evidence, TraceLimits(repeated_share=0.4), "t")] == ["repeated_share"]


@pytest.mark.parametrize(("period", "passes"), [(1, 150), (4, 40), (50, 4), (400, 3)])
def test_a_loop_at_the_end_is_found_with_its_period(period, passes):
    cycle = words(period, 1)
    for text in (f"{words(500)} {' '.join([cycle] * passes)}", f"{words(500)} {' '.join([cycle] * passes)} cut"):
        check = measured("", think=text).evidence["checks"]["loop"]
        assert check["value"] == period * (passes - 1)
        assert check["where"]["period"] == period and check["where"]["text"][:150] == cycle[:150]


def test_the_longest_loop_is_told_where_it_holds_a_shorter_one():
    cycle = words(300) + " wait" * 30
    check = measured("", think=" ".join([cycle] * 5)).evidence["checks"]["loop"]
    assert (check["value"], check["where"]["period"]) == (4 * 330, 330)


def test_thinking_that_loops_and_then_answers_is_a_loop_too():
    assert value("loop", "It is 4.", think=words(100) + " Wait, no." * 100) == 198
    assert value("loop", "It is 4." + " 4." * 200) == 200


@pytest.mark.parametrize(
    "text",
    [words(3000), words(100) * 2, "wait, wait, wait", " ".join(str(n) for n in range(3000)), "", "a",
     "\n".join(f"| {n} | {n * n} |" for n in range(500))],
)  # fmt: skip
def test_no_loop_where_nothing_comes_three_times(text):
    assert value("loop", text) == 0


@pytest.mark.parametrize("text", ["ha" * 2000, "。" * 900, "我们再想一想" * 60, "0" * 5000, "เอ" * 500])
def test_loops_without_blanks_are_seen(text):
    evidence = measured(text).evidence
    assert {one.rule for one in over_limits(evidence, TraceLimits(), "t")} >= {"loop"}


def test_a_text_that_is_one_long_word_is_no_loop():
    draw = random.Random(3)
    assert value("loop", "".join(draw.choices("abcdefghij", k=50_000))) == 0


# --------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("question", "answer", "scripts"),
    [
        ("What is 2 + 2?", "It is 4, 因为 two and two.", {"CJK": 2}),
        ("What is 2 + 2?", "Ответ: four", {"CYRILLIC": 5}),
        ("二加二是多少?", "答案是四。 The answer is four", {"LATIN": 15}),
        ("2 + 2 は何ですか", "答えは四です。カナ", {}),
        ("What is the angle?", "α + β = 𝛾, so 𝐱 ∈ ℝ and ｆｕｌｌ width, naïve façade", {}),
        ("二加二是多少?", "由 $x + y$ 得 \\frac{1}{2} 即 `print(x)` 。\n```python\nprint(4)\n```", {}),
        ("设函数 f(x) 满足 abc def", "we have f(x)", {}),  # Latin is the question's own as well
        ("2 + 2 = ?", "anything, 什么", {}),
    ],
)
def test_letters_of_scripts_that_the_question_lacks(question, answer, scripts):
    assert find_foreign(question, "", answer).scripts == scripts


def test_foreign_letters_are_told_with_share_and_place():
    check = measured("It is 四四", think="ab", question="Why?").evidence["checks"]["foreign_script"]
    assert check["value"] == pytest.approx(2 / 8) and check["where"]["scripts"] == {"CJK": 2}
    assert "四四" in check["where"]["text"]


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "text",
    ["\x00" * 1000, "\ud800 lone", "a" * 10**6, "\u202e" * 500, "<|" * 20_000, "[" * 20_000, "🙂" * 5000, "\n" * 10**5,
     "`" * 20_000, "$" * 20_001, "<think" * 5000, "\U000e0001" * 300],
)  # fmt: skip
@pytest.mark.parametrize("question", ["Why?", "为什么?"])
def test_whatever_a_model_wrote_there_is_a_judgement(text, question):
    found = measured(text, text, question=question)
    assert set(found.evidence["checks"]) == set(CHECKS)
    json.dumps(found.evidence)


# --------------------------------------------------------------------------------------------------- limits


def test_every_limit_can_be_switched_off_and_the_first_over_it_is_the_rule():
    evidence = measured("", think="loop " * 200, finish="length").evidence
    assert [one.rule for one in over_limits(evidence, TraceLimits(), "t")] == ["truncated", "repeated_run", "loop"]
    off = TraceLimits(truncated=False, repeated_run=None, loop=None)
    assert over_limits(evidence, off, "t") == []
    strict = TraceLimits(empty_answer=True, loop=None)
    assert [one.rule for one in over_limits(evidence, strict, "t")] == ["truncated", "empty_answer", "repeated_run"]


def test_a_missing_thinking_part_counts_for_thinking_teachers():
    evidence = measured(think=None).evidence
    limits = TraceLimits(thinking=("r1",))
    assert [one.rule for one in over_limits(evidence, limits, "r1")] == ["no_think"]
    assert over_limits(evidence, limits, "plain") == []


# ------------------------------------------------------------------------------------------------ on the road

CLEAN, LOOPING = "It is \\boxed{5}.", "Wait. " * 200 + "It is \\boxed{5}."


@pytest.fixture
def house(make_house):
    """Two sums: the first has a whole right answer and a looping one, the second only looping ones."""
    house = make_house(
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 2}],
        runner={"max_workers": 1},
    )
    house.write("sums.jsonl", [{"question": ask, "ground_truth": "5"} for ask in ("What is 4 + 1?", "What is 3 + 2?")])
    house.write("answers.jsonl", [
        {"question": "What is 4 + 1?", "response": [CLEAN, LOOPING]},
        {"question": "What is 3 + 2?", "response": [LOOPING, LOOPING]},
    ])  # fmt: skip
    return house


def traces(house):
    return [row for row in house.rows("verify.t", "verdicts") if row["verifier"] == "trace"]


def test_every_response_has_one_row_that_changes_no_pass_rate(house):
    house.run("grade")
    assert len(traces(house)) == 4
    assert {row["pass_rate"] for row in house.rows("grade", "grades")} == {1.0}
    assert sum(row["verifier"] == "outcome" for row in house.rows("verify.t", "verdicts")) == 4


def test_select_leaves_out_what_is_over_a_limit_and_says_why(house):
    house.run("select")
    assert house.rules("select") == {"repeated_run": 3, "no_whole_trace": 1}
    assert len(house.rows("select", "selection")) == 1
    entry = next(row for row in house.ledger("select") if row["unit"] == "response")
    evidence = json.loads(entry["evidence"])
    assert (entry["value"], entry["threshold"]) == (181, 20)
    assert evidence["where"].startswith("Wait. Wait.") and evidence["also"] == []


def test_a_limit_that_moves_redoes_select_alone_and_null_switches_it_off(house):
    house.run("select")
    house.recipe["select"] = {"trace": {"repeated_run": 500}}
    assert [one.step for one in house.run("select")] == ["select"]
    assert len(house.rows("select", "selection")) == 4 and house.rules("select") == {}
    house.recipe["select"] = {"trace": None}
    house.run("select")
    assert len(house.rows("select", "selection")) == 4


def test_a_trace_is_measured_again_only_where_text_or_settings_changed(house, monkeypatch):
    house.run("verify")
    measured_ids = []
    judge = TraceVerifier.judge

    def spy(self, subjects):
        measured_ids.extend(subject.response_id for subject in subjects)
        return judge(self, subjects)

    monkeypatch.setattr(TraceVerifier, "judge", spy)
    house.run("verify", redo_from="verify")
    assert measured_ids == []
    house.write("answers.jsonl", [
        {"question": "What is 4 + 1?", "response": [CLEAN, CLEAN + " Yes."]},
        {"question": "What is 3 + 2?", "response": [LOOPING, LOOPING]},
    ])  # fmt: skip
    house.run("verify")
    assert len(measured_ids) == 1
    house.recipe["verify"] = {"trace": {"ngram": 10}}
    house.run("verify")
    assert len(measured_ids) == 5 and all(json.loads(row["evidence"])["ngram"] == 10 for row in traces(house))
