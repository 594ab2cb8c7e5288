"""Serialization of arguments, results and exceptions.

A task is ``kind`` (its name) and ``payload``. With the codec ``json``, the default, the payload is plain JSON that a worker
in any language can read::

    {"args": [1, 2], "kwargs": {"verbose": true}}

With any other codec it is an *envelope*: the codec's name and its output in base64::

    {"codec": "msgpack", "data": "gqRhcmdz…"}

JSON with dates, decimals, UUIDs, bytes or sets in it is the envelope ``{"codec": "json+types", "data": …}``
(see :mod:`triarch._values.json_types`). A result is plain JSON too, or an envelope. An object that has a field ``codec`` is
always an envelope. A result in JSON that happens to have such a field is sent as ``{"codec": "json", "data": …}``. Arguments that
are results of other tasks are named in ``inputs`` (see :class:`InputBinding`)::

    {"args": [null, 3], "kwargs": {}, "inputs": [{"to": ["args", 0], "from": "first"}]}

Exceptions are ``{"type", "message", "traceback", "args"?, "cause"?, "exceptions"?, "codec"?, "data"?}``
(see :mod:`triarch._values.error_codec`).

No codec is decoded unless it was accepted. JSON and msgpack carry data only; **cloudpickle carries code**, so a worker that accepts
it runs any code that a submitter of tasks sends.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ._values.error_codec import decode_error, encode_error
from ._values.value_codecs import (
    VALUE_BYTES_MAX,
    Codec,
    bounded,
    codec,
    dump,
    envelope,
    open_envelope,
    read_json,
    register_codec,
)
from .errors import SerializationError

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
    #: What the argument stands for: the result of the task, its error, or how it ended, with either.
    what: Literal["result", "error", "end"] = "result"


#: The old name of ``InputBinding``.
Wire = InputBinding


def encode_call(
    codec: Codec, args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Sequence[InputBinding] = (), *, what: str = "the call"
) -> bytes:
    """Encodes the payload of a call, as JSON."""
    written, typed = dump(codec, {"args": list(args), "kwargs": dict(kwargs)}, f"an argument of {what}")
    text = written if codec.name == "json" and not typed else envelope(codec, written, typed=typed)
    if inputs:
        bindings = [_binding(one) for one in inputs]
        text = text[:-1] + b',"inputs":' + json.dumps(bindings, separators=(",", ":"), ensure_ascii=False).encode() + b"}"
    return bounded(text, f"the arguments of {what} together", None if codec.name == "json" else len(written))


def _binding(one: InputBinding) -> dict[str, Any]:
    binding: dict[str, Any] = {"to": list(one.to), "from": one.source if isinstance(one.source, str) else list(one.source)}
    if one.what != "result":
        binding["as"] = one.what
    return binding


def decode_call(
    payload: Any, accept: Collection[str], inputs: Mapping[str, Any] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Decodes the arguments of a payload, and inserts the results that it is bound to.

    ``inputs`` are the encoded results of the lease, by key. A payload of ``null`` is a call without
    arguments. Raises SerializationError whatever is wrong with the payload.
    """
    if payload is None:
        return [], {}
    try:
        return _decode_call(payload, accept, inputs)
    except SerializationError:
        raise
    except Exception as error:
        # Anyone can submit a payload of any shape.
        raise SerializationError(f"the payload is malformed: {error!r:.2000}") from error


def _decode_call(payload: Any, accept: Collection[str], inputs: Mapping[str, Any] | None) -> tuple[list[Any], dict[str, Any]]:
    if not isinstance(payload, dict):
        raise SerializationError(f'the payload is of type {type(payload).__name__}; send {{"args": […], "kwargs": {{…}}}}')
    call = open_envelope(payload, accept, "the call") if "codec" in payload else read_json(payload, "the call")
    if not isinstance(call, dict):
        raise SerializationError('the payload is malformed: it must be an object with "args" and "kwargs"')
    args, kwargs = call.get("args", []), call.get("kwargs", {})
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise SerializationError('the payload is malformed: "args" must be a list, and "kwargs" an object')
    whole: Any = {"args": list(args), "kwargs": dict(kwargs)}
    for binding in payload.get("inputs") or ():
        try:
            source, to = binding["from"], binding["to"]
            keys = [source] if isinstance(source, str) else source
            values = [_input(key, accept, inputs, binding.get("as", "result")) for key in keys]
            whole = _put(whole, to, values[0] if isinstance(source, str) else values)
        except SerializationError as error:
            # A kind of TypeError, with its own advice.
            raise SerializationError(f"an input of the task cannot be read: {error}") from error
        except (TypeError, KeyError, IndexError) as error:
            raise SerializationError(f"the payload binds an input to a missing position: {binding!r} ({error!r})") from None
    return whole["args"], whole["kwargs"]


def _input(key: str, accept: Collection[str], inputs: Mapping[str, Any] | None, what: str) -> Any:
    if inputs is None or key not in inputs:
        raise SerializationError(f"the {what} of {key!r} did not come with the lease")
    given = inputs[key]
    if what == "error":
        return given
    if what == "end":
        return {**given, "result": decode_result(given["result"], accept)} if "result" in given else given
    if what != "result":
        raise SerializationError(
            f"the payload asks for the {what!r} of {key!r}, which this version does not know; upgrade the worker"
        )
    return decode_result(given, accept)


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
    written, typed = dump(codec, value, what)
    if codec.name != "json":
        return bounded(envelope(codec, written), what, len(written))
    if typed or (isinstance(value, dict) and "codec" in value):
        written = envelope(codec, written, typed=typed)
    return bounded(written, what)


def decode_result(result: Any, accept: Collection[str]) -> Any:
    """Decodes a result. Raises SerializationError if it cannot be read here."""
    if isinstance(result, dict) and "codec" in result:
        return open_envelope(result, accept, "the result")
    return read_json(result, "the result")
