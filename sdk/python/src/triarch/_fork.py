"""Fork guard: a forked child replaces locks, threads and connections of its parent with its own."""

from __future__ import annotations

import os

from ._http import transport
from ._jobs import completion_watcher, submit

__all__: list[str] = []


def _after_fork() -> None:
    transport.after_fork()
    submit.after_fork()
    completion_watcher.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
