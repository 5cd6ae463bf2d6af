"""`plan`: what a recipe would still ask for. Spends nothing, asks nobody.

Questions come from the workspace, once they are curated there, else from the sources. Response lengths are those that
the workspace has measured, by teacher and category, else the recipe's `expected_tokens`. Responses that are there
are subtracted. With `questions` all of it is scaled to so many: from a probe to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from flows.recipe import LoadedRecipe
from storage.workspace import Workspace
from tasks.measured import Length, Measured, measure
from tasks.sources import FileSource, GeneratorSource, HuggingFaceSource, read_source, source_files
from tasks.teachers.prompts import render
from tasks.teachers.settings import ReplayTeacherSettings, TeacherBase

BYTES_PER_TOKEN = 1.6
"""Of a response on disk: about 4 characters a token, compressed 2.5 times by zstd."""
CHARS_PER_TOKEN = 4.0
MAX_COUNTED_BYTES = 2 << 30
ANY = "any"
"""the category of a source that doesn't say"""


@dataclass(frozen=True)
class SourceEstimate:
    name: str
    rows: int | None
    how: str


@dataclass(frozen=True)
class TeacherEstimate:
    """`tokens`, `gpu_hours` and `money` are those of the requests that are left."""

    name: str
    requests: int
    settled: int
    """answered already, or refused"""
    prompt_tokens: float | None
    tokens: float | None
    """of the responses"""
    spread: float | None
    """95 % of the means that a probe of this size gives lie so near the true one, times the requests"""
    gpu_hours: float | None
    money: float | None

    @property
    def left(self) -> int:
        return max(0, self.requests - self.settled)


@dataclass(frozen=True)
class OtherEstimate:
    """Requests to a model that is no teacher."""

    name: str
    requests: int
    done: int
    how: str


@dataclass(frozen=True)
class Estimate:
    """Upper bounds where the questions are counted before curation, which only takes questions away."""

    sources: tuple[SourceEstimate, ...]
    questions: dict[str, int]
    teachers: tuple[TeacherEstimate, ...]
    total: TeacherEstimate
    lengths: tuple[Length, ...]
    others: tuple[OtherEstimate, ...]
    disk_bytes: float
    """of the responses that are left"""
    shards: int
    notes: tuple[str, ...]


def estimate(loaded: LoadedRecipe, workspace: Workspace | None = None, questions: int | None = None) -> Estimate:
    """The estimate of a recipe, with what `workspace` has measured, scaled to `questions` curated questions."""
    recipe = loaded.recipe
    counts = tuple(_count(source, loaded) for source in recipe.sources)
    measured = measure(workspace, recipe.teachers) if workspace else Measured()
    asked, notes = _questions(loaded, counts, measured)
    if questions is not None:
        asked = _scaled(asked, questions)
        notes.append(f"scaled to {questions:,} questions with the same shares of categories")
    teachers = tuple(_teacher(one, asked, measured) for one in recipe.teachers)
    total = TeacherEstimate(
        "all",
        sum(one.requests for one in teachers),
        sum(one.settled for one in teachers),
        _sum([one.prompt_tokens for one in teachers]),
        _sum([one.tokens for one in teachers]),
        math.hypot(*(one.spread for one in teachers if one.spread)) or None,
        _sum([one.gpu_hours for one in teachers]),
        _sum([one.money for one in teachers]),
    )
    notes += _lacking(recipe.teachers, teachers, measured)
    size = measured.bytes_per_token or BYTES_PER_TOKEN
    disk = sum(one.tokens or 0 for one in teachers) * size
    return Estimate(counts, asked, teachers, total, measured.lengths, tuple(_others(loaded, asked, measured)), disk,
                    1 << loaded.bits, tuple(notes))  # fmt: skip


# --- questions


def _count(source: FileSource | HuggingFaceSource | GeneratorSource, loaded: LoadedRecipe) -> SourceEstimate:
    if isinstance(source, GeneratorSource):
        return SourceEstimate(source.name, source.size, "size")
    if source.expected_rows is not None:
        rows = min(source.expected_rows, source.limit or source.expected_rows)
        return SourceEstimate(source.name, rows, "expected_rows")
    if isinstance(source, HuggingFaceSource):
        return SourceEstimate(source.name, source.limit, "limit" if source.limit else "unknown without a download")
    files = source_files(source, loaded.base)
    if all(path.suffix == ".parquet" for path in files):
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        return SourceEstimate(source.name, min(rows, source.limit or rows), "Parquet footers")
    if sum(path.stat().st_size for path in files) > MAX_COUNTED_BYTES:
        return SourceEstimate(source.name, source.limit, "too large to count")
    return SourceEstimate(source.name, sum(1 for _ in read_source(source, loaded.base)), "counted")


