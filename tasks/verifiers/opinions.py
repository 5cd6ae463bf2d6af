"""Asking all verifiers of a category, rules first and a judge only where its opinion can matter."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.verifiers.bench import Bench, Subject
from tasks.verifiers.outcome import Opinion, judge_can_matter
from tasks.verifiers.settings import VerifySettings


def ask_verifiers(bench: Bench, subjects: Sequence[Subject], settings: VerifySettings) -> list[list[Opinion]]:
    """Each subject's opinions, without versions: for verdicts that aren't kept."""
    opinions: list[list[Opinion]] = [[] for _ in subjects]
    for name in bench.order:
        asked = [
            number for number, subject in enumerate(subjects) if _is_asked(name, subject, opinions[number], settings)
        ]
        judged = bench.judge(name, [subjects[number] for number in asked])
        for number, judgement in zip(asked, judged, strict=True):
            opinions[number].append(Opinion(name, "", judgement))
    return opinions


def _is_asked(name: str, subject: Subject, opinions: Sequence[Opinion], settings: VerifySettings) -> bool:
    category = subject.question["category"]
    route = settings.verifiers(category)
    return name in route and (name != "judge" or judge_can_matter(opinions, settings.policy_for(category), route))
