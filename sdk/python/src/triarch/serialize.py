"""Serialization of arguments, results and exceptions.

A task is ``kind`` (its name) and ``payload``. With the codec ``json``, the default, the payload is plain JSON that a worker
in any language can read::

    {"args": [1, 2], "kwargs": {"verbose": true}}

With any other codec it is an *envelope*: the codec's name and its output in base64::

    {"codec": "msgpack", "data": "gqRhcmdz…"}

A result is plain JSON too, or an envelope. An object that has a field ``codec`` is always an envelope. A result in JSON that
happens to have such a field is sent as ``{"codec": "json", "data": …}``. Arguments that are results of other tasks are named
in ``inputs`` (see :class:`InputBinding`)::

    {"args": [null, 3], "kwargs": {}, "inputs": [{"to": ["args", 0], "from": "first"}]}

Exceptions are ``{"type", "message", "traceback", "args"?, "cause"?, "codec"?, "data"?}``.

No codec is decoded unless it was accepted. JSON and msgpack carry data only; **cloudpickle carries code**, so a worker that accepts
it runs any code that a submitter of tasks sends.
"""

from __future__ import annotations

import base64
import builtins
import json
import math
import traceback as tracebacks
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import PayloadTooLarge, RemoteError, SerializationError

__all__ = [
    "VALUE_BYTES_MAX",
    "Codec",
    "InputBinding",
    "Wire",
    "codec",
    "decode_call",
    "decode_error",
    "decode_result",
    "encode_call",
    "encode_error",
    "encode_result",
    "register_codec",
]

#: Bound of the cluster on one payload, result or error, as JSON.
VALUE_BYTES_MAX = 1 << 20
# The cluster takes JSON 64 levels deep. The request around a payload has some of its own.
_JSON_DEPTH_MAX = 56
_MESSAGE_CHARS_MAX = 16_384
_TRACEBACK_CHARS_MAX = 65_536
_CAUSES_MAX = 8
_ERROR_BYTES_MAX = 512 << 10


class Codec(Protocol):
    """Codec: writes values as bytes and reads them back. The other side must accept its ``name``."""

    name: str

    def dumps(self, value: Any) -> bytes:
        """Returns a value as bytes. Raises TypeError or ValueError if it cannot be written."""
        ...

    def loads(self, data: bytes) -> Any:
        """Returns the value that :meth:`dumps` wrote."""
        ...


class _Json:
    name = "json"

    def dumps(self, value: Any) -> bytes:
        _check_plain(value, "", 0)
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


class _Orjson:
    """JSON codec by orjson: faster than the standard library, and writes dates, UUIDs and dataclasses as plain JSON."""

    name = "json"

    def dumps(self, value: Any) -> bytes:
        import orjson

        return orjson.dumps(value)

    def loads(self, data: bytes) -> Any:
        # The standard library reads whole numbers of any size.
        return json.loads(data)


class _Msgpack:
    name = "msgpack"

    def dumps(self, value: Any) -> bytes:
        import msgpack

        packed: bytes = msgpack.packb(value, use_bin_type=True, datetime=True)
        return packed

    def loads(self, data: bytes) -> Any:
        import msgpack

        return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3)


class _Cloudpickle:
    name = "cloudpickle"

    def dumps(self, value: Any) -> bytes:
        import cloudpickle

        pickled: bytes = cloudpickle.dumps(value)
        return pickled

    def loads(self, data: bytes) -> Any:
        import pickle

        return pickle.loads(data)


_JSON = _Json()
# By the name that an app uses. Two of them have the same format on the wire.
_CODECS: dict[str, Codec] = {"json": _JSON, "orjson": _Orjson(), "msgpack": _Msgpack(), "cloudpickle": _Cloudpickle()}
_ADVICE = {
    "json": 'pass plain data (str, int, float, bool, None, list, dict), or choose serializer="msgpack" or "cloudpickle"',
    "msgpack": 'pass plain data, bytes or aware datetimes, or choose serializer="cloudpickle"',
}


