"""Mends of arguments: exact, or refused."""

import pytest

from kimiya.taming.arguments import Read, Refused, read

MENDED = [
    ('{"a": 1}', {"a": 1}, ()),
    (' {"a": 1} ', {"a": 1}, ()),
    ("", {}, ("empty_arguments",)),
    ("null", {}, ("empty_arguments",)),
    ('{"a": "x\ny\tz"}', {"a": "x\ny\tz"}, ("raw_control_characters",)),
    (r'{"a": "1\_2 \d"}', {"a": r"1\_2 \d"}, ("bad_escape",)),
    (r'{"a": "C:\new\users\x"}', {"a": r"C:\new\users\x"}, ("bad_escape",)),
    (r'{"a": "\x1b[0m"}', {"a": r"\x1b[0m"}, ("bad_escape",)),
    (r'"{\"a\": 1}"', {"a": 1}, ("double_encoded",)),
    ('{"a": {"b": [1, 2]', {"a": {"b": [1, 2]}}, ("missing_brace",)),
    ('{"a": 12 ', {"a": 12}, ("missing_brace",)),
    ('{"a": "x"', {"a": "x"}, ("missing_brace",)),
    ('{"a": [1,],}', {"a": [1]}, ("trailing_comma",)),
    ('```json\n{"a": 1}\n```', {"a": 1}, ("fenced_arguments",)),
    ('```{"a": 1}```', {"a": 1}, ("fenced_arguments",)),
    ('{"a": 1}}', {"a": 1}, ("extra_brace",)),
    ('{"a": 1}{"a": 1}', {"a": 1}, ("repeated_arguments",)),
    ('{}{"a": 1}', {"a": 1}, ("empty_object_before",)),
    ('{"a": 1} as asked', {"a": 1}, ()),
]

REFUSED = [
    "{not json", '{"a": "x', '{"a":', '{"a"', '{"a": "b" "c"}', '{"a": "say "hi" now"}',
    '{"a": 1}{"a": 2}', "[1]", '"text"', "5", '{"a": tru', "{'a': 1}", '{"a": 1]',
    r'{"a": "it\'s"}', "x" * 10, '{"a": NaN}', "{" * 50, '{"a": [[[[[[1',
]  # fmt: skip


@pytest.mark.parametrize(("text", "value", "mends"), MENDED)
def test_mended(text: str, value: dict[str, object], mends: tuple[str, ...]) -> None:
    found = read(text, is_closed=True)
    assert isinstance(found, Read), found
    assert found.value == value
    assert found.mends == mends


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    assert isinstance(read(text, is_closed=True), Refused), text


def test_a_closing_the_model_did_not_ask_for_is_marked() -> None:
    found = read('{"a": {"b": 1}', is_closed=False)
    assert isinstance(found, Read)
    assert found.is_completed


@pytest.mark.parametrize("text", ['{"a": 12', '{"a": {"b": "c"', '{"a": [1'])
def test_what_may_go_on_is_not_closed_for_the_model(text: str) -> None:
    assert isinstance(read(text, is_closed=False), Refused)


def test_numbers_keep_their_spelling() -> None:
    found = read('{"a": 1.10, "b": 12345678901234567890123,}', is_closed=True)
    assert isinstance(found, Read)
    assert "1.10" in found.text
    assert "12345678901234567890123" in found.text


def test_deep_nesting_is_refused_not_raised() -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    assert isinstance(read(deep, is_closed=True), Refused)