def _questions(
    loaded: LoadedRecipe, counts: Sequence[SourceEstimate], measured: Measured
) -> tuple[dict[str, int], list[str]]:
    """Questions by category, and what is to be said of the count."""
    if measured.curated:
        return dict(measured.questions), ["questions are those that the workspace has curated"]
    notes = ["questions are counted before curation, so these are upper bounds"]
    if measured.questions:
        return dict(measured.questions), notes
    found: dict[str, int] = {}
    for source, count in zip(loaded.recipe.sources, counts, strict=True):
        category = source.category or ANY
        found[category] = found.get(category, 0) + (count.rows or 0)
    if unknown := [count.name for count in counts if count.rows is None]:
        notes.append(f"not counted: {', '.join(unknown)}; set expected_rows there")
    return found, notes


def _scaled(questions: dict[str, int], wanted: int) -> dict[str, int]:
    """The same shares of another total; the largest category takes what rounding leaves."""
    total = sum(questions.values())
    if not total:
        return {ANY: wanted}
    found = {category: round(count * wanted / total) for category, count in questions.items()}
    found[max(found, key=lambda category: found[category])] += wanted - sum(found.values())
    return found


# --- teachers


def _asks(teacher: TeacherBase, questions: dict[str, int]) -> dict[str, int]:
    """The requests that the recipe means, by category."""
    return {
        category: count * teacher.samples
        for category, count in questions.items()
        if teacher.categories is None or category in (*teacher.categories, ANY)
    }


def _teacher(teacher: TeacherBase, questions: dict[str, int], measured: Measured) -> TeacherEstimate:
    """Requests, those settled, and what the rest costs."""
    asks = _asks(teacher, questions)
    there = measured.settled[teacher.name].by_category if teacher.name in measured.settled else {}
    settled = {category: min(round(there.get(category, 0)), count) for category, count in asks.items()}
    made = TeacherEstimate(teacher.name, sum(asks.values()), sum(settled.values()), 0.0, 0.0, None, 0.0, 0.0)
    if isinstance(teacher, ReplayTeacherSettings):
        return made
    left = {category: count - settled[category] for category, count in asks.items()}
    prompts = _product(left, {category: _prompt_tokens(teacher, category, measured) for category in left})
    tokens = _product(left, {category: _mean(teacher, category, measured) for category in left})
    rate = teacher.tokens_per_second
    return replace(
        made,
        prompt_tokens=prompts,
        tokens=tokens,
        spread=_spread(teacher, left, measured),
        gpu_hours=tokens / rate / 3600 if tokens is not None and rate else None,
        money=teacher.price(prompts or 0, tokens) if tokens is not None else None,
    )


def _product(counts: dict[str, int], each: dict[str, float | None]) -> float | None:
    """Sum of count × each; None if one that counts is unknown."""
    values = [(count, each[category]) for category, count in counts.items() if count]
    return sum(count * one for count, one in values if one is not None) if all(one is not None for _, one in values) \
        else None  # fmt: skip


def _of(teacher: TeacherBase, measured: Measured, category: str | None = None) -> list[Length]:
    return [one for one in measured.lengths if one.teacher == teacher.name and category in (None, one.category)]


def _mean(teacher: TeacherBase, category: str, measured: Measured) -> float | None:
    """Mean tokens of a response: measured in the category, else the recipe's, else measured over all categories."""
    for found in (_of(teacher, measured, category), [] if teacher.expected_tokens else _of(teacher, measured)):
        if found:
            return sum(one.mean * one.responses for one in found) / sum(one.responses for one in found)
    return teacher.expected_tokens


def _prompt_tokens(teacher: TeacherBase, category: str, measured: Measured) -> float | None:
    """Mean tokens of a prompt: measured, else by its characters, else unknown."""
    for one in _of(teacher, measured, category):
        if one.prompt is not None:
            return one.prompt
    if category not in measured.prompt_chars:
        return None
    templates = teacher.templates(category)
    around = [sum(len(one["content"]) for one in render([{"role": "user", "content": ""}], prompt))
              for prompt in templates]  # fmt: skip
    return (measured.prompt_chars[category] + sum(around) / len(around)) / CHARS_PER_TOKEN


