"""Proves that variants are trained on equal tokens of their own choice by seed, that nothing shared is written again or
made twice, that a cut-off ablation goes on, and what the table's intervals hold.

With a real model of two layers, trained for a few steps; pairs as well as examples. Not covered: what an ablation finds
(docs/ablations.md).
"""

from __future__ import annotations

import csv
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml

import flows.ablate
from flows.ablate import Variant, _shared_road, chosen_variants, run_ablation
from flows.errors import UsageError
from flows.recipe import load_recipe
from flows.run import open_workspace
from storage.workspace import ALL, Workspace
from tasks.ablate import AblateSettings, Lengths, folder_name, sample
from tasks.ablate_table import AblationRow, Measured, as_csv, table_rows
from tasks.errors import BadSetting
from tasks.export import export_folder
from tasks.export_pairs import pair_rows
from tasks.page import environment
from tasks.step import Context
from tasks.train import stage_results
from tests.tasks.tiny_student import make_student, thought

PLAIN = Variant("recipe", ())
ONE_EACH = Variant("select.max_per_question=1", ("select.max_per_question=1",))


@pytest.fixture
def ablation(make_house, tmp_path):
    """`ablation(variants, seeds, tokens)` on 24 questions with two right answers each; its context too."""
    model = make_student(tmp_path / "model")
    house = make_house(
        curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.3},
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 4}],
        runner={"max_workers": 1},
        select={"trace": None},
        export={"validation": 0.1},
        student={"name": "s", "model": str(model), "max_length": 128, "batch_size": 8, "learning_rate": 1e-3},
        evaluate={"sampling": {"temperature": 0, "max_tokens": 16}},
    )
    rows = [
        {
            "question": f"What is {n} + 1?",
            "ground_truth": str(n + 1),
            "response": [thought(n), f"So it is {n + 1}.", thought(n + 5), f"So it is {n + 6}."],
        }
        for n in range(10, 34)
    ]
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    path = house.base / "recipe.yaml"
    path.write_text(yaml.safe_dump(house.recipe))
    loaded = load_recipe(path)
    context = Context(open_workspace(loaded, house.root), "test")
    _shared_road(loaded, context)

    def run(variants, seeds=2, tokens=None):
        return run_ablation(loaded, context, variants, seeds, tokens, lambda text: None)

    run.context, run.loaded = context, loaded
    return run


def commits(workspace):
    return {path: path.stat().st_mtime_ns for path in (workspace.root / "manifest").rglob("*.json")}


def exported(parent, variant, seed):
    place = Workspace.open(parent.root / "ablations" / folder_name(variant.name) / f"seed-{seed}")
    return place, pq.read_table(export_folder(place) / "data")["response_id"].to_pylist()


def test_equal_tokens_shared_road_and_a_second_run(ablation, monkeypatch):
    parent = ablation.context.workspace
    before = commits(parent)
    trained = []
    real = flows.ablate._train_and_evaluate

    def cut_off(context, one, budget, number):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((one.variant.name, number))
        return real(context, one, budget, number)

    with monkeypatch.context() as patch:
        patch.setattr(flows.ablate, "_train_and_evaluate", cut_off)
        with pytest.raises(KeyboardInterrupt):
            ablation([PLAIN, ONE_EACH])
    first, ids = exported(parent, PLAIN, 17)
    made = commits(first)
    rows, pending = ablation([PLAIN, ONE_EACH])
    assert commits(first) == made, "what was done before the interruption was done again"
    assert commits(parent) == before and not pending
    assert [row.variant for row in rows] == ["recipe", ONE_EACH.name]
    assert rows[0].exported > rows[1].exported
    budget = rows[1].tokens  # the smallest variant's own, so all of it
    assert rows[1].examples == rows[1].exported
    assert 0.8 * budget < rows[0].tokens <= budget
    _, others = exported(parent, PLAIN, 18)
    assert set(ids) != set(others)
    assert rows[0].questions == rows[1].questions > 0 and rows[0].difference is None
    assert rows[1].difference_low <= rows[1].difference <= rows[1].difference_high
    assert first.head("train.s", ALL) is not None
    assert ablation([PLAIN, ONE_EACH]) == (rows, 0)


def test_pairs_are_equal_in_tokens_too(ablation, tmp_path):
    """Variants of one and of two pairs a question; the link of a version that linked pairs is not written through."""
    context, loaded = ablation.context, ablation.loaded
    overrides = ("select.max_per_question=2", "student.stages=[{kind: redi, gradient_accumulation: 1}]")
    two = Variant("two", ("negatives={max_per_question: 2, length_ratio: null}", *overrides))
    one = Variant("one", ("negatives={max_per_question: 1, length_ratio: null}", *overrides))
    old = context.workspace.root / "ablations" / folder_name("two") / "seed-17"
    target = tmp_path / "elsewhere"
    for folder in (old.parent, old):
        Workspace.create(folder, bits=context.workspace.bits)
    for name in ("manifest/export.pairs", "exports/preference"):
        (target / name).mkdir(parents=True)
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).symlink_to(target / name)
    said: list[str] = []
    rows, _ = run_ablation(loaded, context, [two, one], 1, None, said.append)
    assert [row.pairs for row in rows][1] < 1.2 * rows[0].pairs and "tokens of pairs" in said[0]
    exported = [pair_rows(Workspace.open(old.parents[1] / folder_name(name)))["train"] for name in ("two", "one")]
    assert exported[0] == 2 * exported[1] and rows[1].pairs == exported[1]
    assert 0.8 * rows[1].pair_tokens < rows[0].pair_tokens <= rows[1].pair_tokens
    assert not list(target.rglob("*.json")) and not list(target.rglob("*.parquet"))
    [book] = Workspace.open(old).need("export.pairs", ALL).books
    assert (book.unit, book.units_out) == ("pair", rows[0].pairs)
    result = stage_results(Workspace.open(old), "s")["redi"]
    assert result["examples"] == rows[0].pairs
    assert [row["pairs"] for row in csv.DictReader(as_csv(rows).splitlines())] == [str(row.pairs) for row in rows]


