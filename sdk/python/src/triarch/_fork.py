"""What a child does after a fork: locks, threads and connections of the parent are the parent's, its own begin anew."""

from __future__ import annotations

import os

from . import _submit, _transport, _watch

__all__: list[str] = []


def _after_fork() -> None:
    _transport.after_fork()
    _submit.after_fork()
    _watch.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
