"""`stillhouse ablate`: the same student on the same number of tokens for each variant of a recipe, with seeds.

The road up to the grades is walked once, in the workspace; each variant reads it, selects, exports, trains and is
evaluated in folders of its own (tasks/ablate.py). Every one of these is a step with a fingerprint: after a kill the
same command goes on, and a changed variant redoes its own trainings only. It runs in this process, without Prefect.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from flows.errors import RecipeError, UsageError
from flows.progress import Bars
from flows.recipe import LoadedRecipe, load_recipe
from flows.run import Range, Wish, carry_out, open_workspace, plan, run_range
from flows.steps import STAGES, build_steps
from storage.files import replace_file
from storage.place import need_folder
from storage.place import place as parse_place
from storage.workspace import ALL, Workspace
from tasks.ablate import (
    EXAMPLES,
    PAIRS,
    AblateSettings,
    Kind,
    Lengths,
    commit_sample,
    folder_name,
    link_steps,
    measure_lengths,
    sampled,
)
from tasks.ablate_table import AblationRow, Measured, as_csv, table_rows
from tasks.errors import BadSetting, MissingInput, NothingToTrainOn
from tasks.evaluate import question_rates
from tasks.export import export_rows
from tasks.export_pairs import pair_rows
from tasks.page import environment
from tasks.step import Context, Heads, Step, pending_work
from tasks.train import base_model

EXIT_PENDING = 3
SHARED = STAGES[: STAGES.index("select")]
"""stages that variants take from the workspace"""
THE_RECIPE = "recipe"


@dataclass(frozen=True)
class Variant:
    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class _Opened:
    """A variant with its recipe, its workspace and what its export holds."""

    variant: Variant
    loaded: LoadedRecipe
    workspace: Workspace
    lengths: dict[Kind, Lengths]
    """of the examples, and of the pairs where the student is trained on some"""


def add_to(app: typer.Typer) -> None:
    app.command()(ablate)


def ablate(
    recipe: Annotated[Path, typer.Argument(help="Recipe (YAML) with a student and `evaluate`.")],
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="A variant for each value of a setting; may be repeated."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A variant with this setting null; may be repeated.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each variant; default: the recipe's.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of each training; default: those of the smallest variant.")
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", parser=parse_place, help="Folder of the data set.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")] = None,
) -> None:
    """Train the same student on equal tokens with and without a rule, with seeds; a table with intervals.

    The recipe as it stands is the first variant; the others differ from it by their overrides alone, one each, and by
    `ablate.variants` of the recipe where neither --over nor --without is given.
    """
    loaded = load_recipe(recipe, tuple(set_ or ()))
    settings = loaded.recipe.ablate
    variants = chosen_variants(settings, over or (), without or ())
    for variant in variants:
        load_recipe(recipe, (*loaded.overrides, *variant.overrides))  # a wrong one is told before anything runs
    console = Console()
    need_folder(workspace or loaded.default_workspace(), "stillhouse ablate")
    place = open_workspace(loaded, workspace)
    with Bars(console) as bars:
        context = Context(place, uuid.uuid4().hex, bars, loaded.recipe.runner.memory_mb)
        _shared_road(loaded, context)
        rows, pending = run_ablation(
            loaded, context, variants, seeds or settings.seeds, tokens or settings.tokens, console.print
        )
    budget = f"{_span([row.tokens for row in rows])} tokens a training"
    if pair_tokens := [row.pair_tokens for row in rows if row.pair_tokens is not None]:
        budget += f" and {_span(pair_tokens)} of pairs"
    console.print(ablation_table(rows, budget))
    folder = place.root / "ablations"
    replace_file(folder / "table.csv", as_csv(rows).encode())
    page = environment().get_template("ablation.html.j2").render(name=loaded.recipe.name, rows=rows, budget=budget)
    replace_file(folder / "table.html", page.encode())
    console.print(f"{folder / 'table.csv'}, {folder / 'table.html'}", highlight=False, soft_wrap=True)
    if pending:
        console.print(f"pending: {pending} held-out questions; run the same command again", style="yellow")
        raise typer.Exit(EXIT_PENDING)


def _span(values: Sequence[int]) -> str:
    return f"{min(values):,} – {max(values):,}"


def chosen_variants(settings: AblateSettings, over: Sequence[str], without: Sequence[str]) -> list[Variant]:
    """The recipe itself, then a variant for each value and each left-out setting. Raises UsageError."""
    found = [Variant(THE_RECIPE, ())]
    for text in over:
        key, given, values = text.partition("=")
        if not given or not key or not values:
            raise UsageError(f"--over {text}: expected KEY=V1,V2, such as select.method=verified,deepdistill")
        try:
            listed = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError as fault:
            raise UsageError(f"--over {text}: the values are no valid YAML") from fault
        found += [Variant(f"{key}={_shown(value)}", (f"{key}={json.dumps(value)}",)) for value in listed]
    found += [Variant(f"without {key}", (f"{key}=null",)) for key in without]
    if not over and not without:
        found += [Variant(name, overrides) for name, overrides in settings.variants.items()]
    if len(found) == 1:
        raise UsageError("nothing to compare: give --over KEY=V1,V2 or --without KEY, or name `ablate.variants` in the "
                         "recipe")  # fmt: skip
    names = [variant.name for variant in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"the variant {twice[0]} is there twice; leave one out")
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shared_road(loaded: LoadedRecipe, context: Context) -> None:
    """What all variants read; made here where it is missing."""
    todo = plan(loaded, context.workspace, Wish(until=SHARED[-1]))

    def submit(batch: Sequence[Range]) -> None:
        for one in batch:
            run_range(context, one)

    carry_out(todo, submit)


def run_ablation(
    loaded: LoadedRecipe, context: Context, variants: Sequence[Variant], seeds: int, tokens: int | None,
    say: Callable[[str], Any],
) -> tuple[list[AblationRow], int]:  # fmt: skip
    """Select, export, train and evaluate all variants; the table's rows, and how many questions are pending."""
    if not loaded.recipe.student or not loaded.recipe.evaluate:
        raise RecipeError("an ablation trains a student and measures it: set `student` and `evaluate` in the recipe")
    opened = [_select_and_export(loaded, context, variant) for variant in variants]
    budgets = _budgets(opened, tokens)
    listed = ", ".join(f"{budget:,} tokens of {kind.unit}s" for kind, budget in budgets.items())
    say(f"{listed} a training, {len(opened)} variants × {seeds} seeds")
    made: dict[str, list[Workspace]] = {one.variant.name: [] for one in opened}
    for number in range(seeds):  # seed by seed, so that a run that is cut off has something of every variant
        for one in opened:
            made[one.variant.name].append(_train_and_evaluate(context, one, budgets, number))
    measured = [_measured(one, made[one.variant.name]) for one in opened]
    heads = [
        seeded.head(f"evaluate.{_student(one.loaded).name}", ALL) for one in opened for seeded in made[one.variant.name]
    ]
    return table_rows(measured), sum(head.pending for head in heads if head)


