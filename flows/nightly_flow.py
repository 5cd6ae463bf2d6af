"""The nightly flow: the factory with fresh samples of what is unsolved, then a new edition and its promotion.

How it ended stands in an artifact (`<recipe>-edition`) and in an event, `stillhouse.edition.promoted` or
`stillhouse.edition.held`, on which a Prefect automation can send a message; the recipe's `nightly.notify` names a block
that is told directly. A message that could not be sent is a warning: the edition is there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.core import Block
from prefect.blocks.notifications import NotificationBlock
from prefect.blocks.webhook import Webhook
from prefect.context import get_run_context

from flows.artifacts import tell_event
from flows.editions import edition_markdown, headline
from flows.factory import factory
from flows.nightly import Night, NightResult, begin_night, end_night
from flows.progress import artifact_key, say
from storage.place import place
from tasks.teachers.settings import BudgetSettings


@flow(name="nightly", persist_result=False)
def nightly(
    recipe: str,
    workspace: str | None = None,
    overrides: list[str] | None = None,
    budget: BudgetSettings | None = None,
    student: Literal["here", "apart"] = "here",
) -> tuple[NightResult, dict[str, int]]:
    """Make what is new or changed, write the next edition, promote it if its checks pass.

    Args:
        recipe: Path of the recipe (YAML); its `nightly` says what a night does.
        workspace: Folder of the data set; empty: the recipe's own, or workspaces/NAME.
        overrides: Settings of the recipe to override, one a line, such as nightly.resample_unsolved=4.
        budget: What may be spent on all teachers, where it differs from the recipe's.
        student: here: train and evaluate in this run. apart: leave it to the deployment `student`.

    Returns:
        How the night ended, and the pending units by step.
    """
    night = begin_night(Path(recipe), place(workspace) if workspace else None, overrides or ())
    pending: dict[str, int] = factory(
        recipe=recipe,
        workspace=str(night.place.root),
        overrides=list(night.loaded.overrides),
        budget=budget,
        student=student,
    )
    run_id = str(get_run_context().flow_run.id)  # type: ignore[union-attr]
    result = end_night(night, run_id)
    name = night.loaded.recipe.name
    text = edition_markdown(result, pending)
    create_markdown_artifact(text, key=f"{artifact_key(name)}-edition", description=headline(result))
    said = facts(night, result, pending)
    tell_event(f"stillhouse.edition.{'promoted' if result.promoted else 'held'}", night.place, name, said)
    if block := night.settings.notify:
        _notify(block, said)
    return result, pending


def facts(night: Night, result: NightResult, pending: dict[str, int]) -> dict[str, Any]:
    """What a message says of the night; plain values."""
    return {
        "text": headline(result),
        "recipe": night.loaded.recipe.name,
        "edition": result.edition.number,
        "new": result.fresh,
        "promoted": result.promoted,
        "why_not": result.faults(),
        "examples": result.edition.counts["examples"],
        "changes": result.edition.diff["changes"],
        "pending": pending,
    }


def _notify(name: str, said: dict[str, Any]) -> None:
    """Tell a block: a webhook gets all facts as JSON, a messenger the text."""
    try:
        block = Block.load(name)
        if isinstance(block, Webhook):
            asyncio.run(block.call(payload=said)).raise_for_status()
        elif isinstance(block, NotificationBlock):
            lines = [said["text"], *said["why_not"]]
            block.notify(body="\n".join(lines), subject=said["text"])  # type: ignore[unused-coroutine]
        else:
            raise TypeError(f"a {type(block).__name__} can't be told anything; name a webhook or a notification block")
    except Exception as fault:  # noqa: BLE001 - whatever a messenger raises, the edition is written
        text = f"nightly.notify {name}: the message was not sent: {fault}"
        get_run_logger().warning(text)
        say(text)
