"""A real student small enough to train in a second: a Llama of 2 layers, with a tokenizer trained on the spot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def thought(number: int) -> str:
    return f"<think>{number} and one more</think>{number + 1}"


def make_student(folder: Path) -> Path:
    """Write the model and its tokenizer, the same ones every time, and return the folder."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    texts = [f"What is {number} + 1? {thought(number)}" for number in range(100)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(17)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PARENT = """
import json, sys
from pathlib import Path
from tasks.student import TrainSettings, train_student

settings, dataset, out, model_path = sys.argv[1:]
report = lambda step, total, loss: print(step, flush=True)
settings = TrainSettings(**json.loads(settings))
train_student(settings, Path(dataset), Path(out), model_path=model_path, on_progress=report)
"""


def train_and_kill(settings: dict[str, Any], dataset: Path, out: Path, model_path: Path, after: int) -> None:
    """Train in a process of its own and send it SIGKILL once step `after` is over; no trainer is left behind."""
    arguments = [json.dumps(settings), str(dataset), str(out), str(model_path)]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    for line in parent.stdout:
        if int(line) >= after:
            break
    alive = psutil.Process(parent.pid).children(recursive=True)
    assert alive, "the trainer was over before it could be killed"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(alive, timeout=10)
    assert not alive
