"""What a recipe says of a teacher: engine, model, samples, prompt and sampling settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from storage.fingerprint import hash_json
from tasks.settings import Settings

DEFAULT = "default"


class Sampling(Settings):
    """Sampling settings; what is null is left to the engine's default."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest response in tokens, thinking included."""
    stop: tuple[str, ...] | None = None
    logprobs: bool | None = None
    """Ask an endpoint for log-probabilities, for `mean_logprob`."""

    def over(self, base: Sampling) -> dict[str, Any]:
        """These settings where given, else `base`'s; nulls left out."""
        merged = base.as_json() | {name: value for name, value in self.as_json().items() if value is not None}
        return {name: value for name, value in merged.items() if value is not None}


class Prompt(Settings):
    """How a question is put to the teacher: `{question}` stands for the user's message."""

    system: str | None = None
    user: str = "{question}"

    @model_validator(mode="after")
    def _holds_question(self) -> Prompt:
        if "{question}" not in self.user:
            raise ValueError("the user template must hold {question}")
        return self


class TeacherBase(Settings):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name in the tables and on the command line."""
    samples: int = Field(default=4, ge=1)
    """k: responses asked for per question (DeepDistill: 4)."""
    prompts: dict[str, Prompt] = {}
    """By category, or `default`."""
    sampling: Sampling = Sampling()
    sampling_by_category: dict[str, Sampling] = {}
    seeds: bool = True
    """Send a seed with each request; switch off for servers that can't take one."""
    categories: tuple[str, ...] | None = None
    """Ask this teacher only questions of these categories."""
    expected_tokens: int | None = Field(default=None, ge=1)
    """Mean tokens of a response, for `plan`."""
    tokens_per_second: float | None = Field(default=None, gt=0)
    """Throughput of one GPU (or of the endpoint), for `plan`."""
    price_per_million_tokens: float | None = Field(default=None, ge=0)
    """In the recipe's currency, for `plan`."""

    def prompt(self, category: str) -> Prompt:
        return self.prompts.get(category) or self.prompts.get(DEFAULT) or Prompt()

    def resolved_sampling(self, category: str) -> dict[str, Any]:
        return self.sampling_by_category.get(category, Sampling()).over(self.sampling)

    def asks(self) -> dict[str, Any]:
        """What decides the requests: never endpoint, engine, price or concurrency; the model's revision is apart."""
        return self.as_json(exclude=NOT_ASKED)


NOT_ASKED = {
    "engine", "seeds", "expected_tokens", "tokens_per_second", "price_per_million_tokens", "batch_size", "device",
    "model", "revision", "path", "dtype", "base_url", "api_key_env", "concurrency", "timeout_s", "attempts",
    "trust_remote_code", "command",
}  # fmt: skip


class TransformersTeacherSettings(TeacherBase):
    engine: Literal["transformers"]
    model: str = "smollm2-135m-instruct"
    """A folder, a hub name, or the packaged default."""
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = Field(default=32, ge=1)
    trust_remote_code: bool = False


class OpenAITeacherSettings(TeacherBase):
    engine: Literal["openai"]
    model: str
    revision: str | None = None
    """What the endpoint serves, if you know; part of every response_id."""
    base_url: str | tuple[str, ...]
    """`http://host:port/v1`, or a list of equal endpoints."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is written nowhere."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight, over all endpoints."""
    timeout_s: float = Field(default=3600, gt=0)
    """Of one request, seconds; long traces take hours."""
    attempts: int = Field(default=4, ge=1)
    extra_body: dict[str, Any] = {}
    """Further fields of the request body."""

    def base_urls(self) -> Sequence[str]:
        return [self.base_url] if isinstance(self.base_url, str) else self.base_url


class ReplayTeacherSettings(TeacherBase):
    engine: Literal["replay"]
    path: str | tuple[str, ...]
    """Files with responses that exist already; relative to the recipe."""
    format: Literal["auto", "jsonl", "json", "csv", "parquet"] = "auto"
    columns: dict[str, str] = {}
    """question (or messages), response (or think_content and answer_content) → their columns.
    A response may be a list."""
    model: str | None = None
    """What wrote the responses, for the data set's card."""
    revision: str | None = None


TeacherSettings = Annotated[
    TransformersTeacherSettings | OpenAITeacherSettings | ReplayTeacherSettings, Field(discriminator="engine")
]


def render(messages: Sequence[dict[str, str]], prompt: Prompt) -> tuple[dict[str, str], ...]:
    """The messages as sent: the template around the last user message, the system message in front."""
    *earlier, last = messages
    rendered = [dict(message) for message in earlier]
    rendered.append({"role": "user", "content": prompt.user.replace("{question}", last["content"])})
    if prompt.system is not None:
        rendered = [message for message in rendered if message["role"] != "system"]
        rendered.insert(0, {"role": "system", "content": prompt.system})
    return tuple(rendered)


def request_hash(messages: Sequence[dict[str, str]], sampling: dict[str, Any], extra_body: dict[str, Any]) -> str:
    """Covers what the model is asked and how it samples."""
    return hash_json({"messages": list(messages), "sampling": sampling, "extra_body": extra_body})
