"""The controlled world: sums of two numbers of two digits, a tiny transformer that learns them, noise of a known rate.

A trace adds digit by digit, a line a digit with the carry, and gives the sum in a box. Noise is of two kinds, by turns:
`wrong`, a digit of the working and the answer are wrong; `lucky`, two digits of the working are wrong and the answer is
right, so that no verifier of answers can see it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LONGEST = 64
"""tokens that a student may write"""
Pair = tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """What a run costs; fixed before the first one."""

    questions: int = 300
    samples: int = 4
    heldout: int = 300
    teacher_steps: int = 800
    student_steps: int = 300
    batch: int = 32
    width: int = 64
    layers: int = 2
    rate: float = 5e-3


def ask(pair: Pair) -> str:
    return f"{pair[0]} + {pair[1]} = ?"


def solve(pair: Pair) -> str:
    """The right trace."""
    lines, carry = [], 0
    for place in (1, 10):
        one, other = pair[0] // place % 10, pair[1] // place % 10
        total = one + other + carry
        lines.append(f"{one}+{other}+{carry}={total:02d}")
        carry = total // 10
    return f"<think>\n{lines[0]}\n{lines[1]}\n</think>\n\n\\boxed{{{sum(pair)}}}"


def answer_of(trace: str) -> str | None:
    found = re.search(r"\\boxed\{(\d+)\}", trace)
    return found[1] if found else None


def spoil(pair: Pair, kind: str, draw: random.Random) -> str:
    """A trace of the pair with noise of a kind: wrong | lucky."""
    right = solve(pair)
    places = [found.start(1) for found in re.finditer(r"=\d(\d)", right)]
    text = list(right)
    for place in places if kind == "lucky" else draw.sample(places, 1):
        text[place] = draw.choice([digit for digit in "0123456789" if digit != text[place]])
    spoiled = "".join(text)
    if kind == "lucky":
        return spoiled
    wrong = draw.choice([number for number in range(20, 199) if number != sum(pair)])
    return spoiled.replace(f"\\boxed{{{sum(pair)}}}", f"\\boxed{{{wrong}}}")


def tokenizer() -> Any:
    """Bytes and the marks of a dialogue."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    marks = ("<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
    core.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    made.chat_template = TEMPLATE
    return made


def fresh(sizes: Sizes, words: Any, seed: int) -> Any:
    """A model that has learnt nothing."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=sizes.width, intermediate_size=3 * sizes.width,
        num_hidden_layers=sizes.layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128,
        eos_token_id=words.eos_token_id, bos_token_id=None, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save(net: Any, words: Any, folder: Path) -> Path:
    net.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def prompt(pair: Pair) -> str:
    return f"<|user|>{ask(pair)}<|end|><|assistant|>"


def learn(net: Any, words: Any, examples: list[tuple[Pair, str]], sizes: Sizes, steps: int, seed: int) -> None:
    """`steps` batches of (question, trace), drawn with replacement: as many tokens whatever the number of examples. The
    loss is on the trace alone."""
    draw = torch.Generator().manual_seed(seed)
    rows = [words(prompt(pair) + trace + "<|end|>", add_special_tokens=False)["input_ids"] for pair, trace in examples]
    begins = [len(words(prompt(pair), add_special_tokens=False)["input_ids"]) for pair, _ in examples]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), words.pad_token_id)
    labels = torch.full((len(rows), longest), -100)
    for place, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        ids[place, : len(row)] = torch.tensor(row)
        labels[place, begin : len(row)] = ids[place, begin : len(row)]
    optimizer = torch.optim.AdamW(net.parameters(), lr=sizes.rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, sizes.rate, total_steps=steps, pct_start=0.1)
    net.train()
    for _ in range(steps):
        chosen = torch.randint(len(rows), (sizes.batch,), generator=draw)
        net(input_ids=ids[chosen], labels=labels[chosen]).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    net.eval()


def write(net: Any, words: Any, pairs: list[Pair], *, temperature: float, seed: int) -> list[str]:
    """A trace for each pair; all prompts have one length."""
    torch.manual_seed(seed)
    ids = torch.tensor([words(prompt(pair), add_special_tokens=False)["input_ids"] for pair in pairs])
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with torch.inference_mode():
        made = net.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, **how)
    return [words.decode(row[ids.shape[1] :]).split("<|end|>")[0] for row in made]


def accuracy(net: Any, words: Any, pairs: list[Pair]) -> float:
    traces = write(net, words, pairs, temperature=0, seed=0)
    return sum(answer_of(trace) == str(sum(pair)) for pair, trace in zip(pairs, traces, strict=True)) / len(pairs)
