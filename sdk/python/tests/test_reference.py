"""The list of names in the docs agrees with the code."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import api
import triarch

NAMES = Path(__file__).parents[3] / "docs" / "python" / "names.md"
# The package may be tested without the rest of the repository.
pytestmark = pytest.mark.skipif(not NAMES.is_file(), reason="the list is not there")


def test_the_list_is_what_there_is() -> None:
    """The list on the page is that of the code. `UPDATE=1` writes it again."""
    text = NAMES.read_text()
    before, begin, rest = text.partition(api.BEGIN)
    listed, end, after = rest.partition(api.END)
    assert begin, "the page has no place for the list"
    assert end, "the list has no end"
    expected = f"\n\n{api.names()}\n"
    if os.environ.get("UPDATE"):
        NAMES.write_text(before + begin + expected + end + after)
        return
    assert listed == expected, "run UPDATE=1 pytest tests/test_reference.py, and read the difference"


def test_every_public_name_is_explained() -> None:
    """Every public name is in the list, with a description."""
    listed = NAMES.read_text().partition(api.BEGIN)[2]
    for name in triarch.__all__:
        if name != "__version__":
            assert re.search(rf"`{name}\b[^`]*`(\*\*:| \|) \S", listed), f"{name} is not in {NAMES.name}"
    assert not re.search(r"^\| `[^`]*` \|  \|$|^\*\*`[^`]*`\*\*: $", listed, flags=re.MULTILINE), "something has no words"
