"""Settings of the selection: rules on questions, on responses, on the whole data set. docs/selection.md has them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tasks.scorers.settings import PerplexityLimits
from tasks.settings import CategoryName, CategoryOrDefault, Settings
from tasks.verifiers.trace_limits import TraceLimits

BestBy = Literal["score", "reward", "longest", "shortest", "perplexity", "teacher_sentences", "random"]
Prefer = Literal["random", "high_cv", "easiest", "hardest", "matched"]


class ResponseBudget(Settings):
    examples: int | None = Field(default=None, ge=1)
    """Most examples in all."""
    tokens: int | None = Field(default=None, ge=1)
    """Most tokens in all, of the responses."""

    @model_validator(mode="after")
    def _something(self) -> ResponseBudget:
        if self.examples is None and self.tokens is None:
            raise ValueError("select.budget limits nothing: set examples or tokens; or budget: null")
        return self


class SelectSettings(Settings):
    method: Literal["verified", "deepdistill", "all"] = "verified"
    """verified: what passed. deepdistill: Algorithm 1. all: right or wrong, and, unless `trace` is set, any trace."""
    pass_rate: tuple[float, float] = (0.0, 1.0)
    """Keep questions whose pass rate lies in this closed band."""
    pass_rate_of: str | None = None
    """Whose pass rate `pass_rate`, `prefer` and `curriculum` go by: a teacher's, such as the student's; null: all's."""
    cv_threshold: dict[CategoryOrDefault, float] = {}
    """deepdistill: CV_t by category, or `default`; unpublished, our default is 0.5."""
    keep_low_cv: float = Field(default=0.5, ge=0, le=1)
    """deepdistill: probability to keep `other` and multi-turn questions with a low CV (the paper: 0.5)."""

    max_per_question: int | None = Field(default=None, ge=1)
    """At most so many responses of one question: the best by `best_by`, then by id."""
    max_per_teacher: int | None = Field(default=None, ge=1)
    """At most so many of one teacher's for one question; 1: one per teacher."""
    best_by: BestBy = "score"
    """Which responses of a question come first. `reward` needs a reward verifier, `perplexity` a scorer,
    `teacher_sentences` `score.provenance`."""
    teachers: Literal["any", "best_in_category"] = "any"
    """best_in_category: only the teacher that is right most often in the question's category."""
    min_teacher_share: float | None = Field(default=None, ge=0, le=1)
    """Keep responses of whose sentences at least this share are the teacher's (`score.provenance`); null: any."""
    near_equal: float | None = Field(default=None, gt=0, le=1)
    """Leave out a response whose runs of five words are to this share (Jaccard index) those of a better one of the same
    question; null: none."""
    tokens: tuple[int, int] | None = None
    """Keep responses of so many tokens, thinking included, ends included; null: any."""
    trace: TraceLimits | None = TraceLimits()
    """Which traces are left out, right or not; null: none."""
    perplexity: PerplexityLimits | None = None
    """Leave out responses that a scorer finds too unlikely; null: none."""

    coreset: int | None = Field(default=None, ge=1)
    """At most so many questions, spread over the embeddings by k-centre; null: all."""
    categories: dict[CategoryName, int] = {}
    """Most examples of a category."""
    sources: dict[str, int] = {}
    """Most examples of a source."""
    mix: dict[str, float] = {}
    """Teacher → its share of the examples, in any unit; a teacher that is not named gives none."""
    budget: ResponseBudget | None = None
    """Most examples or tokens in all; null: no limit."""
    prefer: Prefer = "random"
    """Which questions quotas, mix and budget take first. matched: the smaller the budget, the easier."""
    curriculum: Literal["high_cv", "low_cv", "easy_first", "hard_first"] | None = None
    """Fills the column `curriculum`; a trainer that takes rows in its order, least first, follows it."""
    seed: int = 0
    """Of everything drawn by lot."""

    @model_validator(mode="before")
    @classmethod
    def _all_is_all(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("method") == "all" and "trace" not in given:
            return given | {"trace": None}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> SelectSettings:
        for name, bounds in (("pass_rate", self.pass_rate), ("tokens", self.tokens)):
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"select.{name}: found {list(bounds)}, expected the lower end first")
        if self.prefer == "matched" and not self.budget:
            raise ValueError("select.prefer: matched goes by the size of the budget: set select.budget")
        bad = [name for name, weight in self.mix.items() if weight <= 0]
        if bad:
            raise ValueError(f"select.mix.{bad[0]}: found {self.mix[bad[0]]}, expected a weight over 0; leave it out")
        for kind, quotas in (("categories", self.categories), ("sources", self.sources)):
            below = [name for name, quota in quotas.items() if quota < 0]
            if below:
                raise ValueError(f"select.{kind}.{below[0]}: found {quotas[below[0]]}, expected 0 or more")
        return self

    def cv_limit(self, category: str) -> float:
        return self.cv_threshold.get(category, self.cv_threshold.get("default", 0.5))

    def looks_at_all(self) -> bool:
        """Whether a rule needs the whole data set, so that the step `allot` is there."""
        return bool(self.coreset or self.categories or self.sources or self.mix or self.budget)

    def needs_tokens(self) -> bool:
        return bool(self.tokens or self.best_by in ("longest", "shortest") or (self.budget and self.budget.tokens))

    def needs_provenance(self) -> bool:
        return self.best_by == "teacher_sentences" or self.min_teacher_share is not None

    def check(self, teachers: list[str], sources: list[str], *, scorers: int, provenance: bool, embeds: bool) -> None:
        """Raises ValueError where a rule names a teacher or source that the recipe hasn't, or needs what it lacks."""
        for where, names in (("mix", list(self.mix)), ("pass_rate_of", [self.pass_rate_of or ""])):
            for name in names:
                if name and name not in teachers:
                    raise ValueError(f"select.{where}: no teacher {name}; there are {', '.join(teachers) or 'none'}")
        for name in self.sources:
            if name not in sources:
                raise ValueError(f"select.sources: no source {name}; there are {', '.join(sources)}")
        if self.best_by == "perplexity" and not scorers:
            raise ValueError("select.best_by: perplexity needs scores: set `score.scorers`")
        if self.needs_provenance() and not provenance:
            name = "best_by: teacher_sentences" if self.best_by == "teacher_sentences" else "min_teacher_share"
            raise ValueError(f"select.{name} needs sentences traced: set `score.provenance`")
        if self.coreset and not embeds:
            raise ValueError("select.coreset needs embeddings: set `curate.near_duplicates`, such as {threshold: 0.95}")
