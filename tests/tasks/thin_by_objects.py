"""Thinning with all questions in one list and all vectors in one array: test_thin_choice.py's second opinion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.thin import KEPT, Decision, ThinSettings, draw


@dataclass
class Question:
    """What decides about one question; the list is in the order of the ids."""

    question_id: str
    template: str
    protected: bool
    label: dict[str, Any] | None
    vector: np.ndarray


def decide(questions: list[Question], settings: ThinSettings, sample: int) -> dict[str, Decision]:
    decisions = dict.fromkeys((one.question_id for one in questions), KEPT)
    if settings.max_per_template is not None:
        decisions |= by_template(questions, settings.max_per_template, settings.seed)
    for one in questions:
        if decisions[one.question_id] is KEPT and one.label and not one.protected:
            decisions[one.question_id] = by_difficulty(one, settings)
    if settings.crowded:
        left = [one for one in questions if decisions[one.question_id] is KEPT]
        decisions |= by_crowd(left, settings, sample)
    return decisions


def by_template(questions, most, seed):
    families = {}
    for one in questions:
        place = (not one.protected, draw(one.question_id, "template_duplicate", seed), one.question_id)
        families.setdefault(one.template, []).append(place)
    found = {}
    for members in families.values():
        if len(members) <= most:
            continue
        members.sort()
        kept = [identity for _, _, identity in members[:most]]
        for number, (free, _, identity) in enumerate(members[most:], most + 1):
            if free:
                evidence = {"of_template": len(members), "kept": kept[:3]}
                found[identity] = Decision("template_duplicate", number, most, evidence)
    return found


def said(one):
    return {name: one.label[name] for name in ("difficulty", "labeller", "labeller_version")}


def by_difficulty(one, settings):
    difficulty = one.label["difficulty"]
    rate = {"easy": settings.easy, "medium": settings.medium}.get(difficulty)
    rule = f"thinned_{difficulty}"
    if rate is None or (drawn := draw(one.question_id, rule, settings.seed)) < rate:
        return KEPT
    return Decision(rule, drawn, rate, said(one))


def by_crowd(questions, settings, sample):
    crowded, found = settings.crowded, {}
    order = sorted(range(len(questions)), key=lambda n: (draw(questions[n].question_id, "sample", settings.seed), n))
    among = sorted(order[:sample])
    vectors = np.array([one.vector for one in questions], np.float64)
    near = vectors @ vectors[among].T >= crowded.cosine
    for number, one in enumerate(questions):
        others = len(among) - (number in among)
        count = float(near[number].sum() - (number in among)) * (len(questions) - 1) / max(others, 1)
        if one.label is None or one.protected or count <= crowded.neighbours:
            continue
        drawn = draw(one.question_id, "thinned_crowded", settings.seed)
        if drawn >= crowded.keep:
            evidence = said(one) | {"draw": drawn, "keep": crowded.keep, "cosine": crowded.cosine, "among": len(among)}
            found[one.question_id] = Decision("thinned_crowded", count, crowded.neighbours, evidence)
    return found
