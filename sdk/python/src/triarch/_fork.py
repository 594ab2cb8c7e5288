"""Fork guard: a forked child replaces locks, threads and connections of its parent with its own."""

from __future__ import annotations

import os

from . import _completion_watcher, _submit, _transport

__all__: list[str] = []


def _after_fork() -> None:
    _transport.after_fork()
    _submit.after_fork()
    _completion_watcher.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
