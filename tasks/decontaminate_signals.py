"""Signals between questions and benchmark items: what two texts have in common besides their order of words.

All are numbers from 0 to 1, computed for candidate pairs only, by sparse matrices over the items' terms. Words and
numbers weigh by how rare they are among the items: ln((N + 1) / (df + 1)) + LEAST, and what no item holds weighs most.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from tasks.decontaminate_benchmarks import Item
from tasks.decontaminate_code import DEFINED, CodeFacts, asks_for_code, checked_examples, code_facts
from tasks.decontaminate_formulas import (
    ENOUGH_FORMULAS,
    NO_FORMULAS,
    answer_key,
    formulas,
    has_formulas,
    same_formulas,
    unlike,
)
from tasks.decontaminate_ngrams import covered_share, run_set
from tasks.decontaminate_text import Hashes, Ints, Terms, mix, read_terms, word_hash

LEAST = 0.1
ENOUGH_NUMBERS = 6.0
"""Weight of an item's numbers from which their agreement counts in full."""
NO_NUMBERS = 0.65
"""How numbers count where there are none: neither agreement nor difference."""
WORTH_A_LOOK = 1.2
"""cosine + numbers + runs from which formulas can tip the decision"""
RARE_ANSWER = 300
"""An answer that one item in so many has counts in full: two questions may both come to 2."""
WORTH_READING = 0.25
"""Shared words or runs from which two texts may be one writing."""
NAME_WEIGHT = {0: 0.0, 1: 0.6, 2: 0.7}
"""What the same function name is worth, by the number of its parts; 1 from three."""
ORDINARY_NAME = 0.25
_ORDINARY_NAMES = """add common concatenate count decode digits encode exchange find intersection length main max
maximum median min minimum modp monotonic product reverse search solution solve sort special filter strange sum total
unique"""
ORDINARY_NAMES = frozenset(_ORDINARY_NAMES.split())
"""One-word names that many programs have; they are worth ORDINARY_NAME."""
ENOUGH_VALUES = 2
"""Shared example values from which more add nothing."""
LONG_EXAMPLE = 12
"""Characters of an example from which one is enough. A single short one may be anybody's: `f(5) == True`."""
COMMON_EXAMPLE = 3
"""An example or value that more items than these hold shows nothing: `Found a match!`."""
FUNCTION_WORDS = """a about above after all also an and any are as at be been before being below between both but by can
could did do does doing down during each few for from further had has have having he her here hers him his how i if in
into is it its itself just me more most my no nor not now of off on once only or other our out over own same she should
so some such than that the their them then there these they this those through to too under until up very was we were
what when where which while who whom why will with would you your find given let value express answer"""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Signals:
    """One number a candidate pair each; NaN where the pair has no such signal."""

    cosine: Floats
    """of the two texts, or for code of what they say in words, whichever is higher"""
    above_others: Floats
    """the cosine above the mean of the next ten items, for code of the benchmark: a copy stands out, a neighbour has
    more such neighbours"""
    words: Floats
    """weight of shared words / geometric mean of both texts' weights"""
    numbers: Floats
    """the same for numbers, drawn towards NO_NUMBERS where the item has few"""
    runs: Floats
    """share of the item, or of the question if that is more, that lies in shared runs of five terms"""
    formulas: Floats
    """the same for short runs of digits, letters and signs, drawn towards NO_FORMULAS where there are few"""
    answer: Floats
    """1 the same reference answer, less where it is a common one, -1 another, OTHER_NUMBER another number, 0 unknown"""
    name: Floats
    """the item's function name stands in the question"""
    values: Floats
    """shared example values"""
    written: Floats
    """share of the item, or of the question if that is more, in shared runs of four terms, common ones too"""
    examples: Floats
    """how far the share of the examples (arguments and result) of the text with fewer that both hold is above a half,
    from 0 to 1; 0 for a single short one"""
    code: npt.NDArray[np.bool_]
    """the item is a programming problem"""
    symbolic: npt.NDArray[np.bool_]
    """the item holds formulas: ENOUGH_FORMULAS short runs of them or more"""
    bare: npt.NDArray[np.bool_]
    """a programming problem whose text shows no function, such as MBPP's one sentence"""

    def row(self, number: int) -> dict[str, float]:
        """The signals of one pair that it has, rounded."""
        found = {
            one.name: float(getattr(self, one.name)[number]) for one in fields(self) if one.name not in KINDS_OF_ITEM
        }
        return {name: round(value, 3) for name, value in found.items() if not np.isnan(value)}