def _budgets(opened: Sequence[_Opened], tokens: int | None) -> dict[Kind, int]:
    """Tokens of a training's examples, and of its pairs where there are some: those of the smallest variant, or, of
    examples, as many as were asked for. A kind that only some variants are trained on is equal among these."""
    kinds = [kind for kind in (EXAMPLES, PAIRS) if any(kind in one.lengths for one in opened)]
    budgets = {kind: min(one.lengths[kind].tokens for one in opened if kind in one.lengths) for kind in kinds}
    least = next(one for one in opened if one.lengths[EXAMPLES].tokens == budgets[EXAMPLES])
    if tokens and tokens > budgets[EXAMPLES]:
        raise UsageError(f"--tokens {tokens:,}: variant {least.variant.name} exports {budgets[EXAMPLES]:,} tokens; "
                         "name fewer, or leave --tokens out for the smallest variant's")  # fmt: skip
    return budgets | ({EXAMPLES: tokens} if tokens else {})


def _measured(one: _Opened, seeded: Sequence[Workspace]) -> Measured:
    student = _student(one.loaded).name
    pairs = tuple(sampled(place, PAIRS) for place in seeded) if PAIRS in one.lengths else ()
    return Measured(one.variant.name, one.variant.overrides, export_rows(one.workspace)["train"],
                    tuple(sampled(place, EXAMPLES) for place in seeded),
                    tuple(question_rates(place, student) for place in seeded), pairs)  # fmt: skip


