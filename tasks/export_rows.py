"""Rows of an export: the selected examples, or the preference pairs, with their texts, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.fingerprint import canonical_json, hash_text
from storage.schemas import MESSAGE, column
from storage.workspace import Workspace
from tasks.repair import repaired
from tasks.teachers.settings import Prompt, render
from tasks.verifiers.trace import TRUNCATED

QUESTION = ("question_id", "messages", "category", "question_source", "license", "ground_truth", "test_cases",
            "language", "entry_point", "instruction_constraints")  # fmt: skip
RESPONSE = ("response_id", "think_content", "answer_content", "model_revision", "finish_reason")

EXAMPLE = pa.schema([
    column("messages", pa.list_(MESSAGE), "conversation; the last message is the assistant's"),
    column("question_id", pa.string(), "hash of the question"),
    column("response_id", pa.string(), "the response it is"),
    column("category", pa.string(), "category of the question"),
    column("question_source", pa.string(), "where the question comes from"),
    column("license", pa.string(), "licence of the question's source"),
    column("teacher", pa.string(), "who wrote the response"),
    column("model_revision", pa.string(), "what exactly wrote it"),
    column("ground_truth", pa.string(), "reference answer; the new one where it was repaired"),
    column("verify_score", pa.float64(), "0..1, of this response"),
    column("pass_rate", pa.float64(), "of the question, passes / n over all teachers"),
    column("cv", pa.float64(), "coefficient of variation of the question's scores"),
    column("difficulty", pa.string(), "easy | medium | hard"),
    column("rule", pa.string(), "the selection rule that chose it"),
    column("basis", pa.string(), "what says that it is right: verifiers | vote | repaired"),
    column("curriculum", pa.float64(), "train in this order, the least first; null without a curriculum"),
    column("metadata", pa.string(), "JSON; of a repaired reference: the one of the source, and who decided"),
])  # fmt: skip

_COMMON = (
    column("question_id", pa.string(), "hash of the question"),
    column("category", pa.string(), "category of the question"),
    column("question_source", pa.string(), "where the question comes from"),
    column("license", pa.string(), "licence of the question's source"),
    column("basis", pa.string(), "what says which is right: verifiers | vote | repaired"),
)
PREFERENCE = pa.schema([
    column("prompt", pa.list_(MESSAGE), "what the student is asked"),
    column("chosen", pa.list_(MESSAGE), "one assistant's message, verified"),
    column("rejected", pa.list_(MESSAGE), "one assistant's message that failed"),
    column("pair_id", pa.string(), "chosen_id:rejected_id"),
    column("chosen_teacher", pa.string(), "who wrote it"),
    column("rejected_teacher", pa.string(), "who wrote it"),
    column("rejected_status", pa.string(), "how it failed"),
    column("length_ratio", pa.float64(), "the longer side's characters over the shorter one's"),
    *_COMMON,
])  # fmt: skip
KTO = pa.schema([
    column("prompt", pa.list_(MESSAGE), "what the student is asked"),
    column("completion", pa.list_(MESSAGE), "one assistant's message"),
    column("label", pa.bool_(), "whether it was verified"),
    column("response_id", pa.string(), "the response it is"),
    column("teacher", pa.string(), "who wrote it"),
    *_COMMON,
])  # fmt: skip


def split_of(question_id: str, validation: float) -> str:
    """By question, so that two responses of one question never stand on both sides."""
    return "validation" if int(hash_text("validation", question_id)[:8], 16) / 2**32 < validation else "train"


def answer_text(response: dict[str, Any], *, think: bool) -> str:
    """What the student learns to write: the answer, with `think` behind the thinking part in its tags."""
    answer: str = response["answer_content"] or ""
    if think and response["think_content"] is not None:
        return f"<think>\n{response['think_content']}\n</think>\n\n{answer}"
    return answer


def count_licenses(workspace: Workspace, step: str, table: str) -> Counter[tuple[str, str | None]]:
    """Rows of `table` by (source, licence) of their question, before any of them is written."""
    found: Counter[tuple[str, str | None]] = Counter()
    for shard in workspace.shards:
        chosen = workspace.read(step, shard, table, ["question_id"]).column("question_id").to_pylist()
        columns = ["question_id", "question_source", "license"]
        rows = workspace.read("curate", shard, "curated", columns).to_pylist() if chosen else []
        of = {row["question_id"]: (row["question_source"], row["license"]) for row in rows}
        found.update(of[identity] for identity in chosen)
    return found


def examples(workspace: Workspace, shard: str, teachers: Sequence[str], prompts: dict[str, Prompt], *, think: bool,
             repairs: bool) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The columns of EXAMPLE, and besides `question` (its bare messages), its means of verification, `think_content`
    and `answer_content`, and `grades`: teacher → its grade of the question."""
    chosen = workspace.read("select", shard, "selection").to_pylist()
    if not chosen:
        return
    questions = _questions(workspace, shard, {row["question_id"] for row in chosen})
    responses = _responses(workspace, shard, teachers, {row["response_id"] for row in chosen})
    graded = workspace.read("grade", shard, "grades", ["question_id", "teachers"]).to_pylist()
    grades = {row["question_id"]: {one["teacher"]: one for one in row["teachers"]} for row in graded}
    references = repaired(workspace, shard) if repairs else {}
    for row in chosen:
        question, response = questions[row["question_id"]], responses[row["response_id"]]
        found = question | response | row | {"metadata": "{}", "question": question["messages"]}
        if (new := references.get(row["question_id"])) is not None:
            was = {"ground_truth_of_source": new["reference"], "repaired_by": new["judge"]}
            found |= {"ground_truth": new["repaired_to"], "metadata": canonical_json(was)}
        answer = {"role": "assistant", "content": answer_text(response, think=think)}
        yield found | {
            "grades": grades.get(row["question_id"], {}), "messages": [*_asked(question, prompts), answer],
        }  # fmt: skip


