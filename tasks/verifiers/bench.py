"""The bench: all verifiers that a recipe uses, each started when it is first needed and stopped at the end."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sandbox
from storage.fingerprint import hash_text
from tasks.teachers.api_key import key_from_environment
from tasks.verifiers import instructions, quantity, reward_rule
from tasks.verifiers.settings import VerifySettings
from tasks.verifiers.verdict import Constraint, Item, Judgement, Message

ORDER = ("math", "code", "instructions", "quantity", "judge", "reward")
"""Rules before models: a model is asked only where its opinion can matter. `trace` is asked apart: it has none."""
WHOLE = ("code", "trace")
"""Verifiers that look at the rows themselves."""


@dataclass(frozen=True)
class Subject:
    """A response with its question, as rows of `responses` and `curated`."""

    response_id: str
    question: dict[str, Any]
    response: dict[str, Any]

    def item(self) -> Item:
        constraints = tuple(
            Constraint(one["id"], json.loads(one["kwargs"])) for one in self.question["instruction_constraints"] or ()
        )
        return Item(
            question_id=self.question["question_id"],
            category=self.question["category"],
            question=self.question["messages"][-1]["content"],
            ground_truth=self.question["ground_truth"],
            answer_content=self.response["answer_content"] or "",
            think_content=self.response["think_content"],
            constraints=constraints,
            earlier=tuple(Message(one["role"], one["content"]) for one in self.question["messages"][:-1]),
        )


def static_versions(settings: VerifySettings) -> dict[str, str]:
    """What verdicts depend on besides the settings, known without starting anything."""
    libraries = ("math-verify", "sympy", "langdetect", *_model_libraries(settings))
    from tasks.verifiers.math import RULES_REVISION as MATH_RULES

    revisions = {"math rules": MATH_RULES, "instruction rules": instructions.RULES_REVISION,
                 "quantity rules": quantity.RULES_REVISION}  # fmt: skip
    if settings.judge:
        from tasks.verifiers.judge import PROMPT_VERSION

        revisions["judge prompt"] = PROMPT_VERSION
    if settings.reward:
        revisions["reward rules"] = reward_rule.RULES_REVISION
    return {
        **{name: importlib.metadata.version(name) for name in libraries},
        **{name: str(revision) for name, revision in revisions.items()},
        "sandbox": _sandbox_version(),
    }


def _model_libraries(settings: VerifySettings) -> tuple[str, ...]:
    return ("transformers",) if settings.reward and settings.reward.base_url is None else ()


def _sandbox_version() -> str:
    """Hash of what the image is built from, and the revision of the judging outside it; needs no engine."""
    from tasks.verifiers.code import JUDGING_REVISION

    folder = Path(sandbox.__file__).parent / "image"
    files = sorted(path for path in folder.iterdir() if path.suffix == ".py" or path.name == "Dockerfile")
    return f"judging {JUDGING_REVISION}, image {hash_text(*(path.read_text() for path in files))[:12]}"


class Bench:
    """Holds worker processes, containers and models; use as a context manager."""

    order = ORDER

    def __init__(self, settings: VerifySettings, workers: int) -> None:
        self._settings, self._workers = settings, workers
        self._started: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._started.clear()

    def version(self, name: str) -> str:
        version: str = self._get(name).version
        return version

    def judge(self, name: str, subjects: Sequence[Subject]) -> list[Judgement]:
        """One judgement per subject, in the same order."""
        if not subjects:
            return []
        judgements: list[Judgement] = self._get(name).judge(
            list(subjects) if name in WHOLE else [subject.item() for subject in subjects]
        )
        return judgements

    def _get(self, name: str) -> Any:
        if name not in self._started:
            start: dict[str, Callable[[], Any]] = {
                "math": self._math, "code": self._code, "instructions": self._instructions,
                "quantity": self._quantity, "judge": self._judge, "reward": self._reward, "trace": self._trace,
            }  # fmt: skip
            verifier = start[name]()
            if hasattr(verifier, "__exit__"):
                verifier = self._stack.enter_context(verifier)
            self._started[name] = verifier
        return self._started[name]

    def _math(self) -> Any:
        from tasks.verifiers.math import MathVerifier

        return MathVerifier(workers=self._workers, **self._settings.math.model_dump())

    def _code(self) -> Any:
        from tasks.verifiers.code import CodeVerifier

        return CodeVerifier(self._settings.code, self._workers)

    def _instructions(self) -> Any:
        from tasks.verifiers.instructions import InstructionVerifier

        return InstructionVerifier(**self._settings.instructions.model_dump())

    def _trace(self) -> Any:
        from tasks.verifiers.trace_pool import TracePool

        return TracePool(self._settings.trace, self._workers)

    def _quantity(self) -> Any:
        return quantity.QuantityVerifier(**self._settings.quantity.model_dump())

    def _judge(self) -> Any:
        from tasks.verifiers.judge import Judge

        settings = self._settings.judge
        assert settings is not None
        return Judge(
            settings.base_url, settings.model, secret("judge", settings.api_key_env), settings.concurrency,
            settings.timeout_s, settings.attempts, revision=settings.revision, threshold=settings.threshold,
            swap=settings.swap,
        )  # fmt: skip

    def _reward(self) -> Any:
        settings = self._settings.reward
        assert settings is not None
        if settings.base_url is not None:
            from tasks.verifiers.reward_endpoint import RewardEndpoint

            return RewardEndpoint(
                settings.base_url, settings.model, secret("reward", settings.api_key_env), settings.concurrency,
                settings.timeout_s, settings.attempts, revision=settings.revision, rules=settings.rules(),
                outputs=settings.outputs,
            )  # fmt: skip
        from tasks.verifiers.reward import RewardModel

        return RewardModel(settings.model, revision=settings.revision, batch_size=settings.batch_size,
                           rules=settings.rules(), outputs=settings.outputs)  # fmt: skip


def secret(verifier: str, variable: str | None) -> str | None:
    """The key in the environment variable that the recipe names. Raises BadSetting where it is empty."""
    return key_from_environment(f"verify.{verifier}", variable)
