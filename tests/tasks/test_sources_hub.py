"""Proves that hub names load over HTTP as the installed libraries speak it, that they load again without a network, and
that each way in which a hub says no ends in an error with the place and the remedy. All of it on loopback; not covered:
the hub itself, and its Xet storage.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.tasks.hub_server import HEAD, Hub, serve

CLIENT = Path(__file__).parent / "hub_client.py"
PROJECT = Path(__file__).resolve().parents[2]


def parquet(*rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def card(*configs):
    """A data set's page, with its configs as `name: {split: pattern}`."""
    listed = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs
    ]
    return f"---\n{yaml.safe_dump({'configs': listed})}---\n# A data set\n".encode()


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


ADD = {"question": "Ann has 1 apple and gets 1 more. How many has she?", "answer": "1 + 1 = 2\n#### 2"}
TRAIN = [{"question": f"What is {number} + 1?", "answer": f"#### {number + 1}"} for number in range(3)]
CODE = {"task_id": "HumanEval/0", "prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n",
        "test": "assert add(1, 2) == 3", "entry_point": "add"}  # fmt: skip
COIN = {"question_content": "Count the coins.", "metadata": '{"func_name": "coins"}', "public_test_cases": "[]"}
SETS = {
    "openai/gsm8k": {
        "README.md": card(
            ("main", {"train": "main/train-*", "test": "main/test-*"}), ("socratic", {"test": "s/test-*"})
        ),
        "main/train-00000-of-00001.parquet": parquet(*TRAIN),
        "main/test-00000-of-00001.parquet": parquet(ADD),
        "s/test-00000-of-00001.parquet": parquet(ADD, ADD),
    },
    "HuggingFaceH4/MATH-500": {
        "README.md": b"# No configs\n",
        "test.jsonl": lines({"problem": "Find x with x + 1 = 4.", "answer": "3", "solution": "It is 3."}),
    },
    "openai/openai_humaneval": {
        "README.md": card(("openai_humaneval", {"test": "openai_humaneval/test-*"})),
        "openai_humaneval/test-00000-of-00001.parquet": parquet(CODE),
    },
    "cais/mmlu": {
        "README.md": card(("abstract_algebra", {"test": "abstract_algebra/test-*"}), ("all", {"test": "all/test-*"})),
        "abstract_algebra/test-00000-of-00001.parquet": parquet({"question": "Which ring?", "answer": 0}),
        "all/test-00000-of-00001.parquet": parquet({"question": "Which law?", "answer": 2}),
    },
    "EleutherAI/hendrycks_math": {
        "README.md": card(("algebra", {"test": "algebra/test-*"}), ("geometry", {"test": "geometry/test-*"})),
        "algebra/test-00000-of-00001.parquet": parquet({"problem": "Find y.", "solution": "It is 5."}),
        "algebra/train-00000-of-00001.parquet": parquet({"problem": "Find z.", "solution": "It is 6."}),
        "geometry/test-00000-of-00001.parquet": parquet({"problem": "Find an angle.", "solution": "It is 7."}),
    },
    "livecodebench/code_generation_lite": {
        "README.md": b"# It has a script\n",
        "code_generation_lite.py": b"raise SystemExit('a loading script was run')\n",
        "test.jsonl": lines(COIN),
        "test2.jsonl": lines(COIN | {"question_content": "Count the cups."}),
    },
}  # fmt: skip
BENCHMARKS = ["gsm8k", "math500", "humaneval", "mmlu", "math", "livecodebench"]
ITEMS = [
    [[ADD["question"], ADD["answer"], None]],
    [["Find x with x + 1 = 4.", "3", None]],
    [[CODE["prompt"], None, "add"]],
    [["Which law?", "2", None]],
    [["Find y.", "It is 5.", None], ["Find an angle.", "It is 7.", None]],
    [["Count the coins.", None, "coins"], ["Count the cups.", None, "coins"]],
]
SOURCE = {"path": "openai/gsm8k", "config": "main"}
ROWS = [[f"s:train:{number}", row] for number, row in enumerate(TRAIN, 1)]


def read(folder, url, *wishes, **more):
    """What came of each wish, in a process whose hub is at `url` and whose cache is in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
    environment = kept | {"HF_ENDPOINT": url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1",
                          "HF_UPDATE_DOWNLOAD_COUNTS": "0", "PYTHONPATH": str(PROJECT)} | more  # fmt: skip
    done = subprocess.run([sys.executable, str(CLIENT), str(folder), json.dumps(wishes)], env=environment, text=True,
                          capture_output=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def faults(found):
    assert all(isinstance(one, dict) and list(one) == ["UnreadableSource"] for one in found), found
    return [one["UnreadableSource"] for one in found]


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache that was filled over HTTP, and what was read while it was."""
    folder = tmp_path_factory.mktemp("hub")
    with serve(Hub(SETS)) as hub:
        wishes = [{"benchmark": name} for name in BENCHMARKS]
        found = read(folder, hub.url, *wishes, {"source": SOURCE}, {"source": SOURCE | {"limit": 2}})
    return folder, found, hub.asked


