"""Accuracy, pass@k and intervals against hand-made and enumerated values."""

from itertools import combinations

import pytest

from tasks.metrics import (
    accuracy,
    accuracy_interval,
    capability,
    majority_passes,
    paired_difference,
    pass_at_k,
    wilson_interval,
)


def test_accuracy_is_the_mean_of_pass_rates_and_not_of_samples() -> None:
    estimate = accuracy([(4, 4), (1, 0), (0, 0)])
    assert (estimate.value, estimate.questions, estimate.left_out) == (0.5, 2, 1)


def test_accuracy_of_nothing_is_none_and_not_zero() -> None:
    assert accuracy([]).value is None
    assert accuracy([(0, 0)]).left_out == 1


@pytest.mark.parametrize("n, c, k", [(n, c, k) for n in range(1, 7) for c in range(n + 1) for k in range(1, n + 1)])
def test_pass_at_k_equals_the_count_over_all_subsets(n: int, c: int, k: int) -> None:
    subsets = list(combinations(range(n), k))
    hits = sum(any(sample < c for sample in subset) for subset in subsets)
    assert pass_at_k(n, c, k) == pytest.approx(hits / len(subsets), abs=1e-12)


def test_pass_at_k_stays_finite_where_binomials_overflow() -> None:
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)
    assert pass_at_k(100_000, 0, 99_999) == 0.0


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 0 ≤ c ≤ n"):
        pass_at_k(n, c, k)


def test_capability_leaves_out_and_counts_questions_with_too_few_samples() -> None:
    estimate = capability([(4, 2), (4, 0), (1, 1)], k=2)
    assert estimate.value == pytest.approx((5 / 6 + 0) / 2)
    assert (estimate.questions, estimate.left_out) == (2, 1)


def test_capability_at_one_is_accuracy() -> None:
    pairs = [(4, 1), (8, 3), (2, 2)]
    assert capability(pairs, 1).value == pytest.approx(accuracy(pairs).value)


def test_wilson_gives_the_published_value() -> None:
    interval = wilson_interval(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


def test_interval_of_single_samples_is_wilson() -> None:
    interval = accuracy_interval([(1, 1)] * 3 + [(1, 0)] * 7)
    assert interval == wilson_interval(3, 10)


def test_interval_of_several_samples_is_a_seeded_bootstrap_around_the_accuracy() -> None:
    pairs = [(4, passes) for passes in (0, 1, 2, 3, 4)] * 8
    interval = accuracy_interval(pairs, draws=2000)
    assert interval == accuracy_interval(pairs, draws=2000)
    assert interval.method == "bootstrap"
    # 40 questions of standard deviation 0.354: half a width of 1.96 × 0.354 / √40 = 0.110
    assert interval.low == pytest.approx(0.39, abs=0.02)
    assert interval.high == pytest.approx(0.61, abs=0.02)


def test_interval_does_not_claim_certainty_when_every_question_failed() -> None:
    interval = accuracy_interval([(4, 0)] * 10)
    assert interval.low == 0.0
    assert interval.high > 0.2


def test_interval_of_no_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no question has a judged sample"):
        accuracy_interval([(0, 0)])


def test_more_passes_than_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        accuracy([(2, 3)])


def test_paired_difference_has_mcnemars_p() -> None:
    pairs = [((1, 0), (1, 1))] * 9 + [((1, 1), (1, 0))] * 1 + [((1, 1), (1, 1))] * 10
    found = paired_difference(pairs)
    assert found is not None
    assert (found.value, found.questions) == (0.4, 20)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)  # 1 of 10 changed for the worse
    assert 0.1 < found.low < 0.4 < found.high < 0.7


def test_paired_difference_claims_no_certainty_where_nothing_changed() -> None:
    found = paired_difference([((2, 1), (2, 1))] * 10)
    assert found is not None and found.low < -0.2 and found.high > 0.2 and found.p is None


def test_paired_difference_leaves_out_questions_judged_on_one_side() -> None:
    found = paired_difference([((0, 0), (1, 1)), ((1, 0), (1, 1))])
    assert found is not None and found.questions == 1
    assert paired_difference([((0, 0), (1, 1))]) is None


def test_majority_takes_the_most_frequent_answer_and_the_lesser_of_equals() -> None:
    assert majority_passes([("5", True), ("5", True), ("4", False)])
    assert not majority_passes([("5", True), ("4", False)])
    assert not majority_passes([("5", True), ("4", False), (None, False), ("4", False)])
    assert not majority_passes([(None, False)])


@pytest.mark.parametrize("n", range(1, 60))
def test_wilson_holds_the_share_itself_at_both_ends(n: int) -> None:
    assert wilson_interval(0, n).low == 0.0
    assert wilson_interval(n, n).high == 1.0
