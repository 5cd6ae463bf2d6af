"""The word n-gram sets of many texts, in files: their hashes, their MinHash bands, their exact Jaccard index.

Hashes are the same on every machine. Not covered: which texts to compare (tasks/lexical.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rensa import RMinHash
from scipy.sparse import csr_matrix

PERMUTATIONS = 128
SEED = 1
BATCH_TEXTS, BATCH_CHARS = 8192, 16_000_000
BATCH_PAIRS = 50_000

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def parquet_texts(path: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_TEXTS, columns=[column]):
            yield from (text or "" for text in batch.column(0).to_pylist())


class NgramSets:
    """The n-gram set of each text, as sorted hashes in a file, and the hash of each band of its signature."""

    def __init__(self, folder: Path, texts: Iterator[str], ngram: int, bands: int, rows: int) -> None:
        counts: list[npt.NDArray[Any]] = []
        digests: list[Hashes] = []
        with (folder / "ngrams").open("wb") as ngrams, (folder / "bands").open("wb") as signatures:
            for batch in _batches(texts):
                flat, offsets = ngram_sets(batch, ngram)
                flat.tofile(ngrams)
                counts.append(np.diff(offsets))
                digests.append(_set_digests(flat, offsets))
                _band_hashes(flat, offsets, bands, rows).tofile(signatures)
        self.offsets: Ints = np.concatenate([[0], *counts]).cumsum().astype(np.int64)
        self.digests: Hashes = np.concatenate([np.zeros(0, np.uint64), *digests])
        self.texts = len(self.digests)
        self.bands = self._by_band(folder, bands, [len(count) for count in counts])
        self._flat = _mapped(folder / "ngrams", np.int64)

    def _by_band(self, folder: Path, bands: int, sizes: Sequence[int]) -> Any:
        """Written batch by batch, read band by band."""
        if not self.texts:
            return np.zeros((bands, 0), np.uint64)
        written = _mapped(folder / "bands", np.uint64)
        turned = np.memmap(folder / "turned", np.uint64, "w+", shape=(bands, self.texts))
        done = 0
        for size in sizes:
            turned[:, done : done + size] = written[done * bands : (done + size) * bands].reshape(size, bands).T
            done += size
        (folder / "bands").unlink()
        return turned

    def jaccard(self, left: Ints, right: Ints) -> npt.NDArray[np.float32]:
        """Exact, by merging sorted hashes in SciPy's elementwise product."""
        found = np.empty(len(left), np.float32)
        for start in range(0, len(left), BATCH_PAIRS):
            one, other = left[start : start + BATCH_PAIRS], right[start : start + BATCH_PAIRS]
            common = np.diff(self._rows(one).multiply(self._rows(other)).tocsr().indptr)
            sizes = self.sizes(one) + self.sizes(other)
            found[start : start + BATCH_PAIRS] = common / (sizes - common)
        return found

    def sizes(self, numbers: Ints) -> Ints:
        return self.offsets[numbers + 1] - self.offsets[numbers]

    def _rows(self, numbers: Ints) -> csr_matrix:
        sizes = self.sizes(numbers)
        bounds = np.concatenate([[0], sizes.cumsum()])
        places = np.repeat(self.offsets[numbers] - bounds[:-1], sizes) + np.arange(bounds[-1])
        return _matrix(self._flat[places], bounds)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    chars = 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if len(batch) >= BATCH_TEXTS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


# One word, or one sign, or one character of a script that writes no blanks between words.
_ALONE = r"[^\p{L}\p{N}\p{M}_\s]|\p{Han}|\p{Hiragana}|\p{Katakana}|\p{Thai}|\p{Lao}|\p{Khmer}|\p{Myanmar}"