def _student(loaded: LoadedRecipe) -> Any:
    assert loaded.recipe.student is not None
    return loaded.recipe.student


def _reload(loaded: LoadedRecipe, overrides: Sequence[str]) -> LoadedRecipe:
    assert loaded.path is not None
    return load_recipe(loaded.path, (*loaded.overrides, *overrides))


def _select_and_export(loaded: LoadedRecipe, context: Context, variant: Variant) -> _Opened:
    own = _reload(loaded, variant.overrides)
    steps = build_steps(own)
    parent = context.workspace
    folder = parent.root / "ablations" / folder_name(variant.name)
    workspace = Workspace.create(folder, bits=parent.bits)
    link_steps(parent, workspace, [step.key for step in steps if step.stage in SHARED])
    _run(context, workspace, steps, ("select", "export"), variant)
    if not export_rows(workspace).get("train"):
        raise NothingToTrainOn(f"variant {variant.name} exports no training example; leave it out, or loosen its rules")
    student = _student(own)
    if student.needs_pairs() and not pair_rows(workspace).get("train"):
        raise NothingToTrainOn(f"variant {variant.name} exports no pair, on which its student is trained; leave it "
                               "out, or loosen `negatives`")  # fmt: skip
    kinds = (EXAMPLES, PAIRS) if student.needs_pairs() else (EXAMPLES,)
    lengths = {kind: measure_lengths(workspace, student, base_model(student), kind) for kind in kinds}
    return _Opened(variant, own, workspace, lengths)


def _train_and_evaluate(context: Context, one: _Opened, budgets: dict[Kind, int], number: int) -> Workspace:
    seed = _student(one.loaded).seed + number
    seeded = Workspace.create(one.workspace.root / f"seed-{seed}", bits=one.workspace.bits)
    loaded = _reload(one.loaded, [f"student.seed={seed}", "evaluate.base=false"])
    steps = build_steps(loaded)
    link_steps(one.workspace, seeded, [step.key for step in steps if step.stage in (*SHARED, "select")])
    for kind, lengths in one.lengths.items():
        commit_sample(one.workspace, seeded, lengths, budgets[kind], seed, context.run_id, kind)
    _run(context, seeded, steps, ("train", "evaluate"), one.variant)
    return seeded


def _run(context: Context, workspace: Workspace, steps: Sequence[Step], stages: Sequence[str],
         variant: Variant) -> None:  # fmt: skip
    """The steps of some stages in one workspace; all before them must be there as this recipe has them."""
    by_key = {step.key: step for step in steps}
    here = Context(workspace, context.run_id, context.progress, context.memory_mb)
    for step in steps:
        if step.stage not in (*SHARED, *stages):
            continue
        work = pending_work(step, by_key, Heads(workspace), step.files(workspace.cache / "files"))
        if step.stage in SHARED:
            if work is None or any(not one.why.endswith("units pending") for one in work):
                why = "; ".join(sorted({one.why for one in work or ()}))
                raise BadSetting(f"variant {variant.name} changes {step.key} ({why}), which all variants share; "
                                 "an ablation varies what comes after the grades: select, export, student")  # fmt: skip
        elif work is None:
            raise MissingInput(f"variant {variant.name}: {step.key} lacks the output of {', '.join(step.reads)}")
        elif work:
            step.run(here, step, work)


def ablation_table(rows: Sequence[AblationRow], budget: str) -> Table:
    table = Table(title=f"ablation: {budget}; 95 % intervals over questions and seeds", title_justify="left")
    for name in ("variant", "exported", "examples", "accuracy", "by seed", "− recipe"):
        table.add_column(name, justify="left" if name == "variant" else "right", overflow="fold")
    for row in rows:
        table.add_row(row.variant, f"{row.exported:,}", f"{row.examples:,}",
                      _percent(row.accuracy, row.low, row.high), row.by_seed,
                      _points(row.difference, row.difference_low, row.difference_high))  # fmt: skip
    return table


def _percent(share: float | None, low: float | None, high: float | None) -> str:
    if share is None or low is None or high is None:
        return "–"
    return f"{share:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _points(share: float | None, low: float | None, high: float | None) -> str:
    if share is None or low is None or high is None:
        return "–"
    return f"{100 * share:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
