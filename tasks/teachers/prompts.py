"""How a question is put to a teacher: templates by category, chain-of-thought prompts, examples, several templates.

A prompt is part of the request: other words are another request, with a response of its own. A model that rewrites the
question itself is in tasks/rewrite.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo, field_validator, model_validator

from tasks.settings import Settings

CHAIN_OF_THOUGHT: dict[str, str] = {
    "math_boxed": "{question}\n\nReason step by step, and put your final answer within \\boxed{}.",
    "science_boxed": "{question}\n\nReason step by step from the laws and definitions that apply, and carry the units. "
                     "Put your final answer, with its unit, within \\boxed{}.",
    "choice_letter": "{question}\n\nReason step by step about each choice. End with one line that says "
                     "\"Answer: X\", where X is the letter of your choice.",
    "code_program": "{question}\n\nFirst reason step by step about the algorithm, its cost and its special cases. "
                    "Then give one complete program that reads standard input and writes standard output, in one code "
                    "block.",
    "code_function": "{question}\n\nFirst reason step by step about the algorithm, its cost and its special cases. "
                     "Then give the complete function, with its imports, in one code block.",
    "step_by_step": "{question}\n\nLet's think step by step.",
}  # fmt: skip
"""Ready-made user templates by name; the last is that of Kojima et al. 2022 (arXiv 2205.11916)."""
SLOT = re.compile(r"\{(question|answer)\}")


class Example(Settings):
    """A question with the answer that the teacher is to imitate."""

    question: str
    answer: str


class Prompt(Settings):
    """How a question is put to the teacher: `{question}` stands for the user's message."""

    name: str | None = None
    """Kept with each response, as `prompt` in `sampling`; several prompts of a category need one each."""
    system: str | None = None
    user: str = "{question}"
    examples: tuple[Example, ...] = ()
    """Put before the question; or a JSONL file of {question, answer}, relative to the recipe. An example that is the
    question itself is left out."""
    examples_as: Literal["turns", "text"] = "turns"
    """turns: messages of user and assistant. text: all in one message, by `shot`, for a base model to go on from."""
    shot: str = "Question: {question}\nAnswer: {answer}"
    """Of `text`: one example; the question itself comes last, without its answer. Stop at the next one:
    `sampling.stop: ["\\nQuestion:"]`."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """A text names a ready-made template."""
        if not isinstance(value, str):
            return value
        if value not in CHAIN_OF_THOUGHT:
            raise ValueError(f"no ready-made prompt {value!r}; there are {', '.join(CHAIN_OF_THOUGHT)}")
        return {"name": value, "user": CHAIN_OF_THOUGHT[value]}

    @field_validator("examples", mode="before")
    @classmethod
    def _from_file(cls, value: Any, info: ValidationInfo) -> Any:
        return _read_examples((info.context or {}).get("base", Path()) / value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _holds_question(self) -> Prompt:
        if "{question}" not in self.user:
            raise ValueError("the user template must hold {question}")
        if "{question}" not in self.shot or not self.shot.endswith("{answer}"):
            raise ValueError("shot must hold {question} and end with {answer}")
        return self


def _read_examples(path: Path) -> list[Any]:
    """The examples of a JSONL file; ValueError, which names it, if it can't be read."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as fault:
        raise ValueError(f"{path} can't be read as JSONL of question and answer: {fault}") from fault


def _as_several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Prompts = Annotated[tuple[Prompt, ...], BeforeValidator(_as_several)]
"""One prompt or several; of several, sample i of a question has number i modulo their count."""


def check_prompts(prompts: dict[str, tuple[Prompt, ...]], categories: Sequence[str]) -> None:
    """ValueError for a category that there isn't, and for several prompts that can't be told apart."""
    for category, several in prompts.items():
        names = [prompt.name for prompt in several]
        if category not in categories:
            raise ValueError(f"prompts: no category {category}; there are {', '.join(categories)}")
        if not names:
            raise ValueError(f"prompts.{category}: no prompt in the list; leave the category out for the bare question")
        if len(names) > 1 and (None in names or len(set(names)) < len(names)):
            raise ValueError(f"prompts.{category}: several prompts need a `name` each, all different, to be told apart")


def render(messages: Sequence[dict[str, str]], prompt: Prompt) -> tuple[dict[str, str], ...]:
    """The messages as sent: system message, examples, earlier turns, the template around the last user message."""
    *earlier, last = messages
    turns = [dict(message) for message in earlier]
    if prompt.system is not None:
        turns = [message for message in turns if message["role"] != "system"]
        turns.insert(0, {"role": "system", "content": prompt.system})
    begin = next((place for place, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    for one in prompt.examples:
        if one.question.strip() != last["content"].strip():
            turns[begin:begin] = [
                {"role": "user", "content": _fill(prompt.user, question=one.question)},
                {"role": "assistant", "content": one.answer},
            ]
            begin += 2
    asked = _fill(prompt.user, question=last["content"])
    if prompt.examples_as == "text":
        return ({"role": "user", "content": "\n\n".join(_text(turns, asked, prompt))},)
    return (*turns, {"role": "user", "content": asked})


def _text(turns: Sequence[dict[str, str]], question: str, prompt: Prompt) -> Iterator[str]:
    """The blocks of a prompt for a base model; earlier turns are shots, too."""
    asked: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            yield turn["content"]
        elif turn["role"] == "assistant":
            yield _fill(prompt.shot, question="\n".join(asked), answer=turn["content"])
            asked = []
        else:
            asked.append(turn["content"])
    whole = "\n".join([*asked, question])
    yield _fill(prompt.shot.removesuffix("{answer}").rstrip(), question=whole)


def _fill(template: str, **values: str) -> str:
    """In one pass, so that a question that holds `{answer}` stays as it is."""
    return SLOT.sub(lambda slot: values.get(slot[1], slot[0]), template)
