"""What a student is trained on: conversations rendered by its chat template, the loss on the last answer only.

Two things that trainers do without a word are counted or refused here: an example over the maximum length,
and a chat template that drops the thinking part of an answer.
"""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that the loss leaves out


class UnusableData(ValueError):
    """The data set can't be trained on with this student as it is. The message names the remedy."""


@dataclass(frozen=True)
class Encoded:
    """One split, ready to train on: columns input_ids and labels; and what was left out or cut."""

    examples: datasets.Dataset
    examples_in: int
    overlong_ids: list[str]
    prompt_mismatches: int
    lost_ids: list[str]
    """those of the truncated ones that had nothing left to learn from"""


def encode(messages: Sequence[dict[str, str]], response_id: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Token ids of one conversation and their labels, IGNORED up to where the completion begins.

    The completion begins where the prompt, rendered as for inference, and the whole conversation diverge.
    Raises UnusableData if a part of the completion would not be in the loss.
    """
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise UnusableData(f"response {response_id}: the last of its messages is not an assistant's answer to one")
    # str() for mypy only: with tokenize=False it is one already.
    prompt = str(tokenizer.apply_chat_template(list(messages[:-1]), tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template(list(messages), tokenize=False))
    start = _common_prefix(prompt, whole)
    if lost := parts_outside(messages[-1]["content"], whole[start:]):
        raise UnusableData(
            f"the chat template of {tokenizer.name_or_path} keeps the {lost} of response {response_id} "
            f"out of the loss, which begins {whole[start : start + 80]!r} while the answer begins "
            f"{messages[-1]['content'][:80]!r}: "
            "give the student a template that keeps it (setting chat_template, a Jinja file)"
        )
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    input_ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    begin = _common_prefix(prompt_ids, input_ids)
    return {
        "input_ids": input_ids,
        "labels": [IGNORED] * begin + input_ids[begin:],
        "prompt_mismatch": begin < len(prompt_ids),
    }


def _common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items the two begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def parts_outside(content: str, rendered: str) -> str | None:
    """The part of an answer that the rendered text lacks, "thinking part" or "answer", or None.

    White space and Unicode composition may differ: templates strip, tokenizers normalise.
    """

    def plain(text: str) -> str:
        return " ".join(unicodedata.normalize("NFC", text).split())

    there = plain(rendered)
    think, closed, answer = content.rpartition("</think>")
    # The opening tag may belong to the generation prompt; the closing tag is the student's to write.
    if closed and (plain(think.strip().removeprefix("<think>")) not in there or "</think>" not in there):
        return "thinking part"
    return None if plain(answer) in there else "answer"


def workers(split: datasets.Dataset) -> int | None:
    """Processes to render with: one is worth its start from some 10,000 rows on."""
    return min(os.cpu_count() or 1, len(split) // 10_000) or None


def encode_split(
    split: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: str
) -> Encoded:
    """Render a split, and drop or truncate what is over `max_length` tokens.

    A truncated example whose prompt alone fills `max_length` has nothing left to learn from and is
    dropped as well.
    """

    def encode_row(row: dict[str, Any]) -> dict[str, Any]:
        encoded = encode(row["messages"], row["response_id"], tokenizer)
        return encoded | {"length": len(encoded["input_ids"])}

    columns = split.select_columns(["messages", "response_id"])
    encoded = columns.map(encode_row, remove_columns=["messages"], num_proc=workers(split))
    lengths = encoded["length"][:]
    long = [row for row, length in enumerate(lengths) if length > max_length]
    overlong_ids = encoded.select(long)["response_id"][:]
    if long and overlong == "drop":
        encoded = encoded.select([row for row, length in enumerate(lengths) if length <= max_length])
    elif long:
        encoded = encoded.map(lambda row: {key: row[key][:max_length] for key in ("input_ids", "labels")})
        encoded = encoded.filter(lambda labels: any(label != IGNORED for label in labels), input_columns="labels")
    mismatches = sum(encoded["prompt_mismatch"])
    lost = lost_ids(overlong_ids, overlong, encoded["response_id"][:])
    return Encoded(encoded.select_columns(["input_ids", "labels"]), len(split), overlong_ids, mismatches, lost)


def lost_ids(long: list[str], overlong: str, left: list[str]) -> list[str]:
    """The truncated ones that are no longer among those that are left."""
    there = set(left)
    return [] if overlong == "drop" else [identity for identity in long if identity not in there]
