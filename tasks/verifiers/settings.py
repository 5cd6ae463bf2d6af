"""What a recipe says of verification: which verifiers judge which category, how they combine, and their settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from tasks.settings import CategoryName, Settings
from tasks.verifiers.answer import check_rules
from tasks.verifiers.reward_rule import RewardRule, RewardRules

VerifierName = Literal["math", "code", "instructions", "quantity", "judge", "reward"]
Policy = Literal["first", "rule_or_judge", "rule_and_judge"]


class MathSettings(Settings):
    answer_from: tuple[str, ...] = ("boxed", "last_expression")
    """Where the answer is read, in order: boxed | marker:<text at the start of a line> | last_expression."""
    reference_from: tuple[str, ...] | None = None
    """The same for the reference; null: its last box, or answer_from's markers, else the whole."""
    timeout_s: float = Field(default=5.0, gt=0)
    memory_mb: int = Field(default=1024, ge=512)
    threshold: float = Field(default=0.99, ge=0, le=1)

    @model_validator(mode="after")
    def _rules_exist(self) -> MathSettings:
        check_rules(self.answer_from)
        if self.reference_from is not None:
            check_rules(self.reference_from, reference=True)
        return self


class CodeSettings(Settings):
    image: str | None = None
    """Sandbox image; null is stillhouse-sandbox:core (Python, C, C++, Bash). stillhouse-sandbox:full speaks JavaScript,
    Java, Go and Rust besides; `deploy/sandbox_image.sh full` makes it."""
    runtime: str | None = None
    """Container runtime, such as runsc (gVisor); null is the engine's own."""
    checkers: bool = False
    """Run the checkers that questions bring. They are trusted code: they run in a container of their own, but what they
    say is the verdict."""
    max_tests: int | None = Field(default=10, ge=1)
    """Judge by the first so many tests (DeepDistill: 10); null: all."""
    stop_at_first_failure: bool = False
    time_limit_s: float = Field(default=6.0, gt=0)
    """CPU seconds per test, where the question sets none."""
    memory_limit_mb: int = Field(default=512, ge=32)
    max_memory_mb: int = Field(default=2048, ge=256)
    """What a question may ask for at most; a container is sized by it."""
    threshold: float = Field(default=0.99, ge=0, le=1)


class InstructionSettings(Settings):
    mode: Literal["strict", "loose"] = "strict"
    """loose: a constraint also holds if the response keeps it without its first line, its last line, its asterisks, or
    any of these together (IFEval)."""
    threshold: float = Field(default=0.99, ge=0, le=1)


class TraceSettings(Settings):
    ngram: int = Field(default=20, ge=2, le=256)
    """Words of a run whose repetition is counted (DeepDistill: 20 tokens)."""


class SelfTestSettings(Settings):
    """With a limit set, a run asks no teacher before its verifiers have kept it (docs/self-test.md)."""

    sample: int = Field(default=50, ge=1)
    """Questions of each category; each gives a right answer and a few wrong ones."""
    seed: int = 0
    max_false_reject: float | None = Field(default=None, ge=0, le=1)
    """Highest share of right answers that a category may reject."""
    max_false_accept: float | None = Field(default=None, ge=0, le=1)
    """Highest share of wrong answers that a category may accept."""

    def limited(self) -> bool:
        return self.max_false_reject is not None or self.max_false_accept is not None


class QuantitySettings(Settings):
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """Relative difference, in the reference's unit, up to which a number with a unit is right. Whole numbers without a
    unit must be equal."""


class JudgeSettings(Settings):
    base_url: str
    model: str
    revision: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    concurrency: int = Field(default=16, ge=1)
    timeout_s: float = Field(default=120, gt=0)
    attempts: int = Field(default=3, ge=1)
    swap: bool = False
    """Ask twice, with reference and answer in both orders: the score is the mean; a judge that contradicts itself by
    more than 1 point of 5 has no opinion (unverifiable). Costs twice as much."""
    threshold: float = Field(default=4.99 / 5, ge=0, le=1)


