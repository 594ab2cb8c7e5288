"""Serialization: every value is the same after a round trip, or is refused with advice."""

from __future__ import annotations

import builtins
import datetime
import json
import operator
import os
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from triarch import PayloadTooLarge, RemoteError, SerializationError
from triarch.serialize import (
    VALUE_BYTES_MAX,
    Wire,
    codec,
    decode_call,
    decode_error,
    decode_result,
    encode_call,
    encode_error,
    encode_result,
)

JSON = codec("json")


class Later(datetime.datetime):
    """A subclass would come back as its base class."""


def test_a_json_call_is_readable_by_others() -> None:
    assert json.loads(encode_call(JSON, (1, "ä"), {"x": None})) == {"args": [1, "ä"], "kwargs": {"x": None}}


@pytest.mark.parametrize("name", ["json", "msgpack", "cloudpickle", "orjson"])
def test_calls_and_results_come_back(name: str) -> None:
    value: Any = {"a": [1, 2.5, None, True, "ü"], "codec": "x", "big": 2**60}
    accept = {"json", name}
    args, kwargs = decode_call(json.loads(encode_call(codec(name), [value], {"k": value})), accept)
    assert (args, kwargs) == ([value], {"k": value})
    assert decode_result(json.loads(encode_result(codec(name), value)), accept) == value


def test_msgpack_carries_bytes_and_moments() -> None:
    value = {"b": b"\x00\xff", "t": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), 3: "key"}
    assert decode_result(json.loads(encode_result(codec("msgpack"), value)), {"msgpack"}) == value


TYPED: list[Any] = [
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30))),
    datetime.date(2026, 1, 2),
    datetime.time(1, 2, 3),
    datetime.timedelta(days=-1, seconds=5, microseconds=7),
    Decimal("1.50"),
    Decimal("NaN"),
    uuid.UUID(int=77),
    b"\x00\xff",
    bytearray(b"x"),
    {1, 2},
    frozenset({frozenset({"a"}), b"b"}),
    1 + 2j,
    {"__type__": "datetime", "__value__": "not one"},
    {"__type__": {"__type__": 1}},
]


def _same(one: Any, other: Any) -> bool:
    # A decimal NaN equals nothing, and the text of a set depends on the seed of the hashes.
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


@pytest.mark.parametrize("value", TYPED)
def test_json_carries_types_of_python(value: Any) -> None:
    for one in (value, [{"deep": [value, "plain"]}]):
        written = json.loads(encode_result(JSON, one))
        assert written["codec"] == "json+types"
        read = decode_result(written, {"json"})
        assert _same(read, one)
        args, kwargs = decode_call(json.loads(encode_call(JSON, [one], {"k": one})), {"json"})
        assert _same(args, [one])
        assert _same(kwargs, {"k": one})


def test_plain_json_stays_plain() -> None:
    assert json.loads(encode_call(JSON, [{"type": 1}], {})) == {"args": [{"type": 1}], "kwargs": {}}
    assert encode_result(JSON, {"a": (1, 2)}) == b'{"a":[1,2]}'


@pytest.mark.parametrize(
    "data",
    [
        {"__type__": "nothing", "__value__": 1},
        {"__type__": "decimal", "__value__": "x"},
        {"__type__": "uuid"},
        {"__type__": ["uuid"], "__value__": ""},
        {"__type__": "timedelta", "__value__": [10**30]},
        {"__type__": "set", "__value__": [[1]]},
        {"__type__": "dict", "__value__": 5},
    ],
)
def test_a_malformed_type_is_an_error(data: Any) -> None:
    with pytest.raises(SerializationError, match="cannot be read as json"):
        decode_result({"codec": "json+types", "data": data}, {"json"})


def test_inputs_go_to_their_places() -> None:
    bindings = [Wire(("args", 0), "a"), Wire(("kwargs", "x", 1), ("a", "b"))]
    payload: Any = json.loads(encode_call(JSON, [None, 2], {"x": [0, None]}, bindings))
    assert decode_call(payload, {"json"}, {"a": 7, "b": {"codec": "json", "data": 8}}) == ([7, 2], {"x": [0, [7, 8]]})
    with pytest.raises(SerializationError, match="did not come"):
        decode_call(payload, {"json"}, {"a": 7})


