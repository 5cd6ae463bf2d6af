"""Texts as decontamination compares them: words, numbers and code names, the same for plain text, LaTeX and code.

`normal_text` is what exact matching compares: signs count. `read_terms` is what everything else compares: case, signs,
LaTeX commands, names of variables and the way a number is written (3, three, 3.0) don't count; `hasClose` and
`has_close` are two words. It works on whole batches with Arrow: each distinct word is looked at once. Not covered:
languages written without blanks, whose runs of letters count as one word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

WORD = re.compile(r"\w+", re.UNICODE)
SIGN = re.compile(r"\w+|[^\w\s]", re.UNICODE)
STEM_FROM = 4
"""Letters from which a word is cut to its stem."""

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen " \
    "seventeen eighteen nineteen"  # fmt: skip
TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: float(value) for value, word in enumerate(UNITS.split())}
TENS = {word: 10.0 * value for value, word in enumerate(TENS_WORDS.split(), 2)}
NUMBERS |= TENS | {
    "once": 1, "twice": 2, "double": 2, "doubled": 2, "doubles": 2, "triple": 3, "tripled": 3, "triples": 3,
    "thrice": 3, "quadruple": 4, "dozen": 12, "dozens": 12, "half": 2, "halves": 2, "halved": 2, "third": 3,
    "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4, "fifth": 5, "fifths": 5, "couple": 2,
    "pair": 2, "single": 1,
}  # fmt: skip
"""What a number word stands for. A fraction is its denominator, as in 1/2, whose 1 counts for nothing."""
SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9}
_MARKUP = """frac dfrac tfrac cfrac left right big bigg cdot times div text mathrm mathbf mathbb mathcal operatorname
displaystyle textbf textit begin end quad qquad hspace vspace ldots cdots dots leq geq le ge neq ne boxed align
overline circ degree degrees percent"""
MARKUP = frozenset(_MARKUP.split())
"""LaTeX commands and what plain text writes for them: neither counts as a word."""


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def tokens(text: str) -> list[str]:
    """Lower-case words and signs, in order, without the signs that end a text: `3 - 4` and `3 + 4` differ."""
    return SIGN.findall(text.lower().rstrip(" \t\r\n.?:"))


def normal_text(text: str) -> str:
    """Words and signs joined by single blanks: what exact matching compares."""
    return " ".join(tokens(text))


def stem(word: str) -> str:
    """A rough English stem: enough that `sells`, `selling` and `sell` meet."""
    if len(word) < STEM_FROM:
        return word
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("ly", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + instead
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word[-1] == "e" else word


@dataclass(frozen=True)
class Terms:
    """The terms of many texts, end to end; a term is a stemmed word or a number.

    `hashes` has one 64-bit hash a term, `bounds` (texts + 1) says whose; `values` is the number, or NaN for a word.
    """

    hashes: Hashes
    values: npt.NDArray[np.float64]
    bounds: Ints

    @property
    def lengths(self) -> Ints:
        return np.diff(self.bounds)

    def of(self, number: int) -> Hashes:
        """The terms of one text."""
        return self.hashes[self.bounds[number] : self.bounds[number + 1]]

    def owners(self) -> Ints:
        """The text's number of each term."""
        return np.repeat(np.arange(len(self.bounds) - 1), self.lengths)


PASSES = (
    (r"(\d),(\d{3})", r"\1\2"),  # 1,000
    (r"(\p{Ll})(\p{Lu})", r"\1 \2"),  # camelCase
    (r"\.(\D|$)", r" \1"),  # a stop that is no decimal point
    (r"[^\p{L}\p{N}\p{M}.]+", " "),
    (r"(\p{N})(\p{L})", r"\1 \2"),
    (r"(\p{L})(\p{N})", r"\1 \2"),
)


