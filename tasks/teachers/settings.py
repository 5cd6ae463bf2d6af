"""What a recipe says of a teacher: engine, model, samples, prompt and sampling settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from storage.fingerprint import hash_json
from storage.schemas import CATEGORIES
from tasks.layouts import Layout
from tasks.settings import CategoryName, ModelSource, Settings
from tasks.teachers.prompts import Prompt as Prompt
from tasks.teachers.prompts import Prompts, check_prompts
from tasks.teachers.prompts import render as render

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
    continuations: int | None = Field(default=None, ge=1)
    """How many times an endpoint is asked to go on with a response that max_tokens cut off; takes vLLM's
    `continue_final_message`."""

    def over(self, base: Sampling) -> dict[str, Any]:
        """These settings where given, else `base`'s; nulls left out."""
        merged = base.as_json() | {name: value for name, value in self.as_json().items() if value is not None}
        return {name: value for name, value in merged.items() if value is not None}


class BudgetSettings(Settings):
    """What may be spent; null: no limit. All that the workspace holds is counted, but hours are those of one run."""

    requests: int | None = Field(default=None, ge=0)
    """Answered or refused; in one run also those that failed."""
    tokens: int | None = Field(default=None, ge=0)
    """Of prompts and responses."""
    money: float | None = Field(default=None, ge=0)
    """In the currency of the teachers' prices."""
    hours: float | None = Field(default=None, gt=0)
    """Wall time of one run, from its first request."""