def test_benchmarks_of_the_list_load_by_their_names(warm):
    assert warm[1][: len(BENCHMARKS)] == ITEMS


def test_a_source_gives_its_split_and_a_limit_the_first_rows(warm):
    assert warm[1][len(BENCHMARKS) :] == [ROWS, ROWS[:2]]


def test_only_what_is_needed_is_fetched_and_of_one_commit(warm):
    fetched = {path.rpartition(f"/resolve/{HEAD}/")[2] for path in warm[2] if path.endswith((".parquet", ".jsonl"))}
    assert fetched == {
        "main/test-00000-of-00001.parquet", "main/train-00000-of-00001.parquet", "test.jsonl", "test2.jsonl",
        "openai_humaneval/test-00000-of-00001.parquet", "all/test-00000-of-00001.parquet",
        "algebra/test-00000-of-00001.parquet", "geometry/test-00000-of-00001.parquet",
    }  # fmt: skip


def test_without_a_network_the_cache_gives_the_same_and_what_it_lacks_is_told(warm):
    wishes = [{"benchmark": name} for name in BENCHMARKS]
    more = [SOURCE, SOURCE | {"revision": HEAD}, SOURCE | {"split": "tst"}, {"path": "openai/gsm8k"},
            SOURCE | {"config": "socratic", "split": "test"}, SOURCE | {"revision": "v2"},
            {"path": "no/such"}]  # fmt: skip
    found = read(warm[0], "http://127.0.0.1:9", *wishes, *({"source": one} for one in more), HF_HUB_OFFLINE="1")
    assert found[: len(BENCHMARKS)] == ITEMS and found[len(BENCHMARKS) :][:2] == [ROWS, ROWS]
    split, config, files, revision, nothing = faults(found[len(BENCHMARKS) + 2 :])
    assert "no split 'tst'; found: test, train; set `split`" in split
    assert "no config None; found: main, socratic; set `config`" in config
    assert "no file s/test-* in the cache" in files
    for told in (files, revision, nothing):
        assert "HF_HUB_OFFLINE is set" in told


def test_what_the_hub_has_not_is_answered_with_what_it_has(tmp_path):
    wrong = [{"path": "no/such"}, SOURCE | {"split": "tst"}, SOURCE | {"config": "nope"}, {"path": "openai/gsm8k"},
             SOURCE | {"revision": "v9"}, {"path": "livecodebench/code_generation_lite", "split": "test"},
             {"path": "HuggingFaceH4/MATH-500", "split": "test", "files": ["*.csv"]}]  # fmt: skip
    with serve(Hub(SETS)) as hub:
        found = read(tmp_path, hub.url, *({"source": one} for one in wrong))
    missing, split, config, unnamed, revision, script, files = faults(found)
    assert "source s: data set no/such can't be read" in missing and "check its name" in missing
    assert "no split 'tst'; found: test, train; set `split` to one of them" in split
    for told in (config, unnamed):
        assert "main" in told and "socratic" in told and "set `config` to one of them" in told
    assert "check `revision`" in revision and "set `files`" in script
    assert "no file *.csv in the data set" in files


@pytest.mark.parametrize("token", [None, "hf_made_up_for_this_test"])
def test_a_gated_set_says_so_and_how_to_get_in(tmp_path, token):
    with serve(Hub(SETS, gated={"openai/gsm8k"})) as hub:
        more = {"HF_TOKEN": token} if token else {}
        found = read(tmp_path, hub.url, {"benchmark": "gsm8k"}, {"source": SOURCE}, **more)
    benchmark, source = faults(found)
    assert "benchmark gsm8k: data set openai/gsm8k" in benchmark and "set `path` to the file" in benchmark
    for told in (benchmark, source):
        assert "gated" in told and "hf auth login" in told and "made_up" not in told


def test_a_connection_that_is_cut_gives_no_half_a_set_and_the_next_run_all_of_it(tmp_path):
    with serve(Hub(SETS, cut={"openai/gsm8k"})) as hub:
        [told] = faults(read(tmp_path, hub.url, {"source": SOURCE}))
        assert "openai/gsm8k" in told and "Run it again" in told
        hub.cut.clear()
        assert read(tmp_path, hub.url, {"source": SOURCE}) == [ROWS]


def test_a_hub_that_is_away_is_told_with_the_way_to_the_cache(tmp_path):
    [told] = faults(read(tmp_path, "http://127.0.0.1:9", {"benchmark": "gsm8k"}))
    assert "benchmark gsm8k" in told and "is there a network?" in told and "HF_HUB_OFFLINE=1" in told
