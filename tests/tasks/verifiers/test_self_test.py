"""Proves the self-test with real verifiers: right answers pass, mutated ones fail, misfits of recipe and questions
show; and that mutations are wrong for certain, or not made."""

from __future__ import annotations

import json
import random
import re
from contextlib import contextmanager

import pytest
from aiohttp import web

from tasks.question import to_question
from tasks.verifiers.bench import Bench
from tasks.verifiers.self_test import Rates, faults, make_answers, run_self_test
from tasks.verifiers.self_test_answers import (
    Answer,
    change_digit,
    change_operand,
    change_sign,
    math_answers,
    surely_differ,
    text_answers,
    written,
)
from tasks.verifiers.self_test_code import code_answers
from tasks.verifiers.self_test_instructions import broken_text, kept_text
from tasks.verifiers.settings import JudgeSettings, MathSettings, SelfTestSettings, VerifySettings
from tasks.verifiers.verdict import Judgement, unscored
from tests.tasks.verifiers import loopback

DEFAULT = VerifySettings()


def question(text="Q?", category="math", **more):
    return to_question({"question": text, **more}, {}, {"question_source": "s", "category": category}, ("code",), 10**6)


def rates_of(questions, settings=DEFAULT):
    with Bench(settings, 2) as bench:
        return {(one.category, one.verifier): one for one in run_self_test(questions, settings, bench)}


def wrong_texts(answers):
    return {answer.kind: answer.text for answer in answers if not answer.right}


# ------------------------------------------------------------------------------------------------------ math


@pytest.mark.parametrize(
    "text", ["x^2", "x^{12}", "a_1", "5!", r"\sqrt[3]{x}", "x", r"\frac{0}{5}", r"0 \cdot 3", "0x"]
)
def test_a_digit_that_may_not_matter_is_left_alone(text):
    assert change_digit(text, random.Random(0)) is None


@pytest.mark.parametrize("text", ["18", "0", "1,000", r"\frac{1}{2}", "0.50", r"x^2+3", "(2, -1)", "10:30", "1/2004!"])
def test_one_digit_changes(text):
    for seed in range(20):
        changed = change_digit(text, random.Random(seed))
        assert len(changed) == len(text) and sum(a != b for a, b in zip(text, changed, strict=True)) == 1
        assert not text.endswith("!") or changed.endswith("2004!")


@pytest.mark.parametrize(
    ("text", "other"),
    [("5", "-5"), ("-5", "5"), (r"\frac{1}{2}", r"-\frac{1}{2}"), (r"3\sqrt{2}", r"-3\sqrt{2}"), ("0", None),
     ("0.0", None), ("x", None), (r"\pm 2", None), ("(1, 2)", None), ("1 + x", None), (r"\pi", r"-\pi")],
)  # fmt: skip
def test_the_other_sign(text, other):
    assert change_sign(text) == other


@pytest.mark.parametrize(
    ("text", "other"),
    [("x+1", "x-1"), ("2 - 3i", "2 + 3i"), (r"\frac{1}{2}-x", r"\frac{1}{2}+x"), ("(1, -2)", None), ("10^{-3}", None),
     ("x + 0", None), ("well-known", None), (r"2 \pm 3", None), (r"\text{a-b}", None), ("-5", None)],
)  # fmt: skip
def test_the_other_operand(text, other):
    assert change_operand(text, random.Random(0)) == other


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [("5", "6", True), ("0.5", r"\frac{1}{2}", False), ("1/2", r"\frac{2}{4}", False), ("1,000", "1000", False),
     ("Monday", r"\text{Tuesday}", True), ("A", "(A)", False), ("A", "B", True), ("five", "5", False),
     ("x+y", "y+x", False), ("-3", "3", True), ("", "5", False), ("1/0", "5", False)],
)  # fmt: skip
def test_answers_of_other_questions_are_used_where_they_differ_for_certain(one, other, differ):
    assert surely_differ(one, other) is surely_differ(other, one) is differ


def test_answers_stand_where_the_recipe_reads_them():
    for rule, text in (("boxed", r"\boxed{7}"), ("marker:####", "#### 7"), ("last_expression", "7")):
        settings = MathSettings(answer_from=(rule,), reference_from=("marker:####",))
        answers = math_answers("So it is.\n#### 7", ["#### 8", "#### 7"], settings, random.Random(0))
        assert answers[0].right and text in answers[0].text
        assert wrong_texts(answers)["another question's answer"] == written("8", rule)
    assert math_answers(" ", [], MathSettings(), random.Random(0)) == []


def test_the_math_rule_passes_its_self_test_on_real_references(shared):
    """The MATH test set: gold solutions against themselves, and mutated."""
    lines = (shared / "math_test.json").read_text().splitlines()[:250]
    rows = [json.loads(line) for line in lines]
    rates = rates_of([question(row["problem"], ground_truth=row["solution"]) for row in rows])["math", "outcome"]
    assert rates.golds >= 249 and rates.mutants > 2.5 * rates.golds
    assert rates.false_rejects == [] and rates.false_accepts == []