def ngram_sets(texts: Sequence[str], ngram: int) -> tuple[Ints, Ints]:
    """Each text's set of word n-grams as sorted 63-bit hashes: (hashes of all texts, offsets of len(texts) + 1).

    Compatibility forms and case don't count (NFKC, lower case). The hashes are the same on every machine.
    """
    words, bounds = _word_hashes(texts)
    lengths = np.diff(bounds)
    counts = np.where(lengths >= ngram, lengths - ngram + 1, (lengths > 0).astype(np.int64))
    offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    starts = np.repeat(bounds[:-1] - offsets[:-1], counts) + np.arange(offsets[-1])
    ends = np.minimum(starts + ngram, np.repeat(bounds[1:], counts))
    hashed = np.zeros(len(starts), np.uint64)
    for place in range(ngram):
        inside = starts + place < ends
        word = words[np.where(inside, starts + place, 0)] if len(words) else words
        hashed = np.where(inside, _mix(hashed * np.uint64(0x9E3779B97F4A7C15) + word), hashed)
    matrix = _matrix((hashed >> np.uint64(1)).astype(np.int64), offsets, canonical=False)
    matrix.sum_duplicates()
    return matrix.indices.astype(np.int64, copy=False), matrix.indptr.astype(np.int64, copy=False)


def _word_hashes(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """64-bit hashes of all words of all texts, and the offsets of each text's."""
    try:
        column = pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 forbids
        column = pa.array([text.encode(errors="replace").decode() for text in texts], pa.large_string())
    even = pc.utf8_lower(pc.call_function("utf8_normalize", [column], pc.Utf8NormalizeOptions("NFKC")))
    apart = pc.replace_substring_regex(even, f"({_ALONE})", r" \1 ")
    split: Any = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(apart))
    flat = split.flatten()
    bounds = split.offsets.to_numpy().astype(np.int64)
    coded = flat.dictionary_encode()
    hashes = np.fromiter(
        (int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") if word else 0
         for word in coded.dictionary.to_pylist()),
        np.uint64,
    )  # fmt: skip
    words = hashes[coded.indices.to_numpy()] if len(hashes) else hashes
    return _without_blanks(words, bounds, coded)


def _without_blanks(words: Hashes, bounds: Ints, coded: Any) -> tuple[Hashes, Ints]:
    """Splitting an empty text gives one empty word: away with it."""
    filled = words != 0
    counted = np.concatenate([[0], filled.cumsum()]).astype(np.int64)
    return words[filled], counted[bounds - bounds[0]]


def _mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection in which every bit counts."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _matrix(columns: Ints, bounds: npt.NDArray[Any], *, canonical: bool = True) -> csr_matrix:
    """A sparse 0/1 matrix with a row per set; its columns are the hashes themselves."""
    ones = np.ones(len(columns), np.int8)
    made = csr_matrix((len(bounds) - 1, 2**63 - 1), dtype=np.int8)
    made.data, made.indices, made.indptr = ones, columns, bounds.astype(np.int64, copy=False)
    made.has_sorted_indices = made.has_canonical_format = canonical
    return made


def _set_digests(flat: Ints, offsets: Ints) -> Hashes:
    data, step = flat.tobytes(), flat.itemsize
    return np.fromiter(
        (int.from_bytes(blake2b(data[start * step : end * step], digest_size=8).digest(), "little")
         for start, end in itertools.pairwise(offsets.tolist())),
        np.uint64, len(offsets) - 1,
    )  # fmt: skip


def _band_hashes(flat: Ints, offsets: Ints, bands: int, rows: int) -> Hashes:
    """One hash per text and band, shape (texts, bands)."""
    found = RMinHash.digest_matrix_from_flat_token_hashes(flat.astype(np.uint64), offsets, PERMUTATIONS, SEED)
    digests = np.array(found.to_rows(), np.uint64).reshape(len(offsets) - 1, PERMUTATIONS)
    hashed = np.zeros((len(digests), bands), np.uint64)
    for row in range(rows):
        hashed = _mix(hashed * np.uint64(0x9E3779B97F4A7C15) + digests[:, row : bands * rows : rows] + np.uint64(1))
    return hashed


def _mapped(path: Path, kind: Any) -> Any:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)
