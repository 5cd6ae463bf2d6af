"""What a recipe says of scorers: models that read the responses and say how likely they find each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.provenance_classes import ProvenanceSettings
from tasks.settings import ModelSource, Settings

Of = Literal["response", "question_and_response"]


class ScorerBase(Settings):
    writes: ClassVar[int] = 0
    """tokens that the engine can't but generate; they take room in the context"""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name in the tables."""
    model: str = "smollm2-135m-instruct"
    """A folder, a hub name, or the packaged default."""
    revision: str | None = None
    """Of a hub name; part of the scorer's version."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Tokens of question and response that are read; what is longer is cut at its end, counted and marked `truncated`.
    Null: the model's own context; a server with a smaller --max-model-len needs that minus 1 here."""

    def asks(self) -> dict[str, Any]:
        """What decides the numbers: never endpoint, batch size or device; the model's revision is apart."""
        return self.as_json(exclude=NOT_ASKED)

    def weights(self) -> str:
        """Where tokenizer and configuration are read, and what `revision` is of."""
        return self.model


NOT_ASKED = {"base_url", "api_key_env", "concurrency", "timeout_s", "attempts", "batch_tokens", "device", "revision"}


class TransformersScorerSettings(ScorerBase):
    engine: Literal["transformers"]
    model: ModelSource = "smollm2-135m-instruct"
    """A folder, a hub name, or the packaged default."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU, what the weights are stored in on a GPU. Log-probabilities are float32 in any case."""
    device: str = "auto"
    batch_tokens: int = Field(default=8192, ge=1)
    """Tokens at a time, padding included; a longer response goes alone."""


class VLLMScorerSettings(ScorerBase):
    """A vLLM server with the model, started with --no-enable-prefix-caching."""

    writes: ClassVar[int] = 1
    engine: Literal["vllm"]
    base_url: str
    """The server's root, with or without `/v1`."""
    tokenizer: str | None = None
    """Folder or hub name of tokenizer and configuration, where the server has a name of its own for the model."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key."""
    concurrency: int = Field(default=16, ge=1)
    timeout_s: float = Field(default=600, gt=0)
    attempts: int = Field(default=3, ge=1)

    def weights(self) -> str:
        return self.tokenizer or self.model


ScorerSettings = Annotated[TransformersScorerSettings | VLLMScorerSettings, Field(discriminator="engine")]


class ScoreSettings(Settings):
    scorers: tuple[ScorerSettings, ...] = Field(min_length=1)
    """Each scores every response of every teacher."""
    provenance: ProvenanceSettings | None = None
    """Two of them compared sentence by sentence, as teacher and student; null: none."""

    @model_validator(mode="after")
    def _own_names(self) -> ScoreSettings:
        names = [one.name for one in self.scorers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"scorers: the name {twice[0]} is used twice; every one needs its own")
        for role in ("teacher", "student") if self.provenance else ():
            name = getattr(self.provenance, role)
            if name not in names:
                raise ValueError(f"provenance.{role}: no scorer {name}; there are {', '.join(names)}")
        if self.provenance and self.provenance.teacher == self.provenance.student:
            raise ValueError(f"provenance: teacher and student are both {self.provenance.teacher}; name two scorers")
        return self


class PerplexityLimits(Settings):
    """Which responses are left out because a scorer finds them too unlikely."""

    scorer: str | None = None
    """Whose perplexity; null: that of the only scorer."""
    of: Of = "question_and_response"
    """response: of the response given its question. question_and_response: over the text of both (DeepDistill)."""
    max: float | None = Field(default=None, ge=1)
    """The highest perplexity that stays (DeepDistill: 20); null: only by_teacher has limits."""
    by_teacher: dict[str, float] = {}
    """Teacher → its own limit."""

    @model_validator(mode="after")
    def _limits(self) -> PerplexityLimits:
        if self.max is None and not self.by_teacher:
            raise ValueError("perplexity has no limit: set max, or by_teacher: {name: number}; or perplexity: null")
        low = sorted(name for name, limit in self.by_teacher.items() if limit < 1)
        if low:
            raise ValueError(f"by_teacher.{low[0]} is {self.by_teacher[low[0]]}; no perplexity is under 1")
        return self

    def limit(self, teacher: str) -> float | None:
        return self.by_teacher.get(teacher, self.max)

    def check(self, score: ScoreSettings | None, teachers: Sequence[str]) -> None:
        """Raises ValueError where the recipe has no such scorer or teacher, or several scorers and none is named."""
        if score is None:
            raise ValueError("select.perplexity needs scores: set `score.scorers`")
        scorers = [one.name for one in score.scorers]
        if self.scorer is None and len(scorers) > 1:
            raise ValueError(f"select.perplexity: name a scorer, there are several: {', '.join(scorers)}")
        if self.scorer is not None and self.scorer not in scorers:
            raise ValueError(f"select.perplexity.scorer: no scorer {self.scorer}; there are {', '.join(scorers)}")
        for name in self.by_teacher:
            if name not in teachers:
                raise ValueError(f"select.perplexity.by_teacher: no teacher {name}; there are {', '.join(teachers)}")