def pairs(workspace: Workspace, shard: str, teachers: Sequence[str], prompts: dict[str, Prompt], *,
          think: bool) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The columns of PREFERENCE, and the ids of both sides."""
    found = workspace.read("negatives", shard, "preference_pairs").to_pylist()
    if not found:
        return
    questions = _questions(workspace, shard, {pair["question_id"] for pair in found})
    wanted = {pair[key] for pair in found for key in ("chosen_id", "rejected_id")}
    responses = _responses(workspace, shard, teachers, wanted)
    for pair in found:
        question = questions[pair["question_id"]]
        sides = {side: [_message(responses[pair[f"{side}_id"]], think)] for side in ("chosen", "rejected")}
        names = {"pair_id": f"{pair['chosen_id']}:{pair['rejected_id']}", "prompt": _asked(question, prompts)}
        yield question | pair | names | sides


def unpaired(pair: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The two sides of a pair as rows of KTO."""
    for side in ("chosen", "rejected"):
        yield pair | {
            "completion": pair[side], "label": side == "chosen", "response_id": pair[f"{side}_id"],
            "teacher": pair[f"{side}_teacher"],
        }  # fmt: skip


def _asked(question: dict[str, Any], prompts: dict[str, Prompt]) -> list[dict[str, str]]:
    prompt = prompts.get(question["category"]) or prompts.get("default") or Prompt()
    return list(render(question["messages"], prompt))


def _message(response: dict[str, Any], think: bool) -> dict[str, str]:
    """What broke off while thinking gets no closing tag: its writer never wrote one."""
    text = answer_text(response, think=think)
    if response["finish_reason"] in TRUNCATED and not response["answer_content"]:
        text = text.rstrip().removesuffix("</think>").rstrip()
    return {"role": "assistant", "content": text}


def _questions(workspace: Workspace, shard: str, wanted: set[str]) -> dict[str, dict[str, Any]]:
    rows = _only(workspace.read("curate", shard, "curated", QUESTION), "question_id", wanted)
    return {row["question_id"]: row for row in rows}


def _responses(
    workspace: Workspace, shard: str, teachers: Sequence[str], wanted: set[str]
) -> dict[str, dict[str, Any]]:
    found = {}
    for teacher in teachers:
        for row in _only(workspace.read(f"generate.{teacher}", shard, "responses", RESPONSE), "response_id", wanted):
            found[row["response_id"]] = row
    return found


def _only(table: pa.Table, key: str, wanted: set[str]) -> list[dict[str, Any]]:
    """The wanted rows: only they become Python objects."""
    rows: list[dict[str, Any]] = table.filter(pc.is_in(table.column(key), pa.array(sorted(wanted)))).to_pylist()
    return rows
