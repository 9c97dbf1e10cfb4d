"""What `kimiya` exports: complete, sorted, and loading nothing heavy."""

import subprocess
import sys

import pytest

import kimiya

HEAVY = {"torch", "xllamacpp", "botocore", "aiohttp", "uvicorn", "strands", "asyncpg", "rich"}


def test_every_public_name_is_there_and_sorted() -> None:
    assert kimiya.__all__ == sorted(kimiya.__all__)
    for name in kimiya.__all__:
        assert getattr(kimiya, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = kimiya.nonsense


def test_importing_it_and_taming_loads_nothing_heavy() -> None:
    code = (
        "import sys, kimiya, kimiya.taming, kimiya.wire.dialects;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