class CategoryReward(Settings):
    """What differs for a category from the settings beside it; null: nothing."""

    attributes: tuple[str, ...] | None = Field(default=None, min_length=1)
    divide_by: float | None = Field(default=None, gt=0)
    threshold: float | None = Field(default=None, ge=0, le=1)


class RewardSettings(Settings):
    model: str
    revision: str | None = None
    base_url: str | None = None
    """A vLLM server with the model (`vllm serve MODEL --runner pooling`); null: transformers, in this process."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key."""
    concurrency: int = Field(default=16, ge=1)
    timeout_s: float = Field(default=120, gt=0)
    attempts: int = Field(default=3, ge=1)
    batch_size: int = Field(default=8, ge=1)
    """Dialogues at a time in this process; a server makes its own batches."""
    outputs: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of the model's outputs, in order, where it has several; null: its own labels, which a server doesn't
    tell."""
    attributes: tuple[str, ...] = Field(default=("coherence", "correctness", "helpfulness"), min_length=1)
    """Of several outputs: those whose sum, divided by `divide_by`, is the score. A single output's score is its
    sigmoid."""
    divide_by: float = Field(default=12, gt=0)
    """What the attributes' best values add up to; DeepDistill: three of 0–4."""
    threshold: float = Field(default=0.7, ge=0, le=1)
    by_category: dict[CategoryName, CategoryReward] = {}
    """Category → attributes, divide_by, threshold, where they differ."""

    def rules(self) -> RewardRules:
        default = RewardRule(self.attributes, self.divide_by, self.threshold)
        return RewardRules(
            default,
            {
                category: replace(default, **own.model_dump(exclude_none=True))
                for category, own in self.by_category.items()
            },
        )


class VerifySettings(Settings):
    math: MathSettings = MathSettings()
    code: CodeSettings = CodeSettings()
    instructions: InstructionSettings = InstructionSettings()
    quantity: QuantitySettings = QuantitySettings()
    judge: JudgeSettings | None = None
    """A model that scores answers 0–5 against the reference; null: none."""
    reward: RewardSettings | None = None
    """A reward model for what has no reference; null: none."""
    route: dict[CategoryName, tuple[VerifierName, ...]] = {}
    """Category → verifiers in order. Unset categories go: math → math; code → code; instruction → instructions;
    science → quantity, then judge, then reward; others → judge where there is a reference, else reward. Judge and
    reward only where they are set; what none of them can judge is `unverifiable`."""
    policy: dict[CategoryName, Policy] = {}
    """Category → how several verdicts become one: first (the first that can judge), rule_or_judge, rule_and_judge."""
    trace: TraceSettings = TraceSettings()
    """Format and degeneration checks; every response has them, `select.trace` says which leave it out."""
    self_test: SelfTestSettings = SelfTestSettings()
    """Right and wrong answers put to the verifiers before a budget is spent."""

    def judging(self) -> dict[str, object]:
        """What verdicts depend on, as JSON."""
        return self.as_json(exclude={"self_test"})

    @model_validator(mode="after")
    def _routes_exist(self) -> VerifySettings:
        for category, verifiers in self.route.items():
            for name in ("judge", "reward"):
                if name in verifiers and getattr(self, name) is None:
                    raise ValueError(
                        f"route.{category} names {name}, but verify.{name} is not set; set it, or take {name} out"
                    )
        return self

    def policy_for(self, category: str) -> Policy:
        return self.policy.get(category, "first")

    def verifiers(self, category: str) -> tuple[VerifierName, ...]:
        if category in self.route:
            return self.route[category]
        rules: dict[str, VerifierName] = {
            "math": "math",
            "code": "code",
            "instruction": "instructions",
            "science": "quantity",
        }
        names: list[VerifierName] = [rules[category]] if category in rules else []
        ruled = names and category != "science"  # the quantity rule often has no opinion
        if not ruled or self.policy_for(category) != "first":
            names += [name for name in ("judge", "reward") if getattr(self, name) is not None]
        return tuple(names)
