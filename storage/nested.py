"""Workspaces within a workspace: a student's answers and verdicts (`students/<name>/eval`, `watch`), and the variants
of an ablation, which hold students in their turn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from storage.workspace import Workspace

HOLD_NONE = {
    "tables", "manifest", "unfinished", "leases", "exports", "editions", "recipes", "cache", "tmp",
}  # fmt: skip
"""folders of a workspace that hold no other one, and may hold a great many files"""


def with_nested(workspace: Workspace) -> list[Workspace]:
    """The workspace, then those within it, an outer one before those within it."""
    return [workspace, *(Workspace.open(path) for path in _nested(workspace.root))]


def _nested(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        if "workspace.json" in names:
            folders[:] = [name for name in folders if name not in HOLD_NONE]
            if Path(folder) != root:
                yield Path(folder)
        folders.sort()
