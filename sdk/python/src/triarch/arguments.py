"""Check of a call's arguments against the signature of its function, before the call is submitted or run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import ArgumentsError

__all__ = ["ArgumentCheck"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class ArgumentCheck:
    """Signature of a function, as its callers see it. A decorator that takes any arguments lets all of them pass."""

    __slots__ = ("_max", "_min", "_signature")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._signature: inspect.Signature | None = None
        # Calls with this number of arguments by position, and none by name, are right in any case.
        self._min, self._max = 1, 0
        try:
            # Not that of a wrapped function: its decorator may add arguments.
            self._signature = inspect.signature(fn, follow_wrapped=False)
        except (TypeError, ValueError):
            return
        parameters = list(self._signature.parameters.values())
        positional = [one for one in parameters if one.kind in _POSITIONAL]
        if any(one.kind is one.KEYWORD_ONLY and one.default is one.empty for one in parameters):
            return
        self._min = sum(one.default is one.empty for one in positional)
        self._max = 1 << 30 if any(one.kind is one.VAR_POSITIONAL for one in parameters) else len(positional)

    def check(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises ArgumentsError if the function cannot be called with these arguments."""
        if self._signature is None or (not kwargs and self._min <= len(args) <= self._max):
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            names = ", ".join(self._signature.parameters) or "none"
            raise ArgumentsError(f"{name}: {error}; its arguments are: {names}") from None
