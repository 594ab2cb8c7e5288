"""Codec of exceptions: a document with the type, message, traceback and causes, and the exception that it stands for.

# Invariants

* Encoding never raises, whatever the exception's own methods do.
* A document is well-formed text of bounded size: the cluster takes every one of them.
* The parts of an exception group are in ``exceptions``, and its message names them for those who see only the message.
"""

from __future__ import annotations

import base64
import builtins
import json
import os
import traceback as tracebacks
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RemoteError, SerializationError
from ..text import shortened, tail, well_formed
from . import json_reader
from .value_codecs import Codec, open_envelope

__all__ = ["decode_error", "encode_error"]

_TYPE_BYTES_MAX = 300
_CAUSES_MAX = 8
_PARTS_MAX = 16
# Parts that the message of a group names.
_NAMED_PARTS_MAX = 5
_PART_BYTES_MAX = 300
#: Bound of a whole document, half of what the cluster takes.
_ERROR_BYTES_MAX = 512 << 10
#: Attributes of built-in exceptions that their arguments lack.
_ATTRIBUTES = ("filename", "filename2", "name", "path")

_BASE_GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)
_GROUP: Any = getattr(builtins, "ExceptionGroup", None)

Skip = Callable[[str], bool]


@dataclass(frozen=True)
class _Bounds:
    """Bounds of one document, in bytes, and of the documents in it."""

    message: int
    traceback: int
    args: int
    documents: int


#: Tried in turn until the whole document fits.
_BOUNDS = (_Bounds(16_384, 65_536, 16_384, 64), _Bounds(8_192, 16_384, 2_048, 16), _Bounds(4_096, 8_192, 0, 6))


def encode_error(error: BaseException, codec: Codec | None = None, *, skip: Skip | None = None) -> dict[str, Any]:
    """Encodes an exception with its causes and parts.

    With the codec ``cloudpickle`` the exception itself is included where it can be pickled. ``skip`` decides by file name
    which frames are left out of tracebacks, such as those of the worker itself.
    """
    document: dict[str, Any] = {}
    for bounds in _BOUNDS:
        document = _Encoder(bounds, skip).document(error, 0)
        if len(json.dumps(document, ensure_ascii=False).encode()) <= _ERROR_BYTES_MAX:
            break
    if codec is not None and codec.name == "cloudpickle":
        data = _pickled(error, codec)
        if 0 < len(data) <= _ERROR_BYTES_MAX // 2:
            document["codec"] = codec.name
            document["data"] = base64.b64encode(data).decode()
    return document


class _Encoder:
    def __init__(self, bounds: _Bounds, skip: Skip | None) -> None:
        self._bounds = bounds
        self._skip = skip
        self._seen: set[int] = set()
        self._left = bounds.documents

    def document(self, error: BaseException, depth: int) -> dict[str, Any]:
        self._seen.add(id(error))
        self._left -= 1
        if isinstance(error, RemoteError):
            name, message, text = error.type, error.message, error.traceback or ""
        else:
            name, message, text = type_name(type(error)), _message(error), self._traceback(error)
        parts = _parts(error)
        if parts:
            message = f"{shortened(message, self._bounds.message // 2)}: {_summary(parts, 0)}"
        document: dict[str, Any] = {
            "type": shortened(str(name), _TYPE_BYTES_MAX),
            "message": shortened(str(message), self._bounds.message),
            "traceback": tail(str(text), self._bounds.traceback),
        }
        args = [_group_message(error)] if parts else _plain_args(error, self._bounds.args)
        if args is not None:
            document["args"] = args
        document.update(_attributes(error))
        cause = _cause(error)
        if cause is not None and self._has_room(cause) and depth < _CAUSES_MAX:
            document["cause"] = self.document(cause, depth + 1)
        encoded = [
            self.document(part, depth + 1) for part in parts[:_PARTS_MAX] if self._has_room(part) and depth < _CAUSES_MAX
        ]
        if encoded:
            document["exceptions"] = encoded
        return document

    def _has_room(self, error: BaseException) -> bool:
        return self._left > 0 and id(error) not in self._seen

    def _traceback(self, error: BaseException) -> str:
        kind = type(error)
        try:
            if _BASE_GROUP is not None and isinstance(error, _BASE_GROUP):
                whole = tracebacks.TracebackException(kind, error, error.__traceback__)
                self._skip_frames(whole)
                return "".join(whole.format(chain=False))
            frames = tracebacks.extract_tb(error.__traceback__)
            if self._skip is not None:
                skip = self._skip
                frames = tracebacks.StackSummary.from_list([frame for frame in frames if not skip(frame.filename)])
            lines = ["Traceback (most recent call last):\n", *frames.format()] if frames else []
            return "".join([*lines, *tracebacks.format_exception_only(kind, error)])
        except Exception as broken:
            return f"(its traceback cannot be formatted: {type_name(type(broken))})"

    def _skip_frames(self, whole: tracebacks.TracebackException) -> None:
        if self._skip is None:
            return
        skip = self._skip
        whole.stack = tracebacks.StackSummary.from_list([frame for frame in whole.stack if not skip(frame.filename)])
        for part in getattr(whole, "exceptions", None) or ():
            self._skip_frames(part)


