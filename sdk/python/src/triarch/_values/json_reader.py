"""Reader of JSON documents of the cluster. One value that Python cannot read does not make the document unreadable.

JSON bounds no number, and masters keep payloads and results as they were written. Python reads whole numbers of at most
``sys.get_int_max_str_digits()`` digits. A longer one becomes :class:`LongNumber`, and every list and object around it is marked.
:func:`unreadable` therefore needs no search to say whether a value can be used.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["MARKED", "LongNumber", "loads", "unreadable"]


class LongNumber(str):
    """Whole number with more digits than Python reads, as the text of its digits."""

    __slots__ = ()


class _MarkedList(list[Any]):
    """List with a `LongNumber` somewhere inside."""


class _MarkedDict(dict[str, Any]):
    """Object with a `LongNumber` somewhere inside."""


#: Types of values that :func:`unreadable` describes.
MARKED = (LongNumber, _MarkedList, _MarkedDict)


def loads(data: bytes | str) -> Any:
    """Returns a document. Raises ``ValueError`` for what is no JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None
    except ValueError:
        # Read again, because the hook would make every other document slower.
        try:
            return _marked(json.loads(data, parse_int=_whole_number))
        except RecursionError:
            raise ValueError("the document is nested too deeply") from None


def unreadable(value: Any, at: str = "") -> str | None:
    """Returns why a value of a document cannot be used, with the position in it, or ``None`` if it can."""
    if not isinstance(value, MARKED):
        return None
    if isinstance(value, LongNumber):
        digits = len(value.lstrip("-"))
        return (
            f"{at or 'the value'} is a whole number of {digits:,} digits, and Python reads fewer (sys.get_int_max_str_digits());"
            " write such a number as text"
        )
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found = unreadable(item, f"{at}[{key!r}]")
        if found is not None:
            return found
    return None


def _whole_number(text: str) -> int | LongNumber:
    try:
        return int(text)
    except ValueError:
        return LongNumber(text)


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        items = {key: _marked(item) for key, item in value.items()}
        return _MarkedDict(items) if any(isinstance(item, MARKED) for item in items.values()) else items
    if isinstance(value, list):
        values = [_marked(item) for item in value]
        return _MarkedList(values) if any(isinstance(item, MARKED) for item in values) else values
    return value
