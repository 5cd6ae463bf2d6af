"""The command line, as a user meets it: a run, a second run, a changed setting, the looks inside, the errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared" / "data"


def commits(workspace: Path) -> list[Path]:
    return sorted((workspace / "manifest").rglob("*.json"))


def test_run_prints_funnel_and_pass_rates(finished) -> None:
    assert re.search(r"good\s+│\s+36 │\s+30 │\s+83\.3%", finished.output), finished.output
    assert re.search(r"poor\s+│\s+36 │\s+12 │\s+33\.3%", finished.output), finished.output
    assert (finished.workspace / "report.html").exists()


def test_second_run_does_nothing(stillhouse, finished) -> None:
    before = commits(finished.workspace)
    assert "nothing to do" in stillhouse("run", finished.recipe, "--workspace", finished.workspace)
    assert commits(finished.workspace) == before


def test_finished_run_needs_no_prefect(stillhouse, finished) -> None:
    """With an unreachable server named, a flow could not start: none does."""
    environment = stillhouse.environment
    try:
        stillhouse.environment = environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
        assert "nothing to do" in stillhouse("run", finished.recipe, "--workspace", finished.workspace)
    finally:
        stillhouse.environment = environment


def test_changed_setting_redoes_only_what_reads_it(stillhouse, copied) -> None:
    setting = "select.max_per_question=1"
    told = stillhouse("status", copied.workspace, "--set", setting)
    assert "max_per_question null → 1" in told
    before = {path.parent for path in commits(copied.workspace)}
    old = set(commits(copied.workspace))
    stillhouse("run", copied.recipe, "--workspace", copied.workspace, "--set", setting)
    new = {path.parts[-3] for path in set(commits(copied.workspace)) - old}
    assert new == {"select", "export", "report"}
    assert {path.parent for path in commits(copied.workspace)} == before
    assert "max_per_question null → 1" in stillhouse("status", copied.workspace)


def test_from_makes_a_stage_and_all_after_it_again(stillhouse, copied) -> None:
    old = set(commits(copied.workspace))
    stillhouse("run", copied.recipe, "--workspace", copied.workspace, "--from", "grade")
    made = {path.parts[-3] for path in set(commits(copied.workspace)) - old}
    assert made == {"weigh", "grade", "compare", "select", "export", "report"}


def test_until_and_single_stages(stillhouse, finished, tmp_path: Path) -> None:
    workspace = tmp_path / "stages"
    stillhouse("run", finished.recipe, "--workspace", workspace, "--until", "curate")
    assert {path.parts[-3] for path in commits(workspace)} == {"ingest", "screen", "dedup", "curate"}
    text = stillhouse("grade", finished.recipe, "--workspace", workspace, code=1)
    assert "weigh reads curate, verify.good, verify.poor, and not all of that is there" in text
    assert "Traceback" not in text


def test_status_says_balanced_and_nothing_to_do(stillhouse, finished) -> None:
    text = stillhouse("status", finished.workspace)
    assert "NOT BALANCED" not in text
    assert text.count("nothing") >= 10


def test_show_finds_by_prefix_and_escapes(stillhouse, finished) -> None:
    row = json.loads(
        stillhouse("sql", finished.workspace, "--json", "select question_id, messages from questions limit 1")
    )
    text = stillhouse("show", finished.workspace, row["question_id"][:12])
    assert row["messages"][0]["content"] in text
    for part in ("responses", "verdicts", "grade"):
        assert part in text
    assert "no such question" in stillhouse("show", finished.workspace, "zz", code=1)


def test_sql_answers_and_explains_a_bad_query(stillhouse, finished) -> None:
    text = stillhouse(
        "sql", finished.workspace, "--json", "select count(*) as n from verdicts where verifier = 'outcome'"
    )
    assert json.loads(text) == {"n": 72}
    assert "the query failed" in stillhouse("sql", finished.workspace, "select nothing from nowhere", code=1)
    assert "ledger" in stillhouse("sql", finished.workspace)


def test_errors_are_short(stillhouse, tmp_path: Path) -> None:
    for arguments, expected in (
        (("run", tmp_path / "none.yaml"), "no such recipe"),
        (("status", tmp_path), "no workspace here"),
        (("verify", tmp_path / "none.jsonl", "--out", tmp_path / "out.jsonl"), "none.jsonl can't be read"),
    ):
        text = stillhouse(*arguments, code=1)
        assert expected in text
        assert "Traceback" not in text
        assert len(text.strip().splitlines()) <= 2


def test_plan_reads_the_paper_recipe(stillhouse) -> None:
    text = stillhouse("plan", PROJECT / "deploy" / "recipes" / "deepdistill.yaml")
    assert "40,080,000" in text
    assert "hours of one GPU" in text


def test_what_few_commands_need_is_not_imported_by_all(stillhouse) -> None:
    look = "import sys, flows.cli, flows.workers; print(*{'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], cwd=PROJECT, env=stillhouse.environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.split() == []


def test_help_explains_every_command(stillhouse) -> None:
    text = stillhouse("--help")
    for command in ("demo", "run", "plan", "status", "show", "sql", "suspects", "verify", "dedup", "decontaminate",
                    "report", "doctor", "ingest", "curate", "generate", "score", "grade", "select", "export", "train",
                    "evaluate"):  # fmt: skip
        assert re.search(rf"{command}\s+\S+", text), command


def test_verify_judges_a_file_in_input_order(stillhouse, tmp_path: Path) -> None:
    rows = [
        {"question": "2+2?", "category": "math", "ground_truth": "4", "response": "<think>hm</think>\\boxed{4}"},
        {"question": "2+2?", "category": "math", "ground_truth": "4", "response": "\\boxed{5}"},
        {"question": "2+2?", "category": "maths", "ground_truth": "4", "response": "\\boxed{4}"},
        {"question": "double", "category": "code", "entry_point": "double",
         "test_cases": [{"kind": "call", "input": "[4]", "output": "8"}],
         "response": "```python\ndef double(x):\n    return 2 * x\n```"},
        {"question": "no capitals", "category": "instruction", "answer_content": "all lower case",
         "instruction_constraints": [{"id": "change_case:english_lowercase", "kwargs": {}}]},
        {"question": "essay", "category": "chat", "response": "text"},
    ]  # fmt: skip
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.parquet"
    lines = [json.dumps(row) for row in rows]
    lines.insert(3, "{broken")
    source.write_text("\n".join(lines) + "\n")
    text = stillhouse("verify", source, "--out", out)
    found = pq.read_table(out).to_pylist()
    assert [row["row"] for row in found] == list(range(7))
    assert [row["status"] for row in found] == [
        "accepted", "wrong_answer", "unverifiable", "unverifiable", "accepted", "accepted", "unverifiable",
    ]  # fmt: skip
    assert [row["passed"] for row in found] == [True, False, None, None, True, True, None]
    assert "broken_json" in found[3]["evidence"]
    checks = json.loads(found[0]["evidence"])["trace"]["checks"]
    assert (checks["no_think"]["value"], checks["truncated"]["value"]) == (0, 0)
    assert json.loads(found[1]["evidence"])["trace"]["checks"]["no_think"]["value"] == 1
    assert "3 of 4 judged passed" in text


def test_verify_takes_settings_and_other_languages(stillhouse, tmp_path: Path) -> None:
    program = "```c++\n#include <iostream>\nint main() { int n; std::cin >> n; std::cout << 3 << ' ' << n / 3; }\n```"
    row = {"question": "factor", "category": "code", "language": "C++", "response": program,
           "test_cases": [{"kind": "stdin", "input": "12", "output": ""}],
           "checker": "def check(input, expected, output):\n    a, b = map(int, output.split())\n"
                      "    return a * b == int(input)"}  # fmt: skip
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.parquet"
    source.write_text(json.dumps(row) + "\n")
    stillhouse("verify", source, "--out", out)
    assert pq.read_table(out)["status"].to_pylist() == ["unverifiable"]  # a checker is run where that was said
    stillhouse("verify", source, "--out", out, "--set", "verify.code.checkers=true")
    assert pq.read_table(out)["status"].to_pylist() == ["accepted"]


def test_self_test_judges_the_verifiers_and_ends_by_the_limits(stillhouse, finished) -> None:
    """On the questions of the workspace, else on the sources'; a wrong reference shows with its question."""
    text = stillhouse("verify", "--self-test", finished.recipe, "--workspace", finished.workspace, "--sample", "10")
    assert "10 questions from curated" in text
    assert re.search(r"math\s+│ math\s+│\s+10 │ 0 \(0\.0%\) │\s+\d+ │ 0 \(0\.0%\) │\s+0 ", text), text