def test_a_reference_that_the_recipe_reads_wrongly_shows(shared):
    """GSM8K's `A: 18` is found by a marker only; without one the whole solution is taken for the reference."""
    rows = [json.loads(line) for line in (shared / "gsm8k_model_solutions.jsonl").read_text().splitlines()[:60]]
    questions = [question(row["question"], ground_truth=row["ground_truth"]) for row in rows]
    boxed = VerifySettings(math=MathSettings(answer_from=("boxed",)))
    assert rates_of(questions, boxed)["math", "math"].false_accepts
    marked = VerifySettings(math=MathSettings(answer_from=("marker:A:",)))
    rates = rates_of(questions, marked)["math", "math"]
    assert (rates.golds, rates.false_rejects, rates.false_accepts) == (60, [], [])


# ------------------------------------------------------------------------------------------------------ code

CALLS = [{"kind": "call", "input": "[2]", "output": "4"}, {"kind": "call", "input": "[3]", "output": "9"}]
LINES = [{"kind": "stdin", "input": "2\n", "output": "4\n"}, {"kind": "stdin", "input": "3\n", "output": "9\n"}]
ASSERTS = [{"kind": "assert", "code": f"assert square({n}) == {n * n}"} for n in (2, 3)]
SQUARE = "def square(n):\n    return n * n\n"
READ = "print(int(input()) ** 2)\n"


def test_code_verifiers_pass_in_the_real_sandbox():
    rates = rates_of([
        question("square", "code", test_cases=CALLS, entry_point="square", code=SQUARE),
        question("squares", "code", test_cases=LINES, code=READ),
        question("asserted", "code", test_cases=ASSERTS, code=[SQUARE]),
        question(SQUARE.replace("    return n * n\n", '    """The square."""\n'), "code", test_cases=CALLS,
                 entry_point="square", code="    return n * n\n"),
    ])["code", "code"]  # fmt: skip
    assert (rates.golds, rates.false_rejects, rates.false_accepts) == (4, [], [])
    assert rates.mutants == 5 + 4 + 5 + 5


def test_a_wrong_solution_and_tests_that_anything_passes_show():
    weak = [{"kind": "assert", "code": "assert square(2) is not None"}]
    rates = rates_of([
        question("square", "code", test_cases=CALLS, entry_point="square", code=SQUARE.replace("*", "+")),
        question("weak", "code", test_cases=weak, code=SQUARE),
    ])["code", "code"]  # fmt: skip
    assert [miss.status for miss in rates.false_rejects] == ["wrong_answer"]
    assert {miss.kind for miss in rates.false_accepts} >= {"constant output"}


def test_the_constant_is_one_that_not_all_tests_want():
    def constant(tests, entry=None):
        return wrong_texts(code_answers(question("q", "code", test_cases=tests, entry_point=entry), None))[
            "constant output"
        ]

    assert "print('4')" in constant(LINES) and "return 4" in constant(CALLS, "f")
    assert "stillhouse" in constant([LINES[0], LINES[0] | {"output": "4"}])
    assert "stillhouse" in constant([CALLS[0] | {"output": "[1,2]"}, CALLS[1] | {"output": "[1, 2]"}], "f")


def test_what_a_test_can_not_tell_apart_gives_no_wrong_program():
    silent = [{"kind": "stdin", "input": "2\n", "output": "\n"}]
    assert code_answers(question("q", "code", test_cases=silent), None) == []
    checked = question("q", "code", test_cases=LINES, checker="def check(*a): return True", code=READ)
    assert [answer.right for answer in code_answers(checked, None)] == [True]
    assert code_answers(question("q", "code", test_cases=LINES, language="cobol"), None) == []
    assert [one.kind for one in code_answers(question("q", "code", test_cases=LINES, language="c++"), None)] == [
        "echo of the prompt"
    ]


# ----------------------------------------------------------------------------------------------- instructions


def test_instruction_rules_pass_on_all_prompts_of_ifeval(shared):
    questions = []
    for line in (shared / "ifeval_prompts.jsonl").read_text().splitlines():
        row = json.loads(line)
        constraints = [
            {"id": one, "kwargs": kwargs} for one, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True)
        ]
        questions.append(question(row["prompt"], "instruction", instruction_constraints=constraints))
    rates = rates_of(questions)["instruction", "instructions"]
    assert rates.golds > 400 and rates.mutants > 800
    assert rates.false_rejects == [] and rates.false_accepts == []


def test_constraints_that_get_in_each_others_way_give_no_right_text():
    assert kept_text([("punctuation:no_comma", {}), ("keywords:existence", {"keywords": ["a, b"]})]) is None
    assert kept_text([("keywords:forbidden_words", {"forbidden_words": ["Mill"]})]) is None
    assert kept_text([("length_constraints:number_words", {"relation": "less than", "num_words": 5})]) is None
    assert kept_text([("detectable_format:json_format", {}), ("detectable_format:title", {})]) is None
    assert kept_text([]) is None


