"""Accuracy and capability of a teacher or a student, from passes and samples per question.

A question is a pair (n, passes) of judged samples and of those that passed. Questions without enough
samples for an estimate are left out of it and counted, never guessed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A mean over questions. value is None where no question could be used."""

    value: float | None  # 0..1
    questions: int
    left_out: int


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval, 0 ≤ low ≤ high ≤ 1, and how it was found."""

    low: float
    high: float
    method: str  # "wilson" or "bootstrap"


def accuracy(pairs: Sequence[tuple[int, int]]) -> Estimate:
    """Mean over questions of passes / n (arXiv 2505.14216, accuracy); questions with n = 0 are left out."""
    rates = [passes / n for n, passes in _checked(pairs) if n > 0]
    return _mean(rates, len(pairs))


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k samples passes, estimated from c passes in n samples.

    Unbiased: 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1), as their product
    1 − Π_{i=n−c+1}^{n} (1 − k/i), which does not overflow. Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"expected 0 ≤ c ≤ n and 1 ≤ k ≤ n, got n = {n}, c = {c}, k = {k}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def capability(pairs: Sequence[tuple[int, int]], k: int) -> Estimate:
    """Mean over questions of pass@k (arXiv 2505.14216, capability); questions with n < k are left out."""
    chances = [pass_at_k(n, passes, k) for n, passes in _checked(pairs) if n >= k]
    return _mean(chances, len(pairs))


def wilson_interval(passes: float, n: int) -> Interval:
    """Wilson's score interval for `passes` of `n` independent trials (Wilson 1927). Raises ValueError for n
    = 0.
    """
    if n < 1 or not 0 <= passes <= n:
        raise ValueError(f"expected 0 ≤ passes ≤ n and n ≥ 1, got passes = {passes}, n = {n}")
    p, z2 = passes / n, Z_95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = min(p, middle - half), max(p, middle + half)  # p itself may lie outside by float noise at 0 and 1
    return Interval(max(0.0, low), min(1.0, high), "wilson")


def accuracy_interval(pairs: Sequence[tuple[int, int]], *, seed: int = 17, draws: int = 10_000) -> Interval:
    """95 % interval of `accuracy`. Raises ValueError where every question has n = 0.

    One sample a question: Wilson. Several: percentile bootstrap over questions (Efron 1979), since samples
    of one question are not independent of each other. Where all questions have the same rate every draw is
    alike, and the bootstrap would claim certainty; there Wilson over questions is taken, which is wider.
    """
    judged = [(n, passes) for n, passes in _checked(pairs) if n > 0]
    if not judged:
        raise ValueError("no question has a judged sample")
    rates = np.array([passes / n for n, passes in judged])
    if all(n == 1 for n, _ in judged) or np.ptp(rates) == 0:
        return wilson_interval(float(rates.sum()), len(rates))
    generator = np.random.default_rng(seed)
    # One draw at a time: memory stays that of one row a question.
    means = [rates[generator.integers(len(rates), size=len(rates))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(low), float(high), "bootstrap")


@dataclass(frozen=True)
class Difference:
    """Accuracy of one side minus that of another on the same questions, with a 95 % interval, −1..1."""

    value: float
    low: float
    high: float
    questions: int
    """with a judged sample on both sides"""
    p: float | None
    """McNemar's exact two-sided test, where every question has one sample a side; None elsewhere"""


def paired_difference(
    pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]], *, seed: int = 17, draws: int = 10_000
) -> Difference | None:
    """after − before for ((n, passes) before, (n, passes) after) of each question; None where no question has both.

    Percentile bootstrap over questions, both sides of a question drawn together. Where all questions differ alike the
    bootstrap would claim certainty; the interval is then as far out as Wilson's upper bound for 0 of so many.
    """
    for side in (0, 1):
        _checked([pair[side] for pair in pairs])
    both = [(before, after) for before, after in pairs if before[0] > 0 and after[0] > 0]
    if not both:
        return None
    apart = np.array([after[1] / after[0] - before[1] / before[0] for before, after in both])
    value = float(apart.mean())
    if np.ptp(apart) == 0:
        reach = wilson_interval(0, len(apart)).high
        low, high = max(-1.0, value - reach), min(1.0, value + reach)
    else:
        generator = np.random.default_rng(seed)
        means = [apart[generator.integers(len(apart), size=len(apart))].mean() for _ in range(draws)]
        low, high = (float(bound) for bound in np.quantile(means, [0.025, 0.975]))
    single = all(before[0] == 1 and after[0] == 1 for before, after in both)
    return Difference(value, low, high, len(both), _mcnemar(apart) if single else None)


def _mcnemar(apart: np.ndarray) -> float:
    """Exact McNemar (1947): of the questions that changed, as many should have changed for the better as for worse."""
    from scipy.stats import binomtest

    better, changed = int((apart > 0).sum()), int((apart != 0).sum())
    return float(binomtest(better, changed, 0.5).pvalue) if changed else 1.0


def majority_passes(samples: Sequence[tuple[str | None, bool]]) -> bool:
    """Whether the most frequent answer of a question's samples (canonical answer, passed) is a right one.

    Samples without an answer don't vote; ties go to the lesser text. Nobody votes: no.
    """
    votes = Counter(answer for answer, _ in samples if answer is not None)
    if not votes:
        return False
    most = min(votes, key=lambda answer: (-votes[answer], answer))
    return any(passed for answer, passed in samples if answer == most)


def _mean(values: Sequence[float], questions: int) -> Estimate:
    value = sum(values) / len(values) if values else None
    return Estimate(value, len(values), questions - len(values))


def _checked(pairs: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    for n, passes in pairs:
        if not 0 <= passes <= n:
            raise ValueError(f"expected (n, passes) with 0 ≤ passes ≤ n, got ({n}, {passes})")
    return pairs