@pytest.mark.parametrize("result", [{"codec": "bogus", "data": 1}, {"codec": "json+types", "data": {"__type__": "x"}}])
def test_an_input_that_cannot_be_read_is_named_as_such(result: Any) -> None:
    payload: Any = json.loads(encode_call(JSON, [None], {}, [Wire(("args", 0), "a")]))
    with pytest.raises(SerializationError, match="an input of the task cannot be read: ") as refused:
        decode_call(payload, {"json"}, {"a": result})
    assert "missing position" not in str(refused.value)


def test_inputs_go_into_tuples() -> None:
    payload = json.loads(encode_call(codec("cloudpickle"), [(1, (None, 3))], {}, [Wire(("args", 0, 1, 0), "a")]))
    assert decode_call(payload, {"cloudpickle", "json"}, {"a": 2})[0] == [(1, (2, 3))]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1: 2}, "keys are text"),
        ({"x": [memoryview(b"raw")]}, r"\['x'\]\[0\] is a builtins.memoryview"),
        ({"x": {(1, 2)}}, r"\['x'\] is a set with \(1, 2\)"),
        (Later(2026, 1, 1), "Later"),
        ({"a": ["\udcff"]}, r"\['a'\]\[0\] is '\\udcff', which is no Unicode text"),
        ({"\udcff": 1}, "the key in"),
        (float("nan"), "JSON cannot represent"),
        (object(), "cannot represent"),
    ],
)
def test_a_value_that_json_cannot_express_is_refused_with_its_path(value: Any, words: str) -> None:
    with pytest.raises(SerializationError, match=words):
        encode_result(JSON, value)
    with pytest.raises(SerializationError, match="serializer="):
        encode_call(JSON, [value], {})


def test_endlessly_nested_values_are_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(SerializationError, match="nested deeper"):
        encode_result(JSON, value)


def test_too_large_values_are_refused_with_advice() -> None:
    with pytest.raises(PayloadTooLarge, match="pass where it is"):
        encode_call(JSON, ["x" * VALUE_BYTES_MAX], {})
    with pytest.raises(PayloadTooLarge, match=r"800,0.. bytes long, 1,066,.* leaves 786,332 bytes"):
        encode_result(codec("cloudpickle"), b"x" * 800_000)


def test_a_codec_that_was_not_accepted_is_not_read() -> None:
    written = json.loads(encode_result(codec("cloudpickle"), 1))
    with pytest.raises(SerializationError, match="only json is accepted"):
        decode_result(written, {"json"})
    with pytest.raises(SerializationError, match="only json is accepted"):
        decode_call(json.loads(encode_call(codec("msgpack"), [1], {})), {"json"})


def test_damaged_envelopes_raise_an_error() -> None:
    with pytest.raises(SerializationError, match="cannot be read as msgpack"):
        decode_result({"codec": "msgpack", "data": "not base64!"}, {"msgpack"})
    payloads: list[Any] = [{"codec": []}, {"codec": {}, "data": 1}, {"inputs": 5}, {"inputs": [{"from": 5, "to": 5}]}]
    payloads += [{"codec": "json", "data": 5}, {"args": [1], "inputs": [{"from": "a", "to": ["args"] * 5000}]}]
    payloads += [5, {"args": 3}, {"kwargs": []}, {"inputs": [{"to": ["args", 9], "from": []}]}, {"inputs": [3]}]
    for payload in payloads:
        with pytest.raises(SerializationError):
            decode_call(payload, {"json"})


class OwnError(Exception):
    pass


def raised() -> BaseException:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise OwnError("outer", 3) from inner
    except OwnError as error:
        return error


def test_exceptions_travel_with_their_causes() -> None:
    document = json.loads(json.dumps(encode_error(raised())))
    assert document["type"].endswith("OwnError")
    assert document["cause"]["type"] == "KeyError"
    error = decode_error(document)
    assert isinstance(error, RemoteError)
    assert "in raised" in str(error)
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.args == ("inner",)


def test_pickled_exceptions_are_rebuilt_where_that_is_accepted() -> None:
    document = json.loads(json.dumps(encode_error(raised(), codec("cloudpickle"))))
    assert isinstance(decode_error(document, {"cloudpickle"}), OwnError)
    assert isinstance(decode_error(document, {"json"}), RemoteError)


@pytest.mark.parametrize(
    "document", [None, "text", {}, {"type": 3}, {"type": "SystemExit", "args": [1]}, {"type": "print", "args": []}]
)
def test_errors_of_others_are_understood_as_far_as_they_go(document: Any) -> None:
    assert isinstance(decode_error(document), RemoteError)


