"""Dedup of one file without a workspace: who stays, by the same rules, and why each of the others goes.

The file is read three times and never held: once for hashes and lengths, once for the texts that need a vector, once to
write what stays. Ties are broken by the hash of the text, then by the row. Memory: a few bytes a row that is linked to
no other, about 300 one that is, the sketches of the vectors, and the pairs; what else is known of rows lies in files
(dedup_scan).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.dedup import PREFERENCES, Rules
from tasks.dedup_clusters import EXACT, LEXICAL, NEAR, NOBODY, Links, decide, join_links
from tasks.dedup_clusters import RULES as NAMES
from tasks.dedup_scan import BATCH, Dropped, Ints, Scan, Unread, messages_of
from tasks.embeddings import EmbeddingSettings, embed, embedded_text
from tasks.errors import BadSetting
from tasks.lexical import find_lexical_pairs
from tasks.question import BadRecord
from tasks.sources import Record
from tasks.step import Progress

ENCODED = 512
EXAMPLES = 12
"""Of each rule: half of them the least alike that were dropped, the others spread over the rest."""

Open = Callable[[], Iterator[Record]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Alike:
    """Rows that go because of another, in the order of the rows: 29 bytes each."""

    row: Ints
    rule: npt.NDArray[np.int8]
    kept: Ints
    """the row that stays for it"""
    like: Ints
    """the row that it is most like; NOBODY without one"""
    value: npt.NDArray[np.float32]
    thresholds: dict[str, float | None]

    def __iter__(self) -> Iterator[Dropped]:
        return (self.at(number) for number in range(len(self.row)))

    def at(self, number: int) -> Dropped:
        name, row = str(NAMES[self.rule[number]]), int(self.row[number])
        if name == "no_embedding":
            return Dropped(row, name, None, None, {})
        evidence = {"kept_row": int(self.kept[number])}
        if self.like[number] != NOBODY:
            evidence["like_row"] = int(self.like[number])
        return Dropped(row, name, round(float(self.value[number]), 4), self.thresholds.get(name), evidence)

    def examples(self, rule: int) -> list[Dropped]:
        """The least alike ones, which are the ones to look at, and as many spread over the rest."""
        chosen = np.flatnonzero(self.rule == rule)
        chosen = chosen[np.argsort(self.value[chosen].round(4), kind="stable")]
        least, rest = chosen[: EXAMPLES // 2], chosen[EXAMPLES // 2 :]
        step = max(1, len(rest) // (EXAMPLES - len(least)))
        return [self.at(number) for number in [*least.tolist(), *rest[::step][: EXAMPLES - len(least)].tolist()]]


@dataclass(frozen=True)
class FileDecision:
    """What becomes of the rows of a file; readable as long as the folder that it was made in is there."""

    rows: int
    alike: Alike
    unread: Unread
    pairs: int
    """near-duplicate pairs that were found"""
    recall: float
    """1.0 where all were compared; else as measured on a sample"""
    texts: int
    """distinct texts"""

    def kept(self) -> Bools:
        stays = np.ones(self.rows, bool)
        stays[self.alike.row] = False
        for row in self.unread.rows():
            stays[row] = False
        return stays

    def dropped(self) -> Iterator[Dropped]:
        """In the order of the rows."""
        return heapq.merge(self.alike, self.unread, key=lambda one: one.row)

    def counts(self) -> Counter[str]:
        """Rows that go, by rule."""
        numbers = enumerate(np.bincount(self.alike.rule, minlength=len(NAMES)).tolist())
        return Counter({str(NAMES[rule]): count for rule, count in numbers if rule and count}) + self.unread.counts

    def examples(self) -> dict[str, list[Dropped]]:
        """A few of each rule."""
        found = {str(NAMES[rule]): self.alike.examples(rule) for rule in np.unique(self.alike.rule).tolist()}
        return found | self.unread.first


def dedup_file(open_: Open, columns: dict[str, str], rules: Rules, embedding: EmbeddingSettings, folder: Path,
               progress: Progress) -> FileDecision:  # fmt: skip
    """Decide on all records that `open_` gives, which must be the same each time; `folder` is for temporary files.

    Those take 46 bytes a row, 2 bytes a number of each vector, and what `find_lexical_pairs` says. Raises BadSetting
    where representatives are to be chosen and not all pairs could be kept.
    """
    scan = Scan(open_(), columns, folder, EXAMPLES, progress)
    links, pairs, recall, faulty = [], 0, 1.0, np.zeros(len(scan), bool)
    if rules.exact:
        links.append(_links(*scan.same_normal_text(), EXACT))
    if rules.near or rules.lexical:
        rows = scan.text_rows()
        in_file = np.argsort(rows)  # the texts in the order in which the file has them
        texts = _texts(open_, columns, rows, scan.rows)
        if rules.near:
            near, pairs, recall, bad = _near(texts, in_file, rules, embedding, folder, progress)
            faulty = np.repeat(bad, np.diff(scan.first, append=len(scan)))
            links += [_links(*scan.same_text(), NEAR), _between_texts(scan, near)]
        if rules.lexical:
            found = find_lexical_pairs(texts(), rules.lexical, scratch=folder)
            alike = _links(in_file[found.left], in_file[found.right], LEXICAL, found.jaccard)
            links += [_links(*scan.same_text(), LEXICAL), _between_texts(scan, alike)]
    gone = _decide(scan, join_links(links), faulty, rules)
    return FileDecision(scan.rows, gone, scan.unread, pairs, recall, len(scan.first))


def _texts(open_: Open, columns: dict[str, str], rows: Ints, count: int) -> Callable[[], Iterator[str]]:
    """The texts of those rows, in the order of the file."""
    wanted = np.zeros(count, bool)
    wanted[rows] = True

    def texts() -> Iterator[str]:
        for record in compress(open_(), wanted):
            messages = messages_of(record, columns)
            assert not isinstance(messages, BadRecord), "the file changed while it was read"
            yield embedded_text(messages)

    return texts


def _near(texts: Callable[[], Iterable[str]], in_file: Ints, rules: Rules, embedding: EmbeddingSettings, folder: Path,
          progress: Progress) -> tuple[Links, int, float, Bools]:  # fmt: skip
    """Links between texts by the number of their hash, how many pairs there are, the recall, texts without a vector."""
    from tasks.similarity import similar_pairs  # torch takes a second to import
    from tasks.similarity_clusters import clustered_pairs

    assert rules.near is not None
    vectors, bad = _vectors(texts, in_file, folder, embedding, progress)
    progress.expect("compare", len(vectors))

    def advance(done: int) -> None:
        progress.advance("compare", done)

    recall = 1.0
    if len(vectors) > rules.near.exact_up_to:
        found, recall = clustered_pairs(vectors, rules.near.threshold, advance=advance)
    else:
        found = similar_pairs(vectors, rules.near.threshold, advance=advance)
    if found.thinned and rules.clusters.by == "representatives":
        raise BadSetting(f"--by representatives needs every pair, and of {found.found:,} only a spanning "
                         "forest was kept; use --by components, or a higher --threshold")  # fmt: skip
    return _links(found.left, found.right, NEAR, found.cosine), found.found, recall, bad


def _vectors(texts: Callable[[], Iterable[str]], in_file: Ints, folder: Path, settings: EmbeddingSettings,
             progress: Progress) -> tuple[npt.NDArray[np.float16], Bools]:  # fmt: skip
    """The vectors of the texts in a file, at the places `in_file` of each, and which are of no use.

    They lie by the texts' hashes, so that the order of rows changes nothing. Each batch is sorted by length.
    """
    progress.expect("embed", len(in_file))
    vectors: Any = np.zeros((0, 1), np.float16)
    bad = np.zeros(len(in_file), bool)
    batch: list[str] = []
    start = 0

    def flush() -> None:
        nonlocal vectors, start
        order = sorted(range(len(batch)), key=lambda number: len(batch[number]))
        for first in range(0, len(order), ENCODED):
            some = order[first : first + ENCODED]
            found = embed([batch[number] for number in some], settings)
            if not len(vectors):
                vectors = np.memmap(folder / "vectors.f16", np.float16, "w+", shape=(len(in_file), found.shape[1]))
            places = in_file[start + np.array(some)]
            vectors[places] = found
            bad[places] = ~np.isfinite(found).all(axis=1) | ~found.any(axis=1)
            progress.advance("embed", len(some))
        start += len(batch)
        batch.clear()

    for text in texts():
        batch.append(text)
        if len(batch) == BATCH:
            flush()
    flush()
    return vectors, bad


def _links(left: Ints, right: Ints, rule: int, value: npt.NDArray[np.float32] | None = None) -> Links:
    value = np.ones(len(left), np.float32) if value is None else value
    return Links(np.minimum(left, right), np.maximum(left, right), value, np.full(len(left), rule, np.int8))


def _between_texts(scan: Scan, links: Links) -> Links:
    """Links between the texts' numbers as links between their first positions."""
    return Links(scan.first[links.left], scan.first[links.right], links.similarity, links.rule)


def _decide(scan: Scan, links: Links, faulty: Bools, rules: Rules) -> Alike:
    """The rows that go; only those that have a link or no vector are looked at."""
    concerned = faulty.copy()
    concerned[links.left] = concerned[links.right] = True
    members = np.flatnonzero(concerned)
    left, right = np.searchsorted(members, links.left), np.searchsorted(members, links.right)
    own = Links(left, right, links.similarity, links.rule)
    questions = scan.questions(members, faulty[members])
    texts = np.searchsorted(scan.first, members, side="right")
    decision = decide(questions, own, rules.clusters.prefer or PREFERENCES, 0.0, rules.clusters.by, texts)
    rows = np.asarray(scan.facts["row"][members])
    gone = np.flatnonzero(decision.rule)
    gone = gone[np.argsort(rows[gone])]
    linked = decision.linked[gone]
    like = np.where(linked == NOBODY, NOBODY, rows[linked]) if len(rows) else linked
    return Alike(rows[gone], decision.rule[gone], rows[decision.kept[gone]], like, decision.similarity[gone],
                 rules.thresholds())  # fmt: skip


def evidence_json(one: Dropped) -> str:
    return json.dumps(one.evidence, ensure_ascii=False)
