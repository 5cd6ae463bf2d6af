"""Pairs of like texts, kept: near-duplicates by embedding, near-copies by words. Two steps, each one slice.

`pairs` compares each distinct text once. The slice holds a row for each text that was compared and a row for each pair,
by the hashes of the texts, so that a higher threshold, a changed filter, a moved or renamed question costs no new
comparison; new texts are compared with all, the old pairs stay. A lower threshold, another model or another method
compares all again. Texts that are gone stay in the slice, so that one that returns is known.

Above `exact_up_to` texts clusters are compared (similarity_clusters), and the commit says what a sample found of the
recall: `recall` in its `extra`, 1.0 where the join is exact. `thinned` there says that only a spanning forest was kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.fingerprint import hash_text
from storage.manifest import Book, Head
from storage.schemas import PAIRS, TABLES
from storage.workspace import ALL, Workspace
from tasks.embeddings import embedded_text, matrix
from tasks.lexical import LexicalSettings, find_lexical_pairs
from tasks.similarity_forest import Pairs, spanning_forest
from tasks.step import Context, Step, Work

VERSION = "2"
MOST_PARTS = 32
"""Parts of a slice from which it is written anew as one."""
MOST_STRINGS = 1 << 24
"""in one piece of a column: 32 bytes each, and its offsets have 31 bits"""

Hashes = npt.NDArray[np.bytes_]
"""32 hex digits each, dtype S32"""


@dataclass(frozen=True)
class KnownPairs:
    """A slice of `pairs`: texts, in order, and pairs of their positions."""

    texts: Hashes
    pairs: Pairs


def pairs_step(embedding: dict[str, Any], threshold: float, exact_up_to: int) -> Step:
    settings = {"embedding": embedding, "threshold": threshold, "exact_up_to": exact_up_to}

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _pair_texts(context, step, one, threshold, exact_up_to)

    return Step("pairs", "curate", "one", VERSION, settings, ("embed",), run, exclusive=True)


def _pair_texts(context: Context, step: Step, work: Work, threshold: float, exact_up_to: int) -> None:
    workspace = context.workspace
    transaction = context.begin(step, work)
    texts = _embedded_texts(workspace)
    base = transaction.base if _reusable(transaction.base, work, threshold) else None
    known = read_pairs(workspace, base) if base else None
    if known and base and base.extra["thinned"] and not np.isin(known.texts, texts).all():
        known = base = None  # what connected others in the forest may be gone
    new = ~np.isin(texts, known.texts) if known else np.ones(len(texts), bool)
    context.progress.expect(step.key, int(new.sum()))
    extra: dict[str, Any]
    if known and base and not new.any():
        extra = {name: base.extra[name] for name in ("threshold", "method", "recall", "found", "thinned")}
        book = Book("text", len(known.texts), len(known.texts))
        transaction.commit("pairs", PAIRS.empty_table(), [], [book], keep=base.data(), extra=extra)
        return
    from tasks.similarity import similar_pairs  # torch takes a second, and most commands join nothing
    from tasks.similarity_clusters import clustered_pairs

    everything = np.union1d(texts, known.texts) if known else texts
    with vector_file(workspace, texts) as vectors:

        def advance(rows: int) -> None:
            context.progress.advance(step.key, rows)

        if known is None and len(texts) > exact_up_to:
            found, recall = clustered_pairs(vectors, threshold, advance=advance)
            method = "clusters"
        else:
            found = similar_pairs(vectors, threshold, new=new if known else None, advance=advance)
            method, recall = ("exact", 1.0) if base is None else (base.extra["method"], base.extra["recall"])
    floor = threshold if base is None else base.extra["threshold"]
    extra = {"threshold": floor, "method": method, "recall": recall}
    _commit(transaction, texts, new, found, known, everything, extra)


def _reusable(base: Head | None, work: Work, threshold: float) -> bool:
    if base is None or base.inputs.version != VERSION:
        return False
    same = all(base.inputs.settings[name] == work.inputs.settings[name] for name in ("embedding", "exact_up_to"))
    return same and bool(base.extra["threshold"] <= threshold)


def _commit(transaction: Any, texts: Hashes, new: npt.NDArray[np.bool_], found: Pairs, known: KnownPairs | None,
            everything: Hashes, extra: dict[str, Any]) -> None:  # fmt: skip
    """New rows beside the old parts; all rows anew where a forest replaces them, or the parts have become many."""
    earlier = known.pairs.found if known else 0
    extra |= {"found": earlier + found.found, "thinned": found.thinned or bool(known and known.pairs.thinned)}
    base = transaction.base
    book = Book("text", len(everything), len(everything))
    if known and not extra["thinned"] and len(base.data()) < MOST_PARTS:
        rows = pairs_table(texts[new], texts[found.left], texts[found.right], found.cosine)
        transaction.commit("pairs", rows, [], [book], keep=base.data(), extra=extra)
        return
    if known:
        found = _together(everything, texts, found, known, extra)
        texts = everything
    rows = pairs_table(everything, texts[found.left], texts[found.right], found.cosine)
    transaction.commit("pairs", rows, [], [book], extra=extra)


def _together(everything: Hashes, texts: Hashes, found: Pairs, known: KnownPairs, extra: dict[str, Any]) -> Pairs:
    """Old and new pairs as pairs of positions in `everything`."""
    old, fresh = np.searchsorted(everything, known.texts), np.searchsorted(everything, texts)
    left = np.concatenate([old[known.pairs.left], fresh[found.left]])
    right = np.concatenate([old[known.pairs.right], fresh[found.right]])
    cosine = np.concatenate([known.pairs.cosine, found.cosine])
    if extra["thinned"]:
        kept = spanning_forest(len(everything), left, right, cosine)
        left, right, cosine = left[kept], right[kept], cosine[kept]
    return Pairs(left, right, cosine, extra["found"], extra["thinned"])


def pairs_table(compared: Hashes, left: Hashes, right: Hashes, similarity: npt.NDArray[np.float32]) -> pa.Table:
    """Rows of PAIRS; `left` < `right` as texts."""
    count = len(compared)
    return pa.Table.from_arrays(
        [
            text_column(np.concatenate([compared, left])),
            pa.chunked_array([pa.nulls(count, pa.string()), *text_column(right).chunks]),
            pa.chunked_array([pa.nulls(count, pa.float64()), pa.array(similarity.astype(np.float64))]),
        ],
        schema=PAIRS,
    )


def read_pairs(workspace: Workspace, head: Head) -> KnownPairs:
    """A slice of `pairs` as arrays: about 40 bytes a text, 20 a pair."""
    rows = workspace.read_parts(head.data(), TABLES["pairs"])
    texts = hex_column(rows.filter(rows.column("other_hash").is_null()).column("text_hash"))
    texts.sort()
    rows = rows.filter(rows.column("other_hash").is_valid())
    left, right = (np.searchsorted(texts, hex_column(rows.column(name))) for name in ("text_hash", "other_hash"))
    cosine = rows.column("similarity").to_numpy().astype(np.float32)
    return KnownPairs(texts, Pairs(left, right, cosine, head.extra["found"], head.extra["thinned"]))


def pair_lines(workspace: Workspace) -> list[str]:
    """How near-duplicates were compared, in one line; empty where they weren't."""
    head = workspace.head("pairs", ALL)
    if head is None:
        return []
    said = head.extra
    texts = sum(book.units_out for book in head.books)
    how = (
        "all texts with all"
        if said["method"] == "exact"
        else (f"texts that share a cluster; recall {said['recall']:.4f}, measured on random texts compared with all")
    )
    kept = "; too many to list, a spanning forest of them is kept" if said["thinned"] else ""
    return [f"near-duplicates: {texts:,} texts, {said['found']:,} pairs with cosine ≥ {said['threshold']:g}; compared: "
            f"{how}{kept}"]  # fmt: skip


