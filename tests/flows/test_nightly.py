"""Proves what a night finds and what an edition says of it: questions that are new, changed, retired; a changed
reference, a changed teacher, a changed rule, verdicts that came late; what is promoted and what is held, and why.

Two or more nights each, on replayed teachers, without Prefect, which tests/flows/test_nightly_flow.py has.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
import yaml

from flows.edition_checks import drift
from flows.errors import UsageError
from flows.nightly import begin_night, end_night, resampling
from flows.nightly_settings import NightlySettings, PromotionSettings
from storage.check import check
from storage.collect import collect
from storage.editions import (
    Edition,
    checks,
    copy_files,
    create_edition,
    diff_path,
    editions_folder,
    numbers,
    promoted,
    promotion,
    read_edition,
)  # fmt: skip
from storage.workspace import Workspace
from tasks.teachers.settings import OpenAITeacherSettings, ReplayTeacherSettings

PROJECT = Path(__file__).resolve().parents[2]
PROMOTE = {"self_test": False, "decontamination": False, "max_size_drift": None, "max_pass_rate_drift": None,
           "max_length_drift": None}  # fmt: skip


class Nights:
    """A house whose recipe is run night after night."""

    def __init__(self, house) -> None:
        self.house = house

    def rows(self, **changes):
        """The source and the answers: 12 sums, answered right but for every fourth; `changes` by the sum's number."""
        rows = []
        for number in range(12):
            row = {"id": f"q{number}", "question": f"What is {number} + 5?", "ground_truth": str(number + 5)}
            row |= {"good": f"\\boxed{{{number + 5 + (number % 4 == 0)}}}", "other": f"So: \\boxed{{{number + 5}}}"}
            row |= changes.get(f"q{number}", {})
            rows.append(row)
        return [row for row in rows if row["question"]]

    def write(self, rows):
        self.house.write("sums.jsonl", rows)

    def night(self, *overrides):
        path = self.house.base / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.house.recipe))
        night = begin_night(path, self.house.root, overrides)
        self.house.run()
        return end_night(night, "test")

    @property
    def workspace(self):
        return Workspace.open(self.house.root)

    def diff(self, number):
        """(change, why) → the sums' numbers, of the table of an edition."""
        found = {}
        with duckdb.connect() as connection:
            rows = connection.execute(
                "select change, why, source_id from read_parquet(?) order by all",
                [str(diff_path(self.workspace, number))],
            ).fetchall()
        for change, why, source_id in rows:
            found.setdefault((change, why), []).append(source_id)
        return found


@pytest.fixture
def nights(make_house):
    house = make_house(
        {"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT",
         "columns": {"source_id": "id"}},
        bits=1,
        curate={"filters": None, "near_duplicates": None},
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 1,
                   "columns": {"response": "good"}}],
        nightly={"promote": PROMOTE},
        runner={"max_workers": 1},
    )  # fmt: skip
    found = Nights(house)
    found.write(found.rows())
    return found


RIGHT = [f"q{number}" for number in range(12) if number % 4]


def test_the_first_edition_holds_all_and_is_promoted(nights):
    result = nights.night()
    edition = result.edition
    assert (edition.number, result.fresh, result.promoted) == (1, True, True)
    assert edition.counts["examples"] == 9 and edition.counts["pass_rate"] == 0.75 and edition.counts["graded"] == 12
    assert edition.diff == {"against": None, "changes": {"added": {"new question": 9}}}
    assert nights.diff(1) == {("added", "new question"): sorted(RIGHT)}
    assert [one["name"] for one in promotion(nights.workspace, 1)["checks"]] == ["examples", "books", "drift"]
    assert edition.versions["stillhouse"] and len(edition.recipe) == 32


def test_a_night_without_change_makes_no_edition(nights):
    nights.night()
    before = sorted(path.name for path in editions_folder(nights.workspace).iterdir())
    result = nights.night()
    assert (result.edition.number, result.fresh, result.promoted) == (1, False, True)
    assert sorted(path.name for path in editions_folder(nights.workspace).iterdir()) == before


