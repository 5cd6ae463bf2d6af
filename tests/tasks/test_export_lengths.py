"""Proves that an export says how long its examples are for the student, how many are over its limit, and whether the
chat template keeps the thinking in the loss; with a real tokenizer and templates that do and don't.
"""

from __future__ import annotations

from collections import Counter

import pytest
from markupsafe import escape
from transformers import AutoTokenizer

from tasks.export import export_folder, export_lines
from tasks.export_lengths import LengthCheck, Reader, length_line, quantile, reader_of
from tasks.report import write_report
from tasks.student_stages import StudentSettings
from tests.tasks.tiny_student import TEMPLATE, make_student

DROPS_THINKING = TEMPLATE.replace("m.content", "m.content.split('</think>')[-1]")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"))


def talk(number, thinking="add"):
    answer = f"<think>\n{thinking}\n</think>\n\n{number + 1}"
    return [{"role": "user", "content": f"What is {number} + 1?"}, {"role": "assistant", "content": answer}]


def checked(reader, conversations):
    check = LengthCheck(reader, len(conversations))
    for number, one in enumerate(conversations):
        check.add([one], str(number))
    return check.report()


def test_lengths_are_those_of_the_student_and_long_ones_are_counted(student):
    tokenizer = AutoTokenizer.from_pretrained(student)
    talks = [talk(n, "add " * (n + 1)) for n in range(20)]
    lengths = [len(tokenizer(tokenizer.apply_chat_template(one, tokenize=False))["input_ids"]) for one in talks]
    limit = sorted(lengths)[14]
    found = checked(Reader(str(student), None, None, limit), talks)
    assert found["checked"] == found["total"] == 20 and found["over"] == sum(one > limit for one in lengths) > 0
    assert found["quantiles"]["longest"] == max(lengths) and found["quantiles"]["p50"] == sorted(lengths)[9]
    assert found["outside"] == 0
    assert f"{found['over']} over max_length {limit}" in length_line(found)


def test_a_template_that_drops_the_thinking_is_told(student, tmp_path):
    (tmp_path / "drops.jinja").write_text(DROPS_THINKING)
    found = checked(Reader(str(student), None, str(tmp_path / "drops.jinja"), 99), [talk(1), talk(2)])
    assert found["outside"] == found["checked"] == 2 and "keeps the thinking part of response 0" in found["first"]
    assert "2 NOT WHOLLY IN THE LOSS" in length_line(found)


def test_of_a_pair_the_longer_side_counts(student):
    check = LengthCheck(Reader(str(student), None, None, 99), 1)
    check.add([talk(1), talk(1, "add " * 30)], "pair")
    alone = checked(Reader(str(student), None, None, 99), [talk(1, "add " * 30)])
    assert check.report()["quantiles"] == alone["quantiles"]


def test_a_sample_says_that_it_is_one(student, monkeypatch):
    monkeypatch.setattr("tasks.export_lengths.CHECKED", 30)
    found = checked(Reader(str(student), None, None, 99), [talk(n) for n in range(100)])
    assert 10 < found["checked"] < 60 and "(a sample of 100)" in length_line(found)


def test_a_student_that_is_not_here_is_said_and_stops_nothing(tmp_path):
    found = checked(Reader(str(tmp_path / "none"), None, None, 99), [talk(1)])
    assert found["checked"] == 0 and length_line(found).startswith("template not checked: the tokenizer of none")


def test_the_limit_is_the_lowest_of_the_stages_that_read_the_rows():
    stages = [{"kind": "sft"}, {"kind": "anneal", "max_length": 300}, {"kind": "redi", "max_length": 200}]
    student = StudentSettings(stages=stages, max_length=400)
    readers = [reader_of(student, pairs=pairs) for pairs in (False, True)]
    assert [one.max_length for one in readers if one] == [300, 200]
    assert reader_of(StudentSettings(), pairs=True) is None and reader_of(None, pairs=False) is None


def test_quantiles_are_the_least_values_that_the_share_does_not_exceed():
    counts = Counter({1: 50, 5: 45, 9: 5})
    assert [quantile(counts, share) for share in (0.05, 0.5, 0.51, 0.95, 0.96, 1)] == [1, 1, 5, 5, 9, 9]


def test_card_report_and_the_end_of_the_command_say_it(make_house, student):
    house = make_house(
        runner={"max_workers": 1},
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 1}],
        negatives={},
        student={"model": str(student), "max_length": 60},
    )
    rows = [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": f"<think>{'add ' * n}</think>{n + 1}"}
        for n in range(9, 14)
    ]
    house.write("sums.jsonl", rows)
    house.run("export")
    report = house.workspace.head("export", "all").extra["lengths"]
    assert report["checked"] == 5 and report["max_length"] == 60
    card = (export_folder(house.workspace) / "README.md").read_text()
    assert "5 of 5 rendered with the chat template" in card and f"| {report['quantiles']['longest']} |" in card
    lines = export_lines(house.workspace)
    page = write_report(house.workspace, "t", None).read_text()
    assert all(str(escape(line)) in page for line in lines)
    assert lines[0] == "exports/huggingface: licence mit (attribution)" and "5 rendered" in " ".join(lines)