def register_codec(codec: Codec, *, name: str | None = None) -> None:
    """Registers a codec, under ``name`` or its own name. Both sides must register and accept it."""
    _CODECS[name or codec.name] = codec


def codec(name: str) -> Codec:
    """Returns the codec of this name. Raises if the codec is unknown or its package is not installed."""
    found = _CODECS.get(name)
    if found is None:
        raise SerializationError(f"there is no codec {name!r}; choose one of {', '.join(sorted(_CODECS))}, or register it")
    if name in ("orjson", "msgpack", "cloudpickle"):
        try:
            __import__(name)
        except ImportError:
            raise SerializationError(
                f'the codec {name!r} needs a package of that name: pip install "triarch[{name}]"'
            ) from None
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Values


def _check_plain(value: Any, at: str, depth: int) -> None:
    """Refuses values that JSON would change silently or cannot represent, with their position."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return
    if kind is float:
        if not math.isfinite(value):
            raise SerializationError(f"{at or 'the value'} is {value!r}, which JSON cannot represent; {_ADVICE['json']}")
        return
    if depth >= _JSON_DEPTH_MAX:
        raise SerializationError(
            f"{at or 'the value'} is nested deeper than {_JSON_DEPTH_MAX} levels; flatten it, or pass its location"
        )
    if isinstance(value, Mapping) and isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SerializationError(
                    f"{at or 'the value'} has the key {key!r}; JSON keys are text, so this key would come back as"
                    f" another one: use str keys; or {_ADVICE['json'].partition(', or ')[2]}"
                )
            _check_plain(item, f"{at}[{key!r}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _check_plain(item, f"{at}[{position}]", depth + 1)
    elif not isinstance(value, (str, int, float)):
        raise SerializationError(
            f"{at or 'the value'} is a {kind.__module__}.{kind.__qualname__}, which JSON cannot represent; {_ADVICE['json']}"
        )


def _dump(codec: Codec, value: Any, what: str) -> bytes:
    try:
        return codec.dumps(value)
    except SerializationError as error:
        raise SerializationError(f"{what}: {error}") from None
    except Exception as error:
        advice = _ADVICE.get(codec.name)
        more = f"; {advice}" if advice else ""
        raise SerializationError(f"{what} cannot be written as {codec.name}: {error}{more}") from error


def _envelope(codec: Codec, data: bytes) -> bytes:
    return b'{"codec":%s,"data":"%s"}' % (json.dumps(codec.name).encode(), base64.b64encode(data))


def _bound(text: bytes, what: str) -> bytes:
    if len(text) > VALUE_BYTES_MAX:
        raise too_large(what, len(text))
    return text


def too_large(what: str, size_bytes: int) -> PayloadTooLarge:
    """Returns the error for a value that is larger than the cluster takes."""
    return PayloadTooLarge(
        {
            "code": "payload_too_large",
            "status": 413,
            "detail": f"{what} is {size_bytes:,} bytes long as JSON, the bound is {VALUE_BYTES_MAX:,} bytes: put the data into"
            " a file, an object store or a database, and pass where it is; or split the work into more tasks",
        }
    )


def _open(document: Mapping[str, Any], accept: Collection[str], what: str) -> Any:
    """Decodes an envelope."""
    name = document.get("codec")
    if name == "json":
        return document.get("data")
    if name not in accept:
        raise SerializationError(
            f"{what} was written by the codec {name!r}, and only {', '.join(sorted(accept))} is accepted here;"
            f' pass accept=(…, "{name}") if you trust everyone who submits tasks'
        )
    data = document.get("data")
    try:
        return codec(str(name)).loads(base64.b64decode(data if isinstance(data, str) else "", validate=True))
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"{what} cannot be read as {name}: {error!r}") from error


# ---------------------------------------------------------------------------------------------------------------------
# Calls


@dataclass(frozen=True)
class InputBinding:
    """Binding of an argument to the result of another task of the job, or to the list of several results.

    ``to`` is its position: ``("args", 0)`` or ``("kwargs", "x", …)``, further steps going into lists and dictionaries. ``source``
    is a key of the job, or a tuple of keys for a list.
    """

    to: tuple[str | int, ...]
    source: str | tuple[str, ...]


#: The old name of ``InputBinding``.
Wire = InputBinding


def encode_call(
    codec: Codec, args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Sequence[InputBinding] = (), *, what: str = "the call"
) -> bytes:
    """Encodes the payload of a call, as JSON."""
    if codec.name == "json":
        text = _dump(codec, {"args": list(args), "kwargs": dict(kwargs)}, f"an argument of {what}")
    else:
        text = _envelope(codec, _dump(codec, {"args": list(args), "kwargs": dict(kwargs)}, f"an argument of {what}"))
    if inputs:
        bindings = [
            {"to": list(one.to), "from": one.source if isinstance(one.source, str) else list(one.source)} for one in inputs
        ]
        text = text[:-1] + b',"inputs":' + json.dumps(bindings, separators=(",", ":"), ensure_ascii=False).encode() + b"}"
    return _bound(text, f"the arguments of {what} together")


def decode_call(
    payload: Any, accept: Collection[str], inputs: Mapping[str, Any] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Decodes the arguments of a payload, and inserts the results that it is bound to.

    ``inputs`` are the encoded results of the lease, by key. A payload of ``null`` is a call without
    arguments.
    """
    if payload is None:
        return [], {}
    if not isinstance(payload, dict):
        raise SerializationError(f'the payload is of type {type(payload).__name__}; send {{"args": […], "kwargs": {{…}}}}')
    call = _open(payload, accept, "the call") if "codec" in payload else payload
    args, kwargs = call.get("args", []), call.get("kwargs", {})
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise SerializationError('the payload is malformed: "args" must be a list, and "kwargs" an object')
    whole: Any = {"args": list(args), "kwargs": dict(kwargs)}
    for binding in payload.get("inputs") or ():
        try:
            source, to = binding["from"], binding["to"]
            keys = [source] if isinstance(source, str) else source
            values = [_input(key, accept, inputs) for key in keys]
            whole = _put(whole, to, values[0] if isinstance(source, str) else values)
        except (TypeError, KeyError, IndexError) as error:
            raise SerializationError(f"the payload binds an input to a missing position: {binding!r} ({error!r})") from None
    return whole["args"], whole["kwargs"]


