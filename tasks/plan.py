"""The plan: which requests a recipe means, by teacher and question. It is computed, never stored (law 4).

`responses` keeps everything ever paid for; verify, grade and select read only what the plan names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.fingerprint import hash_text
from tasks.teachers.settings import (
    OpenAITeacherSettings,
    ReplayTeacherSettings,
    TeacherBase,
    TransformersTeacherSettings,
    VLLMTeacherSettings,
    render,
    request_hash,
)
from tasks.teachers.teacher import Request

ROUNDS = ".rounds"
"""What the keys of a teacher's steps end with that ask and judge its later rounds."""


@dataclass(frozen=True)
class Planned:
    """One planned request."""

    request: Request
    category: str


def model_revision(teacher: TeacherBase) -> str:
    """What exactly answers, known without loading it."""
    if isinstance(teacher, (TransformersTeacherSettings, VLLMTeacherSettings)):
        from tasks.teachers.revision import resolve_revision

        revision = resolve_revision(teacher.model, teacher.revision)
        return revision if revision.startswith("folder-") else f"{teacher.model}@{revision}"
    if isinstance(teacher, OpenAITeacherSettings):
        return f"{teacher.model}@{teacher.revision}" if teacher.revision else teacher.model
    assert isinstance(teacher, ReplayTeacherSettings)
    return teacher.revision or "replay"


def slices(teacher: TeacherBase) -> list[str]:
    """What stands behind `generate.` and `verify.` in the keys of the steps that hold a teacher's rows."""
    return [teacher.name, f"{teacher.name}{ROUNDS}"] if teacher.until else [teacher.name]


def round_of(teacher: TeacherBase, sample_index: int) -> int:
    """0 for the k samples that are planned for every question; further ones are in rounds of `samples_per_round`."""
    return max(0, -(-(sample_index + 1 - teacher.samples) // teacher.samples_per_round))


def planned(
    questions: Iterable[dict[str, Any]],
    teacher: TeacherBase,
    revision: str,
    later: Mapping[str, range] | None = None,
) -> Iterator[Planned]:
    """The k planned samples of each curated question (columns question_id, messages, category) for one teacher; with
    `later` those samples, by question, instead."""
    shared: dict[tuple[str, str | None], dict[str, Any]] = {}  # one object for millions of requests
    for question in questions:
        category = question["category"]
        if teacher.categories is not None and category not in teacher.categories:
            continue
        indexes = range(teacher.samples) if later is None else later.get(question["question_id"], range(0))
        templates = []
        for prompt in teacher.templates(category)[: indexes.stop]:
            messages = render(question["messages"], prompt)
            if (sampling := shared.get((category, prompt.name))) is None:
                sampling = teacher.resolved_sampling(category) | ({"prompt": prompt.name} if prompt.name else {})
                shared[category, prompt.name] = sampling
            sent = {name: value for name, value in sampling.items() if name != "prompt"}  # a name may change
            templates.append((messages, sampling, request_hash(messages, sent, teacher.further_fields)))
        for index in indexes:
            messages, sampling, asked = templates[index % len(templates)]
            identity = hash_text(question["question_id"], teacher.name, revision, str(index), asked)
            seed = int(identity[:8], 16) >> 1 if teacher.seeds else None
            yield Planned(Request(identity, question["question_id"], index, messages, sampling, seed), category)
