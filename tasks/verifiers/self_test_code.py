"""Right and wrong programs for a question: its source's solution, and programs that no sound test may accept.

The solution is looked for in the question's metadata (list its column under `metadata` of the source) under the names
of SOLUTIONS. A body without its head, as HumanEval has it, is put behind the prompt. Wrong programs are Python's but
for the echo of the prompt; a question with a checker has no wrong ones, since a checker may accept anything.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from typing import Any

from sandbox import language_named
from tasks.verifiers.self_test_answers import Answer

SOLUTIONS = ("canonical_solution", "reference_solution", "solution", "solutions", "code")
CONSTANT = "stillhouse"
_CALLED = re.compile(r"\bassert\s+(?:not\s+)?([A-Za-z_]\w*)\s*\(")
_EQUALS_ALL = (
    "class Anything:\n    def __eq__(self, other):\n        return True\n    def __ne__(self, other):\n"
    "        return False\n    def __bool__(self):\n        return True\n    __hash__ = None\n"
)


def code_answers(question: dict[str, Any], max_tests: int | None) -> list[Answer]:
    """Answers with a program in a fenced block; a row of `curated`, of whose tests the first `max_tests` are run."""
    tests = (question["test_cases"] or [])[:max_tests]
    language = language_named(question["language"] or "python")
    if not tests or language is None:
        return []
    prompt = question["messages"][-1]["content"]
    solution = _solution(question, prompt, language)
    answers = [Answer("solution", _fenced(solution, language), True)] if solution else []
    if question["checker"] or not _says_something(tests):
        return answers
    answers.append(Answer("echo of the prompt", prompt, False))
    if language != "python":
        return answers
    stdin = all(test["kind"] == "stdin" for test in tests)
    programs = _writers(tests) if stdin else _functions(_names(question, solution, tests), tests)
    wrong = {"empty program": "pass\n"} | programs
    return answers + [Answer(kind, _fenced(program, language), False) for kind, program in wrong.items()]


def _fenced(program: str, language: str) -> str:
    return f"```{language}\n{program}\n```"


def _solution(question: dict[str, Any], prompt: str, language: str) -> str | None:
    """The source's own program, whole."""
    metadata = json.loads(question["metadata"])
    found = next((metadata[name] for name in SOLUTIONS if metadata.get(name)), None)
    program = found[0] if isinstance(found, list) else found
    if not isinstance(program, str):
        return None
    if language != "python":
        return program
    entry = question["entry_point"]
    return next((one for one in (program, prompt + program) if _defines(one, entry)), program)


def _defines(program: str, entry: str | None) -> bool:
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return entry is None or entry in _functions_of(tree)


def _functions_of(tree: ast.Module) -> list[str]:
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _says_something(tests: list[dict[str, Any]]) -> bool:
    """Whether a program that prints nothing must fail."""
    return any(test["kind"] != "stdin" or (test["output"] or "").strip() for test in tests)


def _names(question: dict[str, Any], solution: str | None, tests: list[dict[str, Any]]) -> list[str]:
    """Functions that the tests may call."""
    if question["entry_point"]:
        return [question["entry_point"]]
    if solution and _defines(solution, None):
        return _functions_of(ast.parse(solution))
    called = {name for test in tests for name in _CALLED.findall(test["code"] or "")}
    return sorted(called - set(dir(builtins)))


def _writers(tests: list[dict[str, Any]]) -> dict[str, str]:
    """Programs that read and write text."""
    outputs = [(test["output"] or "").strip() for test in tests]
    constant = outputs[0] if any(output.split() != outputs[0].split() for output in outputs) else CONSTANT
    return {"constant output": f"print({constant!r})", "early exit": "import os\nos._exit(0)"}


def _functions(names: list[str], tests: list[dict[str, Any]]) -> dict[str, str]:
    """Programs that define the functions; none without a name."""
    if not names:
        return {}

    def define(body: str, before: str = "") -> str:
        return before + "".join(f"def {name}(*args, **kwargs):\n    {body}\n" for name in names)

    return {
        "constant output": define(f"return {_constant(tests)}"),
        "early exit": define("os._exit(0)", "import os\n"),
        "equals everything": define("return Anything()", _EQUALS_ALL),
    }


def _constant(tests: list[dict[str, Any]]) -> str:
    """A Python literal that not all tests can want: the first test's result if another wants another, else a text."""
    try:
        values = [json.loads(test["output"] or "") for test in tests if test["kind"] == "call"]
    except ValueError:
        return repr(CONSTANT)
    several = any(value != values[0] for value in values)
    return repr(values[0] if several and not isinstance(values[0], dict) else CONSTANT)
