r"""Math answers against a reference: normal forms first, Math-Verify for the rest, in worker processes that
can be killed.

A pair that passes its time or memory limit costs its own worker only, gets `time_limit` or `memory_limit`
(never `wrong_answer`), and the pairs behind it go on in a fresh worker. The limits: CPU seconds, enforced by
the kernel, so that a busy machine does not change verdicts; address space; and a generous wall clock above
both, which counts as `infra_error`.

Without a reference nothing is judged, but the canonical form of the answer is given, so that the teachers can vote.
"""

from __future__ import annotations

import importlib.metadata
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from tasks.verifiers.answer import MAX_ANSWER_CHARS, Extracted, check_rules, extract
from tasks.verifiers.answer_canonical import canonical_answer
from tasks.verifiers.answer_compare import QuickVerdict, compare_ending, quick_compare
from tasks.verifiers.answer_statement import stated_answer
from tasks.verifiers.math_pool import Pair, Worker
from tasks.verifiers.verdict import Item, Judgement, Status, settings_hash, unscored

RULES_REVISION = 3  # raise it when answer*.py, math_*.py or quantity_units.py change a verdict
CHUNK = 32
EVIDENCE_CHARS = 500
KEPT_REFERENCES = 4096
NO_REFERENCE = "no reference answer"


