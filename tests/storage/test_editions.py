"""Proves that an edition is frozen: written once, one number a writer, its files as they were or an error, and never
outside the folder that was asked for; and that the newest promoted one is never dropped.

The diff of two editions is walked in tests/flows/test_nightly.py, on real nights.
"""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace

import pytest

from storage.editions import (
    DamagedEdition,
    Edition,
    EditionTaken,
    ExportedFile,
    NoEdition,
    copy_files,
    create_edition,
    drop_editions,
    editions_folder,
    keep_files,
    newest,
    numbers,
    promote,
    promoted,
    promotion,
    read_edition,
    slices_of,
    stored_file,
)
from storage.errors import StorageError
from storage.manifest import Book


@pytest.fixture
def exported(workspace):
    """A workspace with an export of two files."""
    folder = workspace.root / "exports" / "plain" / "data"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (folder.parent / "README.md").write_text("# plain\n")
    return workspace


@pytest.fixture
def make(exported, inputs, screened):
    """`make(1)`: an edition of what the workspace holds now."""

    def made(number):
        transaction = exported.begin("screen", "0", inputs, run_id="r")
        head = transaction.commit("screened", screened(f"{number}"), [], [Book("question", 1, 1)])
        return Edition(number, "2026-11-24T00:00:00+00:00", "t", "abc", "r", {}, {}, slices_of([head]),
                       keep_files(exported, ["plain"]), {"examples": 2}, {"against": None, "changes": {}})  # fmt: skip

    return made


def test_an_edition_is_read_back_as_it_was_written(exported, make):
    edition = make(1)
    create_edition(exported, edition)
    assert newest(exported) == read_edition(exported, 1) == edition
    assert [(file.path, file.rows) for file in edition.files] == [
        ("plain/README.md", None), ("plain/data/train.jsonl", 2)
    ]  # fmt: skip


def test_two_writers_of_a_number_one_wins_and_nothing_changes(exported, make):
    create_edition(exported, make(1))
    before = (editions_folder(exported) / "1.json").read_bytes()
    with pytest.raises(EditionTaken, match="edition 1 was written by another run"):
        create_edition(exported, replace(make(1), run_id="other"))
    assert (editions_folder(exported) / "1.json").read_bytes() == before


def test_a_missing_edition_is_an_error_that_names_those_that_are_there(exported, make):
    with pytest.raises(NoEdition, match="none yet"):
        read_edition(exported, 1)
    create_edition(exported, make(1))
    with pytest.raises(NoEdition, match="there are: 1"):
        read_edition(exported, 7)
    (editions_folder(exported) / "1.json").write_text("{")
    with pytest.raises(StorageError, match=r"1\.json: the edition can't be read"):
        newest(exported)


def test_files_are_links_stored_once_and_read_only(exported, make):
    one, two = make(1), make(2)
    assert one.files == two.files
    stored = sorted(path.name for path in (editions_folder(exported) / "files").iterdir())
    assert stored == sorted(file.sha256 for file in one.files)
    for file in one.files:
        place = stored_file(exported, file.sha256)
        assert place.samefile(exported.root / "exports" / file.path)
        assert not place.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_an_edition_is_the_same_after_the_export_has_changed(exported, make, tmp_path):
    edition = make(1)
    shutil.rmtree(exported.root / "exports")
    assert copy_files(exported, edition, tmp_path / "copy") == 2
    assert (tmp_path / "copy" / "plain" / "data" / "train.jsonl").read_text() == '{"a": 1}\n{"a": 2}\n'
    with pytest.raises(StorageError, match="isn't an empty folder"):
        copy_files(exported, edition, tmp_path / "copy")


def test_the_card_alone_makes_no_other_data(exported, make):
    one = make(1)
    (exported.root / "exports" / "plain" / "README.md").unlink()
    (exported.root / "exports" / "plain" / "README.md").write_text("# other words\n")
    again = replace(one, number=2, files=keep_files(exported, ["plain"]))
    assert again.files != one.files and one.same_data(again)
    assert not one.same_data(replace(one, files=()))
    assert not one.same_data(make(2))  # another row


@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_a_damaged_file_is_never_handed_out(exported, make, tmp_path, fault):
    edition = make(1)
    stored = stored_file(exported, edition.files[1].sha256)
    stored.unlink()
    if fault == "changed":
        stored.write_text('{"a": 1}\n{"a": 3}\n')
    with pytest.raises(DamagedEdition, match=r"edition 1: plain/data/train\.jsonl (is missing|has changed)"):
        copy_files(exported, edition, tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(".copy*"))


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside", "plain/../../outside"])
def test_an_edition_from_a_stranger_writes_nothing_outside(exported, make, tmp_path, path):
    edition = replace(make(1), files=(ExportedFile(path, "0" * 64, 1),))
    with pytest.raises(DamagedEdition, match="no path below exports"):
        copy_files(exported, edition, tmp_path / "copy")
    with pytest.raises(DamagedEdition, match="no path below exports"):
        copy_files(exported, replace(edition, files=(ExportedFile("fine", "../../workspace.json", 1),)), tmp_path / "c")


def test_promotion_is_written_once(exported, make):
    create_edition(exported, make(1))
    assert promotion(exported, 1) is None
    assert promote(exported, 1, {"by": "first"}) and not promote(exported, 1, {"by": "second"})
    assert promotion(exported, 1) == {"by": "first"}


def test_the_newest_and_the_newest_promoted_stay(exported, make):
    for number in range(1, 6):
        create_edition(exported, make(number))
    promote(exported, 1, {})
    promote(exported, 2, {})
    assert drop_editions(exported, 2) == [1, 3]
    assert numbers(exported) == [2, 4, 5] and promoted(exported) == [2]
    assert drop_editions(exported, 1) == [4] and numbers(exported) == [2, 5]
    left = sorted(path.name for path in editions_folder(exported).glob("*.json"))
    assert left == ["2.json", "2.promoted.json", "5.json"]
    with pytest.raises(ValueError, match="1 or more"):
        drop_editions(exported, 0)


def test_what_is_no_edition_is_not_taken_for_one(exported, make):
    create_edition(exported, make(3))
    for name in ("4.promoted.json", "5.diff.parquet", "x.json", ".6.json.abc.tmp"):
        (editions_folder(exported) / name).write_text("{}")
    assert numbers(exported) == [3] and promoted(exported) == []
    record = json.loads((editions_folder(exported) / "3.json").read_text())
    (editions_folder(exported) / "3.json").write_text(json.dumps(record | {"format": 9}))
    with pytest.raises(StorageError, match="not an edition of format 1"):
        read_edition(exported, 3)
