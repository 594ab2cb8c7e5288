"""Tasks of the word count: count the words of a file, and add counts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from triarch import Triarch

app = Triarch(queue="wordcount")

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


@app.task(timeout=60)
def count(paths: list[str]) -> dict[str, int]:
    """Counts the words of some files."""
    counts: Counter[str] = Counter()
    for path in paths:
        text = Path(path).read_text(errors="replace")
        counts.update(word.lower() for word in _WORD.findall(text))
    return dict(counts)


@app.task(timeout=60)
def merge(parts: list[dict[str, int]]) -> dict[str, int]:
    """Adds several counts."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


@app.task
def most(counts: dict[str, int], number: int) -> list[tuple[str, int]]:
    """Returns the most frequent words."""
    return Counter(counts).most_common(number)
