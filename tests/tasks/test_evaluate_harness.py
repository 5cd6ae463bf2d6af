"""Proves that lm-eval's documented result file is read and shown, and what is said where it is missing or fails.

By a stub program in the place of lm-eval, which writes that file; and, where lm-eval is on the PATH, by itself on a
task file of our own. It is no dependency (docs/evaluation.md says how to install it). Not covered: tasks that it
downloads.
"""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import yaml

from storage.manifest import Inputs
from storage.workspace import ALL
from tasks.errors import BadSetting
from tasks.evaluate_harness import HarnessFailed, harness_lines, harness_step, run_harness
from tasks.step import Context, Work
from tasks.train import student_folder
from tests.tasks.tiny_student import make_student

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


@pytest.mark.skipif(shutil.which("lm_eval") is None, reason="pip install lm-eval to test it itself")
def test_lm_eval_itself_measures_a_students_folder_on_a_local_task(workspace, tmp_path, monkeypatch):
    """A model that has learnt nothing knows neither sum, which is what the real result file says."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_student(student_folder(workspace, "s") / "train" / "model")
    rows = [{"question": "What is 1 + 1?", "answer": "2"}, {"question": "What is 2 + 1?", "answer": "3"}]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "local_sums", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "sums.jsonl")}}, "output_type": "generate_until",
        "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (tmp_path / "local_sums.yaml").write_text(yaml.safe_dump(task))
    command = ["lm_eval", "--model", "hf", "--model_args", "pretrained={model},dtype=float32", "--tasks", "local_sums",
               "--include_path", str(tmp_path), "--device", "cpu", "--output_path", "{out}"]  # fmt: skip
    step = harness_step(command, "s")
    step.run(Context(workspace, "test"), step, [Work(ALL, Inputs("1", {}, {}), "first run")])
    [line] = harness_lines(workspace, "s")
    assert line.startswith("lm-eval, local_sums: exact_match,none 0 ±")
