"""Runs everything that the pages about Python show, against one real cluster with real workers."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import pages
from triarch.testing import find_binary

PACKAGE = Path(__file__).parents[1]
DOCS = PACKAGE.parents[1] / "docs"
PAGES = [PACKAGE / "README.md", *sorted((DOCS / "python").glob("*.md"))]
# The package may be tested without the rest of the repository.
pytestmark = pytest.mark.skipif(not (DOCS / "python").is_dir(), reason="the pages are not there")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a reader who has followed the tutorial: a cluster runs."""
    directory = tmp_path_factory.mktemp("reader")
    scripts = directory / "bin"
    said = [block for block in pages.blocks(DOCS / "python" / "tutorial.md") if "cluster" in block.words]
    assert len(said) == 1, "the tutorial starts a cluster once"
    binary = find_binary()
    program, *words = shlex.split(said[0].text)
    assert program == "triarch"
    command = [str(binary), *words, "--port", str(_three_free_ports()), "--output", "json"]
    with pages.dev_cluster(command, directory / "dev.log") as masters:
        yield pages.environment(masters, binary, scripts)


def _three_free_ports() -> int:
    """Returns a base with three free ports above it, below the range of outgoing connections."""
    for base in range(21_000, 32_000, 10):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            try:
                for offset, each in enumerate((one, two, three), 1):
                    each.bind(("127.0.0.1", base + offset))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, reader: dict[str, str], tmp_path: Path) -> None:
    """Writes the files of the page, runs its commands and code, and compares their output."""
    with pages.Visit(tmp_path / page.stem, reader) as visit:
        for block in pages.blocks(page):
            visit.do(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link leads to an existing file, and every anchor to a heading."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{page.name} links to {target}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_output_is_compared() -> None:
    """The placeholder ``…`` matches anything, and nothing else does."""
    assert pages.matches("a … c\n", "a b c\n")
    assert pages.matches("a\n…\nd\n", "a\nb\nc\nd\n")
    assert pages.matches("a\n…\nd", "a\nd")
    assert not pages.matches("a\n", "a\nb\n")
    assert not pages.matches("3\n", "4\n")
    assert not pages.matches("a … c\n", "a b d\n")


@pytest.mark.parametrize(
    "text",
    [
        "```\nx\n```\n",
        "```ruby\nx\n```\n",
        "```sh backgroud\nx\n```\n",
        "```sh console-only=because\nx\n```\n",
        "```python\nx\n",
    ],
)
def test_a_block_says_what_it_is(text: str, tmp_path: Path) -> None:
    """A block with a misspelt label is refused, so that it cannot be skipped by mistake."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(pages.PageError, match=r"page\.md:1"):
        pages.blocks(page)
