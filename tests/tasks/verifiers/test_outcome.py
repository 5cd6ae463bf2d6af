"""Proves how several judgements become one, for each policy."""

from __future__ import annotations

import pytest

from tasks.verifiers.outcome import Opinion, can_matter, combine_opinions, is_asked
from tasks.verifiers.verdict import Judgement, unscored

JUDGEMENTS = {
    "yes": Judgement(1.0, True, "accepted", "5", {}, 0.0),
    "no": Judgement(0.0, False, "wrong_answer", "6", {}, 0.0),
    "mute": unscored("unverifiable", "nothing to go by"),
    "down": unscored("infra_error", "engine is down"),
}


@pytest.mark.parametrize(
    ("policy", "opinions", "status", "by"),
    [
        ("first", "", "unverifiable", None),
        ("first", "mute mute", "unverifiable", None),
        ("first", "yes no", "accepted", 0),
        ("first", "no yes", "wrong_answer", 0),
        ("first", "mute yes", "accepted", 1),
        ("first", "down yes", "infra_error", 0),
        ("rule_or_judge", "yes", "accepted", 0),
        ("rule_or_judge", "no", "wrong_answer", 0),
        ("rule_or_judge", "no yes", "accepted", 1),
        ("rule_or_judge", "no no", "wrong_answer", 0),
        ("rule_or_judge", "no mute", "wrong_answer", 0),
        ("rule_or_judge", "yes down", "accepted", 0),
        ("rule_or_judge", "down yes", "accepted", 1),
        ("rule_or_judge", "no down", "infra_error", 1),
        ("rule_and_judge", "yes", "accepted", 0),
        ("rule_and_judge", "yes yes", "accepted", 0),
        ("rule_and_judge", "yes no", "wrong_answer", 1),
        ("rule_and_judge", "no yes", "wrong_answer", 0),
        ("rule_and_judge", "yes mute", "accepted", 0),
        ("rule_and_judge", "yes down", "infra_error", 1),
        ("rule_and_judge", "down no", "wrong_answer", 1),
        ("rule_and_judge", "mute mute", "unverifiable", None),
    ],
)
def test_policies(policy, opinions, status, by):
    names = opinions.split()
    given = [Opinion(f"v{n}", "1", JUDGEMENTS[name]) for n, name in enumerate(names)]
    route = [opinion.verifier for opinion in given]
    found = combine_opinions(given, policy, route)
    assert combine_opinions(given[::-1], policy, route) == found  # the route decides, not the order of work
    assert found.status == status
    assert found.evidence.get("by") == (None if by is None else f"v{by}")
    assert (found.passed is None) == (status in ("unverifiable", "infra_error"))


@pytest.mark.parametrize(
    ("policy", "rule", "route", "asked"),
    [
        ("first", "no", ("math", "judge"), False),
        ("first", "mute", ("math", "judge"), True),
        ("first", "down", ("math", "judge"), False),  # the outcome waits for math, whatever a judge says
        ("first", "no", ("judge", "math"), True),
        ("rule_or_judge", "yes", ("math", "judge"), False),
        ("rule_or_judge", "no", ("math", "judge"), True),
        ("rule_and_judge", "no", ("math", "judge"), False),
        ("rule_and_judge", "yes", ("math", "judge"), True),
    ],
)
def test_a_model_is_paid_only_where_it_can_matter(policy, rule, route, asked):
    assert can_matter("judge", [Opinion("math", "1", JUDGEMENTS[rule])], policy, route) is asked


@pytest.mark.parametrize(
    ("quantity", "judge", "asked"), [("no", "mute", False), ("mute", "yes", False), ("mute", "mute", True)]
)
def test_a_reward_model_is_asked_where_neither_rule_nor_judge_decided(quantity, judge, asked):
    opinions = [Opinion("quantity", "1", JUDGEMENTS[quantity]), Opinion("judge", "1", JUDGEMENTS[judge])]
    assert is_asked("reward", opinions, "first", ("quantity", "judge", "reward")) is asked


def test_the_rules_canonical_answer_is_kept_where_a_judge_decides_or_nobody_can():
    unsure = Judgement(None, None, "unverifiable", "7", {"reason": "near a whole number"}, 0.0)
    verdict = Judgement(1.0, True, "accepted", None, {}, 0.0)
    route = ("quantity", "judge")
    found = combine_opinions([Opinion("quantity", "1", unsure), Opinion("judge", "1", verdict)], "first", route)
    assert (found.passed, found.answer, found.evidence["by"]) == (True, "7", "judge")
    found = combine_opinions([Opinion("quantity", "1", unsure)], "first", route)
    assert (found.status, found.answer) == ("unverifiable", "7")
    rejected = [Opinion("math", "1", JUDGEMENTS["no"]), Opinion("judge", "1", verdict)]
    assert combine_opinions(rejected, "rule_or_judge", ("math", "judge")).answer == "6"
