"""What models and files say reaches no terminal as a command: no escape sequence, no C1 control, no turned text."""

from __future__ import annotations

import json

import pytest

from flows.printable import printable, printable_json

HOSTILE = "a\x1b]0;owned\x07\x9b31mb\u202eright\u200b\r\x08c\ud800 中文 ∑ é\nnext"


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    assert all(char.isprintable() or char == "\n" for char in printable(HOSTILE))
    assert printable("中文 ∑ é\nnext") == "中文 ∑ é\nnext"
    assert "\n" not in printable(HOSTILE, keep="")


@pytest.mark.parametrize("indent", [None, 2])
def test_json_stays_what_it_was(indent: int | None) -> None:
    text = printable_json(json.dumps({"x": HOSTILE}, ensure_ascii=False, indent=indent))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert json.loads(text) == {"x": HOSTILE} and "中文" in text


def test_show_and_sql_print_a_hostile_question_as_text(stillhouse, replay_recipe, tmp_path) -> None:
    hostile = HOSTILE.replace("\ud800", "")
    with (replay_recipe.parent / "sums.jsonl").open("a") as file:
        file.write(
            json.dumps({"question": f"What is 1 + 1? {hostile}", "ground_truth": "2", "good": "2", "poor": "3"}) + "\n"
        )
    stillhouse("ingest", replay_recipe, "-w", tmp_path / "w")
    query = (
        "select question_id, messages[1].content as text from questions "
        "where starts_with(messages[1].content, 'What is 1 + 1?')"
    )
    (row,) = [json.loads(line) for line in stillhouse("sql", tmp_path / "w", query, "--json").splitlines()]
    assert row["text"] == f"What is 1 + 1? {hostile}"
    for text in (
        stillhouse("show", tmp_path / "w", row["question_id"]),
        stillhouse("sql", tmp_path / "w", query),
        stillhouse("sql", tmp_path / "w", query, "--json"),
    ):
        assert "What is 1 + 1?" in text
        assert all(char.isprintable() or char == "\n" for char in text)
