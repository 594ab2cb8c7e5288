"""Has an app that was made for one cluster use another, for a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from triarch._policy import Masters, parse_masters

if TYPE_CHECKING:
    from triarch import Triarch


@contextlib.contextmanager
def connected(app: Triarch, masters: str | Iterable[str]) -> Iterator[Triarch]:
    """While the block runs, the app is one of these masters' cluster: what it submits goes there, workers of it work there."""
    before = app.transport.masters
    app.transport.masters = app.atransport.masters = Masters(parse_masters(masters))
    try:
        yield app
    finally:
        app.transport.masters = app.atransport.masters = before
