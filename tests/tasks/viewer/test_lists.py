"""Lists without a browser: every filter gives the rows that a plain count gives, pages stop in time, commits show."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.workspace import Workspace
from tasks.viewer import drops, questions, responses, scan, verdicts
from tasks.viewer.catalogue import Catalogue
from tasks.viewer.filters import BadAddress, Filter, check
from tasks.viewer.question import find, read_question
from tasks.viewer.scan import Cursor, Key, Listing, gather, page_of, read_cursor
from tests.tasks.viewer.made import HOSTILE_ID, NUMBER, PROOF_ID, TEACHERS, fill_workspace, identity

KEPT = [number for number in range(NUMBER) if number % 10 != 9]
RIGHT = [number for number in KEPT if number % 4]
CATEGORY = {number: ("math", "code", "science")[number % 3] if number > 2 else "math" for number in range(NUMBER)}


def everything(catalogue: Catalogue, listing: Listing, given: dict[str, str], *, forward: bool = True) -> list[Key]:
    """The keys of all pages, one after the other."""
    found: list[Key] = []
    cursor = Cursor(None)
    if not forward:
        cursor = Cursor(("f" * 32, *("~" for _ in listing.key[1:])), forward=False)
    while True:
        page = page_of(catalogue, listing, given, cursor)
        found = found + page.keys if forward else page.keys + found
        onward = page.after if forward else page.before
        if onward is None:
            return found
        cursor = read_cursor(*(("~".join(onward), None) if forward else (None, "~".join(onward))), len(listing.key))


@pytest.mark.parametrize(("given", "number"), [
    ({}, NUMBER),
    ({"category": "code"}, sum(CATEGORY[one] == "code" for one in range(NUMBER))),
    ({"source": "sums", "split": "train"}, len(KEPT)),
    ({"split": "heldout"}, 0),
    ({"difficulty": "unsolved"}, len(KEPT) - len(RIGHT)),
    ({"teacher": "poor"}, len(KEPT)),
    ({"status": "accepted"}, len(RIGHT)),
    ({"status": "accepted", "teacher": "poor"}, 0),
    ({"fate": "kept"}, len(KEPT)),
    ({"fate": "selected"}, len(RIGHT)),
    ({"fate": "not selected"}, len(KEPT) - len(RIGHT)),
    ({"fate": "dropped", "rule": "near_duplicate"}, NUMBER - len(KEPT)),
    ({"text": "WHAT IS 4"}, len([4, *range(40, 50)])),
    ({"text": "' or 1=1 --"}, 0),
])  # fmt: skip
def test_questions_by_filter(catalogue: Catalogue, given: dict[str, str], number: int) -> None:
    found = everything(catalogue, questions.listing(given), given)
    assert len(found) == number
    assert found == sorted(set(found))
    assert everything(catalogue, questions.listing(given), given, forward=False) == found


@pytest.mark.parametrize(("given", "number"), [
    ({}, 2 * len(KEPT)),
    ({"category": "science", "teacher": "good"}, sum(CATEGORY[one] == "science" for one in KEPT)),
    ({"status": "wrong_answer"}, 2 * len(KEPT) - len(RIGHT)),
    ({"status": "no_verdict"}, 0),
    ({"status": "failed_request"}, 0),
    ({"difficulty": "medium"}, 2 * len(RIGHT)),
    ({"selected": "yes"}, len(RIGHT)),
    ({"selected": "no"}, 2 * len(KEPT) - len(RIGHT)),
    ({"finish": "stop", "question": HOSTILE_ID}, 2),
    ({"text": "poor says"}, len(KEPT) - 2),
    ({"text": "let me THINK about 3."}, 2),
])  # fmt: skip
def test_responses_by_filter(catalogue: Catalogue, given: dict[str, str], number: int) -> None:
    found = everything(catalogue, responses.listing(given), given)
    assert len(found) == number
    assert found == sorted(set(found))
    assert everything(catalogue, responses.listing(given), given, forward=False) == found


@pytest.mark.parametrize(("given", "number"), [
    ({}, 4 * len(KEPT)),
    ({"verifier": "math", "status": "accepted", "teacher": "good"}, len(RIGHT)),
    ({"category": "math", "verifier": "outcome"}, 2 * sum(CATEGORY[one] == "math" for one in KEPT)),
    ({"text": '"gold": "8"'}, 4),
    ({"difficulty": "medium", "question": PROOF_ID}, 4),
])  # fmt: skip
def test_verdicts_by_filter(catalogue: Catalogue, given: dict[str, str], number: int) -> None:
    found = everything(catalogue, verdicts.listing(), given)
    assert len(found) == number
    assert found == sorted(set(found))


def test_rows_of_a_page_are_those_of_its_keys(catalogue: Catalogue) -> None:
    page = page_of(catalogue, responses.listing({}), {}, Cursor(None))
    rows = responses.read_rows(catalogue, page.keys, {})
    assert [(row.question_id, row.response_id) for row in rows] == page.keys
    page = page_of(catalogue, verdicts.listing(), {}, Cursor(page.keys[7] + ("math",)))
    found = verdicts.read_rows(catalogue, page.keys, {})
    assert [(row.question_id, row.response_id, row.verifier) for row in found] == page.keys
    shown = questions.read_rows(catalogue, [(identity("question 9"),), (identity("question 5"),)], {})
    by_id = {row.question_id: row for row in shown}
    assert by_id[identity("question 9")].dropped == "curate near_duplicate"
    assert (by_id[identity("question 5")].selected, by_id[identity("question 5")].difficulty) == (1, "medium")


def test_drops_page_forth_and_back(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops, "PAGE", 4)
    monkeypatch.setattr(scan, "PAGE", 4)
    heads = catalogue.heads()
    assert drops.count(heads, {"rule": "near_duplicate"}) == NUMBER - len(KEPT)
    pages: list[list[Key]] = []
    cursor = Cursor(None)
    while True:
        rows, page = drops.page_of(catalogue, heads, {"step": "curate"}, cursor)
        pages.append([row.key for row in rows])
        if page.after is None:
            break
        cursor = drops.read_cursor("~".join(page.after), None)
    assert sorted(key[4] for one in pages for key in one) == sorted(
        identity(f"question {n}") for n in range(9, NUMBER, 10)
    )
    rows, page = drops.page_of(catalogue, heads, {"step": "curate"}, Cursor(pages[-1][0], forward=False))
    assert [row.key for row in rows] == pages[-2]
    rows, _ = drops.page_of(catalogue, heads, {"text": identity("question 19")[:20]}, Cursor(None))
    assert [row.unit_id for row in rows] == [identity("question 19")]


def test_a_list_stops_when_its_time_is_up_and_goes_on_from_there(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SECONDS", 0.0)  # one shard a page
    given = {"text": "117 + 117"}
    page = page_of(catalogue, questions.listing(given), given, Cursor(None))
    assert page.stopped and page.looked == 1 and page.of == 4
    assert everything(catalogue, questions.listing(given), given) == [(identity("question 117"),)]
    assert everything(catalogue, questions.listing(given), given, forward=False) == [(identity("question 117"),)]
    place = find(catalogue, "ffff0000ffff")
    assert (place.looked, place.of, place.everywhere) == (1, 4, False)
    assert find(catalogue, "ffff0000ffff", skip=3).everywhere


def test_shards_are_read_only_until_the_page_is_full(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Sequence[str]] = []
    rows = Catalogue.rows

    def counted(self: Catalogue, query: str, parameters: Any, shards: Sequence[str], teacher: Any = None) -> Any:
        read.append(shards)
        return rows(self, query, parameters, shards, teacher)

    monkeypatch.setattr(Catalogue, "rows", counted)
    page_of(catalogue, responses.listing({}), {}, Cursor(None))
    assert read == [["00"]]


def test_more_shards_are_taken_at_once_while_they_are_quick() -> None:
    sizes: list[int] = []

    def look(batch: Sequence[int], most: int) -> list[int]:
        sizes.append(len(batch))
        return []

    assert gather(range(300), look, 51) == ([], 300)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 64, 64, 45]


def test_a_commit_shows_on_the_next_page(made: Workspace, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "copy")
    workspace = Workspace.open(tmp_path / "copy")
    catalogue = Catalogue(workspace, tmp_path / "spill")
    given = {"fate": "selected"}
    before = everything(catalogue, questions.listing(given), given)
    head = workspace.need("select", "00")
    begun = workspace.begin("select", "00", head.inputs, run_id="again")
    begun.commit(
        "selection", workspace.read("select", "00", "selection").slice(0, 0), [], [_nothing(head.books[0].unit)]
    )
    after = everything(catalogue, questions.listing(given), given)
    assert after == [key for key in before if workspace.shard_of(key[0]) != "00"]
    catalogue.close()


def _nothing(unit: str) -> Any:
    from storage.manifest import Book

    return Book(unit, 0, 0)


def test_one_shard_and_an_empty_workspace(tmp_path: Path) -> None:
    empty = Catalogue(Workspace.create(tmp_path / "empty", bits=0), tmp_path / "spill")
    assert everything(empty, questions.listing({}), {}) == []
    assert read_question(empty, PROOF_ID) is None
    assert drops.page_of(empty, empty.heads(), {}, Cursor(None))[0] == []
    workspace = Workspace.create(tmp_path / "one", bits=0)
    fill_workspace(workspace)
    whole = Catalogue(workspace, tmp_path / "spill")
    assert len(everything(whole, responses.listing({}), {})) == 2 * len(KEPT)
    assert find(whole, PROOF_ID[:10]).question_id == PROOF_ID


def test_the_viewer_writes_nothing_into_the_workspace(made: Workspace, tmp_path: Path) -> None:
    def listed() -> set[Path]:
        return set(made.root.rglob("*"))

    before = listed()
    catalogue = Catalogue(made, tmp_path / "spill")
    everything(catalogue, questions.listing({}), {})
    facts = read_question(catalogue, PROOF_ID)
    assert facts and [one.row["teacher"] for one in facts.responses] == sorted(TEACHERS)
    assert listed() == before


@pytest.mark.parametrize(("query", "told"), [
    ([("category", "maths")], "category: found maths, expected one of math, code"),
    ([("colour", "red")], "colour: no filter of this list; there are category, id, text"),
    ([("id", "../../etc/passwd")], "id: found ../../etc/passwd, expected 32 hex digits"),
    ([("text", "x" * 201)], "text: found 201 characters, expected 200 at most"),
    ([("after", "a"), ("before", "b")], "not both"),
])  # fmt: skip
def test_a_wrong_address_is_told_what_is_allowed(query: list[tuple[str, str]], told: str) -> None:
    filters = [
        Filter("category", "Category", choices=("math", "code")),
        Filter("id", "Id", "id"),
        Filter("text", "Text", "text"),
    ]
    with pytest.raises(BadAddress, match=told.replace(".", r"\.")):
        check(query, filters)


@pytest.mark.parametrize(
    "reader", [lambda text: read_cursor(text, None, 2), lambda text: drops.read_cursor(None, text)]
)
def test_a_wrong_place_is_refused(reader: Callable[[str], Cursor]) -> None:
    with pytest.raises(BadAddress, match="expected a key of this list"):
        reader("../../etc/passwd")
