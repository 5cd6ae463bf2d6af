"""Which question of a cluster stays, and for what the cluster is: on arrays, knowing nothing of steps or files.

Clusters are the connected components of the links; a cluster has one split (law 6). With `components` one question of
a cluster stays, even where the others are like it only over steps between. With `representatives` questions are gone
through from the most preferred on; one goes only if it is linked directly to one that stays, so more may stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Ints = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

UNSEEN, TRAIN, HELDOUT = 0, 1, 2
RULES = (None, "exact_duplicate", "near_duplicate", "lexical_duplicate", "near_heldout", "no_embedding")
EXACT, NEAR, LEXICAL, NEAR_HELDOUT, NO_EMBEDDING = 1, 2, 3, 4, 5
NOBODY = -1


@dataclass(frozen=True)
class Questions:
    """The questions that passed the screen, in the order of their ids; about 100 bytes each."""

    ids: npt.NDArray[np.bytes_]
    """S32"""
    paid: Bools
    """answers are paid for (law 7)"""
    priority: Ints
    """of the source, 0 the highest"""
    referenced: Bools
    length: Ints
    """characters"""
    hardness: Ints
    """of the label; 0 without one"""
    split: Ints
    """what an earlier run decided: UNSEEN, TRAIN, HELDOUT"""
    faulty: Bools
    """without a vector where one is needed"""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Links:
    """Pairs of positions with similarity (float32) and rule; exact ones first."""

    left: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    right: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    similarity: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    rule: Ints = field(default_factory=lambda: np.zeros(0, np.int8))


@dataclass(frozen=True)
class Decision:
    """For each question: who stays for it, the rule by which it goes (0: it stays), by which link, and its split."""

    kept: Ints
    rule: Ints
    linked: Ints
    """position of the question that it is most like; NOBODY without a link"""
    similarity: npt.NDArray[np.float32]
    heldout: Bools


def join_links(parts: Sequence[Links]) -> Links:
    names = ("left", "right", "similarity", "rule")
    parts = [Links(), *parts]
    return Links(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def exact_links(text_hashes: npt.NDArray[np.bytes_]) -> Links:
    """Each question with the first of the same text: m copies make m − 1 links."""
    _, first, group = np.unique(text_hashes, return_index=True, return_inverse=True)
    right = np.flatnonzero(first[group] != np.arange(len(group)))
    ones = np.ones(len(right), np.float32)
    return Links(first[group][right], right, ones, np.full(len(right), EXACT, np.int8))


def preference(questions: Questions, prefer: Sequence[str]) -> Ints:
    """The place of each question when they are sorted by preference: 0 is the most preferred."""
    keys: dict[str, Any] = {
        "priority": questions.priority,
        "reference": ~questions.referenced,
        "longest": -questions.length.astype(np.int64),
        "hardest": -questions.hardness.astype(np.int64),
    }
    order = np.lexsort([*(keys[name] for name in reversed(prefer)), ~questions.paid])  # stable: ties by id
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def decide(questions: Questions, links: Links, prefer: Sequence[str], heldout: float,
           cluster: Literal["components", "representatives"] = "components",
           texts: Ints | None = None) -> Decision:  # fmt: skip
    """The fate of every question; `texts` numbers their texts, where links name one question of a text for all."""
    count = len(questions)
    graph = coo_matrix((np.ones(len(links.left), np.int8), (links.left, links.right)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    held = _held_out(questions, labels, heldout)
    barred = held & (questions.split == TRAIN)  # was for training in a cluster that is held out (law 6)
    place = preference(questions, prefer)
    place = place + np.where(barred, count, 0) + np.where(questions.faulty, 2 * count, 0)
    order = np.lexsort((place, labels))
    keepers = order[np.unique(labels[order], return_index=True)[1]][labels] if count else np.zeros(0, np.int64)
    linked, similarity, rule = _nearest(count, links)
    if cluster == "components":
        kept = keepers
    else:
        links = _led(links, place, np.arange(count) if texts is None else texts)
        kept, linked, similarity, rule = _representatives(links, place, barred, keepers, linked, similarity, rule)
    stays = kept == np.arange(count)
    rule = np.where(stays, 0, rule)
    rule = np.where(~stays & barred, NEAR_HELDOUT, rule)
    rule = np.where(questions.faulty, NO_EMBEDDING, rule)
    return Decision(kept, rule.astype(np.int8), linked, similarity, held)


def _held_out(questions: Questions, labels: Ints, share: float) -> Bools:
    """Held out once, held out for ever; a cluster never seen is decided by the hash of its smallest id."""
    if not len(labels):
        return np.zeros(0, bool)
    clusters = int(labels.max()) + 1
    any_held, any_train = np.zeros(clusters, bool), np.zeros(clusters, bool)
    any_held[labels[questions.split == HELDOUT]] = True
    any_train[labels[questions.split == TRAIN]] = True
    smallest = questions.ids[np.unique(labels, return_index=True)[1]]  # ids are in order
    drawn = np.array([int(one[8:16], 16) for one in smallest.tolist()]) / 2**32 < share
    held: Bools = np.where(any_held, True, np.where(any_train, False, drawn))[labels]
    return held


def _nearest(count: int, links: Links) -> tuple[Ints, npt.NDArray[np.float32], Ints]:
    """For each question the most similar one that it is linked to; of equally similar ones the first link's."""
    one = np.concatenate([links.left, links.right])
    other = np.concatenate([links.right, links.left])
    number = np.tile(np.arange(len(links.left)), 2)
    order = np.lexsort((other, links.rule[number], -links.similarity[number], one))
    row, first = np.unique(one[order], return_index=True)
    best = order[first]
    linked = np.full(count, NOBODY, np.int64)
    similarity, rule = np.zeros(count, np.float32), np.zeros(count, np.int8)
    linked[row], similarity[row], rule[row] = other[best], links.similarity[number[best]], links.rule[number[best]]
    return linked, similarity, rule


