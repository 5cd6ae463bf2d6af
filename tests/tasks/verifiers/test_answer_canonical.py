"""Proves what counts as one vote where there is no reference: equal answers in other spellings, and only those.

Not covered: expressions that are equal but that sympy prints in two ways.
"""

from __future__ import annotations

import pytest

from tasks.verifiers.answer_canonical import canonical_answer
from tasks.verifiers.math import MathVerifier
from tasks.verifiers.quantity import QuantityVerifier
from tasks.verifiers.verdict import Item

CHOICE = "Which one? (A) 12 (B) 15 (C) 18"


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_s=2.0) as made:
        yield made


def answers(verifier, *texts, reference=None, question="How many?"):
    items = [Item("q", "math", question, reference, text) for text in texts]
    return verifier.judge(items)


@pytest.mark.parametrize(
    "spellings",
    [
        (r"\boxed{1/2}", r"\boxed{\frac12}", r"\boxed{0.50}", r"\boxed{x = 0.5}"),
        (r"\boxed{5}", "So the answer is 5 apples.", r"\boxed{5\text{ km}}", "2 + 3 = 5. The answer is 5."),
        (r"\boxed{1,2}", r"\boxed{\{2, 1\}}", r"\boxed{1} and \boxed{2}"),
        (r"\boxed{\frac{\sqrt2}{2}}", r"\boxed{\frac{1}{\sqrt{2}}}"),
        (r"\boxed{(x+1)^2}", r"\boxed{x^2+2x+1}"),
        (r"\boxed{\sqrt2, 1}", r"\boxed{1, \sqrt{2}}"),
        (r"\boxed{\text{Tuesday}}", r"\boxed{tuesday}"),
    ],
)
def test_equal_answers_are_one_vote(verifier, spellings):
    found = {one.answer for one in answers(verifier, *spellings)}
    assert len(found) == 1 and None not in found


def test_different_answers_are_different_votes(verifier):
    texts = [r"\boxed{5}", r"\boxed{-5}", r"\boxed{not 5}", r"\boxed{5\%}", r"\boxed{\text{between 3 and 5}}",
             r"\boxed{(1,2)}", r"\boxed{[1,2)}", r"\boxed{(2,1)}", r"\boxed{\{1,2\}}", r"\boxed{12:30}",
             r"\boxed{x \le 3}", r"\boxed{x < 3}", r"\boxed{\sqrt{5}}"]  # fmt: skip
    found = [one.answer for one in answers(verifier, *texts)]
    assert len(set(found)) == len(texts) and None not in found


def test_without_a_reference_nothing_is_judged_and_nothing_found_is_no_vote(verifier):
    found = answers(verifier, r"\boxed{5}", "", "I give up.", r"\boxed{" + "9" * 5000 + "}")
    assert {(one.status, one.passed, one.score) for one in found} == {("unverifiable", None, None)}
    assert [one.answer for one in found] == ["5", None, None, None]
    assert found[0].evidence["reason"] == "no reference answer"


def test_a_bomb_costs_its_own_vote_only(verifier):
    found = answers(verifier, r"\boxed{2^{100000000000}+x}", r"\boxed{\sqrt{5}}")
    assert (found[0].status, found[0].answer) == ("unverifiable", None)
    assert found[0].evidence["canonical_form"] in ("time_limit", "memory_limit")
    assert found[1].answer == "sqrt(5)"


def test_an_option_is_its_letter_however_it_is_named(verifier):
    found = answers(verifier, r"\boxed{B}", r"\boxed{15}", r"\boxed{(b)}", question=CHOICE)
    assert {one.answer for one in found} == {"B"}
    assert answers(verifier, r"\boxed{15}")[0].answer == "15"


def test_the_rules_leave_to_sympy_what_they_do_not_know():
    assert canonical_answer("x^2+1") is None
    assert canonical_answer("x^2+1", leaf=lambda normal: "seen") == "seen"


def test_a_quantity_is_read_without_a_reference_or_beside_one_that_is_none():
    rule = QuantityVerifier()
    for reference, reason in ((None, "no reference answer"), ("by induction", "the reference is no single quantity")):
        (found,) = answers(rule, r"\boxed{5 \text{ km}}", reference=reference)
        assert (found.status, found.answer, found.evidence["reason"]) == ("unverifiable", "5e+03 m", reason)
    (unsure,) = answers(rule, "The answer is 5.", reference="5 km")
    assert (unsure.status, unsure.answer) == ("unverifiable", "5")
