"""Run untrusted programs and judge what they do. Usable alone; needs Docker and docker-py.

    with Sandbox() as sandbox:
        verdict = sandbox.judge("print(input())", [TestCase("stdin", "hi", "hi")])

Covered: programs run in warm containers without network, on a read-only root, as a fresh user, under limits
of time, memory, processes, files and output (`image/supervisor.py` says how); answers are compared on this
side (`judge.py`), so an expected output never enters a container (`asserts.py` says what that means for
assert code). Not covered: a kernel exploit (set `runtime="runsc"` where that matters), and programs that
answer from memory.
"""

from sandbox.errors import (
    BadTestCase,
    ContainerLost,
    EngineRefused,
    EngineUnavailable,
    ImageMissing,
    LanguageMissing,
    SandboxError,
)
from sandbox.extract import extract_code
from sandbox.image.languages import LANGUAGES, language_named
from sandbox.pool import DEFAULT_IMAGE, Sandbox
from sandbox.selftest import SelfTest, self_test
from sandbox.verdict import STATUSES, Limits, SolutionVerdict, Status, TestCase, TestVerdict

__all__ = [
    "DEFAULT_IMAGE",
    "LANGUAGES",
    "STATUSES",
    "BadTestCase",
    "ContainerLost",
    "EngineRefused",
    "EngineUnavailable",
    "ImageMissing",
    "LanguageMissing",
    "Limits",
    "Sandbox",
    "SandboxError",
    "SelfTest",
    "SolutionVerdict",
    "Status",
    "TestCase",
    "TestVerdict",
    "extract_code",
    "language_named",
    "self_test",
]
