"""Embeddings kept in a folder, so that a second run embeds nothing: one file for each model and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.fingerprint import hash_text
from tasks.embeddings import EmbeddingSettings, embed


class KeptVectors:
    def __init__(self, folder: Path | None, settings: EmbeddingSettings) -> None:
        self._path = folder / f"{hash_text(str(settings.identity()))}.npz" if folder else None
        self._known: dict[str, Any] = {}
        if self._path and self._path.is_file():
            with np.load(self._path) as kept:
                self._known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def embed(self, texts: Sequence[str], settings: EmbeddingSettings) -> Any:
        keys = [hash_text(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if missing:
            self._known.update(zip(missing, embed(list(missing.values()), settings), strict=True))
            self._save()
        return np.array([self._known[key] for key in keys])

    def _save(self) -> None:
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(self._path, keys=np.array(list(self._known)), vectors=np.array(list(self._known.values())))