def hex_column(column: pa.ChunkedArray) -> Hashes:
    """A column of 32 hex digits as an array of dtype S32."""
    wide = column.cast(pa.binary(32)) if len(column) else None
    if wide is None:
        return np.zeros(0, "S32")
    chunks: list[Any] = [chunk for chunk in wide.chunks if len(chunk)]
    return np.concatenate([np.frombuffer(one.buffers()[1], "S32", len(one), one.offset * 32) for one in chunks])


def text_column(hashes: Hashes) -> pa.ChunkedArray:
    """The other way round: an array of dtype S32 as a column of 32 hex digits, without a Python object for each."""
    digits: Any = np.ascontiguousarray(hashes, "S32")
    pieces = [digits[start : start + MOST_STRINGS] for start in range(0, max(len(digits), 1), MOST_STRINGS)]
    return pa.chunked_array([
        pa.array(piece, pa.binary(32)).cast(pa.binary()).cast(pa.string()) for piece in pieces
    ], pa.string())  # fmt: skip


def _embedded_texts(workspace: Workspace) -> Hashes:
    """The hashes of all texts that have a vector, each once, in order."""
    pieces = [np.zeros(0, "S32")]
    for shard in workspace.shards:
        rows = workspace.read("embed", shard, "embeddings", ["text_hash", "fault"])
        pieces.append(hex_column(rows.filter(rows.column("fault").is_null()).column("text_hash")))
    return np.unique(np.concatenate(pieces))