KINDS_OF_ITEM = ("code", "symbolic", "bare")


class Overlap:
    """Weighted overlap of sets of terms with the items' (words, or numbers)."""

    def __init__(self, terms: Terms, *, numbers: bool, common: Sequence[int] = ()) -> None:
        self._numbers = numbers
        hashes, owners = self._chosen(terms)
        self.vocabulary, inverse = np.unique(hashes, return_inverse=True)
        items = len(terms.bounds) - 1
        self._items = _binary(owners, inverse, (items, len(self.vocabulary)))
        spread = np.asarray(self._items.sum(axis=0)).ravel()
        self.weights = np.log((items + 1) / (spread + 1)) + LEAST
        self.weights[np.isin(self.vocabulary, np.array(common, np.uint64))] = LEAST
        self._unknown = float(np.log(items + 1) + LEAST)
        self._weighted = self._items.multiply(self.weights).tocsr()
        self.totals = self._items @ self.weights

    def _chosen(self, terms: Terms) -> tuple[npt.NDArray[np.uint64], Ints]:
        chosen = np.isnan(terms.values) != self._numbers
        return terms.hashes[chosen], terms.owners()[chosen]

    def questions(self, terms: Terms) -> tuple[csr_matrix, Floats]:
        """(which known terms each text has, weight of all its terms)."""
        hashes, owners = self._chosen(terms)
        count = len(terms.bounds) - 1
        place = np.searchsorted(self.vocabulary, hashes)
        place[place == len(self.vocabulary)] = 0
        known = self.vocabulary[place] == hashes if len(self.vocabulary) else np.zeros(len(hashes), bool)
        matrix = _binary(owners[known], place[known], (count, len(self.vocabulary)))
        strange = owners[~known]
        pairs = mix(hashes[~known]) + strange.astype(np.uint64)  # a word twice in one text counts once
        strange = strange[np.unique(pairs, return_index=True)[1]]
        return matrix, matrix @ self.weights + np.bincount(strange, minlength=count) * self._unknown

    def shared(self, matrix: csr_matrix, question: Ints, item: Ints) -> Floats:
        """Weight of the terms that both of each pair have."""
        if not len(question):
            return np.zeros(0)
        return np.asarray(matrix[question].multiply(self._weighted[item]).sum(axis=1)).ravel()


def _share(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1e-9), 1.0)


