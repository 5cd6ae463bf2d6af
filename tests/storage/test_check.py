"""Proves that a check finds one changed byte anywhere in what commits and editions name, and says where; and that a
slice that was marked keeps what is whole.

That the next run makes the same rows again is shown on real steps in tests/flows/test_upkeep.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from storage.check import DAMAGED, check, mark_for_redo
from storage.editions import Edition, create_edition, keep_files, slices_of
from storage.errors import StorageError
from storage.manifest import Book
from storage.schemas import LEDGER


def drop(unit_id):
    return dict.fromkeys(LEDGER.names) | {
        "stage": "screen", "unit": "question", "unit_id": unit_id, "rule": "short", "evidence": "{}", "run_id": "r",
    }  # fmt: skip


@pytest.fixture
def commit(workspace, inputs, screened):
    """`commit("a", "b")`: the slice screen 0 holds these rows now, and one that was dropped."""

    def made(*rows, keep=()):
        transaction = workspace.begin("screen", "0", inputs, run_id="r")
        number = len(rows) + sum(part.rows for part in keep)
        books = [Book("question", number + 1, number, {"short": 1})]
        return transaction.commit("screened", screened(*rows), [drop("z")], books, keep=keep)

    return made


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def test_what_is_whole_is_found_whole(workspace, commit):
    commit("a", keep=())
    commit("b", keep=workspace.head("screen", "0").data())
    found = check(workspace)
    assert found.damage == () and (found.parts, found.slices, found.editions) == (3, 1, 0)


@pytest.mark.parametrize("kind", ["data", "ledger"])
@pytest.mark.parametrize("where", [4, 0.5, -1])
def test_one_flipped_bit_is_found_with_step_shard_and_file(workspace, commit, kind, where):
    head = commit("a", "b")
    part = next(part for part in head.parts if part.kind == kind)
    path = workspace.root / part.path
    flip(path, int(where * part.bytes) if isinstance(where, float) else where)
    [damage] = check(workspace).damage
    assert (damage.step, damage.shard, damage.path) == ("screen", "0", part.path) and "has changed" in damage.what


@pytest.mark.parametrize(("fault", "told"), [("missing", "is missing"), ("short", "bytes, expected")])
def test_a_missing_or_shorter_part_is_found(workspace, commit, fault, told):
    path = workspace.root / commit("a").parts[0].path
    data = path.read_bytes()
    path.unlink()
    if fault == "short":
        path.write_bytes(data[:-1])
    [damage] = check(workspace).damage
    assert told in damage.what and damage.path == path.relative_to(workspace.root).as_posix()


def rewrite(workspace, head, **changes):
    """The newest commit as a faulty writer would have made it."""
    path = workspace.manifest.root / head.step / head.shard / f"{head.seq:08d}.json"
    path.write_text(json.dumps(asdict(replace(head, **changes))))


def test_books_that_do_not_balance_or_fit_are_found(workspace, commit):
    head = commit("a", "b")
    for books, told in (
        ([Book("question", 5, 2, {"short": 1})], "doesn't balance"),
        ([Book("question", 2, 1, {"short": 1})], "its book says 1 question units out, the rows 2"),
        ([Book("question", 3, 2, {"long": 1})], "the ledger holds"),
    ):
        rewrite(workspace, head, books=tuple(books))
        assert told in check(workspace).damage[0].what


def test_keys_out_of_order_or_twice_are_found(workspace, commit, monkeypatch):
    monkeypatch.setattr("storage.workspace.conform", lambda rows, spec, where: rows.cast(spec.schema))
    commit("b", "a")
    [damage] = check(workspace).damage
    assert "not in the order of question_id" in damage.what
    one = commit("a")
    two = commit("c", keep=one.data())
    rewrite(workspace, two, parts=(*one.parts, one.data()[0]), books=(Book("question", 3, 2, {"short": 1}),))
    assert ["same question_id" in damage.what for damage in check(workspace).damage] == [True]


def test_a_commit_that_cannot_be_read_is_found(workspace, commit):
    head = commit("a")
    (workspace.manifest.root / "screen" / "0" / f"{head.seq:08d}.json").write_text("{")
    [damage] = check(workspace).damage
    assert "newest commit can't be read" in damage.what and damage.step == "screen"


def test_damage_of_an_edition_is_told_as_its_own(workspace, commit):
    (workspace.root / "exports" / "plain").mkdir(parents=True)
    (workspace.root / "exports" / "plain" / "a.jsonl").write_text("{}\n")
    old = commit("a")
    [file] = keep_files(workspace, ["plain"])
    diff = {"against": None, "changes": {}}
    create_edition(workspace, Edition(1, "", "t", "", "", {}, {}, slices_of([old]), (file,), {}, diff))
    commit("b")
    assert check(workspace).damage == ()
    flip(workspace.root / old.parts[0].path, 10)
    flip(workspace.root / "editions" / "files" / file.sha256, 0)
    found = check(workspace)
    assert [(one.edition, one.step) for one in found.damage] == [(1, ""), (1, "")] and found.slices_to_redo() == []
    assert "(plain/a.jsonl) has changed" in found.damage[1].what


def test_a_marked_slice_keeps_its_whole_parts_and_is_pending(workspace, commit):
    one = commit("a")
    two = commit("b", keep=one.data())
    flip(workspace.root / two.data()[1].path, 20)
    head = mark_for_redo(workspace, "screen", "0")
    assert head.data() == one.data()  # an earlier commit is whole: all that it had
    assert head.inputs.version == "1" + DAMAGED and head.pending == 1 and head.fingerprint != one.fingerprint
    assert check(workspace).damage == ()


def test_without_a_whole_commit_only_whole_parts_are_named(workspace, commit):
    one = commit("a")
    flip(workspace.root / one.data()[0].path, 20)
    head = mark_for_redo(workspace, "screen", "0")
    assert head.parts == () and head.pending == 2 and workspace.read("screen", "0", "screened").num_rows == 0


def test_a_slice_without_a_readable_commit_says_what_to_do(workspace, commit):
    commit("a")
    (workspace.manifest.root / "screen" / "0" / "00000001.json").write_text("{")
    with pytest.raises(StorageError, match="restore manifest/screen/0 from a copy, or remove that folder"):
        mark_for_redo(workspace, "screen", "0")
