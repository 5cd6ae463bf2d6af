"""Proves what the code verifier does with a question: its language, its checker, its limits; in real containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tasks.verifiers.bench import Subject
from tasks.verifiers.code import CodeVerifier
from tasks.verifiers.settings import CodeSettings
from tasks.verifiers.verdict import Judgement

SUM = [{"kind": "stdin", "input": "2 3\n", "output": "5\n", "code": None}]
PYTHON = "```python\nprint(sum(map(int, input().split())))\n```"
CPP = "```c++\n#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }\n```"
FACTORS = [{"kind": "stdin", "input": "12\n", "output": "", "code": None}]
CHECKER = """
def check(input, expected, output):
    a, b = map(int, output.split())
    return True if a * b == int(input) and 1 < a else f"{a} * {b} is not {input.strip()}"
"""


@pytest.fixture(scope="module")
def trusting() -> Iterator[CodeVerifier]:
    """Runs the checkers of questions."""
    with CodeVerifier(CodeSettings(checkers=True), 1) as verifier:
        yield verifier


def subject(answer: str, **question: Any) -> Subject:
    empty = dict.fromkeys(("language", "entry_point", "checker", "time_limit_s", "memory_limit_mb"))
    return Subject("r", empty | {"test_cases": SUM} | question, {"answer_content": answer})


def judge(verifier: CodeVerifier, answer: str, **question: Any) -> Judgement:
    return verifier.judge([subject(answer, **question)])[0]


@pytest.mark.parametrize(("language", "answer"), [(None, PYTHON), ("Python3", PYTHON), ("C++", CPP), ("cpp", CPP)])
def test_the_language_of_a_question_goes_by_any_of_its_names(
    trusting: CodeVerifier, language: str | None, answer: str
) -> None:
    assert judge(trusting, answer, language=language).status == "accepted"
    assert judge(trusting, "It can't be done.", language=language).status == "no_code"


def test_what_cannot_be_judged_says_why_and_what_to_do(trusting: CodeVerifier) -> None:
    for question, reason in (
        ({"language": "cobol"}, "language cobol: expected python, c, cpp"),
        ({"language": "rust"}, "build the full one"),
        ({"memory_limit_mb": 5000.0}, "over verify.code.max_memory_mb"),
        ({"memory_limit_mb": 1.0}, "limits can't be used: memory_bytes must be at least 32 MiB"),
        ({"time_limit_s": -1.0}, "limits can't be used: time_s"),
        ({"test_cases": None}, "no test_cases"),
        ({"checker": "def judge(x): return True"}, "no function check"),
    ):
        found = judge(trusting, "```rust\nfn main() {}\n```" if "rust" in str(question) else PYTHON, **question)
        assert (found.status, found.passed) == ("unverifiable", None)
        assert reason in str(found.evidence), found.evidence


def test_a_checker_judges_where_the_recipe_allows_it(trusting: CodeVerifier) -> None:
    def factors(text: str) -> Judgement:
        return judge(trusting, f"```python\nprint({text!r})\n```", test_cases=FACTORS, checker=CHECKER)

    assert factors("3 4").passed and factors("2 6").passed
    for wrong in ("5 2", "1 12", "3", "x y", "", "3 4 1"):
        assert factors(wrong).status == "wrong_answer", wrong
    assert "5 * 2 is not 12" in str(factors("5 2").evidence)
    with CodeVerifier(CodeSettings(), 1) as careful:
        found = judge(careful, PYTHON, test_cases=FACTORS, checker=CHECKER)
    assert found.status == "unverifiable" and "verify.code.checkers" in str(found.evidence)


def test_the_version_names_image_and_languages(trusting: CodeVerifier) -> None:
    assert "python=3." in trusting.version and "cpp=" in trusting.version and "settings" in trusting.version
