"""Text for the cluster: well-formed UTF-8, bounded in bytes.

Python's text may hold lone surrogates, such as those of file names that are not UTF-8. JSON and UTF-8 have no form for them, so
one of them would make the whole request unreadable that carries it. The bounds of the cluster count bytes, not characters.
"""

from __future__ import annotations

__all__ = ["shortened", "tail", "well_formed"]

_ELLIPSIS = " … "


def well_formed(text: str) -> str:
    """Returns the text as a plain ``str``, with U+FFFD for each lone surrogate. Surrogate pairs become their character."""
    if type(text) is not str:
        # A subclass may override anything, and not every receiver takes one.
        text = str.__str__(text)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def shortened(text: str, bytes_max: int) -> str:
    """Returns well-formed text of at most ``bytes_max`` bytes. A longer text is cut in the middle."""
    # A character has at least one byte, so a longer text need not be converted as a whole.
    if len(text) > bytes_max:
        return _joined(text[:bytes_max], text[-bytes_max:], bytes_max)
    text = well_formed(text)
    if len(text.encode()) <= bytes_max:
        return text
    return _joined(text, text, bytes_max)


def _joined(head: str, end: str, bytes_max: int) -> str:
    room = bytes_max - len(_ELLIPSIS.encode())
    if room < 2:
        return well_formed(head).encode()[:bytes_max].decode("utf-8", "ignore")
    first = room - room // 2
    begin = well_formed(head).encode()[:first].decode("utf-8", "ignore")
    return begin + _ELLIPSIS + tail(end, room // 2)


def tail(text: str, bytes_max: int) -> str:
    """Returns the end of a text, well-formed, of at most ``bytes_max`` bytes."""
    return well_formed(text[-bytes_max:]).encode()[-bytes_max:].decode("utf-8", "ignore") if bytes_max > 0 else ""
