"""Errors: facts on every class, secrets in no message."""

import inspect

import pytest

from kimiya import errors
from kimiya.errors import ConfigError, KimiyaError, redact

_CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, KimiyaError)
]


@pytest.mark.parametrize("kind", _CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_says_its_two_facts(kind: type[KimiyaError]) -> None:
    assert isinstance(kind.retryable, bool)
    assert 400 <= kind.status_hint < 600


@pytest.mark.parametrize("kind", _CLASSES, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_is_complete(kind: type[KimiyaError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer 0123456789abcdef",
        "key sk-abcdefgh12345678 is wrong",
        "kmy-12345678-abcdefghijklmnop",
        "credential AKIAABCDEFGHIJKLMNOP",
        'api_key="0123456789abcdef"',
        "x-api-key: 0123456789abcdef",
        "Signature=" + "a" * 64,
    ],
)
def test_secrets_never_survive(text: str) -> None:
    shown = KimiyaError(text).message
    assert "[redacted]" in shown
    assert "0123456789abcdef" not in shown
    assert "abcdefgh" not in shown.lower()
    assert "a" * 32 not in shown


@pytest.mark.parametrize(
    "text", ["the task-list of desk-1", "Bearer of bad news", "api keys are not in files", "key: x"]
)
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert redact(text) == text


def test_a_config_error_names_file_line_key_and_remedy() -> None:
    error = ConfigError(
        "no such key", file="kimiya.toml", line=3, key="gateway.prot", remedy="did you mean port?"
    )
    assert error.message == "kimiya.toml:3: gateway.prot: no such key. did you mean port?"
