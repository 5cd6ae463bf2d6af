"""Proves where an endpoint's key comes from, and that a missing one is told before anything is asked."""

from __future__ import annotations

import pytest
from prefect.blocks.system import Secret
from prefect.testing.utilities import prefect_test_harness
from pydantic import ValidationError

from tasks.errors import BadSetting
from tasks.teachers.api_key import api_key
from tasks.teachers.settings import OpenAITeacherSettings


def teacher(**more):
    return OpenAITeacherSettings(**{"name": "t", "engine": "openai", "model": "m", "base_url": "http://a/v1"} | more)


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-1")
    assert api_key(teacher(api_key_env="A_KEY")) == "sk-1" and api_key(teacher()) is None
    monkeypatch.delenv("A_KEY")
    with pytest.raises(BadSetting, match="the environment variable A_KEY is empty; set it"):
        api_key(teacher(api_key_env="A_KEY"))


def test_a_key_from_a_secret_block() -> None:
    with prefect_test_harness(server_startup_timeout=90):
        Secret(value="sk-2").save("a-key")
        assert api_key(teacher(api_key_secret="a-key")) == "sk-2"
        with pytest.raises(BadSetting, match="Prefect has no Secret block another-key"):
            api_key(teacher(api_key_secret="another-key"))


def test_two_places_for_one_key_are_refused() -> None:
    with pytest.raises(ValidationError, match="name one of them"):
        teacher(api_key_env="A", api_key_secret="b")


def test_endpoints_with_and_without_weights() -> None:
    found = teacher(base_url=["http://a/v1", {"url": "http://b/v1", "weight": 2}]).endpoints()
    assert [(one.url, one.weight) for one in found] == [("http://a/v1", 1.0), ("http://b/v1", 2.0)]
    with pytest.raises(ValidationError, match="base_url is empty"):
        teacher(base_url=[])
