"""An endpoint's key: from the environment or a Prefect Secret block, read when the teacher is opened, kept nowhere."""

from __future__ import annotations

import os
from typing import Any

from tasks.errors import BadSetting
from tasks.teachers.settings import OpenAITeacherSettings


def api_key(teacher: OpenAITeacherSettings) -> str | None:
    """The bearer token that a teacher's settings name; None if they name none. Raises BadSetting if it isn't there."""
    if teacher.api_key_secret is not None:
        return _secret_block(teacher.name, teacher.api_key_secret)
    return key_from_environment(f"teacher {teacher.name}", teacher.api_key_env)


def key_from_environment(whose: str, variable: str | None) -> str | None:
    """The key in the environment variable that the recipe names, if it names one. Raises BadSetting where it is empty,
    with `whose` in front."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise BadSetting(f"{whose}: the environment variable {variable} is empty; set it")
    return key


def _secret_block(teacher: str, name: str) -> str:
    from prefect.blocks.system import Secret  # only those who keep a key there need Prefect's API

    try:
        block: Any = Secret.load(name, _sync=True)  # type: ignore[call-arg]
    except ValueError as fault:
        raise BadSetting(f"teacher {teacher}: Prefect has no Secret block {name}; make one in the UI under Blocks, or "
                         "name an environment variable with api_key_env") from fault  # fmt: skip
    key = block.get()
    if not isinstance(key, str) or not key:
        raise BadSetting(f"teacher {teacher}: the Secret block {name} holds {type(key).__name__}, expected a text")
    return key
