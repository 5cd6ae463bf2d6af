"""Proves which failures count as negatives, how they are matched with verified traces, and that every question
without a pair says why; that the exports load with `datasets` and are conversational to TRL. Not covered: 40 M
responses.
"""

from __future__ import annotations

import itertools

import datasets
import pytest
from trl.data_utils import is_conversational

from tasks.export import export_lines
from tasks.export_pairs import pair_rows, preference_folder
from tasks.negatives import NegativeSettings, Trace, match, set_aside

ANY = NegativeSettings(teacher="any", length_ratio=None, max_per_question=9)


def trace(identity, length, teacher="t"):
    return Trace(identity, teacher, length)


def ids(found):
    return [(one.response_id, other.response_id) for one, other in found.pairs]


def test_the_nearest_length_comes_first_and_no_response_stands_in_two_pairs():
    chosen, failed = [trace("a", 100), trace("b", 400)], [trace("x", 390), trace("y", 120), trace("z", 5000)]
    assert ids(match(chosen, failed, ANY)) == [("b", "x"), ("a", "y")]
    assert ids(match(chosen, failed, ANY.model_copy(update={"max_per_question": 1}))) == [("b", "x")]


def test_ties_are_broken_by_id_whatever_the_order():
    chosen, failed = [trace(name, 10) for name in "cab"], [trace(name, 10) for name in "zyx"]
    for one, other in itertools.product(itertools.permutations(chosen), itertools.permutations(failed)):
        assert ids(match(one, other, ANY)) == [("a", "x"), ("b", "y"), ("c", "z")]


def test_a_ratio_over_the_limit_is_no_match_and_says_how_near_it_was():
    limited = NegativeSettings(length_ratio=2)
    assert ids(match([trace("a", 100)], [trace("x", 200)], limited)) == [("a", "x")]
    found = match([trace("a", 100)], [trace("x", 201), trace("y", 10)], limited)
    assert (found.pairs, found.rule, found.nearest) == ((), "no_match_in_length", 2.01)


@pytest.mark.parametrize(
    ("teacher", "expected"), [("any", ("a", "near")), ("prefer", ("a", "own")), ("require", ("a", "own"))]
)
def test_the_same_teacher_is_preferred_or_required(teacher, expected):
    failed = [trace("near", 100, "other"), trace("own", 150)]
    settings = NegativeSettings(teacher=teacher)
    assert ids(match([trace("a", 100)], failed, settings)) == [expected]
    alone = match([trace("a", 100)], failed[:1], settings)
    assert alone.rule == ("no_match_in_teacher" if teacher == "require" else None)


def test_one_side_alone_is_no_pair():
    assert match([], [trace("x", 1)], ANY).rule == "no_success"
    assert match([trace("a", 1)], [], ANY).rule == "no_failure"
    assert match([], [], ANY).rule == "no_success"


@pytest.mark.parametrize(
    ("status", "by", "why"),
    [
        ("wrong_answer", "math", None),
        ("no_answer", "math", None),
        ("runtime_error", "code", None),
        ("time_limit", "code", None),
        ("time_limit", "math", "time_limit"),  # our comparison ran out of time
        ("memory_limit", "math", "memory_limit"),
        ("unverifiable", None, "unverifiable"),
        ("infra_error", "code", "infra_error"),
    ],
)
def test_only_real_failures_are_negatives(status, by, why):
    row = {"status": status, "by": by, "answer": None}
    settings = NegativeSettings()
    assert set_aside(row, by_vote=False, length=5, truncated=False, settings=settings) == why


def test_truncated_ones_by_setting_empty_ones_never():
    row = {"status": "wrong_answer", "by": "math", "answer": "7"}
    off, on = NegativeSettings(), NegativeSettings(truncated=True)
    assert set_aside(row, by_vote=False, length=5, truncated=True, settings=off) == "truncated"
    assert set_aside(row, by_vote=False, length=5, truncated=True, settings=on) is None
    assert set_aside(row, by_vote=False, length=0, truncated=False, settings=on) == "empty"


def test_where_a_vote_decides_an_answer_of_its_own_is_wrong_and_none_is_not():
    settings = NegativeSettings()
    row = {"status": "unverifiable", "by": None, "answer": "7"}
    assert set_aside(row, by_vote=True, length=5, truncated=False, settings=settings) is None
    assert set_aside(row | {"answer": None}, by_vote=True, length=5, truncated=False, settings=settings)
    broken = row | {"status": "infra_error"}
    assert set_aside(broken, by_vote=True, length=5, truncated=False, settings=settings) == "infra_error"


QUESTIONS = {
    "both": ["right", "wrong"],
    "only right": ["right", "right"],
    "only wrong": ["wrong", "wrong"],
    "long": ["right", "long"],
}