class TeacherBase(Settings):
    draws_lazily: ClassVar[bool] = False
    """whether its engine takes requests one by one as it sends them, so that it can be given a whole range's"""
    costs: ClassVar[bool] = True
    """whether asking costs anything, so that it is under a budget"""
    fills_machine: ClassVar[bool] = False
    """whether its engine runs a model on this machine, so that no other step runs beside it"""
    takes_fields: ClassVar[bool] = False
    """whether its engine sends a request body, which can hold further fields, such as a JSON schema; a server that
    refuses them is asked without"""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name in the tables and on the command line."""
    samples: int = Field(default=4, ge=1)
    """k: responses asked for per question (DeepDistill: 4)."""
    until: Literal["verified", "settled"] | None = None
    """Sample again, in rounds: until one sample is verified, or until the band of the pass rate is settled. Pass rates
    and difficulty come from the first `samples` alone."""
    max_samples: int = Field(default=16, ge=1)
    """until: at most so many samples of a question, those of round 0 included."""
    samples_per_round: int = Field(default=4, ge=1)
    """until: samples of a question in each later round."""
    confidence: float = Field(default=0.8, gt=0.5, lt=1)
    """until settled: of the interval (Clopper-Pearson) that must lie within one band of `grade`."""
    prompts: dict[str, Prompts] = {}
    """By category, or `default`: a prompt, the name of a ready-made one, or several, over which the samples spread."""
    sampling: Sampling = Sampling()
    sampling_by_category: dict[CategoryName, Sampling] = {}
    seeds: bool = True
    """Send a seed with each request; switch off for servers that can't take one."""
    drop_truncated: bool = False
    """Responses that max_tokens cut off go to the ledger (`truncated`); they stay in the table, as failed requests."""
    categories: tuple[CategoryName, ...] | None = None
    """Ask this teacher only questions of these categories."""
    expected_tokens: int | None = Field(default=None, ge=1)
    """Mean tokens of a response, for `plan`."""
    tokens_per_second: float | None = Field(default=None, gt=0)
    """Throughput of one GPU (or of the endpoint), for `plan`."""
    price_per_million_tokens: float | None = Field(default=None, ge=0)
    """Of a response, in the recipe's currency, for `plan`."""
    price_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    """Of a prompt; null: nothing."""
    license: str | None = None
    """Licence or terms of what it writes, for the export and its card; unset: not stated."""
    budget: BudgetSettings | None = None
    """What may be spent on this teacher; the recipe's own `budget` is for all of them together."""

    @model_validator(mode="after")
    def _prompts_fit(self) -> TeacherBase:
        check_prompts(self.prompts, (*CATEGORIES, DEFAULT))
        return self

    @model_validator(mode="after")
    def _rounds_have_room(self) -> TeacherBase:
        if self.until and self.max_samples <= self.samples:
            raise ValueError(f"max_samples ({self.max_samples}) leaves no later round: it counts the {self.samples} of "
                             "`samples` too; set more, or leave `until` out")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _money_has_a_price(self) -> TeacherBase:
        if self.budget and self.budget.money is not None and self.price(0, 0) is None:
            raise ValueError("budget.money needs a price: set price_per_million_tokens")
        return self

    def templates(self, category: str) -> tuple[Prompt, ...]:
        """The prompts of a category; sample i has number i modulo their count."""
        return self.prompts.get(category) or self.prompts.get(DEFAULT) or (Prompt(),)

    def price(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """What so many tokens cost; None if the recipe names no price."""
        prompt, completion = self.price_per_million_prompt_tokens, self.price_per_million_tokens
        if prompt is None and completion is None:
            return None
        return (prompt_tokens * (prompt or 0) + completion_tokens * (completion or 0)) / 1e6

    @property
    def further_fields(self) -> dict[str, Any]:
        """Of the request body, beside messages and sampling; part of what is asked."""
        return {}

    def resolved_sampling(self, category: str) -> dict[str, Any]:
        return self.sampling_by_category.get(category, Sampling()).over(self.sampling)

    def asks(self) -> dict[str, Any]:
        """What decides the requests: never endpoint, engine, price or concurrency; the model's revision is apart."""
        return self.as_json(exclude=NOT_ASKED)


NOT_ASKED = {
    "engine", "seeds", "expected_tokens", "tokens_per_second", "price_per_million_tokens",
    "price_per_million_prompt_tokens", "budget", "batch_size", "device",
    "model", "revision", "path", "dtype", "base_url", "api_key_env", "concurrency", "timeout_s", "attempts",
    "trust_remote_code", "command", "gpus", "tensor_parallel", "flags", "environment", "start_timeout_s", "restarts",
    "api_key_secret", "idle_timeout_s", "patience_s", "license", "until", "max_samples", "samples_per_round",
    "confidence",
}  # fmt: skip


class TransformersTeacherSettings(TeacherBase):
    fills_machine: ClassVar[bool] = True
    engine: Literal["transformers"]
    model: ModelSource = "smollm2-135m-instruct"
    """A folder, a hub name, or the packaged default."""
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = Field(default=32, ge=1)
    trust_remote_code: bool = False


class WeightedEndpoint(Settings):
    url: str
    weight: float = Field(default=1.0, gt=0)
    """Its share of the requests in flight, against the other endpoints' weights."""


class OpenAITeacherSettings(TeacherBase):
    draws_lazily: ClassVar[bool] = True
    takes_fields: ClassVar[bool] = True
    engine: Literal["openai"]
    model: str
    revision: str | None = None
    """What the endpoint serves, if you know; part of every response_id."""
    base_url: str | tuple[str | WeightedEndpoint, ...]
    """`http://host:port/v1`, or a list of endpoints that serve the same model, each with a weight if you like."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is written nowhere."""
    api_key_secret: str | None = None
    """Name of the Prefect Secret block that holds the key, instead."""
    concurrency: int = Field(default=64, ge=1)
    """Most requests in flight, over all endpoints; fewer while an endpoint is overloaded."""
    timeout_s: float = Field(default=3600, gt=0)
    """Of one attempt, seconds; long traces take hours."""
    idle_timeout_s: float | None = Field(default=None, gt=0)
    """Stream the responses, and give up an attempt that stays silent for so long (in the server's queue, too)."""
    attempts: int = Field(default=4, ge=1)
    patience_s: float = Field(default=300, ge=0)
    """How long requests wait while no endpoint can be reached; then they fail, and the next run asks again."""
    extra_body: dict[str, Any] = {}
    """Further fields of the request body."""

    @model_validator(mode="after")
    def _one_key(self) -> OpenAITeacherSettings:
        if self.api_key_env and self.api_key_secret:
            raise ValueError("api_key_env and api_key_secret are two places for one key; name one of them")
        if not self.endpoints():
            raise ValueError("base_url is empty; expected at least one, such as http://host:8000/v1")
        return self

    def endpoints(self) -> Sequence[WeightedEndpoint]:
        listed = (self.base_url,) if isinstance(self.base_url, str) else self.base_url
        return [WeightedEndpoint(url=one) if isinstance(one, str) else one for one in listed]

    @property
    def further_fields(self) -> dict[str, Any]:
        return self.extra_body


class VLLMTeacherSettings(TeacherBase):
    """Servers that Stillhouse starts, watches and stops. Flags that change what the model is (quantization, a LoRA, a
    chat template) are not told apart by the tables: give such a teacher a name of its own."""

    draws_lazily: ClassVar[bool] = True
    fills_machine: ClassVar[bool] = True
    takes_fields: ClassVar[bool] = True
    engine: Literal["vllm"]
    model: ModelSource = "smollm2-135m-instruct"
    """A folder, a hub name, or the packaged default."""
    revision: str | None = None
    command: tuple[str, ...] | None = None
    """What starts a server: `[/opt/vllm/bin/vllm, serve]`. Null: this interpreter's vLLM, else `vllm serve`."""
    gpus: int | tuple[int | str, ...] | None = None
    """How many GPUs, or which; null: all that are seen. 0: none, for a CPU build."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one server; there are as many servers as that leaves."""
    flags: dict[str, Any] = {}
    """`vllm serve`'s own, without dashes: {max-model-len: 32768, reasoning-parser: qwen3}."""
    environment: dict[str, str] = {}
    """Added to the servers' environment. No secrets here: they inherit Stillhouse's own environment."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight, per server."""
    timeout_s: float = Field(default=3600, gt=0)
    """Of one request, seconds; long traces take hours."""
    attempts: int = Field(default=4, ge=1)
    extra_body: dict[str, Any] = {}
    """Further fields of the request body."""
    start_timeout_s: float = Field(default=1800, gt=0)
    """How long a server may load its model."""
    restarts: int = Field(default=5, ge=0)
    """How many times in a row a server that died is started again."""

    @model_validator(mode="after")
    def _groups(self) -> VLLMTeacherSettings:
        count = self.gpus if isinstance(self.gpus, int) else len(self.gpus) if self.gpus else 0
        if count % self.tensor_parallel:
            raise ValueError(f"{count} gpus don't divide into groups of tensor_parallel {self.tensor_parallel}")
        if self.command is not None and not self.command:
            raise ValueError("the command is empty; leave it out for this interpreter's vLLM")
        return self

    @property
    def further_fields(self) -> dict[str, Any]:
        return self.extra_body


class ReplayTeacherSettings(TeacherBase):
    costs: ClassVar[bool] = False
    engine: Literal["replay"]
    path: str | tuple[str, ...]
    """Files with responses that exist already; relative to the recipe."""
    format: Literal["auto", "jsonl", "json", "csv", "parquet"] = "auto"
    columns: dict[str, str] = {}
    """question (or messages), response (or think_content and answer_content) → their columns.
    A response may be a list."""
    layout: Layout | None = None
    """Records as a published data set has them, instead of `columns`."""
    where: dict[str, str] = {}
    """Column → value: of a file with several teachers' responses, take those records alone."""
    model: str | None = None
    """What wrote the responses, for the data set's card."""
    revision: str | None = None

    @model_validator(mode="after")
    def _one_way_to_read(self) -> ReplayTeacherSettings:
        if self.layout and self.columns:
            raise ValueError(f"layout {self.layout} says where everything stands; leave `columns` out")
        return self


TeacherSettings = Annotated[
    TransformersTeacherSettings | OpenAITeacherSettings | VLLMTeacherSettings | ReplayTeacherSettings,
    Field(discriminator="engine"),
]


def request_hash(messages: Sequence[dict[str, str]], sampling: dict[str, Any], extra_body: dict[str, Any]) -> str:
    """Covers what the model is asked and how it samples."""
    return hash_json({"messages": list(messages), "sampling": sampling, "extra_body": extra_body})
