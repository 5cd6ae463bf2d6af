"""Results that are files (exports, students, the report): made in the local folder, kept in the object store.

`publish` makes the store's copy equal to the local one, `fetch` the local copy equal to the store's. What was the same
when is noted beside the local copy, in `published/`, by the objects' ETags, so that a result that nothing has changed
costs one listing. Files of the store that the local copy hasn't got are removed, last.

Covered: several machines that take turns; a publish that was cut off (its commit is missing, so its step is made
again). Not covered: whoever reads an export from the store while it is published may see files of two versions; the
manifest names the commit that the files belong to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from storage import objects
from storage.files import beside, remove_tree, replace_file
from storage.fingerprint import hash_text

THE_FILE = "."
"""how a result that is one file is named in its own listing"""


def publish(root: Path, local: Path, name: str, skip: Sequence[str]) -> None:
    """Put `local/name`, a file or a folder, at `root/name`; files that match a pattern of `skip` stay here."""
    place, source = root / name, local / name
    there = _listing(place)
    if source.is_file():
        objects.upload(place, source)
    else:
        files = {path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()}
        files = {file: path for file, path in files.items() if not any(fnmatch(file, pattern) for pattern in skip)}
        for file, path in files.items():
            objects.upload(place / file, path)
        objects.remove([place / file for file in there if file not in files])
    _note(local, name, _listing(place))


def fetch(root: Path, local: Path, name: str) -> None:
    """Bring `root/name` to `local/name` unless it is the same already; where the store has none, nothing changes."""
    place, target = root / name, local / name
    there, known = _listing(place), _noted(local, name)
    if not there or (target.exists() and there == known):
        return
    for file, tag in there.items():
        path = target if file == THE_FILE else target / file
        if known.get(file) == tag and path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(path)
        try:
            objects.download(place if file == THE_FILE else place / file, temporary)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    for file in known.keys() - there.keys():  # of an earlier version
        (target / file).unlink(missing_ok=True)
    _note(local, name, there)


def discard(root: Path, local: Path, name: str) -> None:
    """Remove a result here and there."""
    remove_tree(local / name)
    remove_tree(root / name)
    _path_of_note(local, name).unlink(missing_ok=True)


def _listing(place: Path) -> dict[str, str]:
    """Path of each object of a result → its ETag."""
    found = objects.tree(place)
    if found:
        return found
    tag = objects.tag(place)
    return {} if tag is None else {THE_FILE: tag}


def _path_of_note(local: Path, name: str) -> Path:
    return local / "published" / f"{hash_text(name)}.json"


def _noted(local: Path, name: str) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(_path_of_note(local, name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _note(local: Path, name: str, listing: dict[str, str]) -> None:
    replace_file(_path_of_note(local, name), json.dumps(listing).encode())
