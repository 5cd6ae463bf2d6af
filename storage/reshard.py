"""Split every shard of a workspace in two, when it has grown.

    <parent>/.<name>.reshard/     the new workspace while it is made; for a moment the old one, before it is removed

The new workspace is made whole beside the old one: slices are split by the next bit of question_id, their content
hashes and those of what they were made from with them, so that a run finds every slice as it should be. What isn't
split (exports, students, editions, reports, caches) is linked. Then the two folders change places in one step
(`renameat2` with RENAME_EXCHANGE), and the old one is removed. Killed at any moment the workspace is whole: the old or
the new one; what is left beside is removed by the next reshard. Workspaces within it (a student's eval) are split too.

Not covered: file systems that can't exchange two folders (NFS, object stores). No run may be under way: one that is
seen (the run's lock, a lease, responses that aren't committed, a commit meanwhile) makes this give up.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from storage.editions import numbers, read_edition
from storage.errors import StorageError
from storage.files import create_file, make_folder
from storage.lease import held_since
from storage.nested import with_nested
from storage.place import need_folder
from storage.reshard_slices import Contents, Splitting, link
from storage.run_lock import run_lock
from storage.workspace import FORMAT, MAX_SHARD_BITS, Workspace

MADE_ANEW = {"tables", "manifest", "unfinished", "leases", "tmp"}
LEASE_S = 600.0
"""A lease that was renewed within so many seconds is held."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class NotNow(StorageError):
    """The workspace can't be split while somebody works on it, or in the state that it is in."""


class CantExchange(StorageError):
    """The file system can't exchange two folders in one step."""


def reshard(workspace: Workspace, advance: Callable[[str], None] = lambda step: None) -> Workspace:
    """Split every shard in two; returns the workspace with one bit more. `advance` gets the step that is begun.

    Raises NotNow, CantExchange, StorageError for a part that can't be read (`fsck` says which); the workspace is as it
    was then.
    """
    need_folder(workspace.root, "stillhouse reshard")
    if workspace.bits >= MAX_SHARD_BITS:
        raise NotNow(f"{workspace.root}: has {1 << workspace.bits:,} shards, more are not allowed")
    _refuse_work_under_way(workspace)
    beside = workspace.root.with_name(f".{workspace.root.name}.reshard")
    with run_lock(workspace.root):
        _remove(beside)
        before = _seqs(workspace)
        _make(workspace, beside, advance)
        os.sync()  # links and all: the new workspace must be on the disk before it is the only one
        if _seqs(workspace) != before:
            raise NotNow(f"{workspace.root}: another run committed meanwhile; nothing was changed. Wait until it ends")
        exchange(beside, workspace.root)
        if _seqs(Workspace(beside, workspace.bits)) != before:  # committed in the last moment: back, nothing is lost
            exchange(beside, workspace.root)
            raise NotNow(f"{workspace.root}: another run committed meanwhile; nothing was changed. Wait until it ends")
        _remove(beside)
    return Workspace.open(workspace.root)


# --- who else is there


def _refuse_work_under_way(workspace: Workspace) -> None:
    unfinished = workspace.root / "unfinished"
    if any(path.is_file() for path in unfinished.rglob("*")):
        raise NotNow(f"{workspace.root}: holds responses that are paid for and not committed; run the recipe first")
    for step, term in held_since(workspace.root, time.time() - LEASE_S):
        raise NotNow(f"{step}: {term.holder} works on the range {term.range}; wait until it ends")


def _seqs(workspace: Workspace) -> dict[tuple[str, str, str], int]:
    """The newest commit's number of every slice, of all workspaces within this one too."""
    return {
        (one.root.relative_to(workspace.root).as_posix(), step, shard): one.manifest.last_seq(step, shard)
        for one in with_nested(workspace)
        for step in one.manifest.steps()
        for shard in one.manifest.shards(step)
    }


def exchange(one: Path, other: Path) -> None:
    """Let two folders change their names in one step. Raises CantExchange."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    paths = os.fsencode(one), os.fsencode(other)
    if call is None or call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        code = ctypes.get_errno() or errno.ENOSYS
        raise CantExchange(
            f"{other}: this file system can't exchange two folders ({os.strerror(code)}), so that nothing was changed; "
            "copy the workspace to a local disk, reshard it there, and copy it back"
        )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


# --- making the new one


def _make(workspace: Workspace, target: Path, advance: Callable[[str], None]) -> None:
    """All of the new workspace below `target`; the folder's own workspace.json comes last."""
    split: dict[Path, Contents] = {}
    every = [one for one in with_nested(workspace) if one.bits == workspace.bits]
    roots = {one.root for one in every}
    _link_tree(workspace.root, target, roots)
    for one in every:
        root = target / one.root.relative_to(workspace.root)
        outer = [contents for path, contents in split.items() if path in one.root.parents]
        split[one.root] = Splitting(one, Workspace(root, one.bits + 1), outer, advance).run()
        _link_editions(one, root)
        record = json.loads((one.root / "workspace.json").read_text(encoding="utf-8"))
        data = json.dumps(record | {"format": FORMAT, "shard_bits": one.bits + 1}, indent=1).encode()
        (root / "workspace.json").unlink(missing_ok=True)
        create_file(root / "workspace.json", data)


def _link_tree(source: Path, target: Path, roots: set[Path]) -> None:
    """Link (or copy) all that isn't made anew; `roots` are the workspaces that are split."""
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        if here in roots:
            folders[:] = [name for name in folders if name not in MADE_ANEW]
        to = target / here.relative_to(source)
        make_folder(to)
        for name in [*folders, *names]:
            if (here / name).is_symlink():
                (to / name).symlink_to((here / name).readlink())
            elif name in names and not (here in roots and name == "workspace.json"):
                link(here / name, to / name)


def _link_editions(workspace: Workspace, root: Path) -> None:
    """The parts of kept editions stay where these name them."""
    for number in numbers(workspace):
        for part in read_edition(workspace, number).parts():
            if not (root / part.path).exists() and (workspace.root / part.path).exists():
                link(workspace.root / part.path, root / part.path)
