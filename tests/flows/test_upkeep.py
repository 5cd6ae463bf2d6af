"""Proves on real steps, with replayed teachers, that a damaged shard is made again with the same rows and nothing else
is, and that a split workspace needs no work: the same rows, editions and exports; killed at any moment it is whole.

Real faults: flipped bytes, SIGKILL of the splitting process. Not covered: power loss between the exchange and its way
to the disk.
"""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest

from storage.check import check, mark_for_redo
from storage.compare import differences
from storage.editions import Edition, copy_files, create_edition, keep_files, read_edition, slices_of
from storage.manifest import Head
from storage.reshard import NotNow, exchange, reshard
from storage.run_lock import RunningAlready, run_lock
from storage.workspace import ALL, Workspace
from tasks.ablate import link_steps
from tasks.evaluate import commit_questions
from tasks.step import Context
from tests.conftest import House

PROJECT = Path(__file__).resolve().parents[2]
ROWS = [
    ("ingest", "questions"), ("screen", "screened"), ("dedup", "duplicates"), ("curate", "curated"),
    ("generate.a", "responses"), ("generate.b", "responses"), ("verify.a", "verdicts"), ("verify.b", "verdicts"),
    ("grade", "grades"), ("select", "selection"), ("negatives", "preference_pairs"),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> House:
    """A finished road in two shards: duplicates, broken records, refused requests, drops by every stage, pairs."""
    folder = tmp_path_factory.mktemp("made")
    recipe = {
        "name": "t",
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}],
        "curate": {"near_duplicates": None, "heldout": 0.2},
        "teachers": [
            {"name": name, "engine": "replay", "path": "answers.jsonl", "samples": 3, "columns": {"response": name}}
            for name in ("a", "b")
        ],
        "negatives": {},
        "select": {"max_per_question": 2},
        "export": {"validation": 0.3},
        "runner": {"max_workers": 1},
    }
    house = House(folder, recipe, folder / "workspace", bits=1)
    questions = [f"What is {n} + {n % 7}?" for n in range(30)]
    rows = [{"question": text, "ground_truth": str(n + n % 7)} for n, text in enumerate(questions)]
    rows += [{"question": text.upper(), "ground_truth": "0"} for text in questions[:4]]
    house.write("sums.jsonl", [*rows, {"question": 5}, {"question": "See https://example.org please"}])
    answers = [
        {
            "question": text,
            "a": [f"\\boxed{{{n + n % 7 + (n + k) % 3 // 2}}}" for k in range(4)],
            "b": [f"<think>x</think>\\boxed{{{n + n % 7 + (n * k) % 2}}}" for k in range(n % 4)] or "?",
        }
        for n, text in enumerate(questions)
    ]
    house.write("answers.jsonl", answers)
    house.run()
    return house


@pytest.fixture
def house(made, tmp_path) -> House:
    """The same, to be changed."""
    shutil.copytree(made.root, tmp_path / "workspace")
    return replace(made, root=tmp_path / "workspace", recipe=dict(made.recipe))


def whole(workspace) -> None:
    assert check(workspace).damage == ()
    for step in workspace.manifest.steps():
        for shard in workspace.manifest.shards(step):
            for book in workspace.need(step, shard).books:
                book.check(f"{step} {shard}")


