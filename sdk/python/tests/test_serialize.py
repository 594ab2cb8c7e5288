"""Serialization: every value is the same after a round trip, or is refused with advice."""

from __future__ import annotations

import datetime
import json
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


def test_inputs_go_to_their_places() -> None:
    bindings = [Wire(("args", 0), "a"), Wire(("kwargs", "x", 1), ("a", "b"))]
    payload: Any = json.loads(encode_call(JSON, [None, 2], {"x": [0, None]}, bindings))
    assert decode_call(payload, {"json"}, {"a": 7, "b": {"codec": "json", "data": 8}}) == ([7, 2], {"x": [0, [7, 8]]})
    with pytest.raises(SerializationError, match="did not come"):
        decode_call(payload, {"json"}, {"a": 7})


def test_inputs_go_into_tuples() -> None:
    payload = json.loads(encode_call(codec("cloudpickle"), [(1, (None, 3))], {}, [Wire(("args", 0, 1, 0), "a")]))
    assert decode_call(payload, {"cloudpickle", "json"}, {"a": 2})[0] == [(1, (2, 3))]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1: 2}, "keys are text"),
        ({"x": [b"raw"]}, r"\['x'\]\[0\] is a builtins.bytes"),
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


def test_a_codec_that_was_not_accepted_is_not_read() -> None:
    written = json.loads(encode_result(codec("cloudpickle"), 1))
    with pytest.raises(SerializationError, match="only json is accepted"):
        decode_result(written, {"json"})
    with pytest.raises(SerializationError, match="only json is accepted"):
        decode_call(json.loads(encode_call(codec("msgpack"), [1], {})), {"json"})


def test_damaged_envelopes_raise_an_error() -> None:
    with pytest.raises(SerializationError, match="cannot be read as msgpack"):
        decode_result({"codec": "msgpack", "data": "not base64!"}, {"msgpack"})
    payloads: list[Any] = [5, {"args": 3}, {"kwargs": []}, {"inputs": [{"to": ["args", 9], "from": []}]}, {"inputs": [3]}]
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
