"""What must hold of an edition before it is promoted: books, self-test, decontamination, drift.

Every check says what it found, in words for a person, and if it failed what to do. What a recipe hasn't set up fails,
unless the recipe says that it isn't wanted: nothing passes unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.nightly_settings import PromotionSettings
from flows.recipe import Recipe
from flows.steps import STAGES
from storage.editions import Edition
from storage.errors import BooksDontBalance
from storage.manifest import Inputs, explain
from storage.workspace import ALL, Workspace
from tasks.step import Step


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    found: str


def check_edition(
    workspace: Workspace, recipe: Recipe, steps: Sequence[Step], edition: Edition, last: Edition | None
) -> list[Check]:
    """All checks of an edition that was made just now; `last`: the promoted edition to compare with."""
    wanted = recipe.nightly.promote
    found = [_examples(edition), _books(workspace, steps)]
    if wanted.self_test:
        found.append(_self_test(workspace, steps))
    if wanted.decontamination:
        found.append(_decontamination(workspace, recipe, steps))
    return found + drift(edition.counts, last, wanted)


def _examples(edition: Edition) -> Check:
    number = edition.counts["examples"]
    if number:
        return Check("examples", True, f"{number:,}")
    return Check("examples", False, "none was selected; `stillhouse status WORKSPACE` shows where they went")


def _books(workspace: Workspace, steps: Sequence[Step]) -> Check:
    slices = 0
    for step in steps:
        for shard in step.shards(workspace):
            head = workspace.head(step.key, shard)
            if head is None and STAGES.index(step.stage) > STAGES.index("export"):
                continue  # a student that is trained elsewhere
            if head is None:
                return Check("books", False, f"{step.key} shard {shard} isn't committed; run the recipe again")
            slices += 1
            for book in head.books:
                try:
                    book.check(f"{step.key} shard {shard}")
                except BooksDontBalance as fault:
                    return Check("books", False, str(fault))
    return Check("books", True, f"balanced in {slices:,} slices of {len(steps)} steps")


def _self_test(workspace: Workspace, steps: Sequence[Step]) -> Check:
    step = next((one for one in steps if one.key == "self_test"), None)
    if step is None:
        return Check("self-test", False, "the recipe sets no limit: set verify.self_test.max_false_reject and "
                     "max_false_accept, or nightly.promote.self_test: false")  # fmt: skip
    head = workspace.head(step.key, ALL)
    if head is None or explain(head.inputs, Inputs(step.version, step.settings, {})):
        return Check("self-test", False, "not made with these verifiers; run the recipe again")
    return Check("self-test", True, f"limits kept in {len(head.extra['rates'])} categories, {head.created}")


def _decontamination(workspace: Workspace, recipe: Recipe, steps: Sequence[Step]) -> Check:
    benchmarks = len(recipe.curate.decontaminate.benchmarks)
    if not benchmarks:
        return Check("decontamination", False, "the recipe names no benchmark: set curate.decontaminate.benchmarks, "
                     "or nightly.promote.decontamination: false")  # fmt: skip
    step = next(one for one in steps if one.key == "screen")
    questions = undecided = 0
    for shard in step.shards(workspace):
        head = workspace.need(step.key, shard)
        if explain(Inputs(head.inputs.version, head.inputs.settings, {}), Inputs(step.version, step.settings, {})):
            return Check("decontamination", False, f"shard {shard} was not compared with these benchmarks; run again")
        questions += sum(book.units_in for book in head.books)
        undecided += head.pending
    if undecided:
        return Check("decontamination", False, f"{undecided:,} of {questions:,} questions are undecided (the judge "
                     "failed): the next night asks again")  # fmt: skip
    return Check("decontamination", True, f"{questions:,} questions against {benchmarks} benchmarks, none undecided")


def drift(counts: dict[str, Any], last: Edition | None, limits: PromotionSettings) -> list[Check]:
    """How far category shares, mean pass rate, response length and size are from those of `last`."""
    if last is None:
        return [Check("drift", True, "the first to be promoted: there is nothing to compare with")]
    before = last.counts
    against = f"edition {last.number}"
    found = []
    if limits.max_share_drift is not None and counts["examples"] and before["examples"]:
        shares = [{name: number / one["examples"] for name, number in one["categories"].items()}
                  for one in (before, counts)]  # fmt: skip
        names = sorted(shares[0].keys() | shares[1].keys())
        worst = max(names, key=lambda name: abs(shares[0].get(name, 0) - shares[1].get(name, 0)))
        was, is_ = (share.get(worst, 0.0) for share in shares)
        found.append(_within("category shares", abs(is_ - was), limits.max_share_drift, "max_share_drift",
                             f"{worst} {was:.1%} in {against}, {is_:.1%} now"))  # fmt: skip
    for name, key, limit, setting, relative in (
        ("pass rate", "pass_rate", limits.max_pass_rate_drift, "max_pass_rate_drift", False),
        ("response length", "response_chars", limits.max_length_drift, "max_length_drift", True),
        ("size", "examples", limits.max_size_drift, "max_size_drift", True),
    ):
        was, is_ = before[key], counts[key]
        if limit is None or was is None or is_ is None:
            continue
        moved = abs(is_ - was) / was if relative and was else abs(is_ - was)
        shown = [f"{value:,.0f}" if relative else f"{value:.1%}" for value in (was, is_)]
        found.append(_within(name, moved, limit, setting, f"{shown[0]} in {against}, {shown[1]} now"))
    return found


def _within(name: str, moved: float, limit: float, setting: str, text: str) -> Check:
    if moved <= limit:
        return Check(name, True, text)
    return Check(name, False, f"{text}: a drift of {moved:.3g}, allowed is {limit:.3g}. If it is meant: "
                 f"--set nightly.promote.{setting}=null for one night")  # fmt: skip