def totals(workspace) -> dict[tuple[str, str], tuple[int, ...]]:
    """(step, unit) → in, out, dropped, pending over all shards."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for step in workspace.manifest.steps():
        for shard in workspace.manifest.shards(step):
            for book in workspace.need(step, shard).books:
                now = (book.units_in, book.units_out, sum(book.dropped.values()), book.pending)
                before = found.get((step, book.unit), (0, 0, 0, 0))
                found[step, book.unit] = tuple(a + b for a, b in zip(before, now, strict=True))
    return found


def flip(workspace, head: Head) -> None:
    path = workspace.root / head.data()[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 8
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("step", ["ingest", "curate", "generate.a", "verify.b", "grade", "select"])
def test_a_flipped_byte_is_found_and_that_shard_alone_is_made_again(house, tmp_path, step):
    shutil.copytree(house.root, tmp_path / "whole")
    workspace = house.workspace
    before = {one: workspace.manifest.last_seq(*one) for one in slices(workspace)}
    flip(workspace, workspace.need(step, "1"))
    assert check(workspace).slices_to_redo() == [(step, "1")]
    mark_for_redo(workspace, step, "1")
    done = house.run()
    assert [(one.step, one.shards) for one in done if one.step != "report"] == [(step, 1)]
    whole(workspace)
    assert differences(Workspace.open(tmp_path / "whole"), workspace, skip=("report",)) == []
    after = {one: workspace.manifest.last_seq(*one) for one in slices(workspace)}
    changed = {one for one in after if after[one] != before[one]} - {("report", ALL)}
    assert changed == {(step, "1")}
    assert house.run() == []


def slices(workspace) -> list[tuple[str, str]]:
    manifest = workspace.manifest
    return [(step, shard) for step in manifest.steps() for shard in manifest.shards(step)]


def test_a_split_workspace_needs_no_work_and_holds_the_same_rows(house):
    rows = {step: house.rows(step, table) for step, table in ROWS}
    ledgers = {step: house.ledger(step) for step, _ in ROWS}
    counted = totals(house.workspace)
    for bits in (2, 3):
        assert reshard(house.workspace).bits == bits
        house.bits = bits
        workspace = house.workspace
        assert workspace.bits == bits and workspace.manifest.shards("grade") == workspace.shards
        whole(workspace)
        assert {step: house.rows(step, table) for step, table in ROWS} == rows
        assert {step: house.ledger(step) for step, _ in ROWS} == ledgers
        assert totals(workspace) == counted
        for step, table in ROWS:
            for shard in workspace.shards:
                ids = workspace.read(step, shard, table).column("question_id").to_pylist()
                assert {workspace.shard_of(one) for one in ids} <= {shard}, (step, shard)
        assert house.run() == []
    assert not list(house.root.parent.glob(".*reshard*"))


def test_a_split_workspace_is_one_that_was_made_so(house, tmp_path):
    """Every slice as a workspace of that many shards would hold it, drops of records aside, whose shard differs."""
    made = house.copy(tmp_path / "made", bits=2)
    made.run()
    reshard(house.workspace)
    found = differences(made.workspace, Workspace.open(house.root), skip=("report", "ingest"))
    assert [line for line in found if not line.startswith("generate")] == []


def test_from_one_shard_to_two(house, tmp_path):
    one = house.copy(tmp_path / "one", bits=0)
    one.run()
    rows = {step: one.rows(step, table) for step, table in ROWS}
    reshard(one.workspace)
    assert one.workspace.shards == ["0", "1"] and {step: one.rows(step, table) for step, table in ROWS} == rows
    whole(one.workspace)
    assert one.run() == []


def test_a_change_after_the_split_redoes_what_it_always_did(house, tmp_path):
    reshard(house.workspace)
    house.recipe["select"] = {"max_per_question": 1}
    done = {one.step for one in house.run()}
    assert done == {"select", "negatives", "export", "export.pairs", "report"}
    fresh = house.copy(tmp_path / "fresh", bits=2)
    fresh.run()
    assert house.rows("select", "selection") == fresh.rows("select", "selection")


def freeze(workspace, number: int) -> Edition:
    heads = [workspace.need(step, shard) for step in ("curate", "select") for shard in workspace.shards]
    diff = {"against": None, "changes": {}}
    edition = Edition(
        number, "", "t", "", "", {}, {}, slices_of(heads), keep_files(workspace, ["huggingface"]), {}, diff
    )
    create_edition(workspace, edition)
    return edition


def test_editions_are_read_as_they_were_after_a_split(house, tmp_path):
    edition = freeze(house.workspace, 1)
    copy_files(house.workspace, edition, tmp_path / "before")
    reshard(house.workspace)
    workspace = Workspace.open(house.root)
    assert read_edition(workspace, 1) == edition
    whole(workspace)
    copy_files(workspace, edition, tmp_path / "after")
    compared = filecmp.dircmp(tmp_path / "before", tmp_path / "after")
    assert not compared.left_only and not compared.right_only and not compared.diff_files


def test_workspaces_within_are_split_too(house):
    """A student's questions, which were taken from the outer workspace, and an ablation, which links to its commits."""
    parent = house.workspace

    def take(context: Context, inner: Workspace) -> None:
        for shard in inner.shards:
            rows = context.workspace.read("curate", shard, "curated").filter(pc.field("split") == "heldout")
            commit_questions(context, inner, shard, rows, "1", {})

    inner = Workspace.create(house.root / "students" / "s" / "eval", bits=1)
    take(Context(parent, "test"), inner)
    number = sum(inner.read("curate", shard, "curated").num_rows for shard in inner.shards)
    variant = Workspace.create(house.root / "ablations" / "x", bits=1)
    link_steps(parent, variant, ["curate"])
    reshard(parent)
    after, inner, variant = (Workspace.open(one.root) for one in (parent, inner, variant))
    assert [one.bits for one in (after, inner, variant)] == [2, 2, 2]
    before = {shard: inner.need("curate", shard).seq for shard in inner.shards}
    take(Context(after, "test"), inner)  # from the same slices: nothing to do
    assert {shard: inner.need("curate", shard).seq for shard in inner.shards} == before
    assert sum(inner.read("curate", shard, "curated").num_rows for shard in inner.shards) == number > 0
    assert (variant.manifest.root / "curate").is_symlink()
    for shard in after.shards:
        assert variant.read("curate", shard, "curated").equals(after.read("curate", shard, "curated"))
    whole(inner)