class MathVerifier:
    """Rule-based math verdicts: score 1.0 or 0.0, `passed` if the score is above `threshold`.

    `answer_from` and `reference_from` are extraction rules in order (see `answer.extract`). Without
    `reference_from` the reference is read from its last box or from the markers that `answer_from` names,
    else it is taken whole. `timeout_s` is CPU time a pair, `memory_mb` the address space of a worker. Raises
    `UnknownAnswerRule`, `ValueError` for settings out of range. Workers start at the first pair that needs
    one; `close()` or the end of a `with` block ends them. Threads may share one.
    """

    name = "math"

    def __init__(
        self,
        *,
        workers: int = 1,
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
        answer_from: Sequence[str] = ("boxed", "last_expression"),
        reference_from: Sequence[str] | None = None,
        threshold: float = 0.99,
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mb < 512:
            raise ValueError(
                f"wanted workers >= 1, timeout_s > 0, memory_mb >= 512; got {workers}, {timeout_s}, {memory_mb}"
            )
        self.threshold = threshold
        self.answer_from = check_rules(answer_from)
        markers = [rule for rule in self.answer_from if rule.startswith("marker:")]
        self.reference_from = check_rules(reference_from or ("boxed", *markers, "whole"), reference=True)
        self.timeout_s, self.memory_mb, self.workers = timeout_s, memory_mb, workers
        self._references: dict[str, Extracted | None] = {}
        self._slots: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._all = [Worker(timeout_s, memory_mb) for _ in range(workers)]
        for worker in self._all:
            self._slots.put(worker)

    @property
    def version(self) -> str:
        """Versions of the libraries that decide, revision of our rules, hash of the settings (not of the
        worker count)."""
        libraries = " ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("math-verify", "latex2sympy2_extended", "sympy")
        )
        settings = {
            "answer_from": self.answer_from,
            "reference_from": self.reference_from,
            "timeout_s": self.timeout_s,
            "memory_mb": self.memory_mb,
            "threshold": self.threshold,
        }
        return f"{libraries}; rules {RULES_REVISION}; settings {settings_hash(settings)}"

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item. Statuses: accepted, wrong_answer, no_answer, wrong_format (an answer over
        4,000 characters), time_limit, memory_limit, unverifiable (no reference, or one over 4,000
        characters; with the canonical answer where there is one), infra_error."""
        judgements: list[Judgement | None] = [None] * len(items)
        open_pairs: list[tuple[int, Extracted, Extracted | None]] = []
        for index, item in enumerate(items):
            started = time.perf_counter()
            decided = self._by_rules(item)
            if isinstance(decided, Judgement):
                judgements[index] = replace(decided, seconds=time.perf_counter() - started)
            else:
                open_pairs.append((index, *decided))
        outcomes = self._compare(
            [Pair(None if one is None else one.text, answer.text) for _, answer, one in open_pairs]
        )
        for (index, answer, reference), outcome in zip(open_pairs, outcomes, strict=True):
            judgements[index] = (
                _unreferenced(answer, outcome) if reference is None else self._judgement(outcome, answer, reference)
            )
        return [judgement for judgement in judgements if judgement is not None]

    def _by_rules(self, item: Item) -> Judgement | tuple[Extracted, Extracted | None]:
        """The judgement where no symbolic work is needed, else answer and reference."""
        reference = self._reference(item.ground_truth or "")
        if reference is None:
            return self._without_reference(item)
        if len(reference.text) > MAX_ANSWER_CHARS:
            return unscored("unverifiable", f"reference over {MAX_ANSWER_CHARS} characters")
        answer = extract(item.answer_content, self.answer_from)
        if answer is not None and answer.rule == "last_expression":
            ending = compare_ending(reference.text, answer.text)
            if ending is not None:
                return self._quick_judgement(ending, answer, reference)
            stated = stated_answer(answer.text, item.question, equation="=" in reference.text)
            answer = None if stated is None else Extracted(stated, answer.rule)
        if answer is None:
            reason = f"nothing found by {', '.join(self.answer_from)}"
            evidence: dict[str, object] = {"reason": reason, "reference": _shown(reference.text)}
            return Judgement(0.0, False, "no_answer", None, evidence, 0.0)
        if len(answer.text) > MAX_ANSWER_CHARS:
            evidence = _evidence(answer, reference, "none") | {"reason": f"answer over {MAX_ANSWER_CHARS} characters"}
            return Judgement(0.0, False, "wrong_format", None, evidence, 0.0)
        quick = quick_compare(reference.text, answer.text, question=item.question)
        return (answer, reference) if quick is None else self._quick_judgement(quick, answer, reference)

    def _without_reference(self, item: Item) -> Judgement | tuple[Extracted, None]:
        """`unverifiable` with the answer's canonical form; an answer that needs sympy for that, with no reference."""
        answer = extract(item.answer_content, self.answer_from)
        if answer is not None and answer.rule == "last_expression":
            stated = stated_answer(answer.text, item.question)
            answer = None if stated is None else Extracted(stated, answer.rule)
        if answer is None or len(answer.text) > MAX_ANSWER_CHARS:
            return unscored("unverifiable", NO_REFERENCE)
        canonical = canonical_answer(answer.text, item.question)
        if canonical is None:
            return answer, None
        return _unreferenced(answer, {"status": "unverifiable", "path": "rule", "answer": canonical, "seconds": 0.0})

    def _reference(self, ground_truth: str) -> Extracted | None:
        """The reference answer, kept: the same one meets many answers."""
        if ground_truth not in self._references:
            if len(self._references) >= KEPT_REFERENCES:
                self._references.clear()
            self._references[ground_truth] = extract(ground_truth, self.reference_from)
        return self._references[ground_truth]

    def _quick_judgement(self, quick: QuickVerdict, answer: Extracted, reference: Extracted) -> Judgement:
        score = 1.0 if quick.decision == "accepted" else 0.0
        evidence = _evidence(answer, reference, quick.path)
        return Judgement(score, score > self.threshold, quick.decision, quick.answer, evidence, 0.0)

    def _judgement(self, outcome: dict[str, Any], answer: Extracted, reference: Extracted) -> Judgement:
        status: Status = outcome["status"]
        evidence = _evidence(answer, reference, outcome.get("path", "math_verify"))
        if status == "infra_error":
            return unscored("infra_error", outcome["reason"], outcome["seconds"], **evidence)
        if "reason" in outcome:
            evidence["reason"] = outcome["reason"]
        score = 1.0 if status == "accepted" else 0.0
        return Judgement(score, score > self.threshold, status, outcome.get("answer"), evidence, outcome["seconds"])

    def _compare(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        chunk = max(1, min(CHUNK, -(-len(pairs) // self.workers)))
        chunks = [pairs[start : start + chunk] for start in range(0, len(pairs), chunk)]
        if len(chunks) <= 1:
            return self._compare_chunk(chunks[0]) if chunks else []
        with ThreadPoolExecutor(min(self.workers, len(chunks)), thread_name_prefix="math") as threads:
            return [outcome for done in threads.map(self._compare_chunk, chunks) for outcome in done]

    def _compare_chunk(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        worker = self._slots.get()
        try:
            return worker.compare(pairs)
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """End the workers. A later `judge` starts new ones."""
        for worker in self._all:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unreferenced(answer: Extracted, outcome: dict[str, Any]) -> Judgement:
    """No verdict, but what the answer is; one over its time or memory limit has no canonical form."""
    evidence: dict[str, object] = {"reason": NO_REFERENCE, "extracted": _shown(answer.text), "answer_from": answer.rule}
    if outcome["status"] == "infra_error":
        return unscored("infra_error", outcome["reason"], outcome["seconds"])
    if outcome["status"] != "unverifiable":
        evidence["canonical_form"] = outcome["status"]
    evidence["path"] = outcome.get("path", "canonical")
    return Judgement(None, None, "unverifiable", outcome.get("answer"), evidence, outcome["seconds"])


def _shown(text: str) -> str:
    return text if len(text) <= EVIDENCE_CHARS else "…" + text[-EVIDENCE_CHARS:]


def _evidence(answer: Extracted, reference: Extracted, path: str) -> dict[str, object]:
    return {
        "extracted": _shown(answer.text),
        "answer_from": answer.rule,
        "reference": _shown(reference.text),
        "reference_from": reference.rule,
        "path": path,
    }
