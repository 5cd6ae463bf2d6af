"""Decontamination: which questions are on a benchmark, by which rule, with what evidence.

    exact     the same words and signs
    n-gram    runs of n terms that cover most of the item or of the question; boilerplate runs don't count
    cosine    the nearest item by embedding, where `similarity` asks for it (DeepDistill)
    signals   a score over cosine, numbers, runs, formulas, answers; for programs names, examples, words
    judge     a model asked about what the score leaves open

A question's verdict never depends on other questions, so neither shards nor order change it. Not covered: images,
translations between natural languages; boilerplate is known from the benchmarks alone, not from the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from storage.fingerprint import hash_text
from tasks.decontaminate_benchmarks import Benchmark, Item, load_items
from tasks.decontaminate_code import asks_for_code, prose
from tasks.decontaminate_decision import ALIKE, CLEAN, KINDS, WRITTEN_ALIKE, Contamination, kinds, scores
from tasks.decontaminate_judge import ContaminationJudge
from tasks.decontaminate_nearest import NEXT, ItemMatrix, above_others, around
from tasks.decontaminate_ngrams import NgramIndex
from tasks.decontaminate_pairs import Pairs, best_of_each, cover, spread
from tasks.decontaminate_settings import DecontaminateSettings
from tasks.decontaminate_siblings import LITERAL, opposed, renamed, sibling
from tasks.decontaminate_signals import ItemSignals, Signals
from tasks.decontaminate_text import Ints, Terms, normal_text, read_terms
from tasks.embeddings import EmbeddingSettings, Vectors, embed
from tasks.question import normalise

BATCH = 8192
FLOOR = 0.5
"""Cosine below which an item is no candidate."""
LEAST_RUNS = 2
"""Terms in rare short runs, beyond the first run, from which an item is a candidate."""
MOST_CHARS = 200_000
"""Of a longer text the first so many characters are compared."""


SELF_FLAGS, SELF_FLAGS_PROSE, SELF_FLAGS_ALIKE = 0.002, 0.01, 0.001
"""Share of a benchmark's own items that may score with another of its items as copies do, for each kind of pair: gives
its thresholds. Sets of formulas hold families of siblings, so they get less, and least for pairs that are written
alike; where most items are prose it is the 1 % that was asked for, since 0.3 % of GSM8K are two pairs (each counts
twice), and one pair more or less moved its threshold from 0.5 to 2.1."""
CALIBRATED, FEWEST_TO_CALIBRATE = 2000, 100
"""About so many items are compared; a smaller benchmark takes `contaminated` as it is."""
HIGHEST_CUT = 8.0
SURE_ANSWER = 0.6
"""Answer signal from which texts that are written alike are no siblings, whatever they use more often."""
NO_SCORE = -99.0


class Benchmarks:
    """All items of all benchmarks, indexed for the rules that are on."""

    def __init__(self, items: Sequence[Item], settings: DecontaminateSettings, embedding: EmbeddingSettings) -> None:
        self.items = list(items)
        self._settings, self._embedding = settings, embedding
        texts = [normal_text(item.text) for item in items]
        self._exact = {hash_text(text): number for number, text in reversed(list(enumerate(texts)))}
        self._exact_letters = {_letters(item.text) for item in items}
        self._terms = read_terms([item.text for item in items])
        distinct = np.unique(np.array(texts, dtype=object), return_inverse=True)[1] if texts else np.zeros(0, np.int64)
        entries = read_terms([item.code.entry if item.is_code else "" for item in items])
        names = np.split(entries.hashes, entries.bounds[1:-1]) if items else []
        self._distinct = distinct.astype(np.int64)
        self._ngrams = NgramIndex(self._terms, self._distinct, names, settings.ngram, settings.common)
        self._signals = ItemSignals(items, self._terms)
        self._benchmark = np.unique([item.benchmark for item in items], return_inverse=True)[1]
        self._code = np.flatnonzero(self._signals.code)
        self._views: tuple[Any, Any] | None = None
        self._matrix: ItemMatrix | None = None
        self._thresholds: dict[bool, Any] = {}
        self._judge = ContaminationJudge(settings.judge) if settings.judge else None

    def check(
        self, texts: Sequence[str], vectors: Vectors | None = None, answers: Sequence[str | None] | None = None
    ) -> list[Contamination]:
        """A verdict for each text; `vectors` (n, d) are the texts' embeddings, `answers` their references."""
        if not self.items:
            return [CLEAN] * len(texts)
        if vectors is not None:  # a text without a usable vector is near to nothing
            vectors = np.nan_to_num(np.asarray(vectors, np.float16), posinf=0.0, neginf=0.0)
        found: list[Contamination] = []
        for start in range(0, len(texts), BATCH):
            end = start + BATCH
            found += self._batch([text[:MOST_CHARS] for text in texts[start:end]],
                                 vectors[start:end] if vectors is not None else None,
                                 answers[start:end] if answers is not None else None)  # fmt: skip
        return self._judged(texts, found)

    def _batch(self, texts: Sequence[str], vectors: Vectors | None,
               answers: Sequence[str | None] | None) -> list[Contamination]:  # fmt: skip
        found = [CLEAN] * len(texts)
        terms = read_terms(texts)
        pairs = self._candidates(texts, terms, vectors)
        if len(pairs.question):
            self._by_score(found, texts, terms, pairs, answers, embedded=vectors is not None)
            self._by_cosine(found, pairs)
            self._by_ngram(found, texts, terms, pairs)
        for number, text in enumerate(texts):
            item = self._exact.get(hash_text(normal_text(text))) if _letters(text) in self._exact_letters else None
            if item is not None:
                found[number] = Contamination("contaminated", "benchmark_exact", 1.0, None, item, (text[:300],))
        return found

    def _candidates(self, texts: Sequence[str], terms: Terms, vectors: Vectors | None, *, own: int = 0) -> Pairs:
        """Pairs that share a long run, rare short runs, a function name, examples, or are near by cosine.

        `own` is 1 where the texts are items themselves: the nearest of each is then no neighbour.
        """
        size = len(self.items)
        long, short, names = self._ngrams.search(terms)
        item_keys, item_terms = cover(long, long.item_at, size)
        question_keys, question_terms = cover(long, long.at, size)
        run_keys, run_terms = cover(short, short.item_at, size)
        run_other = cover(short, short.at, size)[1]
        enough = run_terms >= 5 + LEAST_RUNS
        name_keys = np.unique(names.question * size + names.item)
        tried, same = self._signals.with_examples(texts)
        near_keys, near_cosine, near_above, others = self._near(texts, vectors, own)
        by_signal = (run_keys[enough], name_keys, tried * size + same) if self._settings.signals else ()
        keys = np.unique(np.concatenate([item_keys, near_keys, *by_signal]))
        question, item = np.divmod(keys, size)
        of_item = np.maximum(self._terms.lengths[item], 1)
        of_question = np.maximum(terms.lengths[question], 1)
        cosine, above = spread(keys, near_keys, near_cosine), spread(keys, near_keys, near_above)
        if vectors is not None:
            self._fill_cosines(question, item, vectors, cosine)
            above = np.where(self._signals.code[item], above, cosine - others[question])
        return Pairs(
            question, item, cosine, above,
            np.nan_to_num(spread(keys, item_keys, item_terms)) / of_item,
            np.nan_to_num(spread(keys, question_keys, question_terms)) / of_question,
            np.nan_to_num(np.maximum(spread(keys, run_keys, run_terms) / of_item,
                                     spread(keys, run_keys, run_other) / of_question)),
        )  # fmt: skip

    def _near(self, texts: Sequence[str], vectors: Vectors | None, own: int) -> tuple[Ints, Any, Any, Any]:
        """(keys, cosines, for programs cosines above the next items) of the nearest items; of each text the mean cosine
        of the items after the nearest."""
        if vectors is None:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0)
        if self._matrix is None:
            self._matrix = ItemMatrix(self._item_vectors()[0])
        count = self._settings.nearest
        question, item, cosine = self._matrix.nearest(vectors, max(count, own + 1 + NEXT), FLOOR)
        others = around(question, cosine, len(texts), own + 1, FLOOR)
        nearest = np.arange(len(question)) - np.searchsorted(question, question) < count
        question, item, cosine = question[nearest], item[nearest], cosine[nearest]
        keys, above = question * len(self.items) + item, np.full(len(item), np.nan)
        order = np.argsort(keys)
        item, keys, cosine = item[order], keys[order], cosine[order]
        if not len(self._code) or not self._settings.signals:
            return keys, cosine, above, others
        other = ~self._signals.code[item]
        code_keys, code_cosine, code_above = self._near_code(texts, vectors)
        keys = np.concatenate([keys[other], code_keys])
        order = np.argsort(keys)
        return (keys[order], np.concatenate([cosine[other], code_cosine])[order],
                np.concatenate([above[other], code_above])[order], others)  # fmt: skip

    def _near_code(self, texts: Sequence[str], vectors: Vectors) -> tuple[Ints, Any, Any]:
        """Programming problems near to what the questions say in words, or to their whole text."""
        asked = np.array([number for number, text in enumerate(texts) if asks_for_code(text)], np.int64)
        if not len(asked):
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        whole, said = self._item_vectors()
        words = [prose(texts[number]) for number in asked]
        mine = np.asarray(vectors[asked], np.float64)
        if spoken := [number for number, text in enumerate(words) if text]:
            mine = mine.copy()
            mine[spoken] = embed([normalise(words[number]) for number in spoken], self._embedding)
        spoken_cosine = mine @ np.asarray(said, np.float64).T
        above = above_others(spoken_cosine, self._benchmark[self._code])
        full_cosine = np.asarray(vectors[asked], np.float64) @ np.asarray(whole[self._code], np.float64).T
        cosine = np.minimum(np.maximum(spoken_cosine, 0.9 * full_cosine), 1.0)
        count = min(self._settings.nearest, cosine.shape[1])
        best = np.argsort(-np.round(cosine + above, 6), axis=1, kind="stable")[:, :count]
        row = np.repeat(np.arange(len(asked)), count)
        column = best.ravel()
        keys = asked[row] * len(self.items) + self._code[column]
        return keys, cosine[row, column], above[row, column]

    def _fill_cosines(self, question: Ints, item: Ints, vectors: Vectors, cosine: Any) -> None:
        """Pairs that were found by their words have a cosine as well."""
        missing = np.flatnonzero(np.isnan(cosine))
        whole, _ = self._item_vectors()
        mine = np.asarray(vectors)[question[missing]].astype(np.float64)
        cosine[missing] = np.einsum("ij,ij->i", mine, np.asarray(whole)[item[missing]].astype(np.float64))

    def _item_vectors(self) -> tuple[Any, Any]:
        """(all items, what the programming problems say in words)."""
        if self._views is None:
            whole = embed([normalise(item.text) for item in self.items], self._embedding)
            said = embed([normalise(self.items[number].prose or self.items[number].text) for number in self._code],
                         self._embedding)  # fmt: skip
            self._views = whole, said
        return self._views

    def _cuts(self, *, embedded: bool) -> Any:
        """(2, benchmarks, kinds): score from which a pair is contaminated, without and with both answers known."""
        if embedded not in self._thresholds:
            least = self._settings.contaminated
            found = np.full((2, int(self._benchmark.max(initial=0)) + 1, KINDS), least)
            for benchmark in np.unique(self._benchmark[~self._signals.code]):
                mine = np.flatnonzero((self._benchmark == benchmark) & ~self._signals.code)
                if len(mine) >= FEWEST_TO_CALIBRATE:
                    chosen = mine[:: max(1, len(mine) // CALIBRATED)]
                    symbolic = self._signals.symbolic[mine].mean() > 0.5
                    best = self._against_others(chosen, embedded=embedded)
                    for kind in range(KINDS):
                        allowed = SELF_FLAGS_ALIKE if kind in WRITTEN_ALIKE else SELF_FLAGS
                        cut = np.quantile(best[:, kind], 1 - (allowed if symbolic else SELF_FLAGS_PROSE), axis=-1)
                        found[:, benchmark, kind] = np.clip(cut, least, max(least, HIGHEST_CUT))
            self._thresholds[embedded] = found
        return self._thresholds[embedded]

    def _against_others(self, chosen: Ints, *, embedded: bool) -> Any:
        """(2, kinds, chosen): the highest score of each of the items with another item, without and with answers known;
        siblings are left out."""
        texts = [self.items[number].text[:MOST_CHARS] for number in chosen]
        terms = read_terms(texts)
        vectors = np.asarray(self._item_vectors()[0])[chosen] if embedded else None
        pairs = self._candidates(texts, terms, vectors, own=1)
        answers = [self.items[number].answer for number in chosen]
        signals = self._signals.compare(texts, terms, pairs.question, pairs.item, pairs.cosine, pairs.above,
                                        pairs.runs, answers)  # fmt: skip
        other = self._distinct[chosen[pairs.question]] != self._distinct[pairs.item]
        literal, kind = _literal(pairs, signals), kinds(signals)
        best = np.full((2, KINDS, len(chosen)), NO_SCORE)
        unknown = replace(signals, answer=np.zeros_like(signals.answer))
        for row, value in enumerate((scores(unknown), scores(signals))):
            for pair in np.flatnonzero(other & (value >= self._settings.contaminated)):
                question = int(pairs.question[pair])
                if value[pair] > best[row, kind[pair], question] and self._alike(
                    texts[question], int(pairs.item[pair]), literal=literal[pair]
                ):
                    best[row, kind[pair], question] = value[pair]
        return best

    def _alike(self, text: str, item: int, *, literal: bool) -> bool:
        """Whether nothing shows that the text is a sibling of the item: the same template, another task."""
        other = self.items[item].text
        return not (opposed(text, other) or (literal and not self._signals.code[item] and sibling(text, other)))

    def _by_score(self, found: list[Contamination], texts: Sequence[str], terms: Terms, pairs: Pairs,
                  answers: Sequence[str | None] | None, *, embedded: bool) -> None:  # fmt: skip
        settings = self._settings
        if not settings.signals:
            return
        signals = self._signals.compare(texts, terms, pairs.question, pairs.item, pairs.cosine, pairs.above,
                                        pairs.runs, answers)  # fmt: skip
        value = scores(signals)
        known = (signals.answer != 0).astype(int)
        cuts = self._cuts(embedded=embedded)[known, self._benchmark[pairs.item], kinds(signals)]
        literal = _literal(pairs, signals)
        doubtful = literal & (signals.answer < SURE_ANSWER)
        alike = literal | (signals.written >= ALIKE)
        for pair in best_of_each(pairs.question, value - cuts, pairs.item):
            if value[pair] >= settings.suspect:
                item = int(pairs.item[pair])
                text = texts[int(pairs.question[pair])]
                enough = value[pair] >= cuts[pair] or (
                    value[pair] >= settings.contaminated and alike[pair] and renamed(text, self.items[item].text)
                )
                contaminated = enough and self._alike(text, item, literal=doubtful[pair])
                found[int(pairs.question[pair])] = Contamination(
                    "contaminated" if contaminated else "suspect", "benchmark_signals", float(value[pair]),
                    round(float(cuts[pair]), 3) if contaminated else settings.suspect, item,
                    self._signals.shared_words(terms.of(int(pairs.question[pair])), item),
                    tuple(signals.row(int(pair)).items()),
                )  # fmt: skip

    def _by_cosine(self, found: list[Contamination], pairs: Pairs) -> None:
        threshold = self._settings.similarity
        if threshold is None:
            return
        value = np.round(np.nan_to_num(pairs.cosine), 3)
        for pair in best_of_each(pairs.question, value, pairs.item):
            if value[pair] > threshold:
                question, item = int(pairs.question[pair]), int(pairs.item[pair])
                found[question] = Contamination(
                    "contaminated", "benchmark_similarity", float(value[pair]), threshold, item,
                    (self.items[item].text[:300],), (("cosine", float(value[pair])),),
                )  # fmt: skip

    def _by_ngram(self, found: list[Contamination], texts: Sequence[str], terms: Terms, pairs: Pairs) -> None:
        threshold = self._settings.coverage
        value = np.round(np.minimum(np.maximum(pairs.item_share, pairs.question_share), 1.0), 3)
        chosen = np.flatnonzero(value >= threshold)
        if not len(chosen):
            return
        question, item = pairs.question[chosen], pairs.item[chosen]
        _, numbers, contained = self._signals.agreement(terms, question, item)
        same_formulas = self._signals.formulas(texts, question, item, ~self._signals.code[item])
        copy = (contained >= CONTAINED) & (same_formulas >= SAME_FORMULAS)
        for pair in range(len(question)):
            text, other = texts[int(question[pair])], int(item[pair])
            copy[pair] |= renamed(text, self.items[other].text)
            copy[pair] = copy[pair] and self._alike(text, other, literal=True)
        for pair in best_of_each(question, value[chosen] + copy, item):
            number, other = int(question[pair]), int(item[pair])
            if not copy[pair] and found[number].verdict == "contaminated":
                continue
            run = self._signals.longest_run(texts[number], other)
            signals = dict(found[number].signals) if found[number].item == other else {}
            signals |= {"numbers": float(numbers[pair]), "contained": float(contained[pair]),
                        "formulas": float(same_formulas[pair])}  # fmt: skip
            found[number] = Contamination(
                "contaminated" if copy[pair] else "suspect", "benchmark_ngram", float(value[chosen][pair]), threshold,
                other, (run,), tuple((name, round(signal, 3)) for name, signal in signals.items()),
            )  # fmt: skip

    def _judged(self, texts: Sequence[str], found: list[Contamination]) -> list[Contamination]:
        """Suspects as the judge sees them; undecided where it fails."""
        suspects = [number for number, one in enumerate(found) if one.verdict == "suspect"]
        if self._judge is None or not suspects:
            return found
        asked = [(texts[number], self.items[found[number].item].text) for number in suspects]
        for number, opinion in zip(suspects, self._judge.ask(asked), strict=True):
            if opinion.same is None:
                found[number] = found[number].judged("undecided", "benchmark_undecided", opinion.reason)
            elif opinion.same:
                found[number] = found[number].judged("contaminated", "benchmark_judge", opinion.reason)
            else:
                found[number] = CLEAN
        return found

    def drops(self, one: Contamination) -> str | None:
        """The rule by which a question leaves, or None: undecided is kept out, a suspect by setting."""
        if one.verdict in ("contaminated", "undecided"):
            return one.rule
        return "benchmark_suspect" if one.verdict == "suspect" and self._settings.suspects == "drop" else None

    def evidence(self, one: Contamination) -> str:
        """JSON: the item, what matched, the scores."""
        if one.verdict == "clean":
            return "{}"
        item = self.items[one.item]
        seen: dict[str, Any] = {
            "verdict": one.verdict, "benchmark": item.benchmark, "item": item.index, "item_text": item.text[:300],
            "matched": "; ".join(one.matched)[:300], "found_by": one.rule,
        }  # fmt: skip
        seen |= {"signals": dict(one.signals)} if one.signals else {}
        return json.dumps(seen | ({"reason": one.reason} if one.reason else {}), ensure_ascii=False)


CONTAINED, SAME_FORMULAS = 0.93, 0.5
"""With long shared runs a text is a copy if it also holds the item's other words and numbers, or the item holds its;
else it may be the same template with other numbers or another question about the same facts."""


def _literal(pairs: Pairs, signals: Signals) -> Any:
    return pairs.literal() | (signals.written >= LITERAL)


def _letters(text: str) -> str:
    """Equal wherever `normal_text` is, and a tenth of its time."""
    return "".join(text.lower().rstrip(" \t\r\n.?:").split())


@lru_cache(maxsize=4)
def load_benchmarks(
    settings: DecontaminateSettings, embedding: EmbeddingSettings, base: Path, hashes: tuple[tuple[str, str], ...]
) -> Benchmarks:
    """Read all benchmarks; BadSetting if an item has no question, UnreadableSource if a set can't be read.

    `hashes` are those of the files: a file that changes within one process is read again.
    """
    return Benchmarks(load_items(settings.benchmarks, base), settings, embedding)


__all__ = ["Benchmark", "Benchmarks", "Contamination", "DecontaminateSettings", "Item", "load_benchmarks"]
