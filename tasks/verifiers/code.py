"""Code: programs from answers, judged in the sandbox (package `sandbox`). Score = tests passed / tests run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sandbox import (
    LANGUAGES,
    BadTestCase,
    LanguageMissing,
    Limits,
    Sandbox,
    SolutionVerdict,
    TestCase,
    extract_code,
    language_named,
)
from tasks.verifiers.settings import CodeSettings
from tasks.verifiers.verdict import Judgement, settings_hash, unscored

if TYPE_CHECKING:
    from tasks.verifiers.bench import Subject

SHOWN_CHARS = 300
JUDGING_REVISION = 2
"""Raise it when what lies outside the image (sandbox/judge.py and its neighbours) changes a verdict."""


class CodeVerifier:
    """Judges in as many warm containers as there are workers."""

    name = "code"

    def __init__(self, settings: CodeSettings, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        named: dict[str, Any] = {"image": settings.image} if settings.image else {}
        self._sandbox = Sandbox(
            containers=workers, max_memory_bytes=settings.max_memory_mb * 2**20, runtime=settings.runtime, **named
        )
        self.threshold = settings.threshold

    def __enter__(self) -> Self:
        self._sandbox.__enter__()
        self.version = (
            f"judging {JUDGING_REVISION}; {self._sandbox.version()}; settings {settings_hash(self._settings.as_json())}"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.__exit__(kind, error, trace)

    def judge(self, subjects: Sequence[Subject]) -> list[Judgement]:
        """One judgement per subject, in the same order."""
        with ThreadPoolExecutor(self._workers) as threads:
            return list(threads.map(self._judge, subjects))

    def _judge(self, subject: Subject) -> Judgement:
        question = subject.question
        language = language_named(question["language"] or "python")
        if not question["test_cases"]:
            return unscored("unverifiable", "the question has no test_cases")
        if language is None:
            return unscored("unverifiable", f"language {question['language']}: expected {', '.join(LANGUAGES)}")
        if question["checker"] and not self._settings.checkers:
            return unscored("unverifiable", "the question has a checker; set verify.code.checkers: true to run it")
        code = extract_code(subject.response["answer_content"] or "", language)
        if code is None:
            return Judgement(0.0, False, "no_code", None, {"detail": "no code block in the answer"}, 0.0)
        cases: list[dict[str, Any]] = question["test_cases"]
        tests = [TestCase(**_filled(case)) for case in cases]
        memory_mb = question["memory_limit_mb"] or self._settings.memory_limit_mb
        if memory_mb > self._settings.max_memory_mb:
            return unscored("unverifiable", f"memory_limit_mb {memory_mb:g} is over verify.code.max_memory_mb")
        try:
            limits = Limits(
                time_s=question["time_limit_s"] or self._settings.time_limit_s,
                memory_bytes=int(memory_mb * 2**20),
                max_tests=self._settings.max_tests,
                stop_at_first_failure=self._settings.stop_at_first_failure,
            )
        except ValueError as fault:
            return unscored("unverifiable", f"the question's limits can't be used: {fault}")
        try:
            verdict = self._sandbox.judge(code, tests, language=language, entry_point=question["entry_point"],
                                          limits=limits, checker=question["checker"])  # fmt: skip
        except BadTestCase as fault:
            return unscored("unverifiable", f"the question's tests can't be used: {fault}")
        except LanguageMissing as fault:
            return unscored("unverifiable", f"{fault} (verify.code.image)")
        return self._judgement(verdict)

    def _judgement(self, verdict: SolutionVerdict) -> Judgement:
        tests = [{"status": test.status, "detail": test.detail[:SHOWN_CHARS]} for test in verdict.tests]
        evidence: dict[str, object] = {
            "passed": verdict.passed, "run": verdict.run, "skipped": verdict.skipped,
            "detail": verdict.detail[:SHOWN_CHARS], "tests": tests,
            "timing": {"cpu_s": verdict.cpu_s, "peak_memory_bytes": verdict.peak_memory_bytes},
        }  # fmt: skip
        if verdict.status == "infra_error":
            return Judgement(None, None, "infra_error", None, evidence, verdict.wall_s)
        passed = verdict.score > self.threshold
        return Judgement(verdict.score, passed, verdict.status, None, evidence, verdict.wall_s)


def _filled(case: dict[str, Any]) -> dict[str, Any]:
    return {name: value or "" for name, value in case.items()}