def test_new_changed_and_retired_questions_and_references(nights, tmp_path):
    nights.night()
    copy_files(nights.workspace, read_edition(nights.workspace, 1), tmp_path / "first")
    rows = nights.rows(
        q1={"question": "What is 1 plus 5?"},  # changed: the same source_id
        q2={"question": None},  # vanished
        q3={"ground_truth": "9"},  # its answer is wrong by the new reference
        q4={"ground_truth": "10", "good": "\\boxed{9}"},  # another reference and answer, still wrong
        q8={"good": "\\boxed{13}"},  # a replay file with another, right answer
    )
    nights.write([*rows, {"id": "q99", "question": "What is 99 + 5?", "ground_truth": "104", "good": "\\boxed{104}"}])
    result = nights.night()
    assert result.edition.number == 2 and result.promoted
    assert nights.diff(2) == {
        ("added", "grade changed"): ["q8"],
        ("added", "new question"): ["q99"],
        ("added", "question changed"): ["q1"],
        ("gone", "question changed"): ["q1"],
        ("gone", "question retired"): ["q2"],
        ("gone", "reference changed"): ["q3"],
    }
    assert result.edition.diff["changes"]["gone"] == {
        "question changed": 1, "question retired": 1, "reference changed": 1
    }  # fmt: skip
    rows = duckdb.sql(f"""
        select change, question_id, other_question_id, detail from '{diff_path(nights.workspace, 2)}'
        where why in ('question changed', 'reference changed') order by why, change""").fetchall()
    added, gone, other = rows
    assert (added[1], added[2]) == (gone[2], gone[1])  # the two versions name each other
    assert other[3] == "unsolved"
    copy_files(nights.workspace, read_edition(nights.workspace, 1), tmp_path / "again")
    for path in (tmp_path / "first").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "first")).read_bytes()


def test_a_second_teacher_regrades_what_stays(nights):
    nights.night()
    nights.house.recipe["teachers"] += [
        {"name": "u", "engine": "replay", "path": "sums.jsonl", "samples": 1, "columns": {"response": "other"}}
    ]
    nights.write(nights.rows(q1={"other": "\\boxed{0}"}))
    nights.night()
    everyone = sorted(f"q{number}" for number in range(12) if number != 1)
    assert nights.diff(2) == {("added", "new teacher"): everyone, ("regraded", "teachers changed"): ["q1"]}
    [row] = duckdb.sql(f"""
        select old_pass_rate, new_pass_rate, old_difficulty, new_difficulty
        from '{diff_path(nights.workspace, 2)}' where change = 'regraded'""").fetchall()
    assert row == (1.0, 0.5, "easy", "medium")
    nights.house.recipe["teachers"] = nights.house.recipe["teachers"][:1]
    nights.night()
    assert nights.diff(3) == {("gone", "teacher left"): everyone, ("regraded", "teachers changed"): ["q1"]}


def test_a_new_revision_of_a_teacher_gives_new_responses(nights):
    nights.night()
    first = {row["response_id"] for row in nights.house.rows("generate.t", "responses")}
    nights.house.recipe["teachers"][0] |= {"revision": "second", "columns": {"response": "other"}}
    nights.night()
    rows = nights.house.rows("generate.t", "responses")
    assert {row["model_revision"] for row in rows} == {"replay", "second"}  # the paid ones stay
    assert first < {row["response_id"] for row in rows} and len(rows) == 24
    everyone = sorted(f"q{number}" for number in range(12))
    assert nights.diff(2) == {
        ("added", "new model revision"): everyone,
        ("gone", "new model revision"): sorted(RIGHT),
    }


def test_a_changed_rule_and_a_changed_curation_say_so(nights):
    nights.write(nights.rows(q5={"good": ["\\boxed{10}", "It is \\boxed{10}"]}))
    nights.house.recipe["teachers"][0]["samples"] = 2
    nights.night()
    nights.house.recipe["select"] = {"max_per_question": 1}
    nights.night()
    assert nights.diff(2) == {("gone", "rule changed"): ["q5"]}
    nights.house.recipe["curate"]["filters"] = {"min_chars": 15}
    nights.night()
    gone = nights.diff(3)
    assert list(gone) == [("gone", "dropped in curation")] and len(gone["gone", "dropped in curation"]) > 3


