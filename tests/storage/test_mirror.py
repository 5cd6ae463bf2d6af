"""Proves that a result published on one machine is found whole on another, once, and again when it has changed."""

from __future__ import annotations

import pytest

from storage.workspace import Workspace


@pytest.fixture
def machines(s3, tmp_path, monkeypatch):
    """The same workspace as two machines see it, each with a cache of its own."""
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / name))
        found.append(Workspace.create(s3.place(), bits=0))
    return found


def write(workspace, **files):
    folder = workspace.local / "exports" / "x"
    for path in list(folder.rglob("*")):
        if path.is_file():
            path.unlink()
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    workspace.publish("exports/x")


def texts(workspace):
    folder = workspace.fetch("exports/x")
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_published_folder_is_fetched_whole_and_then_no_more(machines, s3):
    one, two = machines
    write(one, a="1", data__b="2")
    assert texts(two) == {"a": "1", "data/b": "2"}
    before = s3.seen()
    assert texts(two) == texts(one) == {"a": "1", "data/b": "2"}
    assert s3.seen()["GET"] - before["GET"] <= 2  # a listing each


def test_a_changed_result_replaces_the_older_one_on_both_sides(machines, s3):
    one, two = machines
    write(one, a="1", b="2", c="3")
    texts(two)
    write(two, a="1", b="two", d="4")
    assert texts(one) == {"a": "1", "b": "two", "d": "4"}
    assert [key for key in s3.held() if "/exports/" in key] == [f"ws/exports/x/{name}" for name in "abd"]


def test_a_single_file_is_a_result_too(machines):
    one, two = machines
    one.local.mkdir(parents=True)
    (one.local / "report.html").write_text("page")
    one.publish("report.html")
    assert two.fetch("report.html").read_text() == "page"
    (one.local / "report.html").write_text("next")
    one.publish("report.html")
    assert two.fetch("report.html").read_text() == "next"


def test_a_file_of_a_result_can_be_fetched_alone(machines):
    one, two = machines
    write(one, result="{}", model__weights="large")
    assert two.fetch("exports/x/result").read_text() == "{}"
    assert not (two.local / "exports/x/model").exists()


def test_what_is_skipped_stays_here(machines):
    one, two = machines
    (one.local / "students/s/data-1").mkdir(parents=True)
    (one.local / "students/s/data-1/rows").write_text("rows")
    (one.local / "students/s/result").write_text("{}")
    one.publish("students/s", skip=("data-*",))
    assert [path.name for path in two.fetch("students/s").rglob("*")] == ["result"]
    one.fetch("students/s")
    assert (one.local / "students/s/data-1/rows").read_text() == "rows"


def test_what_was_never_published_is_not_there(machines):
    assert not machines[1].fetch("exports/none").exists()


def test_a_discarded_result_is_gone_here_and_there(machines, s3):
    one, _ = machines
    write(one, a="1")
    one.discard("exports/x")
    assert [key for key in s3.held() if "/exports/" in key] == [] and not (one.local / "exports/x").exists()


def test_a_fetch_that_was_cut_off_is_made_good(machines, s3):
    one, two = machines
    write(one, a="1", b="2")
    s3.fault("cut", "GET", "/exports/x/b", times=2)  # the client tries again
    assert texts(two) == {"a": "1", "b": "2"}
    (two.local / "exports/x/b").unlink()
    two.fetch("exports/x")  # nothing says that it is missing: files here are nobody else's to remove
    assert texts(two) == {"a": "1"}


def test_in_a_folder_a_result_is_where_it_was_made(workspace):
    (workspace.local / "exports").mkdir()
    (workspace.local / "exports" / "x").write_text("1")
    workspace.publish("exports/x")
    assert workspace.fetch("exports/x") == workspace.root / "exports" / "x"
    workspace.discard("exports/x")
