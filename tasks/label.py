"""Label: a teacher says of each question which category and how difficult it is (AM-1.4M, arXiv 2503.19633).

Optional; asked are the questions that passed the screen and represent their cluster. While such a question stays in the
data set, its label is never asked for again with the same labeller, prompt and sampling. A request that fails is
pending, and asked again by the next run (law 5); a reply without a usable label, or a refusal, is on record as such and
settled: that question has no label. Labels change nothing by themselves; tasks/thin.py reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import model_validator

from storage.workspace import Workspace
from tasks.asked import AskedShard, asking_step, refuse_rounds, request_about
from tasks.label_prompt import RESPONSE_FORMAT, label_messages, prompt_identity, read_labels
from tasks.plan import model_revision
from tasks.settings import Settings
from tasks.step import ASKED_FOR, Context, Step, Work
from tasks.teachers.settings import ReplayTeacherSettings, TeacherSettings
from tasks.teachers.teacher import Reply, Request, Teacher

VERSION = "1"
DEFAULT_SAMPLING = {"temperature": 0.0, "max_tokens": 1024}


class LabelSettings(Settings):
    teacher: TeacherSettings
    """The labeller, set up like a teacher; its samples and prompts don't count. Unset, temperature is 0 and max_tokens
    1024: give one that thinks more. A replayed label is the JSON object as the response to the question."""

    @model_validator(mode="after")
    def _asked_once(self) -> LabelSettings:
        refuse_rounds(self.teacher, "labeller")
        return self

    def sampling(self) -> dict[str, Any]:
        return DEFAULT_SAMPLING | self.teacher.resolved_sampling("default")

    def identity(self) -> dict[str, Any]:
        """What the labels depend on."""
        teacher = self.teacher
        source = [teacher.columns, teacher.format] if isinstance(teacher, ReplayTeacherSettings) else None
        return {"labeller": teacher.name, "revision": model_revision(teacher), "prompt": prompt_identity(),
                "sampling": self.sampling(), "extra_body": teacher.further_fields, "source": source}  # fmt: skip


def label_step(settings: LabelSettings, base: Path) -> Step:
    """The step `label`; `base` is the recipe's folder."""

    def begin(engine: Teacher) -> Callable[[Context, Step, Work], None]:
        return partial(_label_shard, settings, _Labeller(engine, settings.teacher.takes_fields))

    return asking_step("label", VERSION, settings.identity(), ("ingest", "screen", "dedup"), settings.teacher, base,
                       begin)  # fmt: skip