def _parts(error: Any) -> list[BaseException]:
    """Returns the exceptions of a group, or none of any other exception."""
    return [] if _BASE_GROUP is None or not isinstance(error, _BASE_GROUP) else list(error.exceptions)


def type_name(kind: type) -> str:
    """Returns the name of a class, with its module unless that is ``builtins``."""
    module, name = kind.__module__, kind.__qualname__
    return name if module == "builtins" else f"{module}.{name}"


def _message(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    except BaseException as broken:
        return f"(its message cannot be formatted: {type_name(type(broken))})"


def _group_message(group: Any) -> str:
    return shortened(str(group.message), 8_192)


def _summary(parts: list[BaseException], depth: int) -> str:
    """Returns the types and messages of the parts of a group, and of the groups in it."""
    named = []
    for part in parts[:_NAMED_PARTS_MAX]:
        name = type_name(type(part))
        inner = _parts(part) if depth < 4 else []
        text = _summary(inner, depth + 1) if inner else _message(part)
        named.append(shortened(f"{name}: {text}" if text else name, _PART_BYTES_MAX))
    more = len(parts) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")


def _plain_args(error: BaseException, bytes_max: int) -> list[Any] | None:
    """Returns the arguments if they are plain data, with well-formed text."""
    try:
        args = _plain(list(error.args), 0)
        return args if len(json.dumps(args, allow_nan=False)) <= bytes_max else None
    except Exception:
        return None


def _plain(value: Any, depth: int) -> Any:
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return well_formed(value)
    if depth > 16:
        raise ValueError
    if type(value) in (list, tuple):
        return [_plain(item, depth + 1) for item in value]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {well_formed(key): _plain(item, depth + 1) for key, item in value.items()}
    raise ValueError


def _attributes(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not isinstance(error, (OSError, ImportError, NameError, AttributeError)):
        return found
    for attribute in _ATTRIBUTES:
        try:
            value = getattr(error, attribute, None)
            if isinstance(value, (str, bytes, os.PathLike)):
                found[attribute] = shortened(os.fsdecode(value), 4_096)
            elif type(value) is int:
                found[attribute] = value
        except Exception:
            continue
    return found


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


# ---------------------------------------------------------------------------------------------------------------------
# Pickles


def _pickled(error: BaseException, codec: Codec) -> bytes:
    """Returns the exception as bytes that can be read back, or nothing.

    Python pickles an exception as a call of its class with ``args``. Where ``__init__`` takes other arguments that call fails, so
    such an exception is pickled as its parts.
    """
    try:
        data = codec.dumps(error)
        try:
            if type(codec.loads(data)) is type(error):
                return data
        except Exception:
            pass
        # From parts alone: cloudpickle would use the exception's own way otherwise.
        data = codec.dumps(_Parts(type(error), error.args, dict(vars(error))))
        return data if isinstance(codec.loads(data), BaseException) else b""
    except Exception:
        return b""


class _Parts:
    """Stands for an exception in a pickle, which reads back as the exception."""

    def __init__(self, kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self._parts = (kind, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_parts, self._parts


def _from_parts(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Makes an exception without its ``__init__``."""
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


def decode_error(document: Any, accept: Collection[str] = ("json",)) -> BaseException:
    """Decodes an exception, with its causes chained.

    An exception of a built-in class is rebuilt. A pickled one is loaded if ``cloudpickle`` is accepted. Any other becomes a
    :class:`~triarch.errors.RemoteError`. Each has the worker's traceback as a note or in its text.
    """
    return _decode(document, accept, 0)


def _decode(document: Any, accept: Collection[str], depth: int) -> BaseException:
    if not isinstance(document, Mapping):
        return RemoteError("error", str(document))
    error = _rebuilt(document, accept, depth)
    cause = document.get("cause")
    # Documents of other programs may be nested to the bound of the cluster.
    if isinstance(cause, Mapping) and error.__cause__ is None and depth < 64:
        error.__cause__ = _decode(cause, accept, depth + 1)
    return error


def _rebuilt(document: Mapping[str, Any], accept: Collection[str], depth: int) -> BaseException:
    name, message = str(document.get("type") or "error"), str(document.get("message") or "")
    text = document.get("traceback")
    traceback = str(text) if text else None
    error: BaseException | None = None
    unread: str | None = None
    if document.get("codec") == "cloudpickle" and "cloudpickle" in accept:
        try:
            read = open_envelope(document, accept, "the exception")
            # As below: those that end a process or a generator are not rebuilt.
            error = read if isinstance(read, Exception) else None
        except SerializationError as broken:
            unread = str(broken)
    if error is None:
        error = _builtin(name, document, accept, depth)
    if error is None:
        remote = RemoteError(name, message, traceback)
        if unread is not None:
            _add_note(remote, f"(the exception itself cannot be rebuilt here: {unread})")
        return remote
    if traceback and not _add_note(error, f"in the worker:\n{traceback.rstrip()}") and "cause" not in document:
        # Python 3.10 has no notes.
        error.__cause__ = RemoteError(name, message, traceback)
    return error


def _builtin(name: str, document: Mapping[str, Any], accept: Collection[str], depth: int) -> BaseException | None:
    """Returns an exception of a built-in class. Those that end a process or a generator are not rebuilt."""
    kind = getattr(builtins, name, None) if name.isidentifier() else None
    args = document.get("args")
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        return None
    if not isinstance(args, list) or json_reader.unreadable(args) is not None:
        return None
    try:
        if _GROUP is not None and issubclass(kind, _BASE_GROUP):
            parts = document.get("exceptions")
            if not isinstance(parts, list) or depth >= 64:
                return None
            decoded = [_decode(part, accept, depth + 1) for part in parts]
            return _GROUP(str(args[0] if args else ""), decoded)  # type: ignore[no-any-return]
        if not issubclass(kind, Exception):
            return None
        error: Exception
        if issubclass(kind, OSError) and len(args) == 2 and document.get("filename") is not None:
            error = kind(*args, document["filename"], None, document.get("filename2"))
        else:
            error = kind(*args)
        for attribute in ("name", "path"):
            if isinstance(document.get(attribute), str) and isinstance(error, (ImportError, NameError, AttributeError)):
                setattr(error, attribute, document[attribute])
        return error
    except Exception:
        return None


def _add_note(error: BaseException, note: str) -> bool:
    add = getattr(error, "add_note", None)
    if not callable(add):
        return False
    add(note)
    return True
