"""Settings of decontamination: which benchmarks, which rules, from where on a question is contaminated or suspect."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tasks.decontaminate_benchmarks import Benchmark
from tasks.decontaminate_decision import VERSION
from tasks.decontaminate_judge import ContaminationJudgeSettings
from tasks.settings import Settings


class DecontaminateSettings(Settings):
    benchmarks: tuple[Benchmark, ...] = ()
    """Names of the field's usual sets, or {name, path or hub, question, answer, …}."""
    ngram: int | None = Field(default=13, ge=5)
    """A shared run of so many terms counts; null switches the rule off."""
    common: int = Field(default=3, ge=1)
    """A run that more than so many different items hold is boilerplate and counts for nothing."""
    coverage: float = Field(default=0.6, gt=0, le=1)
    """Share of the item's terms, or of the question's, that shared runs must cover to contaminate."""
    similarity: float | None = Field(default=None, gt=0, le=1)
    """Cosine above which the nearest item contaminates by itself (DeepDistill: 0.9)."""
    signals: bool = True
    """Decide by score over several signals; needs embeddings to be at its best."""
    contaminated: float = 0.5
    """Least score from which a question is contaminated; a benchmark whose own items are like each other needs more."""
    suspect: float = -1.0
    """Score from which it is suspect: the band that the judge is asked about."""
    suspects: Literal["keep", "drop"] = "keep"
    nearest: int = Field(default=5, ge=1)
    """Nearest items by cosine that are looked at."""
    judge: ContaminationJudgeSettings | None = None
    """A model that decides on suspects."""

    def wants_embeddings(self) -> bool:
        return bool(self.benchmarks) and (self.signals or self.similarity is not None)

    def identity(self) -> dict[str, Any]:
        """What verdicts depend on, besides the benchmarks' content."""
        judge = self.judge.identity() if self.judge else None
        return self.as_json(exclude={"judge"}) | {"judge": judge, "decision": VERSION}
