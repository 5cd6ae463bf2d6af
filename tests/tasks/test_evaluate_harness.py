"""Proves that lm-eval's documented result file is read and shown, and what is said where it is missing or fails.

By a stub program in the place of lm-eval, which writes that file. Not covered: lm-eval itself.
"""

from __future__ import annotations

import json
import sys

import pytest

from storage.manifest import Inputs
from storage.workspace import ALL
from tasks.errors import BadSetting
from tasks.evaluate_harness import HarnessFailed, harness_lines, harness_step, run_harness
from tasks.step import Context, Work

RESULTS = {"results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.25,
                                 "exact_match_stderr,strict-match": 0.0119}}}  # fmt: skip
STUB = """
import json, pathlib, sys
out, model = sys.argv[1:]
assert model.endswith("students/s/train/model")
folder = pathlib.Path(out, "name__of__model")
folder.mkdir()
(folder / "results_2026-11-24T10-00-00.000000.json").write_text({text!r})
"""


def stub(text):
    return [sys.executable, "-c", STUB.format(text=text), "{out}", "{model}"]


def test_the_documented_file_is_read_and_shown(workspace):
    step = harness_step(stub(json.dumps(RESULTS)), "s")
    step.run(Context(workspace, "test"), step, [Work(ALL, Inputs("1", {}, {}), "first run")])
    assert harness_lines(workspace, "s") == ["lm-eval, gsm8k: exact_match,strict-match 0.25 ± 0.012"]


def test_a_missing_program_names_the_remedy(workspace):
    with pytest.raises(BadSetting, match="no program lm-eval-is-not-here here; pip install lm-eval"):
        run_harness(workspace, ["lm-eval-is-not-here"], "s")


@pytest.mark.parametrize(
    "command, message",
    [
        ([sys.executable, "-c", "print('out of memory'); raise SystemExit(3)"], r"code 3 and 0 .*\nout of memory"),
        ([sys.executable, "-c", ""], "code 0 and 0 result files"),
        (stub("[]"), "expected lm-eval's `results`"),
        (stub("{"), "expected lm-eval's `results`"),
    ],
)
def test_no_results_are_told(workspace, command, message):
    with pytest.raises(HarnessFailed, match=message):
        run_harness(workspace, command, "s")
