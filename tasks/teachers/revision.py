"""What identifies a model's weights, found without loading them: the `model_revision` of every response."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from storage.place import cache_home
from tasks.teachers import smollm2
from tasks.teachers.teacher import TeacherError

REVISION_FILES = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "chat_template*", "*.safetensors", "*.safetensors.index.json", "pytorch_model*", "*.py",
)  # fmt: skip


def resolve_revision(model: str, revision: str | None = None) -> str:
    """What identifies the weights of `model`, without loading them.

    The embedded default: its package and version. A folder: a hash over names, sizes and contents of configuration,
    tokenizer and weights, so that a folder that was moved is the same model and one that was trained on is not.
    A hub name: the given revision, else "main". Raises TeacherError for a folder that holds no model.
    """
    if model == smollm2.NAME:
        return smollm2.revision()
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith(("/", ".", "~")):
            raise TeacherError(f"no such model folder: {model}")
        return revision or "main"
    if not (folder / "config.json").is_file():
        raise TeacherError(f"{model} holds no model: config.json is missing")
    files = {file for pattern in REVISION_FILES for file in folder.glob(pattern) if file.is_file()}
    parts = [(file.name, file.stat().st_size, _sha256(file)) for file in sorted(files)]
    return "folder-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _sha256(file: Path) -> str:
    """Hex sha256 of a file, remembered in the cache folder for as long as size and mtime stay."""
    stat = file.stat()
    path = str(file.resolve())
    state: dict[str, Any] = {"file": path, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    side = cache_home() / "sha256" / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(side.read_text())
        if {key: known[key] for key in state} == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError):
        pass  # never hashed, or torn: hash it again
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    side.parent.mkdir(parents=True, exist_ok=True)
    scratch = side.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    scratch.write_text(json.dumps({**state, "sha256": digest}))
    scratch.replace(side)
    return digest