def _input(key: str, accept: Collection[str], inputs: Mapping[str, Any] | None) -> Any:
    if inputs is None or key not in inputs:
        raise SerializationError(f"the result of {key!r} did not come with the lease")
    return decode_result(inputs[key], accept)


def _put(holder: Any, to: Sequence[str | int], value: Any) -> Any:
    """Returns ``holder`` with ``value`` at a position. Tuples are copied."""
    if not to:
        return value
    step, rest = to[0], to[1:]
    inner = _put(holder[step], rest, value)
    if isinstance(holder, tuple):
        assert isinstance(step, int)
        return (*holder[:step], inner, *holder[step + 1 :])
    holder[step] = inner
    return holder


# ---------------------------------------------------------------------------------------------------------------------
# Results


def encode_result(codec: Codec, value: Any, *, what: str = "the result") -> bytes:
    """Encodes a result, as JSON."""
    text = _dump(codec, value, what)
    if codec.name != "json":
        text = _envelope(codec, text)
    elif isinstance(value, dict) and "codec" in value:
        text = b'{"codec":"json","data":' + text + b"}"
    return _bound(text, what)


def decode_result(result: Any, accept: Collection[str]) -> Any:
    """Decodes a result."""
    if isinstance(result, dict) and "codec" in result:
        return _open(result, accept, "the result")
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Exceptions