def _document(error: BaseException) -> Any:
    try:
        raise error
    except BaseException as raised:
        text = json.dumps(encode_error(raised), ensure_ascii=False).encode()
    assert len(text) < VALUE_BYTES_MAX // 2 + 1
    return json.loads(text)


class ExitInStr(Exception):
    def __str__(self) -> str:
        sys.exit(1)


def test_errors_are_well_formed_and_bounded_whatever_they_contain() -> None:
    document = _document(ValueError("cannot parse \udcff"))
    assert document["message"] == "cannot parse \ufffd"
    assert document["args"] == ["cannot parse \ufffd"]
    assert isinstance(decode_error(document), ValueError)
    assert "cannot be formatted" in _document(ExitInStr())["message"]
    assert _document(ValueError("\x01" * 5_000_000))["message"].startswith("\x01")
    assert _document(type("語" * 1000, (Exception,), {"__module__": None})())["type"].startswith("None.語")
    chain: BaseException = ValueError("\x02" * 100_000)
    for _ in range(50):
        following = ValueError("\x02" * 100_000)
        following.__cause__ = chain
        chain = following
    assert "cause" in _document(chain)
    assert _document(ValueError(10**5000))["type"] == "ValueError"
    assert "args" not in _document(ValueError(float("nan"), object()))


def test_files_and_names_of_errors_travel(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    attempts: list[Callable[[], Any]] = [
        lambda: os.stat(missing),
        lambda: missing.rename(tmp_path / "other"),
        lambda: os.stat(bytes(missing)),
    ]
    for attempt in attempts:
        try:
            attempt()
        except OSError as raised:
            found: Any = decode_error(_document(raised))
            assert type(found) is FileNotFoundError
            assert (found.errno, found.filename) == (raised.errno, str(missing))
            assert str(found).replace("b'", "'") == str(raised).replace("b'", "'")
            assert found.filename2 == (None if raised.filename2 is None else str(raised.filename2))
    for code in ("undefined_name", "''.nothing", "import triarch.nothing"):
        try:
            exec(code)
        except Exception as failed:
            found = decode_error(_document(failed))
            assert type(found) is type(failed)
            name = operator.attrgetter("name")
            assert name(found) == name(failed)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of Python 3.11")
def test_groups_of_exceptions_travel_with_their_parts() -> None:
    group: Any = vars(builtins)["ExceptionGroup"]
    inner = group("inner", [KeyError("k"), OwnError("own", 2)])
    document = _document(group("outer", [ValueError("bad"), inner]))
    assert document["message"].startswith("outer (2 sub-exceptions): ValueError: bad; ExceptionGroup: KeyError: 'k'; ")
    assert [one["type"] for one in document["exceptions"]] == ["ValueError", "ExceptionGroup"]
    assert "KeyError: 'k'" in document["traceback"]
    found: Any = decode_error(document)
    assert isinstance(found, group)
    assert found.message == "outer"
    assert found.exceptions[1].exceptions[0].args == ("k",)
    assert isinstance(found.exceptions[1].exceptions[1], RemoteError)
    many = _document(group("many", [ValueError("x" * 100_000) for _ in range(1000)]))
    assert "and 995 more" in many["message"]


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def test_pickled_exceptions_with_other_arguments_are_rebuilt() -> None:
    pickle = codec("cloudpickle")
    found: Any = decode_error(json.loads(json.dumps(encode_error(TwoArguments(7, "seven"), pickle))), {"cloudpickle"})
    assert (type(found).__name__, str(found), found.code) == ("TwoArguments", "7: seven", 7)
    assert isinstance(decode_error(encode_error(Unpicklable("x"), pickle), {"cloudpickle"}), (RemoteError, Unpicklable))
    # Those that would end the program of the caller are not.
    assert isinstance(decode_error(encode_error(SystemExit(1), pickle), {"cloudpickle"}), RemoteError)


def test_an_exception_that_cannot_be_rebuilt_says_so() -> None:
    document = {"type": "m.E", "message": "x", "codec": "cloudpickle", "data": "AAAA"}
    found = decode_error(document, {"cloudpickle"})
    assert isinstance(found, RemoteError)
    if sys.version_info >= (3, 11):
        assert "cannot be rebuilt here" in "".join(found.__notes__)
