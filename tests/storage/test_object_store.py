"""Proves law 2 on a real S3 server: of writers that race one wins, and no fault of the store makes half a commit.

The faults are the server's own answers (tests/s3_server.py): 500, 503, 409, connections cut before and after a put was
carried out. What the client library's retries hide is proved by what is in the bucket afterwards.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import objects, workspace
from storage.database import open_views
from storage.errors import CommitLost, NoConditionalPut, NotAPlace, NotAWorkspace, StoreFailed
from storage.files import create_file, names, read_file, remove_files, remove_tree, replace_file
from storage.lease import LeaseLost, Leases, LeaseTaken
from storage.manifest import Book
from storage.place import place
from storage.workspace import Workspace
from tests.storage.writers import exactly_one_wins, ids

ONE = [Book("question", 1, 1)]


@pytest.fixture
def stored(s3):
    return Workspace.create(s3.place(), bits=1)


@pytest.fixture
def commit(stored, inputs, screened):
    def make(*ids, on=None):
        one = (on or stored).begin("screen", "0", inputs, run_id="r")
        return one.commit("screened", screened(*ids), [], [Book("question", len(ids), len(ids))])

    return make


def test_a_commit_is_read_back_by_pyarrow_and_by_duckdb(stored, commit):
    head = commit("b", "a")
    assert Workspace.open(stored.root).head("screen", "0") == head == stored.heads("screen")["0"]
    assert ids(stored) == ["a", "b"] and stored.read("screen", "0", "screened", ["rule"]).column_names == ["rule"]
    with open_views(stored) as views:
        assert views.sql("select question_id from screened order by 1").fetchall() == [("a",), ("b",)]
        assert views.sql("select step, units_out from books").fetchall() == [("screen", 2)]
    again = commit("c")
    assert again.seq == 2 and ids(stored) == ["c"]


def test_a_large_part_is_read_by_ranges(stored, commit, s3, monkeypatch):
    commit("b", "a")
    monkeypatch.setattr(workspace, "READ_WHOLE_BYTES", 0)
    assert ids(stored) == ["a", "b"]
    with stored.open_part(stored.head("screen", "0").parts[0]) as source, pq.ParquetFile(source) as file:
        assert file.metadata.num_rows == 2


def test_of_writers_that_race_for_one_shard_exactly_one_wins(stored):
    exactly_one_wins(stored)


def test_a_lost_race_is_told_and_changes_nothing(stored, commit, inputs, screened):
    late = stored.begin("screen", "0", inputs, run_id="late")
    commit("first")
    with pytest.raises(CommitLost, match="another writer"):
        late.commit("screened", screened("late"), [], ONE)
    assert ids(stored) == ["first"]


@pytest.mark.parametrize("do", ["500", "503", "cut", "lose"])
@pytest.mark.parametrize("match", ["/tables/", "/manifest/"])
def test_a_put_that_fails_is_tried_again_and_wins_once(stored, commit, s3, do, match):
    """`lose`: the put was carried out, and the second try must not take its own commit for another's."""
    s3.fault(do, "PUT", match, times=2)
    before = s3.seen()[do]
    head = commit("a")
    assert s3.seen()[do] - before == 2
    assert head.seq == 1 and ids(stored) == ["a"]
    assert [sum(f"/{kind}/" in key for key in s3.held()) for kind in ("tables", "manifest")] == [1, 1]


def test_two_conditional_puts_at_the_same_moment_are_tried_again(stored, commit, s3):
    s3.fault("409", "PUT", "/manifest/", times=3)
    assert commit("a").seq == 1


def test_an_upload_that_never_succeeds_leaves_the_old_state(stored, commit, s3):
    commit("old")
    for match in ("/tables/", "/manifest/"):
        s3.fault("403", "PUT", match, times=100)
        with pytest.raises(StoreFailed, match="the store refuses"):
            commit("new")
        s3.heal()
        assert ids(stored) == ["old"] and stored.head("screen", "0").seq == 1
    assert not list((stored.local.parents[1] / "uploads").iterdir())
    commit("next")
    assert ids(stored) == ["next"]


@pytest.mark.parametrize("do", ["503", "cut"])
def test_a_read_that_fails_is_tried_again(stored, commit, s3, do):
    commit("a")
    s3.fault(do, "GET", "/tables/", times=2)
    assert ids(stored) == ["a"]


def test_a_store_that_ignores_the_condition_is_refused(s3, monkeypatch):
    system = objects.file_system(s3.place())
    real = system.pipe_file
    monkeypatch.setattr(system, "pipe_file", lambda path, data, mode="overwrite": real(path, data))
    root = s3.place()
    monkeypatch.setattr(root, "_fs_cached", system)
    with pytest.raises(NoConditionalPut, match="ignores If-None-Match"):
        Workspace.create(root, bits=0)
    assert s3.held() == []


