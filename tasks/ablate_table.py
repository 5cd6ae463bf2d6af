"""The table of an ablation: each variant's accuracy over questions and seeds, and its difference from the first.

Both intervals come from one bootstrap with two levels: seeds and questions are drawn anew together, the questions the
same for the two sides of a difference. With one seed the spread between trainings is unknown, and the interval says
only how sure the questions make it; with two or three it is a rough guess, as of any spread from so few.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

DRAWS = 4000
Rates = Mapping[str, tuple[int, int]]
"""question → (n, passes)"""
Estimated = tuple[float | None, float | None, float | None]
"""value and the ends of its interval"""


@dataclass(frozen=True)
class AblationRow:
    """A variant. Accuracies 0..1, differences −1..1, intervals 95 %; None where nothing was judged."""

    variant: str
    overrides: str
    exported: int
    """examples of its whole export"""
    examples: int
    """trained on, mean over the seeds, rounded"""
    tokens: int
    """of these, in one epoch, mean over the seeds, rounded"""
    pairs: int | None
    """trained on, mean over the seeds, rounded; None where no stage is trained on pairs"""
    pair_tokens: int | None
    """of both their sides"""
    seeds: int
    questions: int
    accuracy: float | None
    low: float | None
    high: float | None
    by_seed: str
    """the accuracy of each training, in the order of the seeds"""
    difference: float | None
    difference_low: float | None
    difference_high: float | None


@dataclass(frozen=True)
class Measured:
    """What the trainings of one variant gave: their samples, and each question's rate for each seed."""

    variant: str
    overrides: tuple[str, ...]
    exported: int
    samples: tuple[tuple[int, int], ...]
    """(examples, tokens) of each seed"""
    rates: tuple[Rates, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    """(pairs, tokens) of each seed, where the student is trained on pairs"""


def table_rows(measured: Sequence[Measured], *, seed: int = 17) -> list[AblationRow]:
    """One row per variant, compared with the first on the questions that every training was judged on."""
    every = [set(rates) for one in measured for rates in one.rates]
    questions = sorted(set.intersection(*every)) if every else []
    matrices = [_matrix(one, questions) for one in measured]
    return [_row(one, matrix, matrices[0], is_first=one is measured[0], seed=seed)
            for one, matrix in zip(measured, matrices, strict=True)]  # fmt: skip


def _matrix(one: Measured, questions: Sequence[str]) -> np.ndarray:
    """Seeds × questions of passes / n."""
    return np.array([[rates[key][1] / rates[key][0] for key in questions] for rates in one.rates])


def _row(one: Measured, matrix: np.ndarray, first: np.ndarray, *, is_first: bool, seed: int) -> AblationRow:
    examples, tokens = _means(one.samples)
    pairs, pair_tokens = _means(one.pairs) if one.pairs else (None, None)
    blank: Estimated = (None, None, None)
    judged = matrix.size > 0
    accuracy: Estimated = (float(matrix.mean()), *_interval(matrix, None, seed)) if judged else blank
    apart: Estimated = (
        (float(matrix.mean() - first.mean()), *_interval(matrix, first, seed)) if judged and not is_first else blank
    )
    by_seed = " ".join(f"{rate:.4f}" for rate in matrix.mean(axis=1)) if judged else ""
    return AblationRow(
        variant=one.variant, overrides=" ".join(one.overrides), exported=one.exported, examples=examples, tokens=tokens,
        pairs=pairs, pair_tokens=pair_tokens,
        seeds=len(one.rates), questions=matrix.shape[1] if judged else 0, accuracy=accuracy[0], low=accuracy[1],
        high=accuracy[2], by_seed=by_seed, difference=apart[0], difference_low=apart[1], difference_high=apart[2],
    )  # fmt: skip


def _means(samples: Sequence[tuple[int, int]]) -> tuple[int, int]:
    rows, tokens = (round(float(np.mean(column))) for column in zip(*samples, strict=True))
    return rows, tokens


def _interval(matrix: np.ndarray, other: np.ndarray | None, seed: int) -> tuple[float, float]:
    """Of the mean of `matrix` (seeds × questions), or of its mean minus `other`'s."""
    generator = np.random.default_rng(seed)
    questions = matrix.shape[1]
    means = []
    for _ in range(DRAWS):
        chosen = np.asarray(generator.integers(questions, size=questions))
        mean = _drawn(matrix, chosen, generator)
        means.append(mean if other is None else mean - _drawn(other, chosen, generator))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _drawn(matrix: np.ndarray, questions: np.ndarray, generator: np.random.Generator) -> float:
    seeds = generator.integers(len(matrix), size=len(matrix))
    return float(matrix[seeds][:, questions].mean())


def as_csv(rows: Sequence[AblationRow]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, [one.name for one in fields(AblationRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return target.getvalue()
