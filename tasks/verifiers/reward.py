"""A reward model as verifier: sequence classification by transformers, in batches, on GPU or CPU.

One output: score = sigmoid(logit). Several, named by the model's labels: (coherence + correctness +
helpfulness) / 12, each on HelpSteer's 0–4 scale (DeepDistill, arXiv 2504.17565, multi-turn and other: passes
above 0.7). The model's chat template is applied once, without a second set of special tokens. No code from a
model's repository runs (`trust_remote_code` is off).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.verifiers.verdict import Item, Judgement, settings_hash, unscored

RULES_REVISION = 1
ATTRIBUTES = ("coherence", "correctness", "helpfulness")
_WHOLE_HASH_BYTES = 64 << 20


class RewardModelError(RuntimeError):
    """A model that can't serve as a reward model; the message says why and what would do."""


class RewardModel:
    """Score 0..1 of an answer to its question; passes above `threshold`.

    `model` is a folder or a hub name, `revision` a hub commit. `max_tokens` defaults to what the model takes;
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
        threshold: float = 0.7,
        max_tokens: int | None = None,
        device: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model, self.revision, self.batch_size = model, revision, batch_size
        self.threshold, self.max_tokens, self.device = threshold, max_tokens, device
        self._loaded: tuple[Any, Any] | None = None
        self._labels: list[int] | None = None  # columns of ATTRIBUTES; None: a single logit
        self._version: str | None = None
        self._turn = threading.RLock()

    @property
    def version(self) -> str:
        """Model and its revision (hub commit, or a hash of the folder's files), transformers, our rules,
        settings."""
        with self._turn:
            if self._version is None:
                settings = settings_hash({"threshold": self.threshold, "max_tokens": self.max_tokens})
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
            encoded: list[tuple[int, list[int], int]] = []
            for index, item in enumerate(items):
                if not item.answer_content.strip():
                    judgements[index] = Judgement(0.0, False, "no_answer", None, {"reason": "empty answer"}, 0.0)
                    continue
                tokens, dropped = self._encode(item)
                encoded.append((index, tokens, dropped))
            encoded.sort(key=lambda entry: (len(entry[1]), entry[0]))  # little padding
            _, tokenizer = self._load() if encoded else (None, None)
            size = self.batch_size if tokenizer is not None and tokenizer.pad_token_id is not None else 1
            for start in range(0, len(encoded), size):
                batch = encoded[start : start + size]
                for (index, _, dropped), judgement in zip(batch, self._judge_batch(batch), strict=True):
                    if dropped:
                        judgement.evidence["tokens_dropped"] = dropped
                    judgements[index] = judgement
            return [judgement for judgement in judgements if judgement is not None]

    def _judge_batch(self, batch: Sequence[tuple[int, list[int], int]]) -> list[Judgement]:
        import torch

        started = time.perf_counter()
        try:
            rows = self._logits([tokens for _, tokens, _ in batch])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) == 1:
                return [unscored("infra_error", "out of GPU memory", time.perf_counter() - started)]
            half = len(batch) // 2
            return self._judge_batch(batch[:half]) + self._judge_batch(batch[half:])
        seconds = (time.perf_counter() - started) / len(batch)
        return [self._judgement(row, seconds) for row in rows]

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

    def _judgement(self, row: Sequence[float], seconds: float) -> Judgement:
        if not all(math.isfinite(value) for value in row):
            return unscored("infra_error", "the reward model's output is not finite", seconds)
        evidence: dict[str, object] = {"model": self.model}
        if self._labels is None:
            score = 1 / (1 + math.exp(-max(-60.0, min(60.0, row[0]))))
            evidence["logit"] = round(row[0], 5)
        else:
            values = {name: row[column] for name, column in zip(ATTRIBUTES, self._labels, strict=True)}
            score = min(1.0, max(0.0, sum(values.values()) / 12))
            evidence |= {name: round(value, 5) for name, value in values.items()}
        score = round(score, 5)  # padding to another length moves the sixth decimal
        passed = score > self.threshold
        return Judgement(score, passed, "accepted" if passed else "wrong_answer", None, evidence, seconds)

    def _encode(self, item: Item) -> tuple[list[int], int]:
        """Token ids of the dialogue, and how many were dropped at its beginning."""
        model, tokenizer = self._load()
        messages = [
            {"role": "user", "content": item.question},
            {"role": "assistant", "content": item.answer_content},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
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
            self._labels = attribute_columns(self.model, model.config)
            if model.config.pad_token_id is None:
                model.config.pad_token_id = tokenizer.pad_token_id
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = model.float() if device == "cpu" else model.bfloat16()
            self._loaded = (model.to(device).eval(), tokenizer)
        return self._loaded

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


def attribute_columns(name: str, config: Any) -> list[int] | None:
    """None for a model of one output, else the columns of coherence, correctness and helpfulness by the
    labels' names."""
    if config.num_labels == 1:
        return None
    labels = {str(label).lower(): int(column) for column, label in config.id2label.items()}
    columns = [
        next((column for label, column in labels.items() if attribute in label), None) for attribute in ATTRIBUTES
    ]
    if None in columns:
        raise RewardModelError(
            f"{name} has the labels {', '.join(labels)}; wanted one output, or labels named {', '.join(ATTRIBUTES)}"
        )
    return [column for column in columns if column is not None]


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