def _led(links: Links, place: Ints, texts: Ints) -> Links:
    """Links by the most preferred question of each text in place of those that name another of it.

    Of equal texts only links with one of them are given: without this, others than that one would stay side by side.
    """
    exact = links.rule == EXACT
    equal = coo_matrix((np.ones(int(exact.sum()), np.int8), (links.left[exact], links.right[exact])),
                       shape=(len(place), len(place)))  # fmt: skip
    classes = connected_components(equal, directed=False)[1]
    of_class, of_text = _best(classes, place), _best(texts, place)
    left, right = (np.where(exact, of_class[side], of_text[side]) for side in (links.left, links.right))
    same = left == right
    led = [Links(left[~same], right[~same], links.similarity[~same], links.rule[~same])]
    for side in (links.left[same], links.right[same]):
        other = side != left[same]
        led.append(Links(left[same][other], side[other], links.similarity[same][other], links.rule[same][other]))
    joined = join_links(led)
    first = np.argsort(joined.rule, kind="stable")
    return Links(*(getattr(joined, name)[first] for name in ("left", "right", "similarity", "rule")))


def _best(classes: Ints, place: Ints) -> Ints:
    """For each question the most preferred one of its class."""
    order = np.lexsort((place, classes))
    _, first, group = np.unique(classes[order], return_index=True, return_inverse=True)
    best = np.empty(len(place), np.int64)
    best[order] = order[first][group]
    return best


def _representatives(links: Links, place: Ints, barred: Bools, keepers: Ints, linked: Ints,
                     similarity: npt.NDArray[np.float32], rule: Ints) -> tuple[Ints, Ints, Any, Ints]:  # fmt: skip
    """Greedy: the most preferred stays, and all that are linked to it go by that link; a barred one never stays."""
    count = len(place)
    kept = np.where(barred, keepers, np.arange(count))
    linked, similarity, rule = linked.copy(), similarity.copy(), rule.copy()
    one = np.concatenate([links.left, links.right])
    order = np.lexsort((np.tile(links.rule, 2), place[one]))
    one, other = one[order], np.concatenate([links.right, links.left])[order]
    number = np.tile(np.arange(len(links.left)), 2)[order]
    starts = np.flatnonzero(np.diff(one, prepend=NOBODY))
    ends = np.append(starts[1:], len(one))[: len(starts)]
    gone = barred.copy()
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        keeper = one[start]
        if gone[keeper]:
            continue
        neighbours, of = other[start:end], number[start:end]
        free = ~gone[neighbours]
        neighbours, first = np.unique(neighbours[free], return_index=True)
        of = of[free][first]
        gone[neighbours] = True
        kept[neighbours], linked[neighbours] = keeper, keeper
        similarity[neighbours], rule[neighbours] = links.similarity[of], links.rule[of]
    return kept, linked, similarity, rule


_WORDS = {"very easy": 1, "easy": 2, "medium": 3, "moderate": 3, "hard": 4, "difficult": 4, "very hard": 5, "expert": 5}


def hardness(label: str | None) -> int:
    """How hard a label says a question is: easy … hard as 2 … 4, `Level 5` or a number as that; 0 if it says nothing.

    It breaks ties between questions of one cluster only.
    """
    text = (label or "").strip().casefold()
    words = text.replace("_", " ").replace("-", " ")
    if words in _WORDS:
        return _WORDS[words]
    digits = text.removeprefix("level").strip().split(".")[0]
    return min(int(digits), 100) if digits.isascii() and digits.isdigit() else 0
