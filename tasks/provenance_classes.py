"""Where a sentence of a response comes from: the classes of arXiv 2512.20908, from its probabilities under the models.

The probability of a sentence is p = exp(mean log-probability of its tokens), 0..1, under the teacher T, the original
student S and, where a trained student's answers are traced, the trained student D. In this order:

    shared   all pairwise differences are at most α
    teacher  p_T - p_S > β
    student  p_S - p_T > β
    boosted  any other

The paper has β = 0.1 and publishes no α; 0.05 is ours. Not covered: models with different tokenizers. Their p are means
over different tokens, so that a difference says less of the sentence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from storage.schemas import PROVENANCE_CLASSES
from tasks.settings import Settings

DIGITS = 3
"""of a probability; a score's last digits depend on its batch"""


class ProvenanceSettings(Settings):
    teacher: str
    """The scorer that stands for the teacher; a name in `score.scorers`."""
    student: str
    """The scorer that is the student before training."""
    alpha: float = Field(default=0.05, ge=0, le=1)
    """Up to which difference a sentence is as likely under one model as under the other (unpublished; ours)."""
    beta: float = Field(default=0.1, ge=0, le=1)
    """From which difference on a sentence is the more likely model's (the paper: 0.1)."""
    trained: bool = False
    """Trace the trained student's held-out answers too; needs `evaluate`."""


def classify(teacher: np.ndarray, student: np.ndarray, trained: np.ndarray | None = None, *, alpha: float,
             beta: float) -> list[str]:  # fmt: skip
    """The class of each of n sentences.

    `teacher`, `student`, `trained`: p under T, S and D, shape (n,), 0..1. Raises ValueError for other shapes.
    """
    models = [np.asarray(one, dtype=np.float64) for one in (teacher, student, trained) if one is not None]
    if any(one.ndim != 1 or one.shape != models[0].shape for one in models):
        shapes = ", ".join(str(one.shape) for one in models)
        raise ValueError(f"probabilities of {shapes}; give one number a sentence for every model")
    lead = np.round(models[0] - models[1], 9)  # 0.6 - 0.5 is 0.1, not less
    spread = np.round(np.max(models, axis=0) - np.min(models, axis=0), 9)
    found = np.select([spread <= alpha, lead > beta, -lead > beta], ["shared", "teacher", "student"], "boosted")
    return [str(one) for one in found]


def trace(scores: Sequence[Mapping[str, Any]], settings: ProvenanceSettings) -> dict[str, Any]:
    """The columns of PROVENANCE that a response's scores decide.

    `scores`: its rows of SCORES (`sentences`, `truncated`) under T, S and, if given, D. A sentence that a model's token
    limit cut, or that lies beyond it, has no class and is counted in `cut`.
    """
    models = [_probabilities(one) for one in scores]
    spans = sorted(set().union(*(one.keys() for one in models)), key=lambda span: (span[0] != "think", span))
    whole = [span for span in spans if all(one.get(span) is not None for one in models)]
    table = [np.array([one[span] for span in whole], dtype=np.float64) for one in models]
    classes = classify(*table, alpha=settings.alpha, beta=settings.beta)
    counts = Counter(classes)
    probabilities = [*(one.tolist() for one in table), *[[None] * len(whole)] * (3 - len(table))]
    sentences = [
        {"part": part, "start": start, "end": end, "class": name, "teacher_prob": t, "student_prob": s,
         "trained_prob": d}
        for (part, start, end), name, t, s, d in zip(whole, classes, *probabilities, strict=True)
    ]  # fmt: skip
    shares = {f"{name}_share": counts[name] / len(whole) if whole else None for name in PROVENANCE_CLASSES}
    return {
        "sentences": sentences, "cut": len(spans) - len(whole), "sentence_count": len(whole),
    } | {f"{name}_count": counts[name] for name in PROVENANCE_CLASSES} | shares  # fmt: skip


def _probabilities(score: Mapping[str, Any]) -> dict[tuple[str, int, int], float | None]:
    """p of each sentence by (part, start, end); None for the last one of a response that was cut."""
    rows = score["sentences"]
    found: dict[tuple[str, int, int], float | None] = {
        (row["part"], row["start"], row["end"]): round(math.exp(row["mean_logprob"]), DIGITS) for row in rows
    }
    if score["truncated"] and rows:
        found[rows[-1]["part"], rows[-1]["start"], rows[-1]["end"]] = None
    return found
