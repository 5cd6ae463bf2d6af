"""Proves that thinning shard by shard decides as thinning with all questions in memory does, on random tables."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from storage.fingerprint import hash_text
from storage.manifest import Book, Inputs
from storage.schemas import TABLES
from storage.workspace import Workspace
from tasks import thin_crowds
from tasks.lexical import template
from tasks.step import Context, Work
from tasks.thin import ThinSettings, thin_step
from tests.tasks.thin_by_objects import Question, decide

COUNT = 500
LABELLER = {"labeller": "l", "labeller_version": "v"}
PARTS = {
    "template": {"max_per_template": 4},
    "difficulty": {"easy": 0.3, "medium": 0.7},
    "crowded": {"crowded": {"cosine": 0.7, "neighbours": 12, "keep": 0.4}},
}
PARTS["all"] = {name: value for part in PARTS.values() for name, value in part.items()}


def commit(workspace, step, shard, table, rows):
    schema = TABLES[table].schema
    filled = [{name: row.get(name) for name in schema.names} for row in rows]
    transaction = workspace.begin(step, shard, Inputs("1", {}, {}), run_id="test")
    transaction.commit(table, pa.Table.from_pylist(filled, schema=schema), [],
                       [Book(TABLES[table].unit, len(rows), len(rows))])  # fmt: skip


@pytest.fixture
def questions():
    """Random questions in 40 templates and 25 regions, some held out, some without a label, some alone."""
    random = np.random.default_rng(3)
    regions = random.normal(size=(25, 32))
    found = []
    for number in range(COUNT):
        family = int(random.integers(40))
        words = "".join(chr(97 + int(digit)) for digit in str(family))
        text = f"Of {words} take {number}." if family else f"Alone: {'x' * (number + 1)}."
        vector = regions[random.integers(25)] + random.normal(size=32) * random.choice([0.4, 0.7, 2.0])
        level = str(random.choice(["easy", "medium", "hard"]))
        label = {"difficulty": level} | LABELLER if random.random() < 0.8 else None
        found.append((text, Question(hash_text(text), template(text), bool(random.random() < 0.15), label,
                                     (vector / np.linalg.norm(vector)).astype(np.float16))))  # fmt: skip
    return sorted(found, key=lambda pair: pair[1].question_id)


def make_workspace(root, bits, questions):
    workspace = Workspace.create(root, bits=bits)
    for shard in workspace.shards:
        mine = [(text, one) for text, one in questions if workspace.shard_of(one.question_id) == shard]
        keys = [{"question_id": one.question_id} for _, one in mine]
        commit(workspace, "ingest", shard, "questions", [
            key | {"messages": [{"role": "user", "content": text}], "category": "math", "question_source": "s",
                   "source_id": "1", "metadata": "{}"} for key, (text, _) in zip(keys, mine, strict=True)])  # fmt: skip
        commit(workspace, "dedup", shard, "duplicates", [
            key | {"kept_id": one.question_id, "split": "heldout" if one.protected else "train"}
            for key, (_, one) in zip(keys, mine, strict=True)])  # fmt: skip
        labels = [
            {"question_id": one.question_id, "label_id": one.question_id, "category": "math", "given_category": "math",
             "reply": "", "status": "labelled"} | one.label for _, one in mine if one.label
        ]  # fmt: skip
        commit(workspace, "label", shard, "labels", labels)
        commit(workspace, "embed", shard, "embeddings", [
            key | {"text_hash": one.question_id, "model_revision": "m", "vector": one.vector}
            for key, (_, one) in zip(keys, mine, strict=True)])  # fmt: skip
    return workspace


def thin(workspace, parts, shards=None, **more):
    settings = ThinSettings(**parts, seed=5)
    step = thin_step(settings, labels=True, embedding={}, incumbents=True, teachers=[])
    work = [Work(shard, Inputs("1", {}, {}), "test") for shard in shards or workspace.shards]
    step.run(Context(workspace, "test", **more), step, work)


def rows_of(workspace):
    return [row for shard in workspace.shards for row in workspace.read("thin", shard, "thinned").to_pylist()]


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(("bits", "sample"), [(0, 20_000), (3, 20_000), (3, 60)])
def test_the_choice_is_that_over_all_questions_in_memory(tmp_path, monkeypatch, questions, parts, bits, sample):
    monkeypatch.setattr(thin_crowds, "SAMPLE", sample)
    workspace = make_workspace(tmp_path / "w", bits, questions)
    thin(workspace, parts)
    expected = decide([one for _, one in questions], ThinSettings(**parts, seed=5), sample)
    found = {row["question_id"]: row for row in rows_of(workspace)}
    assert found == {
        identity: {"question_id": identity, "rule": one.rule, "value": one.value, "threshold": one.threshold,
                   "evidence": json.dumps(one.evidence or {})} for identity, one in expected.items()
    }  # fmt: skip
    assert 25 < sum(one.rule is not None for one in expected.values()) < COUNT - 100
    assert not list((workspace.root / "tmp").glob("*"))


def test_a_run_that_was_killed_between_two_commits_is_taken_up(tmp_path, questions):
    whole, resumed = (make_workspace(tmp_path / name, 2, questions) for name in ("whole", "resumed"))
    thin(whole, PARTS["all"])
    for shards in (["00", "10"], ["01", "11"]):
        thin(resumed, PARTS["all"], shards)
    assert rows_of(resumed) == rows_of(whole)


def test_counts_of_neighbours_do_not_depend_on_blocks_even_where_a_cosine_is_the_threshold(monkeypatch):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    cosine = float(vectors[7].astype(np.float64) @ vectors[9].astype(np.float64))
    ids = [hash_text(str(number)) for number in range(300)]
    order = np.argsort(ids)
    sample = thin_crowds.Sample(vectors[order], vectors[order].astype(np.float32),
                                np.array(ids, "S32")[order], 300)  # fmt: skip
    counted = []
    for block in (300, 7):
        monkeypatch.setattr(thin_crowds, "BLOCK", block)
        counted.append(thin_crowds.neighbours(ids, vectors, sample, cosine).tolist())
    exact = (vectors.astype(np.float64) @ vectors.astype(np.float64).T >= cosine).sum(axis=1) - 1
    assert counted[0] == counted[1] == exact.tolist() and exact[7] >= 1
