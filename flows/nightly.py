"""A night, without Prefect: what is asked for anew before the run, and the edition after it.

    begin_night ─► factory (the whole recipe) ─► write_edition ─► checks ─► promote ─► collect ─► drop old editions

What is new or changed is found by the run itself: sources are read again, pending units (infra_error) are judged
again, another model revision has other response_ids. A night adds fresh samples of what is unsolved, by the rounds of
`until: verified`, with a cap that rises with each edition.
"""

from __future__ import annotations

import datetime
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import duckdb
import pyarrow as pa

from flows.edition_checks import Check, check_edition
from flows.errors import UsageError
from flows.nightly_settings import NightlySettings
from flows.recipe import LoadedRecipe, load_recipe
from flows.run import Wish, open_workspace, plan
from flows.steps import build_steps
from storage.collect import EXPORTS, Collected, collect
from storage.edition_diff import measure, write_diff
from storage.editions import (
    Edition,
    create_edition,
    diff_path,
    drop_editions,
    editions_folder,
    keep_checks,
    keep_files,
    mark_of,
    newest,
    numbers,
    promote,
    promoted,
    read_edition,
    slices_of,
)
from storage.errors import StorageError
from storage.files import fsync_folder
from storage.fingerprint import hash_text
from storage.manifest import Head
from storage.place import need_folder
from storage.run_lock import run_lock
from storage.workspace import ALL, Workspace
from tasks.step import Step
from tasks.teachers.settings import TeacherBase


class ExportChanged(StorageError):
    """Another run exported while the edition was being written; nothing is damaged."""


@dataclass(frozen=True)
class Night:
    """A night's recipe and workspace."""

    loaded: LoadedRecipe
    place: Workspace

    @property
    def settings(self) -> NightlySettings:
        return self.loaded.recipe.nightly

    def anything_to_do(self) -> bool:
        return plan(self.loaded, self.place, Wish()).anything_to_do()


@dataclass(frozen=True)
class NightResult:
    """How a night ended."""

    edition: Edition
    fresh: bool
    """a new edition was written; else nothing has changed since the last one"""
    promoted: bool
    checks: tuple[Check, ...]
    dropped: tuple[int, ...]
    collected: Collected

    def faults(self) -> list[str]:
        return [f"{check.name}: {check.found}" for check in self.checks if not check.passed]


def begin_night(recipe: Path, workspace: Path | None, overrides: Sequence[str]) -> Night:
    """Open the workspace, and take fresh samples of unsolved questions into the recipe."""
    loaded = load_recipe(recipe, tuple(overrides))
    if not loaded.recipe.teachers:
        raise UsageError("nightly: the recipe has no teachers, so that there is nothing to make an edition of")
    root = workspace or loaded.default_workspace()
    need_folder(root, "stillhouse nightly")
    place = Workspace.create(root, bits=loaded.bits)
    night = (numbers(place) or [0])[-1] + 1
    more = resampling(loaded.recipe.teachers, loaded.recipe.nightly, night)
    if more:
        loaded = load_recipe(recipe, (*overrides, *more))
    return Night(loaded, open_workspace(loaded, place.root))


def resampling(teachers: Sequence[TeacherBase], settings: NightlySettings, night: int) -> list[str]:
    """Overrides that sample what is unsolved by so many more, night after night (1, 2, …). Nothing for replayed
    teachers, which answer the same again, and for those that have an `until` of their own."""
    if not settings.resample_unsolved:
        return []
    more = min(settings.resample_unsolved * night, settings.resample_at_most)
    each = min(settings.resample_unsolved, more)
    return [
        f"teachers.{one.name}.{key}={value}"
        for one in teachers if one.costs and one.until is None
        for key, value in (("until", "verified"), ("samples_per_round", each), ("max_samples", one.samples + more))
    ]  # fmt: skip


