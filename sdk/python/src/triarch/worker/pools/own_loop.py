"""Run of one coroutine on the event loop of a thread, which it shares with what earlier coroutines have left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

#: Interruptions of one coroutine by what is not its own.
_INTERRUPTIONS_MAX = 100


def task_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Returns a task of the loop, whatever task factory other code has installed."""
    return asyncio.Task(coroutine, loop=loop)


def run_on(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Any:
    """Returns the result of the task, or raises its exception.

    `loop.stop()` does not end it, and neither does `sys.exit()` in another task of the loop.
    """
    for _ in range(_INTERRUPTIONS_MAX):
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt, RuntimeError):
            if loop.is_closed() and not task.done():
                raise
        except BaseException:
            if not task.done():
                raise
        if task.done():
            return task.result()
    raise RuntimeError("the event loop was stopped again and again")
