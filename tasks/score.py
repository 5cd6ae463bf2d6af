"""Score: how likely a scorer finds each planned response, token by token, in all and sentence by sentence.

One step per teacher, one pass over its shards per scorer, so that one model is in memory at a time; a second step for
the samples of its later rounds (`until`), once the verdicts say which these are. A score is kept while its scorer's
version and what was scored (the question's messages, the response's text) stay the same. What could not be scored is
ours: it is pending, with its reason in the row, and scored by a later run (law 5); what this scorer can never score
goes to the ledger. Finished scores are committed every half minute within a shard.

Not covered: sentence classes and thresholds. Select drops what is over its limits (`select.perplexity`).
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from storage.fingerprint import hash_json
from storage.manifest import Book, Part
from storage.schemas import SCORES, TABLES
from storage.workspace import Transaction
from tasks.plan import ROUNDS, model_revision, planned
from tasks.rounds import Rule, planned_later
from tasks.scorers.rendering import Rendered, Rendering, Unscorable
from tasks.scorers.scorer import Failure, Scorer
from tasks.scorers.settings import ScorerBase, ScoreSettings, TransformersScorerSettings, VLLMScorerSettings
from tasks.step import Context, Step, Work
from tasks.teachers.revision import resolve_revision
from tasks.teachers.settings import TeacherBase

VERSION = "1"
BATCH = 128
COMMIT_EVERY_S = 30.0
DOWN_AFTER = 64
NOT_SCORED = dict.fromkeys(
    ("tokens", "response_tokens", "truncated", "mean_logprob", "perplexity", "tokens_with_question",
     "mean_logprob_with_question", "perplexity_with_question", "sentences")
)  # fmt: skip


def score_step(settings: ScoreSettings, teacher: TeacherBase, rule: Rule | None = None) -> Step:
    """The step `score.<teacher>`; with `rule` `score.<teacher>.rounds`, over the samples of the later rounds, which is
    of the stage `verify` as the rounds are."""
    first = f"score.{teacher.name}"

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        opened = [_Opened(one) for one in settings.scorers]
        dropped: dict[str, list[dict[str, Any]]] = {one.shard: [] for one in work}
        other = step.key.removesuffix(ROUNDS) if rule else f"{step.key}{ROUNDS}"
        moved = other if other in context.workspace.manifest.steps() else None
        for place, one in enumerate(opened):
            with one.engine:
                for slice_ in work:
                    found = _Pass(context, step, slice_, teacher, rule, opened, place, dropped[slice_.shard])
                    found.take_over(moved if place == 0 else None)  # the first pass takes what all scorers have there
                    found.run()

    described: dict[str, Any] = {
        "scorers": [
            one.asks() | {"revision": resolve_revision(one.weights(), one.revision)} for one in settings.scorers
        ],
        "teacher": teacher.asks(),
        "revision": model_revision(teacher),
    }
    local = any(isinstance(one, TransformersScorerSettings) for one in settings.scorers)
    asked, judged = f"generate.{teacher.name}", f"verify.{teacher.name}"
    if rule is None:
        return Step(first, "score", "shard", VERSION, described, ("curate", asked), run, exclusive=local)
    described |= {"rule": rule.as_json()}
    reads = ("curate", asked, f"{asked}{ROUNDS}", judged, f"{judged}{ROUNDS}")
    return Step(f"{first}{ROUNDS}", "verify", "shard", VERSION, described, reads, run, exclusive=local)


class _Opened:
    """A scorer with its tokenizer; the weights are loaded when there is something to score."""

    def __init__(self, scorer: ScorerBase) -> None:
        self.name = scorer.name
        self.rendering = Rendering(scorer)
        self.engine = open_scorer(scorer)
        self.version = f"{self.rendering.version}; {self.engine.version}"
        self.failed_in_a_row = 0
        self.down: str | None = None
        """why DOWN_AFTER scores in a row failed: it is asked no more in this run"""


def open_scorer(scorer: ScorerBase) -> Scorer:
    """The engine that a scorer's settings name."""
    if isinstance(scorer, VLLMScorerSettings):
        from tasks.scorers.endpoint import VLLMScorer

        return VLLMScorer(scorer)
    assert isinstance(scorer, TransformersScorerSettings)
    from tasks.scorers.local import TransformersScorer  # imports torch, seconds

    return TransformersScorer(scorer)