def test_what_is_not_set_up_holds_an_edition_until_the_recipe_says_so(nights):
    nights.house.recipe["nightly"] = {"promote": PROMOTE | {"self_test": True, "decontamination": True}}
    result = nights.night()
    assert not result.promoted and promoted(nights.workspace) == []
    assert [line.partition(":")[0] for line in result.faults()] == ["self-test", "decontamination"]
    assert "or nightly.promote.self_test: false" in result.faults()[0]
    held = [one["name"] for one in checks(nights.workspace, 1) if not one["passed"]]
    assert held == ["self-test", "decontamination"]
    nights.house.recipe["verify"] = {"self_test": {"max_false_reject": 0.2, "max_false_accept": 0.2, "sample": 5}}
    nights.house.write("benchmark.jsonl", [{"question": "How many moons has the planet Mars?", "answer": "2"}])
    nights.house.recipe["curate"]["decontaminate"] = {
        "benchmarks": [{"name": "moons", "path": "benchmark.jsonl", "question": "question", "answer": "answer"}],
        "signals": False,
    }
    result = nights.night()
    assert result.promoted and not result.fresh and promoted(nights.workspace) == [1]
    found = {one.name: one.found for one in result.checks}
    assert found["decontamination"] == "12 questions against 1 benchmarks, none undecided"


def test_drift_holds_an_edition_and_a_person_can_let_it_through(nights):
    nights.house.recipe["nightly"] = {"promote": {**PROMOTE, "max_pass_rate_drift": 0.2, "max_size_drift": 0.3}}
    nights.night()
    wrong = {f"q{number}": {"good": "\\boxed{0}"} for number in range(1, 5)}
    nights.write(nights.rows(**wrong))
    result = nights.night()
    assert not result.promoted and promoted(nights.workspace) == [1]
    assert [line.partition(":")[0] for line in result.faults()] == ["pass rate", "size"]
    assert "75.0% in edition 1, 50.0% now: a drift of 0.25, allowed is 0.2" in result.faults()[0]
    assert result.edition.number == 2 and result.edition.diff["changes"]["gone"]["grade changed"] == 3
    meant = ["nightly.promote.max_pass_rate_drift=null", "nightly.promote.max_size_drift=null"]
    result = nights.night(*meant)
    assert result.promoted and not result.fresh and promoted(nights.workspace) == [1, 2]


