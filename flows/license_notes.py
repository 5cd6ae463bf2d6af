"""What `plan` says of licences: whether `export` would refuse in the end, told before anything is paid for.

The licences are those of the curated questions once they are there, else those that the recipe states for its sources.
Not covered: what records state that nobody has read yet; of a source that states none itself, the note says so.
"""

from __future__ import annotations

import pyarrow.compute as pc

from flows.recipe import LoadedRecipe
from storage.schemas import TABLES
from storage.workspace import Workspace
from tasks.export_licenses import UnknownLicense, check_licenses, silence


def license_notes(loaded: LoadedRecipe, workspace: Workspace | None) -> list[str]:
    """One line for each thing that a person should settle before the teachers are asked; empty: nothing."""
    recipe = loaded.recipe
    curated = _curated(workspace) if workspace else None
    stated = curated if curated is not None else {(one.name, one.license) for one in recipe.sources if one.license}
    teachers = {one.name: one.license for one in recipe.teachers}
    notes = []
    try:
        found = check_licenses(stated, teachers, allow=recipe.export.allow_unknown_license)
        notes += [f"export: {silence(found.silent)} Set `license` of the teacher."] if found.silent else []
    except UnknownLicense as fault:
        notes.append(f"export would refuse in the end. {fault}")
    silent = [one.name for one in recipe.sources if not one.license] if curated is None else []
    if silent and not recipe.export.allow_unknown_license:
        notes.append(f"export: the recipe states no licence for the sources {', '.join(silent)}; unless each of their "
                     "records states one, export will refuse")  # fmt: skip
    return notes


def _curated(workspace: Workspace) -> set[tuple[str, str | None]] | None:
    """(source, licence) of all curated training questions; None before every shard is curated."""
    found: set[tuple[str, str | None]] = set()
    heads = workspace.heads("curate")
    if any(shard not in heads for shard in workspace.shards):
        return None
    columns = ["question_source", "license", "split"]
    for shard in workspace.shards:
        table = workspace.read_parts(heads[shard].data(), TABLES["curated"], columns)
        pairs = table.filter(pc.field("split") == "train").group_by(["question_source", "license"]).aggregate([])
        found |= {(row["question_source"], row["license"]) for row in pairs.to_pylist()}
    return found
