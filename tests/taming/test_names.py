"""Headers and the declared names they mean."""

import pytest

from kimiya.taming.names import Names, is_opaque

NAMES = Names(("read", "write_file", "mcp__x__find.all", "list-dir", "exec2", "exec"))

MEANT = [
    ("read", ("read",)),
    (" read ", ("read",)),
    ("functions.read:0", ("read",)),
    ("functions.read", ("read",)),
    ("functions_read_3", ("read",)),
    ("functions:read", ("read",)),
    ("functions read", ("read",)),
    ("tools/read", ("read",)),
    ("functionsread7", ("read",)),
    ("FUNCTIONS.WriteFile:12", ("write_file",)),
    ("functions-write-file-3-8fk2z", ("write_file",)),
    ("functions.mcp__x__find.all:4", ("mcp__x__find.all",)),
    ("functions.list-dir:1", ("list-dir",)),
    ("read<|tooluse_end|><|ASSISTANT|>", ("read",)),
    ("<|reasoning|>read", ("read",)),
    ("browser.read:1", ("read",)),
    ("kimi-tc-1-read", ("read",)),
    ("functions.exec2:0", ("exec2",)),
    ("read_v2", ()),
    ("read2", ()),
    ("reader", ()),
    ("functions.delete:0", ()),
    ("functions.read():0", ("read",)),
    ("read<|x|>write_file", ()),
    ("deploy", ()),
]


@pytest.mark.parametrize(("header", "names"), MEANT)
def test_resolved(header: str, names: tuple[str, ...]) -> None:
    found = NAMES.resolve(header)
    assert found.names == names
    assert not found.is_opaque


@pytest.mark.parametrize(
    "header",
    ["", "7", "call_1jDJHGWJY6IznXA", "tooluse_a1", "chatcmpl-tool-abc", "kc7", "weird@id",
     "0b3d1c2e-4f5a-6b7c-8d9e-0f1a2b3c4d5e", "functions.call_9x:0"],
)  # fmt: skip
def test_opaque(header: str) -> None:
    found = NAMES.resolve(header)
    assert found.is_opaque
    assert found.names == ()


def test_two_spellings_of_one_name_stay_ambiguous() -> None:
    names = Names(("write_file", "writeFile"))
    assert set(names.resolve("functions.Write-File:0").names) == {"write_file", "writeFile"}
    assert names.resolve("writeFile").names == ("writeFile",)


def test_a_word_is_never_opaque() -> None:
    assert not any(is_opaque(word) for word in ("search", "get_user_2", "mcp__a__b", "toString"))
