"""Data files that can't be used: their names and what they hold. Not one row of them is a question with a response."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def _lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _parquet(**columns: Any) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data)
    return data.getvalue()


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


_GOOD = [{"question": f"What is {n} + {n}?", "response": f"\\boxed{{{2 * n}}}"} for n in range(5)]
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

FILES: dict[str, bytes] = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n  \n",
    "empty.json": b"",
    "empty_list.json": b"[]",
    "empty.csv": b"",
    "empty.parquet": b"",
    "empty.jsonl.gz": b"",
    "empty_packed.jsonl.gz": gzip.compress(b""),
    "header.csv": b"question\n",
    "no_columns.parquet": _parquet(),
    "no_rows.parquet": _parquet(question=pa.array([], pa.string())),
    "object.json": b'{"a": 1}',
    "number.json": b"7",
    "string.json": b'"x"',
    "null.json": b"null",
    "true.json": b"true",
    "numbers.json": b"[1, 2]",
    "nested.json": b"[[]]",
    "torn.json": b'[{"question": "a"}, {"question"',
    "trailing.json": b'[{"question": "a"}] x',
    "deep.json": b"[" * 100_000,
    "two.json": b"[] []",
    "deep.jsonl": b'{"question":' + b"[" * 100_000 + b"\n",
    "nul.jsonl": b"\0" * 100,
    "binary.jsonl": bytes(range(256)),
    "utf16.jsonl": '{"question": "a"}\n'.encode("utf-16"),
    "utf16.csv": "question\na\n".encode("utf-16"),
    "utf32.jsonl": '{"question": "a"}\n'.encode("utf-32"),
    "latin.jsonl": '{"question": "\xe9"}\n'.encode("latin-1"),
    "latin.csv": "question\n\xe9t\xe9\n".encode("latin-1"),
    "overlong.jsonl": b'{"question": "\xc0\xaf"}\n',
    "no_gzip.jsonl.gz": b"hello",
    "torn.jsonl.gz": gzip.compress(_lines(*_GOOD))[:-12],
    "flipped.jsonl.gz": _flipped(gzip.compress(_lines(*_GOOD)), 20),
    "long.jsonl.gz": gzip.compress(b"\0" * 50_000_000),
    "no_zstd.jsonl.zst": b"hello",
    "text.parquet": b"question\n",
    "torn.parquet": _parquet(question=["a"])[:-20],
    "magic.parquet": b"PAR1" + b"x" * 50 + b"PAR1",
    "headless.parquet": b"PAR1" + b"x" * 50,
    "flipped.parquet": _flipped(_parquet(question=["a" * 1000] * 100), 30),
    "lfs.parquet": _LFS,
    "lfs.jsonl": _LFS,
    "bytes.parquet": _parquet(question=pa.array([b"\xff\xfe"], pa.binary())),
    "integers.parquet": _parquet(question=[1, 2]),
    "nulls.parquet": _parquet(question=pa.nulls(3)),
    "lists.parquet": _parquet(question=[["a"], ["b"]]),
    "structs.parquet": _parquet(question=[{"a": 1}]),
    "times.parquet": _parquet(question=pa.array([1], pa.timestamp("us"))),
    "other_columns.csv": b"a,b\n1,2\n",
    "column_twice.csv": b"question,question\na,b\n",
    "no_header.csv": b"\n\n",
    "ragged.csv": b"question,response\na\nb,c,d\n",
    "open_quote.csv": b'question\n"abc\n',
    "semicolons.csv": b"q;a\nb;c\n",
    "nul.csv": b"question\na\0b\n",
    "no_ending": _lines(*_GOOD),
    "other_ending.txt": _lines(*_GOOD),
    "sheet.xlsx": b"PK\3\4",
    "arrow.arrow": b"ARROW1",
    "bzip.jsonl.bz2": b"BZh",
    "pickle.pkl": b"\x80\x04.",
    "array.jsonl": b'[{"question": "a"}]\n',
    "pretty.jsonl": json.dumps(_GOOD, indent=2).encode(),
    "page.jsonl": b"<html><body>404</body></html>",
    "single_quotes.jsonl": b"{'question': 'a'}\n",
    "comma.jsonl": b'{"question": "a"},\n',
    "nan.jsonl": b'{"question": NaN}\n',
    "infinite.jsonl": b'{"question": "a", "x": Infinity}\n',
    "true.jsonl": b"true\nfalse\n",
    "numbers.jsonl": b"1\n2\n",
    "strings.jsonl": b'"a"\n',
    "torn.jsonl": b'{"question": "a',
    "one_line.jsonl": b'{"question": "a"}{"question": "b"}\n',
    "half_pair.jsonl": b'{"question": "\\ud800"}\n',
    "nul_escape.jsonl": b'{"question": "a\\u0000b"}\n',
}

_QUESTION = {"question": "What is 2 + 2?", "response": "4"}
RECORDS: dict[str, Any] = {
    "nothing": {},
    "other_keys": {"x": 1},
    "null": {"question": None},
    "empty": {"question": ""},
    "blank": {"question": " \n"},
    "number": {"question": 5},
    "list": {"question": ["a"]},
    "object": {"question": {"a": 1}},
    "true": {"question": True},
    "messages_text": {"messages": "hello"},
    "messages_empty": {"messages": []},
    "messages_numbers": {"messages": [1]},
    "messages_object": {"messages": {}},
    "no_role": {"messages": [{"content": "a"}]},
    "no_content": {"messages": [{"role": "user"}]},
    "role": {"messages": [{"role": "robot", "content": "a"}]},
    "role_number": {"messages": [{"role": 1, "content": "a"}]},
    "content": {"messages": [{"role": "user", "content": 5}]},
    "content_null": {"messages": [{"role": "user", "content": None}]},
    "content_empty": {"messages": [{"role": "user", "content": ""}]},
    "content_parts": {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
    "only_system": {"messages": [{"role": "system", "content": "a"}]},
    "assistant_last": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "category": _QUESTION | {"category": "maths"},
    "category_number": _QUESTION | {"category": 5},
    "category_list": _QUESTION | {"category": ["math"]},
    "reference_object": _QUESTION | {"ground_truth": {"a": 1}},
    "tests_text": _QUESTION | {"test_cases": "foo"},
    "tests_number": _QUESTION | {"test_cases": 5},
    "tests_numbers": _QUESTION | {"test_cases": [5]},
    "test_kind": _QUESTION | {"test_cases": [{"kind": "x"}]},
    "test_no_kind": _QUESTION | {"test_cases": [{"input": "1"}]},
    "time_negative": _QUESTION | {"time_limit_s": -1},
    "time_text": _QUESTION | {"time_limit_s": "fast"},
    "time_zero": _QUESTION | {"time_limit_s": 0},
    "memory_negative": _QUESTION | {"memory_limit_mb": -5},
    "memory_text": _QUESTION | {"memory_limit_mb": "much"},
    "constraints_text": _QUESTION | {"instruction_constraints": "x"},
    "constraints_numbers": _QUESTION | {"instruction_constraints": [1]},
    "constraint_no_id": _QUESTION | {"instruction_constraints": [{"kwargs": {}}]},
    "constraint_id": _QUESTION
    | {"category": "instruction", "instruction_constraints": [{"id": "no:such", "kwargs": {}}]},
    "constraint_kwargs": _QUESTION | {"instruction_constraints": [{"id": "a:b", "kwargs": "{"}]},
    "source_id_object": _QUESTION | {"source_id": {"a": 1}},
}
"""A record that is no question, whatever stands beside it."""
FILES |= {f"record_{name}.jsonl": _lines(record) for name, record in RECORDS.items()}
FILES |= {f"records_{name}.json": json.dumps([record, record]).encode() for name, record in RECORDS.items()}
