"""Proves that benchmarks load by name and by columns, with answers and code, and that a bad one is an error."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from tasks.decontaminate import DecontaminateSettings, load_benchmarks
from tasks.decontaminate_benchmarks import KNOWN, Benchmark, benchmark_files, load_items
from tasks.embeddings import EmbeddingSettings
from tasks.errors import BadSetting, UnreadableSource

FILES = {"humaneval": "humaneval.jsonl", "mbpp": "mbpp.jsonl", "gsm8k": "gsm8k_test.jsonl", "math500": "math_test.json",
         "aime24": "aime24.jsonl", "ifeval": "ifeval_prompts.jsonl"}  # fmt: skip


def test_files_laid_out_like_the_hub_s_load_under_the_known_names(shared):
    found = {name: load_items([Benchmark.model_validate({"name": name, "path": path})], shared)
             for name, path in FILES.items()}  # fmt: skip
    assert [len(found[name]) for name in FILES] == [164, 974, 1319, 5000, 30, 541]
    first = found["humaneval"][0]
    assert (first.entry_point, first.code.entry) == ("has_close_elements", "has close elements")
    assert first.is_code and "1,2,3.9,4,5,2.2" in first.code.values and "threshold" in first.code.parameters
    assert found["mbpp"][0].entry_point == "min_cost" and found["mbpp"][1].entry_point == "similar_elements"
    assert found["gsm8k"][0].answer.endswith("#### 18") and not found["gsm8k"][0].is_code
    assert found["aime24"][0].answer == "204"


def test_every_known_set_is_a_valid_benchmark_by_its_name_alone():
    chosen = DecontaminateSettings.model_validate({"benchmarks": sorted(KNOWN)}).benchmarks
    assert [one.name for one in chosen] == sorted(KNOWN) and all(one.hub and one.path is None for one in chosen)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValidationError, match=r"aime25.*gsm8k.*humaneval"):
        DecontaminateSettings.model_validate({"benchmarks": ["gsm9k"]})
    with pytest.raises(ValidationError, match="either `path`"):
        Benchmark.model_validate({"name": "mine"})


def test_a_data_set_saved_to_disk_stands_for_the_hub(tmp_path):
    import datasets

    rows = {"problem": ["What is 1 + 1?"], "answer": ["2"]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "mine")
    benchmark = Benchmark.model_validate({"name": "m", "hub": "mine", "question": "problem", "answer": "answer"})
    [item] = load_items([benchmark], tmp_path)
    assert (item.text, item.answer) == ("What is 1 + 1?", "2")
    assert benchmark_files([benchmark], tmp_path, tmp_path / "cache")


def test_a_function_name_inside_json_text_is_read(tmp_path):
    rows = [{"question_content": "Sort it.", "metadata": json.dumps({"func_name": "sortIt"})},
            {"question_content": "Read stdin.", "metadata": "{}"}]  # fmt: skip
    (tmp_path / "lcb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = load_items([Benchmark.model_validate({"name": "livecodebench", "path": "lcb.jsonl"})], tmp_path)
    assert [item.entry_point for item in items] == ["sortIt", None]


def test_unreadable_benchmarks_are_errors_not_clean_bills(tmp_path):
    def load(**kind):
        benchmark = Benchmark(name="b", path="b.jsonl", **kind)
        return load_benchmarks(DecontaminateSettings(benchmarks=(benchmark,)), EmbeddingSettings(), tmp_path, ())

    with pytest.raises(UnreadableSource):
        load()
    (tmp_path / "b.jsonl").write_text('{"problem": "x y z"}\n')
    with pytest.raises(BadSetting, match=r"b\.jsonl:1.*question.*found: problem"):
        load()
    (tmp_path / "b.jsonl").write_text('{"question": "x y z"}\n{"quest')
    with pytest.raises(BadSetting, match=r"b\.jsonl:2.*broken_json"):
        load()
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(BadSetting, match="no items"):
        load()


def test_the_content_of_a_file_is_part_of_the_books(tmp_path):
    benchmark = Benchmark(name="b", path="b.jsonl")
    hashes = []
    for answer in ("1", "2"):
        (tmp_path / "b.jsonl").write_text(json.dumps({"question": "x y z", "answer": answer}))
        hashes.append(benchmark_files([benchmark], tmp_path, tmp_path / "cache"))
    assert hashes[0].keys() == hashes[1].keys() and hashes[0] != hashes[1]
