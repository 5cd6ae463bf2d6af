"""Pairs of a verified and a failed completion, rendered by the student's chat template.

The same rules as for examples (tasks/student_examples.py): the loss is on the completions only, what is too long is
counted, and a template that drops a part of a completion is refused.
"""

from __future__ import annotations

from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from tasks.student_examples import IGNORED, Encoded, encode, lost_ids, workers

SIDES = ("chosen", "rejected")


def encode_pairs(
    split: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: str
) -> Encoded:
    """Render a split with the columns prompt, chosen, rejected and pair_id; drop or truncate what is too long.

    The result's columns are input_ids and labels of either side, and prompt, chosen and rejected as they came in. A
    pair is overlong if one of its sides is over `max_length` tokens; truncated ones of which a side has nothing left
    to learn from are dropped as well.
    """

    def encode_row(row: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"length": 0, "prompt_mismatch": False}
        for side in SIDES:
            one = encode([*row["prompt"], *row[side]], row["pair_id"], tokenizer)
            found |= {f"{side}_input_ids": one["input_ids"], f"{side}_labels": one["labels"]}
            found["length"] = max(found["length"], len(one["input_ids"]))
            found["prompt_mismatch"] |= one["prompt_mismatch"]
        return found

    encoded = split.select_columns(["prompt", *SIDES, "pair_id"]).map(encode_row, num_proc=workers(split))
    lengths = encoded["length"][:]
    long = [row for row, length in enumerate(lengths) if length > max_length]
    overlong_ids = encoded.select(long)["pair_id"][:]
    columns = [f"{side}_{part}" for side in SIDES for part in ("input_ids", "labels")]
    if long and overlong == "drop":
        encoded = encoded.select([row for row, length in enumerate(lengths) if length <= max_length])
    elif long:
        encoded = encoded.map(lambda row: {name: row[name][:max_length] for name in columns})
        encoded = encoded.filter(_has_both, input_columns=[f"{side}_labels" for side in SIDES])
    mismatches = sum(encoded["prompt_mismatch"])
    lost = lost_ids(overlong_ids, overlong, encoded["pair_id"][:])
    examples = encoded.select_columns(["prompt", *SIDES, *columns])
    return Encoded(examples, len(split), overlong_ids, mismatches, lost)


def _has_both(chosen: list[int], rejected: list[int]) -> bool:
    return all(any(label != IGNORED for label in labels) for labels in (chosen, rejected))