def _binary(rows: Ints, columns: Ints, shape: tuple[int, int]) -> csr_matrix:
    matrix = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def _rare(sets: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Each item's texts without those that many items hold."""
    spread = Counter(text for one in sets for text in one)
    return [frozenset(text for text in one if spread[text] <= COMMON_EXAMPLE) for one in sets]


def common_words() -> list[int]:
    return [int(value) for value in read_terms([FUNCTION_WORDS]).hashes]


class ItemSignals:
    """What of the items is compared, made once."""

    def __init__(self, items: Sequence[Item], terms: Terms) -> None:
        self.items = items
        self._terms = terms
        self.code = np.array([item.is_code for item in items], bool)
        self.words = Overlap(terms, numbers=False, common=common_words())
        self.numbers = Overlap(terms, numbers=True)
        keys = [answer_key(item.answer) for item in items]
        found = Counter(keys)
        self.answers = keys
        self.bare = np.array([item.is_code and not DEFINED.search(item.text) for item in items], bool)
        self._values = _rare([item.code.values if item.is_code else frozenset() for item in items])
        self._examples = _rare([item.code.examples if item.is_code else frozenset() for item in items])
        self._holders: dict[str, list[int]] = {}
        for number, examples in enumerate(self._examples):
            for example in examples:
                self._holders.setdefault(example, []).append(number)
        self._formulas = [formulas(item.text) if has_formulas(item.text) else frozenset() for item in items]
        self.symbolic = np.array([len(one) >= ENOUGH_FORMULAS for one in self._formulas], bool)
        self.answer_weight = [min(1.0, np.log(len(keys) / found[key] + 1) / np.log(RARE_ANSWER)) for key in keys]

    def agreement(self, terms: Terms, question: Ints, item: Ints) -> tuple[Floats, Floats, Floats]:
        """(words, numbers, contained) of each pair: numbers drawn towards NO_NUMBERS; contained is how much of one
        text's words, and of its numbers, the other has, whichever text is contained more."""
        words, all_words = self._overlap(self.words, terms, question, item)
        numbers, all_numbers = self._overlap(self.numbers, terms, question, item)
        sure = np.minimum(np.maximum(*all_numbers) / ENOUGH_NUMBERS, 1.0)
        same = numbers / np.sqrt(np.maximum(all_numbers[0] * all_numbers[1], 1e-9))
        contained = np.maximum(*(
            np.minimum(_share(words, mine), _share(numbers, others))
            for mine, others in zip(all_words, all_numbers, strict=True)
        ))  # fmt: skip
        same_words = words / np.sqrt(np.maximum(all_words[0] * all_words[1], 1e-9))
        return same_words, sure * same + (1 - sure) * NO_NUMBERS, contained

    def _overlap(self, overlap: Overlap, terms: Terms, question: Ints,
                 item: Ints) -> tuple[Floats, tuple[Floats, Floats]]:  # fmt: skip
        """Weight shared, and (the question's, the item's) whole weight."""
        matrix, totals = overlap.questions(terms)
        return overlap.shared(matrix, question, item), (totals[question], overlap.totals[item])

    def compare(self, texts: Sequence[str], terms: Terms, question: Ints, item: Ints, cosine: Floats, above: Floats,
                runs: Floats, answers: Sequence[str | None] | None) -> Signals:  # fmt: skip
        """All signals of the pairs (question, item); `terms` and `answers` are those of all texts."""
        words, numbers, _ = self.agreement(terms, question, item)
        code = self.code[item]
        name, values, examples = self.of_code(texts, question, item)
        likely = ~code & (np.nan_to_num(cosine, nan=1.0) + numbers + runs > WORTH_A_LOOK)
        same = self.formulas(texts, question, item, likely)
        written = self._written(terms, question, item, likely & ((words >= WORTH_READING) | (runs >= WORTH_READING)))
        known = np.zeros(len(question)) if answers is None else self.answer(answers, question, item)
        return Signals(
            np.round(cosine, 4),
            np.round(above, 4),
            words,
            numbers,
            runs,
            same,
            known,
            name,
            values,
            written,
            examples,
            code,
            self.symbolic[item],
            self.bare[item],
        )

    def _written(self, terms: Terms, question: Ints, item: Ints, chosen: npt.NDArray[np.bool_]) -> Floats:
        """Of the chosen pairs, 0 for the others: how much of one text is written like the other."""
        share = np.zeros(len(question))
        mine: dict[int, frozenset[tuple[int, ...]]] = {}
        for pair in np.flatnonzero(chosen):
            one, other = int(question[pair]), self._terms.of(int(item[pair]))
            if one not in mine:
                mine[one] = run_set(terms.of(one))
            share[pair] = max(covered_share(other, mine[one]), covered_share(terms.of(one), run_set(other)))
        return share

    def formulas(self, texts: Sequence[str], question: Ints, item: Ints, chosen: npt.NDArray[np.bool_]) -> Floats:
        """Agreement of formulas of the chosen pairs, NO_FORMULAS for the others."""
        same = np.full(len(question), NO_FORMULAS)
        mine: dict[int, frozenset[str]] = {}
        for pair in np.flatnonzero(chosen):
            one, other = int(question[pair]), int(item[pair])
            if self._formulas[other]:
                if one not in mine:
                    mine[one] = formulas(texts[one])
                same[pair] = same_formulas(mine[one], self._formulas[other])
        return same

    def shared_words(self, hashes: Hashes, item: int) -> tuple[str, ...]:
        """The rarest words and numbers of an item that are among the terms `hashes`, as they stand in the item."""
        mine = set(hashes.tolist())
        weights: dict[str, float] = {}
        for word in dict.fromkeys(_SHOWN.findall(self.items[item].text)):
            code = word_hash(word)
            if code in mine:
                weights[word] = self._weight(code)
        return tuple(sorted(weights, key=lambda word: (-weights[word], word))[:SHOWN_WORDS])

    def _weight(self, code: int) -> float:
        for overlap in (self.words, self.numbers):
            place = int(np.searchsorted(overlap.vocabulary, np.uint64(code)))
            if place < len(overlap.vocabulary) and int(overlap.vocabulary[place]) == code:
                return float(overlap.weights[place])
        return 0.0

    def longest_run(self, text: str, item: int) -> str:
        """The longest run of words and numbers that both texts have, as it stands in the question."""
        mine, theirs = _SHOWN.findall(text)[:5000], _SHOWN.findall(self.items[item].text)[:5000]
        match = SequenceMatcher(None, [word.casefold() for word in mine], [word.casefold() for word in theirs],
                                autojunk=False).find_longest_match()  # fmt: skip
        return " ".join(mine[match.a : match.a + match.size])

    def answer(self, answers: Sequence[str | None], question: Ints, item: Ints) -> Floats:
        keys: dict[int, str | None] = {}
        found = np.zeros(len(question))
        for number, (one, other) in enumerate(zip(question.tolist(), item.tolist(), strict=True)):
            if one not in keys:
                keys[one] = answer_key(answers[one])
            mine, theirs = keys[one], self.answers[other]
            if mine is not None and theirs is not None:
                found[number] = self.answer_weight[other] if mine == theirs else unlike(mine, theirs)
        return found

    def of_code(self, texts: Sequence[str], question: Ints, item: Ints) -> tuple[Floats, Floats, Floats]:
        """(name, values, examples) of each pair with a programming problem, NaN for the others."""
        facts: dict[int, CodeFacts] = {}
        name, values, examples = np.full((3, len(question)), np.nan)
        for number in np.flatnonzero(self.code[item]):
            one, target = int(question[number]), self.items[item[number]].code
            if one not in facts:
                facts[one] = code_facts(texts[one])
            worth = ORDINARY_NAME if target.entry in ORDINARY_NAMES else NAME_WEIGHT.get(len(target.entry.split()), 1.0)
            name[number] = worth if target.entry in facts[one].names else 0.0
            shared = facts[one].values & self._values[item[number]]
            values[number] = min(len(shared), ENOUGH_VALUES) / ENOUGH_VALUES
            checked = facts[one].examples & self._examples[item[number]]
            if _enough(checked):
                fewer = min(len(facts[one].examples), len(target.examples))
                examples[number] = max(0.0, 2 * len(checked) / fewer - 1)
            else:
                examples[number] = 0.0
        return name, values, examples

    def with_examples(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """(question, item) of the pairs that share enough examples, however the functions are called."""
        found: list[tuple[int, int]] = []
        for number, text in enumerate(texts):
            if self._holders and asks_for_code(text):
                shared: dict[int, set[str]] = {}
                for example in checked_examples(text):
                    for item in self._holders.get(example, ()):
                        shared.setdefault(item, set()).add(example)
                found += [(number, item) for item, those in sorted(shared.items()) if _enough(those)]
        pairs = np.array(found, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]


def _enough(examples: Collection[str]) -> bool:
    return len(examples) >= 2 or any(len(text) >= LONG_EXAMPLE for text in examples)


SHOWN_WORDS = 8


_SHOWN = re.compile(r"\d+(?:[.,]\d+)*|\w+")
