"""Proves that every pair of every family of math mistakes gets the right verdict (the pairs: `math_families.py`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.verifiers.math import MathVerifier
from tasks.verifiers.verdict import Item
from tests.tasks.verifiers.math_families import Pair, pairs, response

FAMILIES = list(dict.fromkeys(pair.family for pair in pairs()))


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(answer_from=["boxed"], timeout_s=1) as verifier:
        yield verifier


def item(pair: Pair) -> Item:
    return Item("q", "math", "", pair.reference, response(pair))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_of_a_family_gets_the_right_verdict(verifier: MathVerifier, family: str) -> None:
    members = [pair for pair in pairs() if pair.family == family]
    judgements = verifier.judge([item(pair) for pair in members])
    wrong = [
        (pair.reference, pair.answer, judgement.status, judgement.evidence.get("path"))
        for pair, judgement in zip(members, judgements, strict=True)
        if judgement.passed is not pair.right
    ]
    assert wrong == []


def test_every_family_has_right_and_wrong_answers() -> None:
    for family in FAMILIES:
        assert {pair.right for pair in pairs() if pair.family == family} == {True, False}


def test_no_pair_is_listed_twice() -> None:
    assert len(set(pairs())) == len(pairs())