def end_night(night: Night, run_id: str) -> NightResult:
    """Write the edition, check and promote it, drop what is older than the recipe keeps; in this order, so that a
    night that is killed leaves what a next one goes on from."""
    place, recipe = night.place, night.loaded.recipe
    steps = build_steps(night.loaded)
    with run_lock(place.root):  # so that what is frozen doesn't move
        edition, fresh = write_edition(night, steps, run_id)
    others = [number for number in promoted(place) if number != edition.number]
    last = read_edition(place, others[-1]) if others else None
    checks = check_edition(place, recipe, steps, edition, last)
    as_json = [asdict(check) for check in checks]
    keep_checks(place, edition.number, as_json)
    passed = all(check.passed for check in checks)
    if passed:
        record = {"edition": edition.number, "promoted": _now(), "run_id": run_id, "recipe": edition.recipe,
                  "compared_with": last.number if last else None, "checks": as_json}  # fmt: skip
        promote(place, edition.number, record)
    collected = collect(place)  # before old editions go, so that who reads one of them has until tomorrow
    dropped = drop_editions(place, night.settings.keep_editions)
    return NightResult(edition, fresh, passed, tuple(checks), tuple(dropped), collected)


def write_edition(night: Night, steps: Sequence[Step], run_id: str) -> tuple[Edition, bool]:
    """The edition of what the workspace holds now, and whether it is a new one. Raises ExportChanged, EditionTaken."""
    place, memory = night.place, night.loaded.recipe.runner.memory_mb
    heads = [place.need(step.key, shard) for step in _inputs(steps) for shard in step.shards(place)]
    marks = [head for step in steps for shard in step.shards(place)[:1] if (head := place.head(step.key, shard))]
    exports = _export_heads(place, steps)
    files = keep_files(place, [folder for head in exports for folder in _folders(head)])
    if [head.seq for head in _export_heads(place, steps)] != [head.seq for head in exports]:
        raise ExportChanged(f"{place.root}: another run exported meanwhile; no edition was written. Run it again")
    last = newest(place)
    number = last.number + 1 if last else 1
    edition = Edition(
        number, _now(), night.loaded.recipe.name, hash_text(night.loaded.as_yaml()), run_id, versions(),
        {head.step: mark_of(head) for head in marks}, slices_of(heads), files,
    )  # fmt: skip
    if last and last.same_data(edition):
        _complete(place, last, memory)
        return last, False
    scratch = place.scratch()
    try:
        changes = write_diff(place, last, edition, scratch / "diff.parquet", memory)
        edition = replace(edition, counts=measure(place, edition, memory),
                          diff={"against": last.number if last else None, "changes": changes})  # fmt: skip
        create_edition(place, edition)
        (scratch / "diff.parquet").rename(diff_path(place, number))
        fsync_folder(editions_folder(place))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return edition, True


def _complete(place: Workspace, edition: Edition, memory_mb: int) -> None:
    """Write the table of the diff, which whoever was killed after the edition has left out."""
    path, against = diff_path(place, edition.number), edition.diff["against"]
    if path.exists() or against not in (None, *numbers(place)):
        return
    write_diff(place, read_edition(place, against) if against else None, edition, path, memory_mb)


def _inputs(steps: Sequence[Step]) -> list[Step]:
    """What the exports read, and ingest, by which a diff tells what has retired."""
    read = {key for step in steps if step.key in EXPORTS for key in step.reads}
    return [step for step in steps if step.key in read | {"ingest"}]


def _export_heads(place: Workspace, steps: Sequence[Step]) -> list[Head]:
    return [place.need(step.key, ALL) for step in steps if step.key in EXPORTS]


def _folders(head: Head) -> list[str]:
    return [folder.removeprefix("exports/") for folder in head.extra["folders"]]


def versions() -> dict[str, str]:
    try:
        own = version("stillhouse")
    except PackageNotFoundError:  # run from a checkout that isn't installed
        own = "unknown"
    return {"stillhouse": own, "python": platform.python_version(), "pyarrow": pa.__version__,
            "duckdb": duckdb.__version__}  # fmt: skip


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
