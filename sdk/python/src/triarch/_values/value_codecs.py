"""Codecs of values, and the envelope of what they write."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ..errors import PayloadTooLarge, SerializationError
from . import json_reader, json_types

__all__ = [
    "TYPED_JSON",
    "VALUE_BYTES_MAX",
    "Codec",
    "bounded",
    "codec",
    "dump",
    "envelope",
    "open_envelope",
    "read_json",
    "register_codec",
]

#: Bound of the cluster on one payload, result or error, as JSON.
VALUE_BYTES_MAX = 1 << 20
#: Parts of a value: each has at least one byte, and one between it and the next.
_PARTS_MAX = VALUE_BYTES_MAX // 2
#: Name in envelopes of JSON with types of Python in it (:mod:`triarch._values.json_types`). A side that accepts JSON accepts it.
TYPED_JSON = "json+types"
# The cluster takes JSON 64 levels deep. The request around a payload has some of its own.
_JSON_DEPTH_MAX = 56


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
        return self.dumps_typed(value)[0]

    def dumps_typed(self, value: Any) -> tuple[bytes, bool]:
        """Returns the JSON, and whether it has types of Python in it."""
        try:
            typed = _check_plain(value, None, 0, [_PARTS_MAX])
        except SerializationError:
            # Again, with the position in the text of the error, which takes most of the time.
            typed = _check_plain(value, "", 0, [_PARTS_MAX])
        if typed:
            value = json_types.written(value)
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(), typed
        except UnicodeEncodeError:
            raise SerializationError(_lone_surrogate(value, "") or "the value has text that is not Unicode") from None

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
    "json": "pass plain data (str, int, float, bool, None, list, dict; also dates, times, Decimal, UUID, bytes and sets), or"
    ' choose serializer="msgpack" or "cloudpickle"',
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


class _TooManyPartsError(Exception):
    """The value has more parts than its JSON may have bytes."""


def _check_plain(value: Any, at: str | None, depth: int, left: list[int]) -> bool:
    """Refuses values that JSON would change silently or cannot represent, with their position unless ``at`` is None.

    ``left`` counts the parts down. A list may contain another one many times, and so on, and would be written without end.
    Returns whether there are values of types that JSON does not have, and for which there is a form.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return False
    if kind is float:
        if not math.isfinite(value):
            raise SerializationError(f"{at or 'the value'} is {value!r}, which JSON cannot represent; {_ADVICE['json']}")
        return False
    if depth >= _JSON_DEPTH_MAX:
        raise SerializationError(
            f"{at or 'the value'} is nested deeper than {_JSON_DEPTH_MAX} levels; flatten it, or pass its location"
        )
    typed = False
    if isinstance(value, (dict, list, tuple)):
        left[0] -= len(value)
        if left[0] < 0:
            raise _TooManyPartsError
    if isinstance(value, Mapping) and isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SerializationError(
                    f"{at or 'the value'} has the key {key!r}; JSON keys are text, so this key would come back as"
                    f" another one: use str keys; or {_ADVICE['json'].partition(', or ')[2]}"
                )
            typed |= _check_plain(item, None if at is None else f"{at}[{key!r}]", depth + 1, left)
        return typed or json_types.TYPE in value
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            typed |= _check_plain(item, None if at is None else f"{at}[{position}]", depth + 1, left)
        return typed
    if kind is set or kind is frozenset:
        for item in value:
            if isinstance(item, (list, tuple, dict)):
                raise SerializationError(
                    f"{at or 'the value'} is a set with {item!r:.100}, which JSON would change; use a list, or choose"
                    ' serializer="cloudpickle"'
                )
            # Two levels: the form of the set, and the list in it.
            _check_plain(item, None if at is None else f"{at}{{…}}", depth + 2, left)
        return True
    if json_types.is_written(kind):
        return True
    if not isinstance(value, (str, int, float)):
        raise SerializationError(
            f"{at or 'the value'} is a {kind.__module__}.{kind.__qualname__}, which JSON cannot represent; {_ADVICE['json']}"
        )
    return False