def test_self_test_over_a_limit_fails_and_lists_the_answers(stillhouse, replay_recipe) -> None:
    rows = replay_recipe.parent / "sums.jsonl"
    broken = {"question": "Which number?", "ground_truth": "{{5", "good": "5", "poor": "5"}
    rows.write_text(rows.read_text() + json.dumps(broken) + "\n")
    limit = ("--set", "verify.self_test.max_false_reject=0.01")
    elsewhere = ("--workspace", replay_recipe.parent / "none")
    text = stillhouse("verify", "--self-test", replay_recipe, *elsewhere, *limit, code=1)
    assert "nothing is curated yet" in text and "1 of 37 right answers rejected (2.7%, the limit is 1.0%)" in text
    assert re.search(r"[0-9a-f]{32}  reference, \w+: The answer is \$\\boxed\{\{\{5\}\$", text), text
    stillhouse("verify", "--self-test", replay_recipe, *elsewhere)
    text = stillhouse("generate", replay_recipe, *elsewhere, *limit, code=1)
    assert "Traceback" not in text
    text = stillhouse("run", replay_recipe, *elsewhere, "--until", "generate", *limit, code=1)
    assert "No teacher was asked" in text and "Traceback" not in text
    assert not (replay_recipe.parent / "none" / "manifest" / "generate.good").exists()


def test_verify_says_what_it_wants(stillhouse, finished) -> None:
    assert "verify FILE --out FILE" in stillhouse("verify", code=1)
    assert "takes no FILE" in stillhouse("verify", "x.jsonl", "--self-test", finished.recipe, code=1)
