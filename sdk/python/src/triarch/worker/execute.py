"""Runs one call as it travelled, and writes what came of it as it travels: the same in every pool, and in eager mode."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from triarch.app import Triarch
from triarch.errors import GiveUp, PayloadTooLarge, SerializationError, SoftTimeout
from triarch.options import milliseconds
from triarch.serialize import Codec, codec, decode_call, encode_error, encode_result
from triarch.worker.attempt import Outcome, failure

_RUNTIME = os.path.dirname(os.path.abspath(__file__)) + os.sep


@dataclass(slots=True)
class Function:
    """What an app has registered under a name."""

    call: Callable[..., Any]
    is_async: bool
    codec: Codec
    soft_timeout_s: float | None = None
    give_up_on: tuple[type[BaseException], ...] = ()


@dataclass(slots=True)
class Call:
    """A call that is ready to be made."""

    function: Function
    args: list[Any]
    kwargs: dict[str, Any]


class Runner:
    """Knows the functions of an app, and which codecs are accepted."""

    def __init__(self, app: Triarch, accept: Collection[str] | None = None) -> None:
        self._app = app
        self._accept = frozenset(accept if accept is not None else app.accept)
        for name in self._accept:
            codec(name)  # says so now if its package is missing
        self._functions: dict[str, Function] = {}

    @property
    def kinds(self) -> list[str]:
        """The names of all that can be run."""
        return self._app.kinds(self._accept)

    def function(self, kind: str) -> Function | None:
        """What is registered under this name."""
        found = self._functions.get(kind)
        if found is None and kind in self._app.kinds(self._accept):
            task = self._app.tasks[kind]
            soft_s = None if task.soft_timeout is None else milliseconds(task.soft_timeout, "soft_timeout") / 1000
            found = Function(task.fn, task.is_async, task.codec, soft_s, task.give_up_on)
            self._functions[kind] = found
        return found

    def prepare(self, kind: str, payload: Any, inputs: dict[str, Any]) -> Call | Outcome:
        """The call that a payload stands for; or how its attempt has ended already."""
        function = self.function(kind)
        if function is None:
            return failure("unknown_kind", f"this worker's app has no task named {kind!r}")
        try:
            args, kwargs = decode_call(payload, self._accept, inputs)
        except SerializationError as error:
            return Outcome(False, json.dumps(encode_error(error, skip=_is_runtime)).encode(), retryable=False)
        written_by = payload.get("codec") if isinstance(payload, dict) else None
        if isinstance(written_by, str) and written_by != function.codec.name:
            # Who has written the call so can read an answer in the same way.
            function = replace(function, codec=codec(written_by))
        return Call(function, args, kwargs)

    def succeeded(self, function: Function, value: Any) -> Outcome:
        """A function has returned this."""
        try:
            return Outcome(True, encode_result(function.codec, value))
        except (SerializationError, PayloadTooLarge) as error:
            return Outcome(False, json.dumps(encode_error(error, skip=_is_runtime)).encode(), retryable=False)
        except Exception as error:
            return self.failed(function, error)

    def failed(self, function: Function, error: BaseException) -> Outcome:
        """A function has raised this."""
        told = error
        retryable = not isinstance(error, (GiveUp, *function.give_up_on))
        if isinstance(error, SoftTimeout):
            # By custom with the kind of failure as its type, as when its worker has to end an attempt.
            document = encode_error(error, skip=_is_runtime)
            document["type"] = "timeout"
            return Outcome(False, json.dumps(document).encode(), retryable)
        if isinstance(error, GiveUp) and error.__cause__ is not None and not error.args:
            told = error.__cause__
        try:
            document = encode_error(told, function.codec, skip=_is_runtime)
            return Outcome(False, json.dumps(document).encode(), retryable)
        except Exception as broken:
            return failure(type(error).__name__, f"(the exception cannot be told: {broken!r})", retryable=retryable)


def _is_runtime(filename: str) -> bool:
    return filename.startswith(_RUNTIME)
