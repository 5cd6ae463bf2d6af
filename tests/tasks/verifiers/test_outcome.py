"""Proves how several judgements become one, for each policy."""

from __future__ import annotations

import pytest

from tasks.verifiers.outcome import Opinion, combine_opinions, judge_can_matter
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
        ("first", "down", ("math", "judge"), True),
        ("first", "no", ("judge", "math"), True),
        ("rule_or_judge", "yes", ("math", "judge"), False),
        ("rule_or_judge", "no", ("math", "judge"), True),
        ("rule_and_judge", "no", ("math", "judge"), False),
        ("rule_and_judge", "yes", ("math", "judge"), True),
    ],
)
def test_the_judge_is_paid_only_where_it_can_matter(policy, rule, route, asked):
    assert judge_can_matter([Opinion("math", "1", JUDGEMENTS[rule])], policy, route) is asked
