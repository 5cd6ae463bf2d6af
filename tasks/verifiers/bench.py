"""The bench: all verifiers that a recipe uses, each started when it is first needed and stopped at the end."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sandbox
from storage.fingerprint import hash_text
from tasks.errors import BadSetting
from tasks.verifiers.settings import JudgeSettings, VerifySettings
from tasks.verifiers.verdict import Constraint, Item, Judgement

JUDGING_REVISION = 1
"""Raise it when sandbox/judge.py or its neighbours change a verdict."""

ORDER = ("math", "code", "instructions", "judge", "reward")
"""Rules before models: a model is asked only where its opinion can matter."""


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
        )


def static_versions(settings: VerifySettings) -> dict[str, str]:
    """What verdicts depend on besides the settings, known without starting anything."""
    libraries = ("math-verify", "sympy", "langdetect", *(("transformers",) if settings.reward else ()))
    return {name: importlib.metadata.version(name) for name in libraries} | {"sandbox": _sandbox_version()}


def _sandbox_version() -> str:
    """Hash of what the image is built from, and the revision of the judging outside it; needs no engine."""
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
            list(subjects) if name == "code" else [subject.item() for subject in subjects]
        )
        return judgements

    def _get(self, name: str) -> Any:
        if name not in self._started:
            start: dict[str, Callable[[], Any]] = {
                "math": self._math, "code": self._code, "instructions": self._instructions, "judge": self._judge,
                "reward": self._reward,
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

        return InstructionVerifier(threshold=self._settings.instructions.threshold)

    def _judge(self) -> Any:
        from tasks.verifiers.judge import Judge

        settings = self._settings.judge
        assert settings is not None
        return Judge(
            settings.base_url, settings.model, _secret(settings), concurrency=settings.concurrency,
            timeout_s=settings.timeout_s, attempts=settings.attempts, revision=settings.revision,
            threshold=settings.threshold,
        )  # fmt: skip

    def _reward(self) -> Any:
        from tasks.verifiers.reward import RewardModel

        settings = self._settings.reward
        assert settings is not None
        return RewardModel(settings.model, revision=settings.revision, batch_size=settings.batch_size,
                           threshold=settings.threshold)  # fmt: skip


def _secret(settings: JudgeSettings) -> str | None:
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise BadSetting(f"verify.judge: the environment variable {settings.api_key_env} is empty; set it")
    return key
