"""From a question and its response to token ids, and which tokens are whose.

The question is rendered by the scorer's own chat template, up to where an answer begins; the response follows as a
model would write it: `<think>`, thinking, `</think>`, answer. So no template can drop the thinking of an answer. That
nothing else was dropped is checked: every message stands in the prompt as it is, and every character of the response
lies in a token; what fails is `Unscorable`. The mark that ends a turn is not scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.scorers.scorer import METHOD, ScorerError
from tasks.scorers.sentences import sentence_spans
from tasks.scorers.settings import ScorerBase
from tasks.teachers import smollm2
from tasks.teachers.revision import resolve_revision
from tasks.teachers.teacher import THINK_CLOSE, THINK_OPEN, Message, TeacherError


@dataclass(frozen=True)
class Unscorable:
    """A response that this scorer can't score, now or later: the rule for the ledger, what was measured and allowed."""

    rule: str
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Sentence:
    """Characters start..end of one part of the response (`think` | `answer`), and its tokens first..last, exclusive."""

    part: str
    start: int
    end: int
    tokens: slice


@dataclass(frozen=True)
class Rendered:
    """Token ids of question and response, cut to the limit, and who they belong to."""

    ids: list[int]
    response_from: int
    """the response's tokens are ids[response_from:]"""
    response_tokens: int
    """of the whole response; more than there are ids where it was cut"""
    question: np.ndarray
    """places of the tokens of the question's messages, template marks left out"""
    sentences: list[Sentence]

    @property
    def truncated(self) -> bool:
        return self.response_from + self.response_tokens > len(self.ids)


@dataclass(frozen=True)
class _Text:
    """A whole dialogue, and where in it the messages, the response and its parts lie."""

    text: str
    messages: list[tuple[int, int]]
    response_from: int
    parts: list[tuple[str, int, str]]
    """name, place of its first character, its text"""


