"""Proves each branch of the classes on hand-made probabilities, their order and ends, and what is counted of a response
that a scorer cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.provenance_classes import ProvenanceSettings, classify, trace

SETTINGS = ProvenanceSettings(teacher="t", student="s", alpha=0.05, beta=0.1)


@pytest.mark.parametrize(
    ("teacher", "student", "trained", "expected"),
    [
        (0.50, 0.50, 0.50, "shared"),
        (0.50, 0.45, 0.47, "shared"),  # a difference of α is none
        (0.50, 0.44, 0.47, "boosted"),
        (0.50, 0.50, 0.60, "boosted"),  # only the trained student differs
        (0.60, 0.50, 0.60, "boosted"),  # a lead of β is none
        (0.61, 0.50, 0.60, "teacher"),
        (0.90, 0.10, 0.10, "teacher"),  # whatever the trained student says
        (0.50, 0.60, 0.55, "boosted"),
        (0.50, 0.61, 0.55, "student"),
        (0.50, 0.45, None, "shared"),
        (0.60, 0.50, None, "boosted"),
        (0.61, 0.50, None, "teacher"),
        (0.50, 0.61, None, "student"),
    ],
)
def test_every_branch(teacher, student, trained, expected):
    probabilities = [None if one is None else np.array([one]) for one in (teacher, student, trained)]
    assert classify(*probabilities, alpha=0.05, beta=0.1) == [expected]


def test_shared_comes_first_where_alpha_is_over_beta():
    teacher, student = np.array([0.7, 0.5]), np.array([0.5, 0.7])
    assert classify(teacher, student, alpha=0.3, beta=0.1) == ["shared", "shared"]
    assert classify(teacher, student, alpha=0.0, beta=0.1) == ["teacher", "student"]


def test_probabilities_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one number a sentence"):
        classify(np.array([0.5]), np.array([0.5, 0.5]), alpha=0.05, beta=0.1)


def score(probabilities, truncated=False):
    return {
        "truncated": truncated,
        "sentences": [
            {"part": part, "start": start, "end": start + 5, "tokens": 2, "mean_logprob": math.log(p)}
            for (part, start), p in probabilities.items()
        ],
    }


def test_counts_and_shares_of_a_response():
    teacher = {("think", 0): 0.9, ("think", 6): 0.5, ("answer", 0): 0.2, ("answer", 6): 0.58}
    student = {("think", 0): 0.1, ("think", 6): 0.5, ("answer", 0): 0.8, ("answer", 6): 0.5}
    found = trace([score(teacher), score(student)], SETTINGS)
    assert [(one["part"], one["start"], one["class"]) for one in found["sentences"]] == [
        ("think", 0, "teacher"), ("think", 6, "shared"), ("answer", 0, "student"), ("answer", 6, "boosted"),
    ]  # fmt: skip
    assert (found["sentence_count"], found["cut"]) == (4, 0)
    for name in ("teacher", "shared", "student", "boosted"):
        assert (found[f"{name}_count"], found[f"{name}_share"]) == (1, 0.25)
    first = found["sentences"][0]
    assert (first["teacher_prob"], first["student_prob"], first["trained_prob"]) == (0.9, 0.1, None)
    traced = trace([score(teacher), score(student), score(dict.fromkeys(teacher, 0.5))], SETTINGS)
    assert [one["trained_prob"] for one in traced["sentences"]] == [0.5] * 4
    assert [one["class"] for one in traced["sentences"]] == ["teacher", "shared", "student", "boosted"]


def test_sentences_over_a_limit_have_no_class_and_are_counted():
    whole = {("think", 0): 0.9, ("think", 6): 0.9, ("think", 12): 0.9}
    short = {("think", 0): 0.1, ("think", 6): 0.1}  # its last one lost its end
    found = trace([score(whole), score(short, truncated=True)], SETTINGS)
    assert (found["sentence_count"], found["teacher_count"], found["cut"]) == (1, 1, 2)
    nothing = trace([score({}), score({})], SETTINGS)
    assert nothing["sentence_count"] == 0 and nothing["teacher_share"] is None and nothing["sentences"] == []
