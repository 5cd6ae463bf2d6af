"""What a recipe says of verification: which verifiers judge which category, how they combine, and their settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.settings import Settings

VerifierName = Literal["math", "code", "instructions", "judge", "reward"]
Policy = Literal["first", "rule_or_judge", "rule_and_judge"]


class MathSettings(Settings):
    answer_from: tuple[str, ...] = ("boxed", "last_expression")
    """Where the answer is read, in order: boxed | marker:<text at the start of a line> | last_expression."""
    reference_from: tuple[str, ...] | None = None
    """The same for the reference; null: its last box, or answer_from's markers, else the whole."""
    timeout_s: float = Field(default=5.0, gt=0)
    memory_mb: int = Field(default=1024, ge=512)
    threshold: float = Field(default=0.99, ge=0, le=1)


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
    threshold: float = Field(default=0.99, ge=0, le=1)


class JudgeSettings(Settings):
    base_url: str
    model: str
    revision: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    concurrency: int = Field(default=16, ge=1)
    timeout_s: float = Field(default=120, gt=0)
    attempts: int = Field(default=3, ge=1)
    threshold: float = Field(default=4.99 / 5, ge=0, le=1)


class RewardSettings(Settings):
    model: str
    revision: str | None = None
    batch_size: int = Field(default=8, ge=1)
    threshold: float = Field(default=0.7, ge=0, le=1)


class VerifySettings(Settings):
    math: MathSettings = MathSettings()
    code: CodeSettings = CodeSettings()
    instructions: InstructionSettings = InstructionSettings()
    judge: JudgeSettings | None = None
    """A model that scores answers 0–5 against the reference; null: none."""
    reward: RewardSettings | None = None
    """A reward model for what has no reference; null: none."""
    route: dict[str, tuple[VerifierName, ...]] = {}
    """Category → verifiers in order. Unset categories go: math → math; code → code; instruction → instructions;
    others → judge where there is a reference, else reward; what none of them can judge is `unverifiable`."""
    policy: dict[str, Policy] = {}
    """Category → how several verdicts become one: first (the first that can judge), rule_or_judge, rule_and_judge."""

    @model_validator(mode="after")
    def _routes_exist(self) -> VerifySettings:
        for category, verifiers in self.route.items():
            for name in ("judge", "reward"):
                if name in verifiers and getattr(self, name) is None:
                    raise ValueError(f"route.{category} names {name}, but verify.{name} is not set")
        return self

    def policy_for(self, category: str) -> Policy:
        return self.policy.get(category, "first")

    def verifiers(self, category: str) -> tuple[VerifierName, ...]:
        if category in self.route:
            return self.route[category]
        ruled: dict[str, VerifierName] = {"math": "math", "code": "code", "instruction": "instructions"}
        names: list[VerifierName] = [ruled[category]] if category in ruled else []
        if category not in ruled or self.policy_for(category) != "first":
            names += [name for name in ("judge", "reward") if getattr(self, name) is not None]
        return tuple(names)
