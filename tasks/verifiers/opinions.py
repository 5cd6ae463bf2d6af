"""Asking all verifiers of a category, rules first and a model only where its opinion can matter."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.verifiers.bench import Bench, Subject
from tasks.verifiers.outcome import Opinion, is_asked
from tasks.verifiers.settings import VerifySettings


def ask_verifiers(bench: Bench, subjects: Sequence[Subject], settings: VerifySettings) -> list[list[Opinion]]:
    """Each subject's opinions, without versions: for verdicts that aren't kept."""
    opinions: list[list[Opinion]] = [[] for _ in subjects]
    categories = [subject.question["category"] for subject in subjects]
    for name in bench.order:
        asked = [
            number
            for number, category in enumerate(categories)
            if is_asked(name, opinions[number], settings.policy_for(category), settings.verifiers(category))
        ]
        judged = bench.judge(name, [subjects[number] for number in asked])
        for number, judgement in zip(asked, judged, strict=True):
            opinions[number].append(Opinion(name, "", judgement))
    return opinions