def test_no_text_breaks_a_constraint_that_any_text_keeps():
    assert broken_text("detectable_content:number_placeholders", {"num_placeholders": 0}) is None
    assert broken_text("keywords:existence", {"keywords": ["river"]}) is None
    assert broken_text("keywords:frequency", {"keyword": "x", "relation": "at least", "frequency": 0}) is None
    assert broken_text("ratio:unknown", {}) is None


# --------------------------------------------------------------------------------------------------- free text


def test_quantities_are_put_to_the_rule_of_science():
    questions = [question(f"How fast is {n}?", "science", ground_truth=f"{n} m/s") for n in (3, 50, 700)]
    rates = rates_of(questions)["science", "quantity"]
    assert (rates.golds, rates.false_rejects, rates.false_accepts) == (3, [], [])
    assert rates.mutants >= 6


@contextmanager
def judge_at_work(score):
    """Settings with a judge on loopback whose score is a function of its prompt."""

    async def reply(request):
        prompt = (await request.json())["messages"][-1]["content"]
        content = json.dumps({"reason": "so", "score": score(prompt)})
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": content}}]})

    with loopback.serving({"/v1/chat/completions": reply}) as url:
        yield VerifySettings(judge=JudgeSettings(base_url=url, model="m", attempts=1))


def compares(prompt):
    reference, candidate = re.findall(r"\[\[(?:REFERENCE|CANDIDATE) \w+\]\]\n(.*?)\n", prompt)
    return 5 if reference == candidate else 0


REASONS = [question(f"Why {n}?", "science", ground_truth=text) for n, text in
           enumerate(("Because of gravity.", "Light bends.", "Ions repel."))]  # fmt: skip


def test_a_judge_that_compares_passes_and_one_that_says_yes_to_everything_shows():
    with judge_at_work(compares) as settings:
        rates = rates_of(REASONS, settings)
    outcome = rates["science", "outcome"]
    assert (outcome.golds, outcome.mutants, outcome.false_rejects, outcome.false_accepts) == (3, 6, [], [])
    assert rates["science", "quantity"].unjudged == 9 and rates["science", "judge"].golds == 3
    with judge_at_work(lambda prompt: 5) as settings:
        rates = rates_of(REASONS, settings)
    assert rates["science", "outcome"].false_accept == 1.0


def test_references_that_say_the_same_are_no_wrong_answer():
    def others(reference, *texts):
        return wrong_texts(text_answers(reference, texts, random.Random(0))).get("another question's answer")

    assert others("The mitochondrion", "the mitochondrion.", "mitochondrion", "The nucleus") == "The nucleus"
    assert others("100", "100.4", "90") is None
    assert others("100", "3") == "3"
    assert text_answers("", ["x"], random.Random(0)) == []


def test_a_category_without_a_right_answer_has_no_rates():
    assert rates_of([question("Write a poem.", "chat")]) == {}


# ------------------------------------------------------------------------------------------------------ rates


def judged(passed):
    return Judgement(float(passed), passed, "accepted" if passed else "wrong_answer", None, {}, 0.0)


def test_rates_count_what_was_judged():
    rates = Rates("math", "outcome")
    for right, judgement in (
        (True, judged(True)), (True, judged(False)), (False, judged(False)), (False, judged(False)),
        (False, judged(True)), (True, unscored("unverifiable", "")), (False, unscored("infra_error", "")),
    ):  # fmt: skip
        rates.count("q", Answer("a", "text", right), judgement)
    assert (rates.golds, rates.mutants, rates.unjudged, rates.failed) == (2, 3, 1, 1)
    assert (rates.false_reject, rates.false_accept) == (0.5, pytest.approx(1 / 3))
    assert Rates("math", "math").false_reject is None


def test_limits_hold_for_outcomes_and_are_not_passed_by_being_reached():
    outcome, one = Rates("math", "outcome"), Rates("math", "math")
    for rates in (outcome, one):
        for passed in (True, False):
            rates.count("q", Answer("a", "text", True), judged(passed))
    assert faults([one, outcome], SelfTestSettings()) == []
    assert faults([one, outcome], SelfTestSettings(max_false_reject=0.5, max_false_accept=0.0)) == []
    assert faults([one, outcome], SelfTestSettings(max_false_reject=0.4)) == [
        "math: 1 of 2 right answers rejected (50.0%, the limit is 40.0%)"
    ]
    outcome.count("q", Answer("a", "text", True), unscored("infra_error", "down"))
    assert "infra_error" in faults([outcome], SelfTestSettings())[0]


def test_answers_depend_on_questions_and_seed_alone():
    questions = [question(f"What is {n} + 1?", ground_truth=str(n + 1)) for n in range(30)]

    def texts(settings, rows):
        return {(row["question_id"], one.kind): one.text for row, one in make_answers(rows, settings)}

    first = texts(VerifySettings(), questions)
    assert first == texts(VerifySettings(), questions)
    assert first != texts(VerifySettings(self_test=SelfTestSettings(seed=1)), questions)