@pytest.fixture
def house(make_house):
    """Questions whose two answers are right, wrong, or wrong and long; and some that are held out."""
    house = make_house(
        curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.2},
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 2}],
        runner={"max_workers": 1},
        negatives={"length_ratio": 3},
        export={"validation": 0.2, "prompts": {"math": {"system": "Box it."}}},
    )
    rows = []
    for number, kind in enumerate(kind for kind in QUESTIONS for _ in range(6)):
        texts = {
            "right": f"<think>\nadd\n</think>\n\\boxed{{{number + 1}}}",
            "wrong": "<think>\nguess\n</think>\n\\boxed{999}",
            "long": f"<think>\n{' '.join(f'step{n}' for n in range(60))}\n</think>\n\\boxed{{999}}",
        }
        rows.append({
            "question": f"What is {number} + 1, {kind}?", "ground_truth": str(number + 1),
            "response": [texts[name] for name in QUESTIONS[kind]],
        })  # fmt: skip
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    return house


def test_every_question_has_its_pairs_or_its_reason(house):
    house.run("export")
    curated = {row["question_id"]: row for row in house.rows("curate", "curated")}
    kinds = {identity: row["messages"][0]["content"] for identity, row in curated.items() if row["split"] == "train"}
    expected = {"only right": "no_failure", "only wrong": "no_success", "long": "no_match_in_length"}
    rules = {row["unit_id"]: row["rule"] for row in house.ledger("negatives") if row["rule"] != "heldout"}
    assert rules == {
        identity: rule for identity, text in kinds.items() for kind, rule in expected.items() if f"{kind}?" in text
    }
    assert len(set(rules.values())) == 3 and house.rules("negatives")["heldout"] == len(curated) - len(kinds) > 0
    pairs = house.rows("negatives", "preference_pairs")
    assert {row["question_id"] for row in pairs} == {identity for identity, text in kinds.items() if "both?" in text}
    assert all(row["rejected_status"] == "wrong_answer" and row["length_ratio"] < 3 for row in pairs)


def test_the_exports_load_as_trl_wants_them_and_keep_the_thinking(house, tmp_path):
    house.run("export")
    pairs = house.rows("negatives", "preference_pairs")
    folder = preference_folder(house.workspace)
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    rows = [row for split in data.values() for row in split]
    assert pair_rows(house.workspace) == {"train": len(data["train"])} | {
        "validation": len(data["validation"]) if "validation" in data else 0
    }
    assert {row["pair_id"] for row in rows} == {f"{row['chosen_id']}:{row['rejected_id']}" for row in pairs}
    for row in rows:
        assert is_conversational({"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]})
        assert [message["role"] for message in row["prompt"]] == ["system", "user"] and row["license"] == "MIT"
        assert row["chosen"][0]["content"].startswith("<think>\nadd\n</think>\n\n\\boxed")
        assert row["rejected"] == [{"role": "assistant", "content": "<think>\nguess\n</think>\n\n\\boxed{999}"}]
    kto = datasets.load_dataset(str(folder.with_name("kto")), cache_dir=str(tmp_path / "cache"))
    singles = [row for split in kto.values() for row in split]
    assert sorted((row["response_id"], row["label"]) for row in singles) == sorted(
        [(row["chosen_id"], True) for row in pairs] + [(row["rejected_id"], False) for row in pairs]
    )
    assert "| sums | MIT |" in (folder / "README.md").read_text()


def test_another_limit_makes_the_pairs_again_and_no_selection(house):
    house.run("export")
    house.recipe["negatives"] = {"length_ratio": None}
    done = {one.step for one in house.run("export")}
    assert done == {"negatives", "export.pairs"}
    assert "no_match_in_length" not in house.rules("negatives")
    assert house.run("export") == []


def test_folders_of_pairs_go_with_the_negatives_and_come_back_with_them(house):
    """Old folders would be taken for this recipe's, and a head that still named them, for an export that is done."""
    house.recipe["export"]["formats"] = ["huggingface", "llama_factory"]
    house.run("export")
    folders = [house.root / "exports" / name for name in ("preference", "kto", "llama_factory_pairs")]
    before = {file: file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}
    assert len({file.parent for file in before}) >= 3
    negatives = house.recipe.pop("negatives")
    assert {one.step for one in house.run("export")} == {"export"}
    assert not any(folder.exists() for folder in folders) and (house.root / "exports" / "huggingface").exists()
    assert pair_rows(house.workspace) == {} and not any("preference" in line for line in export_lines(house.workspace))
    assert house.run("export") == []
    house.recipe["negatives"] = negatives
    assert {one.step for one in house.run("export")} == {"export", "export.pairs"}
    assert {file: file.read_bytes() for file in before} == before


def test_as_many_shards_as_you_like_give_the_same_pairs(house, tmp_path):
    house.run("export")
    other = house.copy(tmp_path / "other", bits=2)
    other.run("export")
    assert other.rows("negatives", "preference_pairs") == house.rows("negatives", "preference_pairs")
    assert other.ledger("negatives") == house.ledger("negatives")