def read_terms(texts: Sequence[str]) -> Terms:
    """The terms of each text, in order. The hashes are the same on every machine."""
    split = _split(texts)
    coded = split.flatten().dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    kinds = [_term(word) for word in distinct]
    codes = coded.indices.to_numpy()
    bounds = split.offsets.to_numpy().astype(np.int64)
    bounds = bounds - bounds[0]
    values = np.array([kind[1] for kind in kinds], np.float64)[codes] if kinds else np.zeros(0)
    marks = np.array([kind[2] for kind in kinds], np.int8)[codes] if kinds else np.zeros(0, np.int8)
    hashes = np.array([kind[0] for kind in kinds], np.uint64)[codes] if kinds else np.zeros(0, np.uint64)
    owners = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    kept = hashes != 0
    values, marks, hashes, owners = values[kept], marks[kept], hashes[kept], owners[kept]
    joined = _join_numbers(values, marks, owners)
    values, hashes, owners = values[joined], hashes[joined], owners[joined]
    numbers = ~np.isnan(values)
    hashes[numbers] = _number_hashes(values[numbers])
    return Terms(hashes, values, np.searchsorted(owners, np.arange(len(bounds))).astype(np.int64))


def _split(texts: Sequence[str]) -> Any:
    try:
        column = pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 forbids
        column = pa.array([text.encode(errors="replace").decode() for text in texts], pa.large_string())
    if any(not text.isascii() for text in texts):
        column = pc.call_function("utf8_normalize", [column], pc.Utf8NormalizeOptions("NFKC"))
    for pattern, instead in PASSES:
        column = pc.replace_substring_regex(column, pattern, instead)
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(column)))


WORD_MARK, UNIT, TEN, SCALE, DIGITS = range(5)


@lru_cache(maxsize=1 << 20)
def _term(word: str) -> tuple[int, float, int]:
    """(hash, number or NaN, kind); hash 0 is no term."""
    if not word or word == "." or word in MARKUP:
        return 0, np.nan, WORD_MARK
    if word in SCALES:
        return 1, SCALES[word], SCALE
    if word in NUMBERS:
        return 1, NUMBERS[word], TEN if word in TENS else UNIT
    if word[0].isdigit() or word[0] == ".":
        try:
            return 1, float(word), DIGITS
        except ValueError:
            pass
    if len(word) == 1 and word.isascii():
        return ANY_LETTER, np.nan, WORD_MARK
    return hash_word(stem(word)), np.nan, WORD_MARK


@lru_cache(maxsize=1 << 16)
def word_hash(word: str) -> int:
    """The term of one word or number as it stands in a text; 0 for none."""
    code, value, _ = _term(word.lower().replace(",", ""))
    return code if np.isnan(value) else int(_number_hashes(np.array([value]))[0])


def hash_word(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(errors="replace"), digest_size=8).digest(), "little") | 1


def _join_numbers(values: npt.NDArray[np.float64], marks: npt.NDArray[np.int8], owners: Ints) -> npt.NDArray[np.bool_]:
    """Twenty five is 25 and 5 hundred is 500: changes `values` in place; which terms stay."""
    stay = np.ones(len(values), bool)
    if len(values) < 2:
        return stay
    same = owners[1:] == owners[:-1]
    tens = np.flatnonzero(same & (marks[:-1] == TEN) & (marks[1:] == UNIT) & (values[1:] < 10) & (values[1:] > 0))
    values[tens] += values[tens + 1]
    stay[tens + 1] = False
    counts = np.isin(marks[:-1], (UNIT, TEN, DIGITS))
    scaled = np.flatnonzero(same & counts & (marks[1:] == SCALE) & stay[:-1])
    values[scaled] *= values[scaled + 1]
    stay[scaled + 1] = False
    return stay


def _number_hashes(values: npt.NDArray[np.float64]) -> Hashes:
    return mix((values + 0.0).view(np.uint64) ^ np.uint64(0xA5A5A5A5A5A5A5A5)) | np.uint64(1)


ANY_LETTER = hash_word("a letter")
"""One term for all single letters: a variable may have any name."""


def mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection in which every bit counts."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