def _spread(teacher: TeacherBase, left: dict[str, int], measured: Measured) -> float | None:
    """1.96 standard errors of the mean, times the requests, over all measured categories."""
    errors = [
        1.96 * one.deviation / math.sqrt(one.responses) * left.get(one.category, 0)
        for one in _of(teacher, measured)
        if one.responses > 1
    ]
    return math.hypot(*errors) if any(errors) else None


def _later_rounds(teacher: TeacherBase, found: TeacherEstimate) -> str:
    """The most that `until` may ask beyond the requests of the table, as if no question were ever done."""
    requests = found.requests // teacher.samples * (teacher.max_samples - teacher.samples)
    text = f"teacher {teacher.name}: until {teacher.until}: at most {requests:,} more requests in later rounds"
    if found.tokens is None or not found.left:
        return text
    scale = requests / found.left
    text += f", {found.tokens * scale:,.0f} response tokens"
    return text if found.money is None else f"{text}, {found.money * scale:,.2f} in money"


def _lacking(
    teachers: Sequence[TeacherBase], estimates: Sequence[TeacherEstimate], measured: Measured
) -> Iterator[str]:
    for teacher, found in zip(teachers, estimates, strict=True):
        if teacher.until:
            yield _later_rounds(teacher, found)
        if isinstance(teacher, ReplayTeacherSettings):
            continue
        lacking = ["expected_tokens"] if found.tokens is None else []
        lacking += ["tokens_per_second"] if found.left and teacher.tokens_per_second is None else []
        if lacking:
            yield f"teacher {teacher.name}: set {' and '.join(lacking)} for tokens and GPU-hours"
        if teacher.price_per_million_prompt_tokens and found.prompt_tokens is None:
            yield f"teacher {teacher.name}: prompts are not in the money: their lengths show once there are questions"
        if cut := sum(one.cut_off for one in _of(teacher, measured)):
            yield f"teacher {teacher.name}: max_tokens cut off {cut:,} measured responses: a lower bound of lengths"
    for name, one in measured.settled.items():
        if one.looked_at < one.questions:
            yield f"{name}: what is there is scaled up from {one.looked_at:,} of {one.questions:,} questions"


# --- other models


def _others(loaded: LoadedRecipe, questions: dict[str, int], measured: Measured) -> Iterator[OtherEstimate]:
    """Labeller, scorers, judge and reward model. Replayed responses are judged and scored like any."""
    recipe = loaded.recipe
    if recipe.curate.labels:
        name = f"labeller {recipe.curate.labels.teacher.name}"
        yield OtherEstimate(name, sum(questions.values()), measured.labels, "one a question")
    if recipe.curate.rewrite:
        name = f"rewriter {recipe.curate.rewrite.teacher.name}"
        wanted = sum(n for kind, n in questions.items() if kind in (*recipe.curate.rewrite.categories, ANY))
        yield OtherEstimate(name, wanted, measured.rewrites, "at most one a question")
    for scorer in recipe.score.scorers if recipe.score else ():
        wanted = sum(sum(_asks(one, questions).values()) for one in recipe.teachers)
        done = sum(measured.scores[one.name, scorer.name] for one in recipe.teachers)
        yield OtherEstimate(f"scorer {scorer.name}", wanted, done, "one a response")
    for name, model in (("judge", recipe.verify.judge), ("reward", recipe.verify.reward)):
        if model:
            yield _verifier(name, loaded, questions, measured)
    if recipe.curate.decontaminate.judge:
        yield OtherEstimate("contamination judge", sum(questions.values()), 0, "at most one a question")
    if recipe.grade.repair:
        yield OtherEstimate("judge of references", sum(questions.values()), 0, "at most one a question")


def _verifier(name: str, loaded: LoadedRecipe, questions: dict[str, int], measured: Measured) -> OtherEstimate:
    """The share of the responses that a verifier was asked about, where it was; else all of its categories'."""
    verify = loaded.recipe.verify
    wanted, done, bounds = 0.0, 0, False
    for teacher in loaded.recipe.teachers:
        for category, requests in _asks(teacher, questions).items():
            if category != ANY and name not in verify.verifiers(category):
                continue
            judged = measured.verdicts.get((teacher.name, category))
            share = judged[name] / judged["outcome"] if judged and judged["outcome"] else 1.0
            bounds = bounds or not judged
            wanted += requests * share
            done += judged[name] if judged else 0
    twice = 2 if name == "judge" and verify.judge and verify.judge.swap else 1
    how = "at most one a response" if bounds else "as often as it was asked so far"
    how += ", in both orders" if twice == 2 else ""
    return OtherEstimate(name if name == "judge" else "reward model", round(wanted) * twice, done * twice, how)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
