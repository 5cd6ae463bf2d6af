"""What a response says over and over: runs of words that occur many times, and loops at the end of a part.

A word is what stands between blanks; in scripts written without blanks each character is one, and a longer piece
without blanks than MAX_WORD_CHARS is cut, so that `hahaha…` is seen. Time is O(w log w) in the number of words: runs
are compared by 64-bit hashes (two different runs of one response of 20,000 words share one with a chance of 1e-11).
What is not covered: loops that change a little from pass to pass, such as a counter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Kana, Han"""
MAX_WORD_CHARS, PIECE_CHARS = 64, 8
LOOP_PASSES = 3
MAX_PERIODS = 32  # tried for a loop, shortest first
SHOWN_CHARS = 200

_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_WEIGHTS = [pow(0x9E3779B97F4A7C15, power, 1 << 64) for power in range(1, 257)]
MAX_NGRAM = len(_WEIGHTS)


@dataclass(frozen=True)
class Repeats:
    """`most`: how often the most frequent run of n words occurs, 0 if the text is shorter than one. `share`: of the
    words, 0..1, those that lie in a run that occurred before."""

    words: int
    most: int
    most_text: str
    share: float
    loop: Loop | None


@dataclass(frozen=True)
class Loop:
    """The end of a part repeats the `period` words before it; `words` of them, the first pass not counted."""

    words: int
    period: int
    text: str


def split_words(text: str) -> list[str]:
    """The words of a text, see above."""
    found = _WORD.findall(text) if not text.isascii() and _UNSPACED.search(text) else text.split()
    if not found or len(max(found, key=len)) <= MAX_WORD_CHARS:
        return found
    pieces: list[str] = []
    done = 0
    for place, length in enumerate(map(len, found)):
        if length > MAX_WORD_CHARS:
            word = found[place]
            pieces += found[done:place]
            pieces += [word[start : start + PIECE_CHARS] for start in range(0, length, PIECE_CHARS)]
            done = place + 1
    return pieces + found[done:]


def find_repeats(think: str, answer: str, ngram: int) -> Repeats:
    """Repeated runs of `ngram` words (2 to 256) in thinking and answer together; loops at the end of either."""
    words = split_words(think)
    boundary = len(words)
    words += split_words(answer)
    runs = _run_hashes(words, ngram)
    ordered = np.sort(runs)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return Repeats(len(words), min(len(runs), 1), "", 0.0, None)
    most, at, share = _count(runs, again, ngram, len(words))
    ends = [end for whole in {boundary, len(words)} for end in (whole, whole - 1)]  # the last word may be cut off
    loops = [loop for end in sorted(ends) if (loop := _loop(runs, words, end, ngram))]
    loop = max(loops, key=lambda one: (one.words, -one.period), default=None)
    return Repeats(len(words), most, _shown(words[at : at + ngram]), share, loop)


def _run_hashes(words: list[str], ngram: int) -> np.ndarray:
    """A 64-bit hash for each run of `ngram` words, by its first word. Python's own hashes differ from process to
    process; what is made of them (equal or not) does not."""
    number = len(words) - ngram + 1
    if number < 1:
        return np.empty(0, np.uint64)
    codes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    runs = np.zeros(number, np.uint64)
    for place in range(ngram):
        runs += codes[place : place + number] * np.uint64(_WEIGHTS[place])  # modulo 2^64
    return runs


def _count(runs: np.ndarray, repeated: np.ndarray, ngram: int, words: int) -> tuple[int, int, float]:
    """How often the most frequent run occurs, where it first does, and the share of words in runs seen before.

    `repeated`: the runs that occur again, in order; most runs don't, and only these are looked at.
    """
    places = np.flatnonzero(repeated[np.searchsorted(repeated, runs).clip(max=len(repeated) - 1)] == runs)
    _, first, counts = np.unique(runs[places], return_index=True, return_counts=True)
    most = int(counts.max())
    at = int(places[first[counts == most]].min())
    again = np.ones(len(places), bool)
    again[first] = False
    edges = np.zeros(words + 1, np.int64)
    np.add.at(edges, places[again], 1)
    np.add.at(edges, places[again] + ngram, -1)
    return most, at, float((np.cumsum(edges) > 0).sum() / words)


def _loop(runs: np.ndarray, words: list[str], end: int, ngram: int) -> Loop | None:
    """The loop that the first `end` words end in: at least LOOP_PASSES passes of the same words."""
    last = end - ngram
    if last < 1:
        return None
    found = None
    periods = last - np.flatnonzero(runs[:last] == runs[last])[::-1]
    for period in map(int, periods[:MAX_PERIODS]):
        differs = np.flatnonzero(runs[period : last + 1] != runs[: last + 1 - period])
        same = last + 1 - period - (int(differs[-1]) + 1 if len(differs) else 0)
        copied = same + ngram - 1
        if copied >= (LOOP_PASSES - 1) * period and (found is None or copied > found.words):
            found = Loop(copied, period, _shown(words[end - period : end]))
    return found


def _shown(words: list[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
