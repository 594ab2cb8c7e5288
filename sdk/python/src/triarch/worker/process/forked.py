"""Forked children of tasks: copies of a worker's process that must not act for it."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import NoReturn


def end_forked(error: BaseException | None = None) -> NoReturn:
    """Ends a forked child whose copy of the task has returned, or has raised, as a program would end."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    elif error is not None:
        code = 1
        with contextlib.suppress(Exception):
            traceback.print_exception(type(error), error, error.__traceback__)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF)
