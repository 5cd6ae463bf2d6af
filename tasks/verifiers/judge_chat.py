"""A model asked for a JSON object by chat completion: structured output where the server has it, else by the prompt.

What is not covered: what is asked and what the object means; that is `judge` and `judge_pair`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tasks.verifiers.judge_endpoint import EndpointFault, Session

MAX_REPLY_TOKENS = 2048
OBJECTS_TRIED = 50

Read = TypeVar("Read")


class Chat:
    """One system prompt for many user messages; `schema` is the JSON schema of a reply and `name` its name."""

    def __init__(self, model: str, system_prompt: str, name: str, schema: dict[str, object]) -> None:
        self._model, self._system_prompt = model, system_prompt
        self._form = {
            "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
        }
        self._structured = True  # until the server turns out not to take a JSON schema

    async def ask(self, session: Session, text: str, read: Callable[[str], Read]) -> Read:
        """What `read` makes of the reply. Raises `EndpointFault` after all attempts."""
        path = "/v1/chat/completions"
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "system", "content": self._system_prompt}, {"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": MAX_REPLY_TOKENS,
        }
        if not self._structured:
            return await session.post(path, body, read)
        try:
            return await session.post(path, body | self._form, read)
        except EndpointFault as fault:
            if fault.status not in (400, 422):
                raise
        opinion = await session.post(path, body, read)
        self._structured = False  # it was the schema, not this one request, that the server refused
        return opinion


def marked(parts: Mapping[str, str], order: Sequence[str] = ()) -> str:
    """A user message of named texts, in `order` or as they come. The marks carry a hash of the material, so that a text
    can't close its own part."""
    mark = hashlib.sha256("\0".join(parts.values()).encode(errors="replace")).hexdigest()[:8]
    return "\n".join(f"[[{name} {mark}]]\n{parts[name]}\n[[/{name} {mark}]]" for name in order or parts)


def read_completion(payload: str) -> str:
    """The text of a chat completion, without what the model thought before. Raises `EndpointFault`."""
    try:
        message = json.loads(payload)["choices"][0]["message"]
        content = message.get("content")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise EndpointFault(f"not a chat completion: {payload[:200]}", again=True) from None
    if not isinstance(content, str):
        raise EndpointFault("the judge's reply is empty", again=True)
    return content.rpartition("</think>")[2]


def last_object(text: str, key: str) -> dict[str, Any]:
    """The last JSON object in the text that has this key, else an empty one."""
    decoder = json.JSONDecoder()
    for match in reversed(list(re.finditer(r"\{", text))[-OBJECTS_TRIED:]):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and key in value:
            return value
    return {}