@pytest.mark.parametrize(
    ("now", "held"),
    [
        ({}, []),
        ({"categories": {"math": 65, "code": 35}}, ["category shares"]),
        ({"categories": {"math": 50, "code": 45, "chat": 5}}, []),
        ({"categories": {"math": 40, "code": 40, "chat": 20}}, ["category shares"]),
        ({"pass_rate": 0.59}, []),
        ({"pass_rate": 0.39}, ["pass rate"]),
        ({"pass_rate": None}, []),  # nothing is graded: there are no examples either, which is its own check
        ({"response_chars": 1300.0}, ["response length"]),
        ({"response_chars": 800.0}, []),
        ({"examples": 151}, ["size"]),
    ],
)
def test_drift_is_measured_against_the_last_promoted(now, held):
    before = {"examples": 100, "categories": {"math": 50, "code": 50}, "pass_rate": 0.5, "response_chars": 1000.0}
    counts = before | now
    if "categories" not in now:
        counts["categories"] = dict.fromkeys(("math", "code"), counts["examples"] // 2)
    last = Edition(4, "", "t", "", "", {}, {}, (), (), before)
    assert [one.name for one in drift(counts, last, PromotionSettings()) if not one.passed] == held


def test_old_editions_go_and_what_they_held_is_collected(nights):
    nights.house.recipe["nightly"] = {"promote": PROMOTE, "keep_editions": 2}
    for number in range(4):
        nights.write(nights.rows(q1={"question": f"What is 1 + 5, asked for the {number}. time?"}))
        result = nights.night()
    assert numbers(nights.workspace) == [3, 4] and result.dropped == (2,)
    kept = [read_edition(nights.workspace, number) for number in (3, 4)]
    for path in nights.workspace.root.rglob("*"):
        if path.is_file() and "cache" not in path.parts:
            os.utime(path, (1e9, 1e9))
    found = collect(nights.workspace)
    assert {one.kind for one in found.found} >= {"part", "edition file"}
    assert check(nights.workspace).damage == ()
    for edition in kept:
        assert copy_files(nights.workspace, edition, nights.house.root.parent / f"copy-{edition.number}") == 2


def test_unsolved_questions_are_sampled_more_night_after_night():
    settings = NightlySettings(resample_unsolved=4, resample_at_most=10)
    asked = OpenAITeacherSettings(name="t", engine="openai", model="m", base_url="http://localhost:1/v1", samples=3)
    own = asked.model_copy(update={"name": "own", "until": "verified"})
    replayed = ReplayTeacherSettings(name="r", engine="replay", path="x.jsonl")
    assert resampling([asked, own, replayed], settings, 1) == [
        "teachers.t.until=verified", "teachers.t.samples_per_round=4", "teachers.t.max_samples=7"
    ]  # fmt: skip
    assert resampling([asked], settings, 2)[-1] == "teachers.t.max_samples=11"
    assert resampling([asked], settings, 9)[-1] == "teachers.t.max_samples=13"
    assert resampling([asked], NightlySettings(), 9) == []


def test_a_recipe_without_teachers_is_refused(nights):
    nights.house.recipe["teachers"] = []
    with pytest.raises(UsageError, match="no teachers"):
        nights.night()


def test_a_diff_that_was_lost_is_made_again(nights):
    nights.night()
    nights.write(nights.rows(q1={"question": None}))
    nights.night()
    before = nights.diff(2)
    diff_path(nights.workspace, 2).unlink()
    assert not nights.night().fresh
    assert nights.diff(2) == before == {("gone", "question retired"): ["q1"]}


def test_killed_at_any_moment_of_a_promotion_the_next_night_ends_it(nights, tmp_path):
    """SIGKILL of the process that writes, checks and promotes an edition; nothing half written is an edition."""
    nights.night()
    nights.write(nights.rows(q1={"question": "What is 1 plus 5?"}, q2={"question": None}))
    nights.house.run()
    program = "import sys\nfrom pathlib import Path\nfrom flows.nightly import begin_night, end_night\n" \
              "night = begin_night(Path(sys.argv[1]), Path(sys.argv[2]), [])\nprint('go', flush=True)\n" \
              "end_night(night, 'killed')"  # fmt: skip
    recipe = nights.house.base / "recipe.yaml"

    def start(root):
        process = subprocess.Popen([sys.executable, "-c", program, recipe, root], cwd=PROJECT, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"go\n"
        return process

    shutil.copytree(nights.house.root, tmp_path / "timed")
    process, began = start(tmp_path / "timed"), time.monotonic()
    assert process.wait() == 0
    seconds, draw = time.monotonic() - began, random.Random(4)
    killed = 0
    wanted = read_edition(Workspace.open(tmp_path / "timed"), 2)
    for number in range(5):
        root = tmp_path / f"killed-{number}"
        shutil.copytree(nights.house.root, root)
        process = start(root)
        time.sleep(draw.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        workspace = Workspace.open(root)
        assert numbers(workspace) in ([1], [1, 2]) and check(workspace).damage == ()
        end_night(begin_night(recipe, root, []), "next")
        edition = read_edition(workspace, 2)
        assert promoted(workspace) == [1, 2] and edition.diff == wanted.diff and edition.counts == wanted.counts
        assert diff_path(workspace, 2).exists() and check(workspace).damage == ()
    assert killed


def test_an_edition_of_another_run_is_not_overwritten(nights, monkeypatch):
    """Another process writes edition 2 while this one counts."""
    nights.night()
    nights.write(nights.rows(q1={"question": None}))
    real = create_edition

    def late(workspace, edition):
        monkeypatch.setattr("flows.nightly.create_edition", real)
        real(workspace, edition)
        real(workspace, edition)

    monkeypatch.setattr("flows.nightly.create_edition", late)
    with pytest.raises(Exception, match="edition 2 was written by another run"):
        nights.night()
    result = nights.night()
    assert result.edition.number == 2 and not result.fresh and result.promoted


def test_what_stands_in_an_edition_is_plain_json(nights):
    nights.night()
    record = json.loads((editions_folder(nights.workspace) / "1.json").read_text())
    steps = {one["step"] for one in record["slices"]}
    assert steps == {"ingest", "curate", "generate.t", "grade", "select"}
    for one in record["slices"]:
        for part in one["parts"]:
            assert {"path", "sha256", "rows"} <= set(part)
    assert str(nights.house.root) not in json.dumps(record)
