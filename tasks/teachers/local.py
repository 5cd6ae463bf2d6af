"""The `transformers` engine: a model in this process, on any machine, in batches.

Not covered: continuous batching and tensor parallelism. Who needs tokens per second takes the `vllm` engine; this
one needs nothing but a model folder and answers the same way on a laptop.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from tasks.teachers import smollm2
from tasks.teachers.decoding import Watch, cut_at_stop
from tasks.teachers.revision import resolve_revision
from tasks.teachers.teacher import THINK_OPEN, Reply, Request, TeacherError, failed, split_think

SAMPLING_KEYS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_tokens",
    "stop",
    "logprobs",
    "prompt",
)
__all__ = ["TransformersTeacher", "resolve_revision"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """A request with its rendered prompt. `tokens`: its length; `thinking`: the template itself opens the thinking."""

    request: Request
    text: str
    tokens: int
    thinking: bool


class TransformersTeacher:
    """A causal language model run by transformers' `generate`; loaded at first use, usable from several threads.

    `model`: a folder, a hub name, or the embedded default. `dtype` "auto": what the weights are stored in, but fp32 on
    a CPU that can't multiply bf16. `device` "auto": a GPU if there is one. Requests of one batch have the same sampling
    settings and prompts of about one length. A batch is seeded from its requests' seeds, so the same batch repeats.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: str = "auto",
        batch_size: int = 32,
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        self.model, self.revision, self.dtype, self.device = model, revision, dtype, device
        self.batch_size, self.trust_remote_code = batch_size, trust_remote_code
        self._lock = threading.RLock()
        self._net: Any = None
        self._tokenizer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._net = self._tokenizer = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """See `Teacher.generate`. Latency is the wall time of the request's batch. Raises TeacherError."""
        with self._lock:
            self._load()
        groups: dict[str, list[Prompt]] = {}
        for request in requests:
            prompt = self._render(request)
            if isinstance(prompt, Reply):
                yield prompt
            else:
                groups.setdefault(json.dumps(request.sampling, sort_keys=True, default=str), []).append(prompt)
        for group in groups.values():
            # Longest first: what does not fit into memory shows at once.
            queue = deque(sorted(group, key=lambda p: (-p.tokens, p.request.response_id)))
            while queue:
                batch = [queue.popleft() for _ in range(min(self.batch_size, len(queue)))]
                try:
                    with self._lock:
                        replies = self._answer(batch)
                except torch.OutOfMemoryError as error:
                    torch.cuda.empty_cache()
                    if len(batch) == 1:
                        replies = [failed(batch[0].request, f"out of GPU memory: {error}", "transient")]
                    else:
                        self.batch_size = max(1, len(batch) // 2)
                        log.warning("out of GPU memory: batch size halved to %d", self.batch_size)
                        queue.extendleft(reversed(batch))
                        continue
                yield from replies

    def _load(self) -> None:
        if self._net is not None:
            return
        transformers_logging.disable_progress_bar()  # would tear the caller's own bars
        source = str(smollm2.model_path()) if self.model == smollm2.NAME else str(Path(self.model).expanduser())
        hub: dict[str, Any] = {"revision": self.revision} if not Path(source).is_dir() and self.revision else {}
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        dtype = self.dtype
        if dtype == "auto" and device == "cpu" and not _multiplies_bf16():
            dtype = "float32"
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=self.trust_remote_code, **hub)
            net: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, trust_remote_code=self.trust_remote_code, **hub
            )
        except UnpicklingError as error:
            raise TeacherError(
                f"can't load the teacher {self.model}: its weights are a pickle that holds more than numbers, which "
                "could run code; take a model with safetensors"
            ) from error
        except (OSError, ValueError) as error:
            raise TeacherError(f"can't load the teacher {self.model}: {' '.join(str(error).split())[:300]}") from error
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        own = net.generation_config.eos_token_id
        ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
        # transformers fills what a request leaves open from the model's file (say top_p 0.8): leave nothing there.
        net.generation_config = GenerationConfig(eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id)
        self._tokenizer, self._net = tokenizer, net.to(device).eval()

    def _render(self, request: Request) -> Prompt | Reply:
        """The prompt text, or the refusal of a request that this model can't take."""
        unknown = sorted(set(request.sampling) - set(SAMPLING_KEYS))
        if unknown:
            return failed(request, f"unknown sampling settings {unknown}; known: {', '.join(SAMPLING_KEYS)}", "refused")
        try:
            self._settings(request.sampling)
            text = self._text(request)
        except Exception as error:  # noqa: BLE001  a template is a program: it raises what it likes
            return failed(request, f"{type(error).__name__}: {error}", "refused")
        tokens = len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        context = getattr(self._net.config.get_text_config(), "max_position_embeddings", None)
        asked = request.sampling.get("max_tokens", 512)
        if context and tokens + asked > context:
            return failed(request, f"prompt {tokens} + max_tokens {asked} exceed the context of {context}", "refused")
        return Prompt(request, text, tokens, text.rstrip().endswith(THINK_OPEN))

    def _text(self, request: Request) -> str:
        """By the model's chat template; a base model has none, and goes on from the text of a single message."""
        if not self._tokenizer.chat_template and len(request.messages) == 1:
            return (self._tokenizer.bos_token or "") + request.messages[0]["content"]
        text: str = self._tokenizer.apply_chat_template(
            list(request.messages), tokenize=False, add_generation_prompt=True
        )
        return text

    def _settings(self, sampling: dict[str, Any]) -> GenerationConfig:
        """The request's sampling in transformers' words; what it does not name is off. Raises ValueError."""
        temperature = float(sampling.get("temperature", 1.0))
        settings: dict[str, Any] = {
            "max_new_tokens": int(sampling.get("max_tokens", 512)),
            "do_sample": temperature > 0,
            "eos_token_id": self._net.generation_config.eos_token_id,
            "pad_token_id": self._tokenizer.pad_token_id,
            "repetition_penalty": sampling.get("repetition_penalty"),
        }
        if temperature > 0:
            settings |= {"temperature": temperature, "top_p": float(sampling.get("top_p", 1.0))}
            settings |= {"top_k": max(0, int(sampling.get("top_k", 0))), "min_p": sampling.get("min_p")}
        elif temperature < 0:
            raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
        return GenerationConfig(**settings)

    def _answer(self, batch: list[Prompt]) -> list[Reply]:
        start = time.perf_counter()
        sampling = batch[0].request.sampling
        settings = self._settings(sampling)
        stops = [sampling["stop"]] if isinstance(sampling.get("stop"), str) else list(sampling.get("stop") or [])
        inputs = self._tokenizer(
            [p.text for p in batch], add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self._net.device)
        width = inputs["input_ids"].shape[1]
        watch = Watch(self._tokenizer, width, settings.eos_token_id, stops, len(batch), self._net.device)
        devices = [self._net.device] if self._net.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            if any(p.request.seed is not None for p in batch):
                seeds = json.dumps([p.request.seed for p in batch]).encode()
                torch.manual_seed(int.from_bytes(hashlib.sha256(seeds).digest()[:7]))
            tokens = self._net.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                generation_config=settings, logits_processor=[watch.see], stopping_criteria=[watch.judge],
            )  # fmt: skip
        made = watch.lengths()
        ended, logprobs = watch.done.tolist(), watch.mean_logprobs()
        seconds = time.perf_counter() - start
        replies = []
        for row, prompt in enumerate(batch):
            text = self._tokenizer.decode(tokens[row, width : width + made[row]], skip_special_tokens=True)
            text = (THINK_OPEN if prompt.thinking else "") + cut_at_stop(text, stops)
            think, answer = split_think(text)
            replies.append(
                Reply(
                    response_id=prompt.request.response_id,
                    think_content=think,
                    answer_content=answer,
                    finish_reason="stop" if ended[row] else "length",
                    prompt_tokens=prompt.tokens,
                    completion_tokens=made[row],
                    mean_logprob=logprobs[row],
                    latency_s=seconds,
                )
            )
        return replies


def _multiplies_bf16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