def test_what_variants_share_can_not_be_varied(ablation):
    with pytest.raises(BadSetting, match=r"variant odd changes weigh .*bands.* which all variants share"):
        ablation([PLAIN, Variant("odd", ("grade.bands=quantile",))])


def test_more_tokens_than_a_variant_has(ablation):
    with pytest.raises(UsageError, match=r"--tokens 1,000,000: variant recipe exports [\d,]+ tokens"):
        ablation([PLAIN], tokens=1_000_000)


def test_variants_from_the_command_line_and_from_the_recipe():
    settings = AblateSettings(variants={"no_filter": ("select.trace=null",)})
    over = ["select.method=verified,deepdistill", "select.pass_rate=[0.1, 0.9]"]
    found = chosen_variants(settings, over, ["select.trace"])
    assert [(one.name, one.overrides) for one in found] == [
        ("recipe", ()),
        ("select.method=verified", ('select.method="verified"',)),
        ("select.method=deepdistill", ('select.method="deepdistill"',)),
        ("select.pass_rate=[0.1, 0.9]", ("select.pass_rate=[0.1, 0.9]",)),
        ("without select.trace", ("select.trace=null",)),
    ]
    assert [one.name for one in chosen_variants(settings, [], [])] == ["recipe", "no_filter"]


@pytest.mark.parametrize(
    "over, without, message",
    [
        (["select.method"], [], "expected KEY=V1,V2"),
        ([], [], "nothing to compare"),
        ([], ["a.b", "a.b"], "without a.b is there twice"),
        (["a=[1"], [], "no valid YAML"),
    ],
)
def test_wrong_variants_are_told(over, without, message):
    with pytest.raises(UsageError, match=message):
        chosen_variants(AblateSettings(), over, without)


def test_a_sample_fits_its_budget_and_follows_its_seed():
    lengths = Lengths(tuple((f"r{n}", 10 + n) for n in range(30)), 0)
    taken, total = sample(lengths, 200, 1)
    assert total == sum(tokens for identity, tokens in lengths.examples if identity in taken) <= 200
    assert total > 200 - 40
    assert sample(lengths, 200, 1) == (taken, total) and sample(lengths, 200, 2) != (taken, total)
    assert sample(lengths, lengths.tokens, 1)[0] == {f"r{n}" for n in range(30)}


def measured(name, *passes):
    rates = tuple({f"q{place}": (1, one) for place, one in enumerate(seed)} for seed in passes)
    return Measured(name, (), 9, ((5, 100),) * len(rates), rates)


def test_differences_are_paired_by_question():
    """One variant is right wherever the other is, and on five questions more: chance has no say in the sign."""
    one, other = [1, 0] * 20, [1, 0] * 15 + [1, 1] * 5
    first, second = table_rows([measured("recipe", one, one), measured("x", other, other)])
    assert (first.accuracy, second.accuracy, second.difference) == (0.5, 0.625, 0.125)
    assert 0 < second.difference_low < 0.125 < second.difference_high < 0.3
    assert second.low < 0.5 < second.high  # unpaired, the two would overlap


def test_seeds_that_disagree_widen_the_interval():
    steady = table_rows([measured("recipe", *[[1, 0] * 50] * 4)])[0]
    wild = table_rows([measured("recipe", [1] * 100, [0] * 100, [1] * 100, [0] * 100)])[0]
    assert steady.accuracy == wild.accuracy == 0.5
    assert wild.high - wild.low > 3 * (steady.high - steady.low)


def test_the_table_as_csv():
    rows = table_rows([measured("recipe", [1, 0]), measured("a,b", [1, 1])])
    found = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [row["variant"] for row in found] == ["recipe", "a,b"]
    assert (found[0]["difference"], found[1]["difference"]) == ("", "0.5")


def test_the_page_shows_pairs_where_only_some_variants_train_on_them():
    row = AblationRow("recipe", "", 9, 8, 70, None, None, 1, 5, 0.5, 0.2, 0.8, "50", None, None, None)
    rows = [row, replace(row, variant="dpo", pairs=4, pair_tokens=33)]
    page = environment().get_template("ablation.html.j2").render(name="n", rows=rows, budget="70 tokens a training")
    assert page.count('<td class="n">–</td>') >= 2 and '<td class="n">4</td><td class="n">33</td>' in page
