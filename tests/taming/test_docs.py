"""The page on taming runs."""

import doctest
from pathlib import Path


def test_the_page_on_taming_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "taming.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 5
    assert failed == 0
