"""JSON forms of Python's values that JSON does not have: times, decimals, UUIDs, bytes and sets.

A value of one of these types becomes ``{"__type__": name, "__value__": …}``, as in Celery's JSON. A dictionary of the user that has
the key ``__type__`` is written in the same way, as its items. Every value therefore comes back as it was.

Only these very types are written. A subclass, such as the timestamps of pandas, would come back as its base class, so it is
refused like any other type.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["TYPE", "is_written", "read", "written"]

TYPE = "__type__"
_VALUE = "__value__"

_WRITERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    timedelta: ("timedelta", lambda span: [span.days, span.seconds, span.microseconds]),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    bytes: ("bytes", lambda data: base64.b64encode(data).decode()),
    bytearray: ("bytearray", lambda data: base64.b64encode(data).decode()),
    complex: ("complex", lambda number: [repr(number.real), repr(number.imag)]),
    set: ("set", list),
    frozenset: ("frozenset", list),
}

_READERS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "bytearray": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
}


def is_written(kind: type) -> bool:
    """Returns whether values of this very type have a form in JSON here."""
    return kind in _WRITERS


def written(value: Any) -> Any:
    """Returns a copy of a plain value with the JSON forms of what JSON does not have."""
    kind = type(value)
    writer = _WRITERS.get(kind)
    if writer is not None:
        return {TYPE: writer[0], _VALUE: written(writer[1](value))}
    if isinstance(value, dict):
        items = {key: written(item) for key, item in value.items()}
        return {TYPE: "dict", _VALUE: [[key, item] for key, item in items.items()]} if TYPE in items else items
    if isinstance(value, (list, tuple)):
        return [written(item) for item in value]
    return value


def read(value: Any) -> Any:
    """Undoes :func:`written`. Raises ValueError, TypeError or a subclass of ArithmeticError for a malformed form."""
    if isinstance(value, list):
        return [read(item) for item in value]
    if not isinstance(value, dict):
        return value
    items = {key: read(item) for key, item in value.items()}
    if TYPE not in items:
        return items
    reader = _READERS.get(items[TYPE]) if isinstance(items[TYPE], str) else None
    if reader is None or items.keys() != {TYPE, _VALUE}:
        raise ValueError(f"there is no type {items[TYPE]!r} in JSON values; run the same version of triarch on both sides")
    return reader(items[_VALUE])
