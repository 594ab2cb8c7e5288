"""Task execution: decodes a call, and encodes its result or exception. The same in every pool and in eager mode."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from triarch._values.value_codecs import TYPED_JSON
from triarch.app import Triarch
from triarch.arguments import ArgumentCheck
from triarch.errors import ArgumentsError, GiveUp, PayloadTooLarge, Retry, SerializationError, SoftTimeout
from triarch.options import milliseconds
from triarch.serialize import Codec, codec, decode_call, encode_error, encode_result
from triarch.worker.attempt import AttemptOutcome, failure

_RUNTIME = os.path.dirname(os.path.abspath(__file__)) + os.sep


@dataclass(slots=True)
class Function:
    """Function that an app has registered under a name."""

    call: Callable[..., Any]
    is_async: bool
    codec: Codec
    arguments: ArgumentCheck
    soft_timeout_s: float | None = None
    give_up_on: tuple[type[BaseException], ...] = ()


@dataclass(slots=True)
class PreparedCall:
    """Call with its arguments decoded."""

    function: Function
    args: list[Any]
    kwargs: dict[str, Any]


class Runner:
    """Registry of an app's functions, with the accepted codecs."""

    def __init__(self, app: Triarch, accept: Collection[str] | None = None) -> None:
        self._app = app
        self._accept = frozenset(accept if accept is not None else app.accept)
        for name in self._accept:
            codec(name)  # raises now if its package is missing
        self._functions: dict[str, Function] = {}

    @property
    def kinds(self) -> list[str]:
        """Names of the functions that can be run."""
        return self._app.kinds(self._accept)

    def function(self, kind: str) -> Function | None:
        """Returns the function of this name."""
        found = self._functions.get(kind)
        if found is None and kind in self._app.kinds(self._accept):
            task = self._app.tasks[kind]
            soft_s = None if task.soft_timeout is None else milliseconds(task.soft_timeout, "soft_timeout") / 1000
            found = Function(task.fn, task.is_async, task.codec, task.arguments, soft_s, task.give_up_on)
            self._functions[kind] = found
        return found

    def prepare(self, kind: str, payload: Any, inputs: dict[str, Any]) -> PreparedCall | AttemptOutcome:
        """Decodes the call of a payload. Returns the outcome instead if that fails, whatever the payload contains."""
        try:
            return self._prepare(kind, payload, inputs)
        except (SerializationError, ArgumentsError) as error:
            return AttemptOutcome(False, _encoded(error), retryable=False)
        except BaseException as error:
            # A pickle may run anything.
            return AttemptOutcome(False, _encoded(error))

    def _prepare(self, kind: str, payload: Any, inputs: dict[str, Any]) -> PreparedCall | AttemptOutcome:
        function = self.function(kind)
        if function is None:
            return failure("unknown_kind", f"this worker's app has no task named {kind!r}; start a worker whose app has it")
        args, kwargs = decode_call(payload, self._accept, inputs)
        function.arguments.check(kind, args, kwargs)
        written_by = payload.get("codec") if isinstance(payload, dict) else None
        written_by = "json" if written_by == TYPED_JSON else written_by
        if isinstance(written_by, str) and written_by != function.codec.name:
            # A client that writes this codec can read a result in it.
            function = replace(function, codec=codec(written_by))
        return PreparedCall(function, args, kwargs)

    def succeeded(self, function: Function, value: Any) -> AttemptOutcome:
        """Returns the outcome of a function that has returned."""
        try:
            return AttemptOutcome(True, encode_result(function.codec, value))
        except (SerializationError, PayloadTooLarge) as error:
            return AttemptOutcome(False, _encoded(error), retryable=False)
        except BaseException as error:
            # Methods of the result may raise anything.
            return self.failed(function, error)

    def failed(self, function: Function, error: BaseException) -> AttemptOutcome:
        """Returns the outcome of a function that has raised."""
        retryable = not isinstance(error, (GiveUp, *function.give_up_on))
        if isinstance(error, SoftTimeout):
            # With the kind of failure as its type, as for an attempt that the worker has to end.
            return AttemptOutcome(False, _encoded(error, type="timeout"), retryable)
        reported = error
        if isinstance(error, (GiveUp, Retry)) and error.__cause__ is not None and not error.args:
            reported = error.__cause__
        retry_after_ms = milliseconds(error.after_s, "after") if isinstance(error, Retry) and retryable else None
        return AttemptOutcome(False, _encoded(reported, function.codec), retryable, retry_after_ms)


def _encoded(error: BaseException, codec: Codec | None = None, **more: str) -> bytes:
    """Returns the document of an exception, as JSON."""
    try:
        document = {**encode_error(error, codec, skip=_is_runtime), **more}
        return json.dumps(document, ensure_ascii=False).encode()
    except Exception as broken:
        name = type(error).__name__
        return failure(name, f"(the exception cannot be encoded: {type(broken).__name__})").body


def _is_runtime(filename: str) -> bool:
    return filename.startswith(_RUNTIME)