def test_a_workspace_is_made_once_and_not_among_other_objects(s3, stored):
    assert Workspace.create(s3.place(), bits=3).bits == 1
    objects.replace(s3.place("other/file"), b"x")
    with pytest.raises(NotAWorkspace, match="isn't empty"):
        Workspace.create(s3.place("other"), bits=0)
    with pytest.raises(NotAWorkspace, match="no workspace here"):
        Workspace.open(s3.place("none"))


def test_a_workspace_made_anew_at_the_same_place_shares_nothing_with_the_old_one(s3, stored, commit):
    commit("old")
    remove_tree(stored.root)
    anew = Workspace.create(s3.place(), bits=1)
    assert anew.local != stored.local and anew.head("screen", "0") is None
    commit("new", on=anew)
    assert ids(Workspace.open(s3.place())) == ["new"]


@pytest.mark.parametrize(("named", "said"), [
    ("s3://key:hidden@bucket/x", "found a user or password"), ("s3:///x", "found no bucket"),
    ("s3://bucket/x?versionId=1", r"found a \? or #"), ("gopher://bucket/x", "expected a folder or s3://"),
])  # fmt: skip
def test_a_place_that_is_none_is_told(named, said):
    with pytest.raises(NotAPlace, match=said) as found:
        place(named)
    assert "hidden" not in str(found.value)


def test_a_folder_is_a_folder_whatever_its_name():
    assert place("s3/x") == Path("s3/x") and place(Path("a")) == Path("a")


def test_a_bucket_that_is_not_there_and_wrong_rights_are_told(s3, stored):
    with pytest.raises(StoreFailed, match="make the bucket first"):
        Workspace.create(place("s3://no-such-bucket-here/ws"), bits=0)
    s3.fault("403", "GET", "workspace.json", times=100)
    with pytest.raises(StoreFailed, match="AWS_PROFILE") as told:
        Workspace.open(s3.place())
    s3.heal()
    assert "a-secret-of-the-tests" not in str(told.value)


def test_nothing_of_the_credentials_is_in_the_bucket_or_on_the_disk(stored, commit, s3):
    commit("a")
    stored.keep_recipe("name: t\n", "/base")
    held = [read_file(s3.place(key)) for key in s3.held()]
    held += [path.read_bytes() for path in stored.local.rglob("*") if path.is_file()]
    assert len(held) > 4 and not any(b"a-secret-of-the-tests" in data or b"tester" in data for data in held)


def test_leases_pass_from_hand_to_hand(stored):
    leases = Leases(stored.root, "generate.t")
    first = leases.take("0-1", 0, "one")
    with pytest.raises(LeaseTaken):
        leases.take("0-1", 0, "two")
    first.renew(10, 3)
    assert leases.newest("0-1").beat == 1 and leases.names() == ["0-1"]
    second = leases.take("0-1", 1, "two", revoke="silent")
    with pytest.raises(LeaseLost, match="revoked"):
        first.renew(10, 4)
    third = leases.take("0-1", 2, "three")
    third.end("done", 10, 10)
    assert leases.newest("0-1").state == "done" and second.overtaken()


def test_the_recipe_is_kept_with_its_folder(stored):
    stored.keep_recipe("name: a\n", "/one")
    stored.keep_recipe("name: b\n", "/two")
    assert Workspace.open(stored.root).kept_recipe() == ("name: b\n", "/two")
    assert len(names(stored.root / "recipes")) == 2


def test_the_verbs_of_files_work_on_objects(s3):
    folder = s3.place("verbs")
    create_file(folder / "a.json", b"1")
    with pytest.raises(FileExistsError):
        create_file(folder / "a.json", b"2")
    create_file(folder / "a.json", b"1")  # its own object: a put whose answer was lost
    replace_file(folder / "b" / "c", b"3")
    assert names(folder) == ["a.json", "b"] and read_file(folder / "a.json") == b"1"
    assert names(s3.place("nothing")) == []
    remove_files([folder / "a.json", folder / "never"])
    with pytest.raises(FileNotFoundError):
        read_file(folder / "a.json")
    remove_tree(folder)
    assert s3.held() == []


def test_a_workspace_travels_to_another_process(stored, commit):
    commit("a")
    assert ids(pickle.loads(pickle.dumps(stored))) == ["a"]


def test_a_manifest_that_was_kept_torn_is_fetched_again(stored, commit):
    commit("a")
    [kept] = (stored.local / "manifest").rglob("*.json")
    assert json.loads(kept.read_text())["step"] == "screen"
    kept.write_bytes(b"")
    assert ids(stored) == ["a"]


def test_rows_of_another_schema_are_refused_before_anything_is_put(stored, inputs, s3):
    before = s3.held()
    with pytest.raises(Exception, match="lacks columns"):
        stored.begin("screen", "0", inputs, run_id="r").commit("screened", pa.table({"a": [1]}), [], ONE)
    assert s3.held() == before
