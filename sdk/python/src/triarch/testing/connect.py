"""Redirection of an app to another cluster, for a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from triarch._http.policy import MasterList, parse_masters
from triarch.app import Triarch


@contextlib.contextmanager
def connected(app: Triarch, masters: str | Iterable[str]) -> Iterator[Triarch]:
    """Makes the app and its workers use the cluster of these masters within the block."""
    before = app.transport.masters
    app.transport.masters = app.atransport.masters = MasterList(parse_masters(masters))
    try:
        yield app
    finally:
        app.transport.masters = app.atransport.masters = before