class _Pass:
    """One scorer over one shard of one teacher. The rows of the other scorers stay; those that come later in the run
    are pending. `dropped`: the ledger of the passes before over this shard, which this one adds to."""

    def __init__(self, context: Context, step: Step, work: Work, teacher: TeacherBase, rule: Rule | None,
                 opened: Sequence[_Opened], place: int, dropped: list[dict[str, Any]]) -> None:  # fmt: skip
        self._context, self._step, self._opened, self._dropped = context, step, opened, dropped
        self._scorer, self._teacher = opened[place], teacher
        self._before = {one.name for one in opened[:place]}
        """scorers that have been over this shard in this run"""
        self._transaction: Transaction = context.begin(step, work)
        workspace = context.workspace
        questions = workspace.read("curate", work.shard, "curated", ["question_id", "messages", "category"]).to_pylist()
        self._messages = {question["question_id"]: question["messages"] for question in questions}
        revision = model_revision(teacher)
        plan = (
            planned(questions, teacher, revision) if rule is None
            else planned_later(workspace, work.shard, questions, teacher, revision, rule)
        )  # fmt: skip
        self._plan = [one.request.response_id for one in plan]
        columns = ["response_id", "question_id", "think_content", "answer_content", "error", "error_kind"]
        wanted = set(self._plan)
        self._responses = {
            row["response_id"]: row
            for key in step.reads if key.startswith("generate.")
            for row in workspace.read(key, work.shard, "responses", columns).to_pylist()
            if row["response_id"] in wanted
        }  # fmt: skip
        self._texts = {key: self._text_hash(row) for key, row in self._responses.items()}
        self._kept: tuple[Part, ...] = ()
        self._fresh: list[pa.Table] = []
        self._scored: set[str] = set()
        """by this scorer"""
        self._rows = 0
        """scores there are, of all scorers"""
        self._shard = work.shard

    def _text_hash(self, row: dict[str, Any]) -> str:
        """Of what is scored; a replay file may change it under the same id."""
        return hash_json([self._messages[row["question_id"]], row["think_content"], row["answer_content"]])[:12]

    def take_over(self, other: str | None) -> None:
        """Keep the scores that stay valid, also those of the `other` step: a sample moves from one to the other when
        `samples` changes. Their parts stay as they are, unless they hold others too."""
        workspace, there = self._context.workspace, set[tuple[str, str]]()
        if self._transaction.base is not None:
            parts = tuple(self._transaction.base.data())
            valid = self._valid(parts, there)
            if all(valid):
                self._kept = parts
            else:
                self._fresh = [workspace.read_parts(parts, TABLES["scores"]).filter(pa.array(valid, pa.bool_()))]
        if other is not None and (head := workspace.head(other, self._shard)) is not None:
            valid = self._valid(head.data(), there)
            if any(valid):
                moved = workspace.read_parts(head.data(), TABLES["scores"]).filter(pa.array(valid, pa.bool_()))
                self._fresh.append(moved)

    def _valid(self, parts: Sequence[Part], there: set[tuple[str, str]]) -> list[bool]:
        """Which rows of the parts still say what a scorer would say. `there`: (response_id, scorer) of those taken so
        far, which this adds to."""
        columns = ["response_id", "scorer", "scorer_version", "text_hash", "error"]
        versions = {one.name: one.version for one in self._opened}
        valid = []
        for row in self._context.workspace.read_parts(parts, TABLES["scores"], columns).to_pylist():
            key, scorer = row["response_id"], row["scorer"]
            valid.append(
                (row["error"] is None or scorer in self._before)
                and row["scorer_version"] == versions.get(scorer)
                and row["text_hash"] == self._texts.get(key)
                and (key, scorer) not in there
            )
            if valid[-1]:
                there.add((key, scorer))
                self._rows += row["error"] is None
                if scorer == self._scorer.name:
                    self._scored.add(key)
        return valid

    def run(self) -> None:
        todo = [key for key in self._plan if key not in self._scored and self._is_answered(key)]
        self._context.progress.expect(self._step.key, len(todo))
        last = time.monotonic()
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            self._score(batch)
            self._context.progress.advance(self._step.key, len(batch))
            if time.monotonic() - last > COMMIT_EVERY_S:
                self._commit(self._kept)
                last = time.monotonic()
        self._commit(())

    def _is_answered(self, key: str) -> bool:
        """Whether there is a response to score; what failed for good is in the ledger, the rest pending."""
        row = self._responses.get(key)
        if row is not None and row["error_kind"] == "refused":
            self._drop(key, Unscorable("no_response", detail=str(row["error"])))
        return row is not None and row["error_kind"] is None

    def _score(self, keys: Sequence[str]) -> None:
        rows = [self._responses[key] for key in keys]
        rendered = self._scorer.rendering.render_all(
            [(self._messages[row["question_id"]], row["think_content"], row["answer_content"]) for row in rows]
        )
        ready = []
        for key, one in zip(keys, rendered, strict=True):
            if isinstance(one, Unscorable):
                self._drop(key, one)
            else:
                ready.append((key, one))
        found = self._ask([one for _, one in ready])
        made = [self._row(*pair, one) for pair, one in zip(ready, found, strict=True)]
        if made:
            self._fresh.append(pa.Table.from_pylist(made, schema=SCORES))
            self._rows += sum(row["error"] is None for row in made)

    def _ask(self, sequences: Sequence[Rendered]) -> list[np.ndarray | Failure]:
        """Log-probabilities. Batches in which everything failed for now are the scorer's own trouble: it is asked no
        more, so that a server that is gone doesn't cost every response its attempts."""
        if self._scorer.down is not None:
            return [Failure(self._scorer.down) for _ in sequences]
        found = self._scorer.engine.logprobs([one.ids for one in sequences])
        failed = [one for one in found if isinstance(one, Failure)]
        self._scorer.failed_in_a_row = self._scorer.failed_in_a_row + len(failed) if len(failed) == len(found) else 0
        if self._scorer.failed_in_a_row >= DOWN_AFTER:
            self._scorer.down = failed[0].reason
        return found

    def _row(self, key: str, rendered: Rendered, found: np.ndarray | Failure) -> dict[str, Any]:
        row = {
            "response_id": key, "question_id": self._responses[key]["question_id"], "teacher": self._teacher.name,
            "scorer": self._scorer.name, "scorer_version": self._scorer.version, "text_hash": self._texts[key],
        }  # fmt: skip
        if isinstance(found, Failure):
            return row | NOT_SCORED | {"error": found.reason}
        return row | measure(rendered, found) | {"error": None}

    def _drop(self, key: str, why: Unscorable) -> None:
        evidence = {"scorer": self._scorer.name, "question_id": self._responses[key]["question_id"]}
        if why.detail:
            evidence["detail"] = why.detail
        self._dropped.append(self._context.drop(
            self._step.key, "score", f"{key}/{self._scorer.name}", why.rule, value=why.value, threshold=why.threshold,
            evidence=json.dumps(evidence, ensure_ascii=False),
        ))  # fmt: skip

    def _commit(self, keep: tuple[Part, ...]) -> None:
        """What there is so far, the rest pending. Within a shard only new rows are written, beside the parts in `keep`;
        in the end all are one part."""
        rows = pa.concat_tables([SCORES.empty_table(), *self._fresh])
        if self._kept and not keep:
            if rows.num_rows or len(self._kept) > 1:
                rows = pa.concat_tables([self._context.workspace.read_parts(self._kept, TABLES["scores"]), rows])
            else:
                keep = self._kept
        dropped = dict(Counter(entry["rule"] for entry in self._dropped))
        units = len(self._plan) * len(self._opened)
        book = Book("score", units, self._rows, dropped, units - self._rows - len(self._dropped))
        head = self._transaction.commit("scores", rows, self._dropped, [book], keep=keep)
        self._kept, self._fresh = tuple(head.data()), []


def measure(rendered: Rendered, logprobs: np.ndarray) -> dict[str, Any]:
    """The numbers of a row of SCORES. `logprobs`: of each of the ids, natural. Perplexity = exp(-mean)."""
    response = logprobs[rendered.response_from :]
    both = np.concatenate([logprobs[rendered.question], response])
    return {
        "tokens": len(response),
        "response_tokens": rendered.response_tokens,
        "truncated": rendered.truncated,
        "mean_logprob": float(response.mean()),
        "perplexity": _perplexity(response),
        "tokens_with_question": len(both),
        "mean_logprob_with_question": float(both.mean()),
        "perplexity_with_question": _perplexity(both),
        "sentences": [
            {"part": one.part, "start": one.start, "end": one.end, "tokens": one.tokens.stop - one.tokens.start,
             "mean_logprob": float(logprobs[one.tokens].mean())}
            for one in rendered.sentences
        ],
    }  # fmt: skip


def _perplexity(logprobs: np.ndarray) -> float:
    """At most 1e304: a server writes the logarithm of 0 as -9999."""
    return math.exp(min(700.0, -float(logprobs.mean())))
