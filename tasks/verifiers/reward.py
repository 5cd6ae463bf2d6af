"""A reward model as verifier: sequence classification by transformers, in batches, on GPU or CPU.

The model's chat template is applied once, without a second set of special tokens. How outputs become a score:
`reward_rule`; a model on a server: `reward_endpoint`. No code from a model's repository runs (`trust_remote_code` is
off), so models that bring their own class are not covered.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.verifiers.reward_rule import (
    RULES_REVISION,
    RewardModelError,
    RewardRules,
    dialogue,
    empty_answer,
    judge_outputs,
)
from tasks.verifiers.verdict import Item, Judgement, settings_hash, unscored

_WHOLE_HASH_BYTES = 64 << 20


class RewardModel:
    """Score 0..1 of an answer to its question, as `rules` say.

    `model` is a folder or a hub name, `revision` a hub commit; `outputs` names the model's outputs in order, None takes
    its own labels. `max_tokens` defaults to what the model takes;
    of a longer dialogue the end is read, and the evidence says so. The model is loaded at the first `judge`,
    or by `with`; loading raises `RewardModelError`, or OSError for a model that isn't there. Calls from
    several threads take turns.
    """

    name = "reward"

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        batch_size: int = 8,
        rules: RewardRules | None = None,
        outputs: Sequence[str] | None = None,
        max_tokens: int | None = None,
        device: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model, self.revision, self.batch_size = model, revision, batch_size
        self.rules = rules or RewardRules()
        self.threshold = self.rules.default.threshold
        self.max_tokens, self.device = max_tokens, device
        self._loaded: tuple[Any, Any] | None = None
        self._named = tuple(outputs) if outputs else None
        self._outputs: tuple[str, ...] = ()  # known once the model is loaded
        self._version: str | None = None
        self._turn = threading.RLock()

    @property
    def version(self) -> str:
        """Model and its revision (hub commit, or a hash of the folder's files), transformers, our rules,
        settings."""
        with self._turn:
            if self._version is None:
                settings = settings_hash(
                    {"rules": self.rules.as_json(), "outputs": self._named, "max_tokens": self.max_tokens}
                )
                transformers = f"transformers {importlib.metadata.version('transformers')}"
                name = f"{self.model}@{self._resolved_revision()}"
                self._version = f"{name}; {transformers}; rules {RULES_REVISION}; settings {settings}"
            return self._version

    def _resolved_revision(self) -> str:
        folder = Path(self.model)
        if folder.is_dir():
            return folder_hash(folder)
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.model, revision=self.revision, trust_remote_code=False)
        return str(getattr(config, "_commit_hash", None) or self.revision or "unknown")

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item. Statuses: accepted, wrong_answer, no_answer, infra_error (out of GPU
        memory)."""
        with self._turn:
            judgements: list[Judgement | None] = [None] * len(items)
            encoded: list[tuple[int, list[int], int]] = []  # place in items, tokens, dropped tokens
            for index, item in enumerate(items):
                if not item.answer_content.strip():
                    judgements[index] = empty_answer()
                    continue
                tokens, dropped = self._encode(item)
                encoded.append((index, tokens, dropped))
            encoded.sort(key=lambda entry: (len(entry[1]), entry[0]))  # little padding
            _, tokenizer = self._load() if encoded else (None, None)
            size = self.batch_size if tokenizer is not None and tokenizer.pad_token_id is not None else 1
            for start in range(0, len(encoded), size):
                batch = encoded[start : start + size]
                for (index, _, dropped), judgement in zip(batch, self._judge_batch(batch, items), strict=True):
                    if dropped:
                        judgement.evidence["tokens_dropped"] = dropped
                    judgements[index] = judgement
            return [judgement for judgement in judgements if judgement is not None]

    def _judge_batch(self, batch: Sequence[tuple[int, list[int], int]], items: Sequence[Item]) -> list[Judgement]:
        import torch

        started = time.perf_counter()
        try:
            rows = self._logits([tokens for _, tokens, _ in batch])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) == 1:
                return [unscored("infra_error", "out of GPU memory", time.perf_counter() - started)]
            half = len(batch) // 2
            return self._judge_batch(batch[:half], items) + self._judge_batch(batch[half:], items)
        seconds = (time.perf_counter() - started) / len(batch)
        return [
            judge_outputs(row, self._outputs, self.rules.of(items[index].category), {"model": self.model}, seconds)
            for (index, _, _), row in zip(batch, rows, strict=True)
        ]

    def _logits(self, batch: Sequence[list[int]]) -> list[list[float]]:
        """Raw outputs, one row a dialogue. Right padding, which sequence classification expects."""
        import torch

        model, tokenizer = self._load()
        longest = max(len(tokens) for tokens in batch)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        ids = torch.tensor([tokens + [pad] * (longest - len(tokens)) for tokens in batch], device=model.device)
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in batch], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask).logits
        rows: list[list[float]] = logits.float().cpu().tolist()
        return rows

    def _encode(self, item: Item) -> tuple[list[int], int]:
        """Token ids of the dialogue, and how many were dropped at its beginning."""
        model, tokenizer = self._load()
        text = tokenizer.apply_chat_template(dialogue(item), tokenize=False)
        tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has them
        room = self.max_tokens or getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        dropped = max(0, len(tokens) - int(room))
        return tokens[dropped:], dropped

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            source = {"revision": self.revision, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(self.model, **source)
            if not tokenizer.chat_template:
                raise RewardModelError(
                    f"{self.model} has no chat template; a reward model needs one to read a dialogue"
                )
            model = AutoModelForSequenceClassification.from_pretrained(self.model, **source)
            self._outputs = self._output_names(model.config)
            if model.config.pad_token_id is None:
                model.config.pad_token_id = tokenizer.pad_token_id
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = model.float() if device == "cpu" else model.bfloat16()
            self._loaded = (model.to(device).eval(), tokenizer)
        return self._loaded

    def _output_names(self, config: Any) -> tuple[str, ...]:
        """The recipe's names, else the model's labels, in the order of its outputs. Raises RewardModelError."""
        names = self._named or tuple(str(config.id2label[place]) for place in range(config.num_labels))
        if len(names) != config.num_labels:
            raise RewardModelError(
                f"{self.model} has {config.num_labels} outputs, verify.reward.outputs names {len(names)}"
            )
        self.rules.check(self.model, names)
        return names

    def close(self) -> None:
        """Free the model. A later `judge` loads it again."""
        with self._turn:
            self._loaded = None

    def __enter__(self) -> Self:
        with self._turn:
            self._load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def folder_hash(folder: Path) -> str:
    """12 hex digits over names, sizes and contents of a model's files; of a file over 64 MiB the first and
    last MiB."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as stream:
            if size <= _WHOLE_HASH_BYTES:
                digest.update(stream.read())
            else:
                digest.update(stream.read(1 << 20))
                stream.seek(-(1 << 20), 2)
                digest.update(stream.read())
    return digest.hexdigest()[:12]