@contextmanager
def vector_file(workspace: Workspace, texts: Hashes) -> Iterator[npt.NDArray[np.float16]]:
    """The vectors of `texts` in that order, shape (n, d), in a file: memory holds a shard's."""
    folder = workspace.scratch()
    vectors: Any = np.zeros((0, 1), np.float16)
    for shard in workspace.shards:
        rows = workspace.read("embed", shard, "embeddings")
        rows = rows.filter(rows.column("fault").is_null())
        codes = hex_column(rows.column("text_hash"))
        if not len(codes):
            continue
        values = matrix(rows)
        if not len(vectors):
            path = folder / "vectors.f16"
            vectors = np.memmap(path, np.float16, "w+", shape=(len(texts), values.shape[1]))
            path.unlink()  # the mapping stays until it is closed; a killed run leaves nothing behind
        vectors[np.searchsorted(texts, codes)] = values
    Path(folder).rmdir()
    yield vectors


def lexical_step(settings: LexicalSettings) -> Step:
    """Pairs of texts that share most of their n-grams; all are compared again where a question changed."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            transaction = context.begin(step, one)
            codes = text_hashes(context.workspace)
            rows = np.sort(np.unique(codes, return_index=True)[1])  # each text once, in the order of the questions
            context.progress.expect(step.key, len(rows))
            scratch = context.workspace.scratch()
            found = find_lexical_pairs(_texts_at(context.workspace, rows, len(codes)), settings, scratch=scratch)
            scratch.rmdir()
            texts = codes[rows]
            left, right = texts[found.left], texts[found.right]
            table = pairs_table(texts, np.where(left < right, left, right), np.where(left < right, right, left),
                                found.jaccard)  # fmt: skip
            extra = {"found": len(left), "thinned": False, "compared": found.compared, "left_out": found.left_out}
            transaction.commit("pairs", table, [], [Book("text", len(texts), len(texts))], extra=extra)
            context.progress.advance(step.key, len(texts))

    return Step("lexical", "curate", "one", VERSION, settings.as_json(), ("ingest",), run, exclusive=True)


def _questions(workspace: Workspace) -> Iterator[list[str]]:
    """The texts of each shard's questions."""
    for shard in workspace.shards:
        rows: Any = workspace.read("ingest", shard, "questions", ["messages"])
        yield [embedded_text(messages) for messages in rows.column("messages").to_pylist()]


def text_hashes(workspace: Workspace) -> Hashes:
    """The hash of each question's text, by question_id; memory holds the texts of one shard."""
    pieces = [np.array([hash_text(text) for text in texts], "S32") for texts in _questions(workspace)]
    return np.concatenate([np.zeros(0, "S32"), *pieces])


def _texts_at(workspace: Workspace, rows: npt.NDArray[np.int64], count: int) -> Iterator[str]:
    wanted = np.zeros(count, bool)
    wanted[rows] = True
    return compress(chain.from_iterable(_questions(workspace)), wanted)