def test_a_slice_with_pending_units_is_made_again_in_both_halves(house):
    workspace = house.workspace
    head = workspace.need("grade", "0")
    book = head.books[0]
    waits = replace(book, units_in=book.units_in + 1, pending=1)
    workspace.manifest.create(replace(head, seq=head.seq + 1, books=(waits,)))
    reshard(workspace)
    house.bits = 2
    done = {one.step: one.shards for one in house.run()}
    assert done == {"grade": 2} | ({"report": 1} if "report" in done else {})
    whole(house.workspace)


def test_who_works_on_it_is_waited_for(house, tmp_path):
    log = house.root / "unfinished" / "generate.a" / "0-12ab.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("paid\n")
    with pytest.raises(NotNow, match="paid for and not committed"):
        reshard(house.workspace)
    log.unlink()
    program = "import sys, time\nfrom pathlib import Path\nfrom storage.run_lock import run_lock\n" \
              "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", program, house.root], cwd=PROJECT, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline()
    try:
        with pytest.raises(RunningAlready), run_lock(house.root, patience_s=0):
            pass
        with pytest.raises(RunningAlready):
            reshard(house.workspace)
    finally:
        holder.kill()
        holder.communicate()
    assert reshard(house.workspace).bits == 2


def test_a_commit_in_the_last_moment_is_not_lost(house, monkeypatch):
    """Another process commits between the last look and the exchange: the folders change back."""
    workspace = house.workspace
    calls = []

    def late(one: Path, other: Path) -> None:
        if not calls:
            head = workspace.need("grade", "0")
            workspace.manifest.create(replace(head, seq=head.seq + 1))
        calls.append(one)
        exchange(one, other)

    seq = workspace.need("grade", "0").seq
    monkeypatch.setattr("storage.reshard.exchange", late)
    with pytest.raises(NotNow, match="committed meanwhile"):
        reshard(workspace)
    assert len(calls) == 2 and Workspace.open(house.root).bits == 1 and workspace.need("grade", "0").seq == seq + 1
    whole(workspace)


def test_killed_at_any_moment_the_workspace_is_whole(house, tmp_path):
    """SIGKILL of the splitting process at five moments; then one that is left alone, from what they left."""
    rows = {step: house.rows(step, table) for step, table in ROWS}
    program = "import sys\nfrom pathlib import Path\nfrom storage.reshard import reshard\n" \
              "from storage.workspace import Workspace\nwhere = Workspace.open(Path(sys.argv[1]))\n" \
              "print('go', flush=True)\nreshard(where)"  # fmt: skip

    def start(root: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", program, root], cwd=PROJECT, stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"go\n"
        return process

    shutil.copytree(house.root, tmp_path / "timed")
    process, began = start(tmp_path / "timed"), time.monotonic()
    assert process.wait() == 0
    seconds, draw = time.monotonic() - began, random.Random(8)
    killed = 0
    for number in range(5):
        process = start(house.root)
        time.sleep(draw.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        workspace = Workspace.open(house.root)
        whole(workspace)
        house.bits = workspace.bits
        assert {step: house.rows(step, table) for step, table in ROWS} == rows, f"after kill {number}"
        assert house.run() == []
        if workspace.bits > 4:
            break
    assert killed
    bits = house.workspace.bits
    assert start(house.root).wait() == 0
    house.bits = house.workspace.bits
    assert house.bits == bits + 1 and house.run() == [] and {s: house.rows(s, t) for s, t in ROWS} == rows
    assert not [name for name in os.listdir(house.root.parent) if "reshard" in name]  # noqa: PTH208