class Rendering:
    """The tokenizer of a scorer's model. Loading raises ScorerError; the weights are not loaded."""

    def __init__(self, scorer: ScorerBase) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.model = scorer.model
        try:
            self.revision = resolve_revision(scorer.weights(), scorer.revision)
            source, hub = weights_source(scorer.weights(), scorer.revision)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub).get_text_config()
        except (OSError, ValueError, TeacherError) as fault:
            why = " ".join(str(fault).split())[:300]
            raise ScorerError(f"scorer {scorer.name}: can't load the tokenizer of {scorer.weights()}: {why}") from fault
        template = self._tokenizer.chat_template
        if not template:
            raise ScorerError(f"scorer {scorer.name}: {scorer.weights()} has no chat template: take an instruct model")
        if not self._tokenizer.is_fast:
            raise ScorerError(f"scorer {scorer.name}: {scorer.weights()} has a slow tokenizer, which doesn't say what "
                              "characters a token stands for; take a model with a tokenizer.json")  # fmt: skip
        context = getattr(config, "max_position_embeddings", None)
        limits = [scorer.max_tokens, None if context is None else int(context) - scorer.writes]
        if limits == [None, None]:
            raise ScorerError(f"scorer {scorer.name}: the configuration of {scorer.weights()} names no context length; "
                              "set max_tokens")  # fmt: skip
        self.limit = min(limit for limit in limits if limit is not None)
        self._frames: dict[tuple[str, ...], list[str]] = {}
        hashed = hashlib.sha256(str(template).encode()).hexdigest()[:12]
        self.version = f"{self.model}@{self.revision}; template {hashed}; {self.limit} tokens; method {METHOD}"

    def render(self, messages: Sequence[Message], think: str | None, answer: str | None) -> Rendered | Unscorable:
        return self.render_all([(messages, think, answer)])[0]

    def render_all(
        self, dialogues: Sequence[tuple[Sequence[Message], str | None, str | None]]
    ) -> list[Rendered | Unscorable]:
        """One for each (messages of the question, thinking, answer)."""
        laid = [self._lay_out(*dialogue) for dialogue in dialogues]
        texts = [one.text for one in laid if isinstance(one, _Text)]
        encoded: Any = {"input_ids": [], "offset_mapping": []}
        if texts:
            encoded = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens = iter(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        return [one if isinstance(one, Unscorable) else self._assign(one, *next(tokens)) for one in laid]

    def _lay_out(self, messages: Sequence[Message], think: str | None, answer: str | None) -> _Text | Unscorable:
        think, answer = (think or "").strip(), (answer or "").strip()
        if not think and not answer:
            return Unscorable("empty_response")
        asked = [{"role": one["role"], "content": one["content"]} for one in messages]
        try:
            prompt = self._prompt(asked)
            frame = self._frame(tuple(one["role"] for one in asked))
        except Exception as fault:  # noqa: BLE001  a template is a program: it raises what it likes
            return Unscorable("template_refuses", detail=f"{type(fault).__name__}: {fault}"[:300])
        spans = _spans(prompt, frame, [one["content"] for one in asked])
        if spans is None:
            return Unscorable(
                "question_changed", detail=f"the chat template of {self.model} drops or changes a message"
            )
        text, parts = prompt, []
        opened = prompt.rstrip().endswith(THINK_OPEN)
        if think:
            response_from = len(text)
            text += "" if opened else f"{THINK_OPEN}\n"
            parts.append(("think", len(text), think))
            text += f"{think}\n{THINK_CLOSE}\n\n" if answer else think
        else:
            text += f"{THINK_CLOSE}\n\n" if opened else ""  # nobody's words: the template opened it
            response_from = len(text)
        if answer:
            parts.append(("answer", len(text), answer))
        return _Text(text + answer, spans, response_from, parts)

    def _prompt(self, messages: Sequence[Message]) -> str:
        return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    def _frame(self, roles: tuple[str, ...]) -> list[str]:
        """What the template writes before, between and after messages of these roles."""
        if roles not in self._frames:
            marks = [f"stillhouse-message-{place}-ends" for place in range(len(roles))]
            rest = self._prompt([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)])
            frame = []
            for mark in marks:
                before, found, rest = rest.partition(mark)
                if not found:
                    break
                frame.append(before)
            self._frames[roles] = [*frame, rest]
        return self._frames[roles]

    def _assign(self, laid: _Text, ids: list[int], offsets: list[tuple[int, int]]) -> Rendered | Unscorable:
        """Say of each token whose it is: a token belongs to where its last character lies."""
        places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        last = np.maximum.accumulate(places[:, 1] - 1) if len(ids) else places[:, 1]
        lost = _lost(laid.text, places, laid.response_from)
        if lost:
            return Unscorable(
                "tokens_lost", len(lost), 0, f"the tokenizer of {self.model} has no token for {lost[:40]!r}"
            )
        response_from = max(1, int(np.searchsorted(last, laid.response_from)))  # nothing predicts the first token
        if response_from >= self.limit:
            return Unscorable("question_too_long", response_from, self.limit - 1)
        kept = ids[: self.limit]
        question = np.concatenate([np.arange(*np.searchsorted(last, span)) for span in laid.messages])
        sentences = [
            Sentence(name, start, end, slice(*(min(int(place), len(kept)) for place in np.searchsorted(last, span))))
            for name, begin, text in laid.parts
            for start, end, span in _tiles(text, begin)
        ]
        return Rendered(
            kept,
            response_from,
            len(ids) - response_from,
            question[question > 0],
            [one for one in sentences if one.tokens.start < one.tokens.stop],
        )


def weights_source(model: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is given for a model of the recipe: a folder, or a hub name with its revision."""
    source = str(smollm2.model_path()) if model == smollm2.NAME else str(Path(model).expanduser())
    return source, {"revision": revision} if revision and not Path(source).is_dir() else {}


def _spans(prompt: str, frame: Sequence[str], contents: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where each message lies in the prompt; None if it isn't frame and messages, as they are or without blanks around
    them, and nothing else."""
    if len(frame) != len(contents) + 1:
        return None
    for shown in (list(contents), [content.strip() for content in contents]):
        at, spans = 0, []
        for before, content in zip(frame, shown, strict=False):
            spans.append((at + len(before), at + len(before) + len(content)))
            at = spans[-1][1]
        if prompt == "".join(part for pair in zip(frame, shown, strict=False) for part in pair) + frame[-1]:
            return spans
    return None


def _lost(text: str, places: np.ndarray, begin: int) -> str:
    """The characters from `begin` on that lie in no token, white space left out."""
    covered = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(covered, places[:, 0], 1)
    np.add.at(covered, places[:, 1], -1)
    bare = np.flatnonzero(np.cumsum(covered)[begin : len(text)] <= 0)
    return "".join("".join(text[begin + place] for place in bare.tolist()).split())


def _tiles(text: str, begin: int) -> list[tuple[int, int, tuple[int, int]]]:
    """Of each sentence its span in the text, and that up to the next sentence in the dialogue, where `text` begins at
    `begin`: a token of white space belongs to the sentence before it."""
    spans = sentence_spans(text)
    ends = [start for start, _ in spans[1:]] + [len(text)] if spans else []  # such as "...": no letter, no sentence
    return [(start, end, (begin + start, begin + until)) for (start, end), until in zip(spans, ends, strict=True)]
