"""However people write a host's address, its endpoints are found."""

import pytest

from kimiya.errors import ConfigError
from kimiya.providers.endpoints import BaseAddress

CHAT, MESSAGES, MODELS = "/chat/completions", "/v1/messages", "/v1/models"

JOINS = [
    ("https://h/v1", CHAT, "https://h/v1/chat/completions"),
    ("https://h/v1/", "/v1/chat/completions", "https://h/v1/chat/completions"),
    ("https://h", CHAT, "https://h/v1/chat/completions"),
    ("https://h/", "/v1/chat/completions", "https://h/v1/chat/completions"),
    ("https://h:8000", "/responses", "https://h:8000/v1/responses"),
    ("https://h/api/paas/v4", CHAT, "https://h/api/paas/v4/chat/completions"),
    ("https://h/api/v1beta2", CHAT, "https://h/api/v1beta2/chat/completions"),
    ("https://h/openai", CHAT, "https://h/openai/chat/completions"),
    ("https://h/v1/chat/completions", CHAT, "https://h/v1/chat/completions"),
    ("https://h/v1/chat/completions", MODELS, "https://h/v1/models"),
    ("https://h/chat/completions", CHAT, "https://h/chat/completions"),
    ("https://h/d?api-version=3", CHAT, "https://h/d/chat/completions?api-version=3"),
    ("https://h/v1?a=b", "/v1/models?limit=9", "https://h/v1/models?limit=9&a=b"),
    ("https://h", MESSAGES, "https://h/v1/messages"),
    ("https://h/v1", MESSAGES, "https://h/v1/messages"),
    ("https://h/anthropic", MESSAGES, "https://h/anthropic/v1/messages"),
    ("https://h/anthropic/v1/messages", MESSAGES, "https://h/anthropic/v1/messages"),
    ("https://h/anthropic", "/v1/messages/count_tokens", "https://h/anthropic/v1/messages/count_tokens"),
    ("https://h", "/model/a%3Ab%2Fc/converse", "https://h/model/a%3Ab%2Fc/converse"),
    ("http://[::1]:8000", CHAT, "http://[::1]:8000/v1/chat/completions"),
    (" https://h/v1\n", CHAT, "https://h/v1/chat/completions"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "path", "expected"), JOINS)
def test_joins(base: str, path: str, expected: str) -> None:
    assert BaseAddress(base).join(path) == expected


@pytest.mark.parametrize(
    "base",
    [
        "",
        "h/v1",
        "api.example.com",
        "ftp://h",
        "https://",
        "https://h:port",
        "https://[::1",
        "https://a b/v1",
    ],
)
def test_an_address_that_is_none(base: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        BaseAddress(base)


def test_credentials_in_an_address_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="api_key") as caught:
        BaseAddress("https://me:hunter2@h/v1")
    assert "hunter2" not in str(caught.value)