def survivors(workspace: Workspace, shard: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The shard's questions that passed the screen and represent their cluster, by id, with their `split`."""
    decided = workspace.read("dedup", shard, "duplicates", ["question_id", "rule", "split"]).to_pylist()
    split = {row["question_id"]: row["split"] for row in decided if not row["rule"]}
    rows = workspace.read("ingest", shard, "questions", ["question_id", *columns]).to_pylist()
    kept = [row | {"split": split[row["question_id"]]} for row in rows if row["question_id"] in split]
    return sorted(kept, key=lambda row: row["question_id"])


class _Labeller:
    """The engine, and whether it still takes a JSON schema."""

    def __init__(self, engine: Teacher, guided: bool) -> None:
        self._engine, self._guided = engine, guided

    def ask(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request. What is refused with the schema is asked again without it; if that is answered, it was
        the schema, and no further request has it."""
        if not self._guided:
            yield from self._engine.generate(requests)
            return
        with_schema = [replace(one, sampling=one.sampling | {"response_format": RESPONSE_FORMAT}) for one in requests]
        refused: set[str] = set()
        for reply in self._engine.generate(with_schema):
            if reply.error_kind == "refused":
                refused.add(reply.response_id)
            else:
                yield reply
        for reply in self._engine.generate([one for one in requests if one.response_id in refused]) if refused else ():
            self._guided = self._guided and reply.error is not None
            yield reply


def _label_shard(settings: LabelSettings, labeller: _Labeller, context: Context, step: Step, work: Work) -> None:
    shard = AskedShard(context, step, work, "labels", "label_id")
    teacher, revision, sampling = settings.teacher, model_revision(settings.teacher), settings.sampling()
    version = f"{revision}; label prompt {prompt_identity()}"
    questions = {row["question_id"]: row for row in survivors(context.workspace, work.shard, ["messages", "category"])}
    requests = {
        identity: request_about("label", identity, label_messages(row["messages"]), sampling, teacher, revision)
        for identity, row in questions.items()
    }
    stands = ("labelled",) if work.why == ASKED_FOR else ("labelled", "unreadable", "refused")

    def keep(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["status"] not in stands:
            return None
        return row | {"given_category": questions[row["question_id"]]["category"]}

    def answered(question: str, reply: Reply) -> dict[str, Any]:
        labels = read_labels(reply.answer_content) if reply.error is None else None
        status = "labelled" if labels else "unreadable"
        if reply.error is not None:
            status = "refused" if reply.error_kind == "refused" else "infra_error"
        category, difficulty = labels or (None, None)
        return {
            "question_id": question, "label_id": reply.response_id, "category": category, "difficulty": difficulty,
            "given_category": questions[question]["category"], "status": status, "labeller": teacher.name,
            "labeller_version": version,
            "reply": reply.error if reply.error is not None else (reply.answer_content or "")[:1000],
        }  # fmt: skip

    shard.run(requests, keep, labeller.ask, answered)


@dataclass(frozen=True)
class Agreement:
    """How often a labeller's category is the one that the source gave."""

    labeller: str
    version: str
    questions: int
    labelled: int
    agreeing: int
    confusions: tuple[tuple[str, str, int], ...]
    """(given, labelled, questions) where they differ, most frequent first"""
    difficulties: tuple[tuple[str, int], ...]
    """(difficulty, questions)"""
    unlabelled: tuple[tuple[str, int], ...]
    """(status, questions) without a label"""


def label_agreement(workspace: Workspace) -> Agreement | None:
    """Over the whole workspace; None where nothing was labelled."""
    statuses: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    difficulties: Counter[str] = Counter()
    labellers: Counter[tuple[str, str]] = Counter()
    columns = ["category", "difficulty", "given_category", "status", "labeller", "labeller_version"]
    for shard in workspace.shards:
        if workspace.head("label", shard) is None:
            continue
        for row in workspace.read("label", shard, "labels", columns).to_pylist():
            statuses[row["status"]] += 1
            labellers[row["labeller"], row["labeller_version"]] += 1
            if row["status"] == "labelled":
                pairs[row["given_category"], row["category"]] += 1
                difficulties[row["difficulty"]] += 1
    if not labellers:
        return None
    (labeller, version), _ = max(labellers.items(), key=lambda item: (item[1], item[0]))
    unlike = sorted(((*pair, number) for pair, number in pairs.items() if pair[0] != pair[1]),
                    key=lambda one: (-one[2], one[:2]))  # fmt: skip
    return Agreement(
        labeller, version, statuses.total(), statuses["labelled"],
        sum(number for (given, label), number in pairs.items() if given == label), tuple(unlike),
        tuple(sorted(difficulties.items())),
        tuple(sorted((status, number) for status, number in statuses.items() if status != "labelled")),
    )  # fmt: skip


def agreement_lines(workspace: Workspace) -> list[str]:
    """The agreement in words, one line each; empty where nothing was labelled."""
    found = label_agreement(workspace)
    if found is None:
        return []
    share = f" ({found.agreeing / found.labelled:.1%})" if found.labelled else ""
    lines = [
        f"labels by {found.labeller} ({found.version}): {found.labelled:,} of {found.questions:,} questions; the "
        f"category agrees with the given one for {found.agreeing:,}{share}"
    ]
    if found.confusions:
        lines.append(
            "given → labelled: " + ", ".join(f"{one} → {other} {n:,}" for one, other, n in found.confusions[:6])
        )
    if found.difficulties:
        lines.append("difficulty: " + ", ".join(f"{name} {number:,}" for name, number in found.difficulties))
    if found.unlabelled:
        lines.append("without a label: " + ", ".join(f"{name} {number:,}" for name, number in found.unlabelled))
    return lines
