"""Progress bars by tqdm or rich, if either is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["bar"]


@contextlib.contextmanager
def bar(total: int, *, shown: bool = True, title: str = "tasks") -> Iterator[Callable[[int], None]]:
    """Shows a bar over ``total`` steps. Yields the function that advances it. Without tqdm and rich it shows nothing."""
    if shown:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            with tqdm(total=total, desc=title, unit="task") as shown_bar:
                yield lambda steps: (shown_bar.update(steps), None)[1]
            return
        try:
            from rich.progress import Progress
        except ImportError:
            pass
        else:
            with Progress() as progress:
                line = progress.add_task(title, total=total)
                yield lambda steps: progress.advance(line, steps)
            return
    yield lambda steps: None