def _lone_surrogate(value: Any, at: str) -> str | None:
    """Returns a description of the first text that UTF-8 cannot represent."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return (
                f"{at or 'the value'} is {value[:100]!r}, which is no Unicode text (a file name that is not UTF-8, perhaps), and"
                ' JSON cannot represent it; pass os.fsencode(…), repair the text, or choose serializer="cloudpickle"'
            )
        return None
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        found = _lone_surrogate(key, f"the key in {at or 'the value'}") if isinstance(key, str) else None
        found = found or _lone_surrogate(item, f"{at}[{key!r}]")
        if found is not None:
            return found
    return None


def dump(codec: Codec, value: Any, what: str) -> tuple[bytes, bool]:
    """Returns what a codec writes, and whether that is JSON with types of Python in it."""
    try:
        if isinstance(codec, _Json):
            return codec.dumps_typed(value)
        return codec.dumps(value), False
    except SerializationError as error:
        raise SerializationError(f"{what}: {error}") from None
    except _TooManyPartsError:
        raise _too_large(what, f"has more than {_PARTS_MAX:,} parts, the bound is {VALUE_BYTES_MAX:,} bytes") from None
    except Exception as error:
        advice = _ADVICE.get(codec.name)
        more = f"; {advice}" if advice else ""
        raise SerializationError(f"{what} cannot be written as {codec.name}: {error}{more}") from error


def envelope(codec: Codec, data: bytes, *, typed: bool = False) -> bytes:
    """Returns the envelope of what a codec wrote, as JSON."""
    if codec.name == "json":
        return b'{"codec":"%s","data":%s}' % (TYPED_JSON.encode() if typed else b"json", data)
    return b'{"codec":%s,"data":"%s"}' % (json.dumps(codec.name).encode(), base64.b64encode(data))


def bounded(text: bytes, what: str, written_bytes: int | None = None) -> bytes:
    """Returns the JSON of a value, or raises if it is larger than the cluster takes."""
    if len(text) > VALUE_BYTES_MAX:
        bound = f"is {len(text):,} bytes long as JSON, the bound is {VALUE_BYTES_MAX:,} bytes"
        if written_bytes is not None:
            # Base64 has four characters for three bytes.
            bound = (
                f"is {written_bytes:,} bytes long, {len(text):,} in base64 as JSON carries it; the bound of"
                f" {VALUE_BYTES_MAX:,} bytes leaves {VALUE_BYTES_MAX * 3 // 4 - 100:,} bytes to a codec other than JSON"
            )
        raise _too_large(what, bound)
    return text


def _too_large(what: str, bound: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        {
            "code": "payload_too_large",
            "status": 413,
            "detail": f"{what} {bound}: put the data into a file, an object store or a database, and pass where it is;"
            " or split the work into more tasks",
        }
    )


def open_envelope(document: Mapping[str, Any], accept: Collection[str], what: str) -> Any:
    """Decodes an envelope. Raises SerializationError whatever is wrong with it."""
    name = document.get("codec")
    if name in ("json", TYPED_JSON):
        return read_json(document.get("data"), what, typed=name == TYPED_JSON)
    if not isinstance(name, str) or name not in accept:
        raise SerializationError(
            f"{what} was written by the codec {name!r:.200}, and only {', '.join(sorted(accept))} is accepted here;"
            f' pass accept=(…, "{name!s:.200}") if you trust everyone who submits tasks'
        )
    data = document.get("data")
    try:
        return codec(name).loads(base64.b64decode(data if isinstance(data, str) else "", validate=True))
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"{what} cannot be read as {name}: {error!r:.2000}") from error


def read_json(value: Any, what: str, *, typed: bool = False) -> Any:
    """Returns a value of a document, with its types of Python if it has any. Raises SerializationError if it cannot be used."""
    why = json_reader.unreadable(value)
    if why is not None:
        raise SerializationError(f"{what} cannot be used: {why}")
    if not typed:
        return value
    try:
        return json_types.read(value)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise SerializationError(f"{what} cannot be read as json: {error!r:.2000}") from error