def encode_error(
    error: BaseException, codec: Codec | None = None, *, skip: Callable[[str], bool] | None = None
) -> dict[str, Any]:
    """Encodes an exception with its causes.

    With the codec ``cloudpickle`` the exception itself is included where it can be pickled. ``skip`` decides by file name
    which frames are left out of tracebacks, such as those of the worker itself.
    """
    document = _error_document(error, skip, 0, set())
    if codec is not None and codec.name == "cloudpickle":
        try:
            data = codec.dumps(error)
        except Exception:
            data = b""
        if 0 < len(data) <= _ERROR_BYTES_MAX // 2:
            document["codec"] = codec.name
            document["data"] = base64.b64encode(data).decode()
    return document


def _error_document(error: BaseException, skip: Callable[[str], bool] | None, depth: int, seen: set[int]) -> dict[str, Any]:
    seen.add(id(error))
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, RemoteError):
        name, message, text = error.type, error.message, error.traceback or ""
    else:
        try:
            message = str(error)
        except Exception as broken:
            message = f"(its message cannot be formatted: {broken!r})"
        frames = tracebacks.extract_tb(error.__traceback__)
        if skip is not None:
            frames = tracebacks.StackSummary.from_list([frame for frame in frames if not skip(frame.filename)])
        lines = ["Traceback (most recent call last):\n", *frames.format()] if frames else []
        text = "".join([*lines, *tracebacks.format_exception_only(kind, error)])
    # Long messages are cut in the middle, long tracebacks at the beginning.
    document: dict[str, Any] = {"type": name, "message": _shortened(message), "traceback": text[-_TRACEBACK_CHARS_MAX:]}
    try:
        _check_plain(list(error.args), "", 0)
        if len(json.dumps(error.args)) <= _MESSAGE_CHARS_MAX:
            document["args"] = list(error.args)
    except (SerializationError, TypeError, ValueError):
        pass
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen and depth < _CAUSES_MAX:
        document["cause"] = _error_document(cause, skip, depth + 1, seen)
    return document


def _shortened(message: str) -> str:
    if len(message) <= _MESSAGE_CHARS_MAX:
        return message
    half = _MESSAGE_CHARS_MAX // 2
    return f"{message[:half]} … {message[-half:]}"


def decode_error(document: Any, accept: Collection[str] = ("json",)) -> BaseException:
    """Decodes an exception, with its causes chained.

    An exception of a built-in class is rebuilt. A pickled one is loaded if ``cloudpickle`` is accepted. Any other becomes a
    :class:`~triarch.errors.RemoteError`. Each has the worker's traceback as a note or in its text.
    """
    if not isinstance(document, Mapping):
        return RemoteError("error", str(document))
    error = _rebuilt(document, accept)
    cause = document.get("cause")
    if isinstance(cause, Mapping) and error.__cause__ is None:
        error.__cause__ = decode_error(cause, accept)
    return error


def _rebuilt(document: Mapping[str, Any], accept: Collection[str]) -> BaseException:
    name, message = str(document.get("type") or "error"), str(document.get("message") or "")
    text = document.get("traceback")
    traceback = str(text) if text else None
    error: BaseException | None = None
    if document.get("codec") in accept and document.get("codec") == "cloudpickle":
        try:
            read = _open(document, accept, "the exception")
            error = read if isinstance(read, BaseException) else None
        except SerializationError:
            error = None
    if error is None:
        kind = getattr(builtins, name, None) if name.isidentifier() else None
        args = document.get("args")
        # Exceptions that end a process or a generator are not rebuilt.
        if isinstance(kind, type) and issubclass(kind, Exception) and isinstance(args, list):
            try:
                error = kind(*args)
            except Exception:
                error = None
    if error is None:
        return RemoteError(name, message, traceback)
    if traceback:
        note = getattr(error, "add_note", None)
        if callable(note):
            note(f"in the worker:\n{traceback.rstrip()}")
        elif "cause" not in document:
            # Python 3.10 has no notes.
            error.__cause__ = RemoteError(name, message, traceback)
    return error
