"""The HTTP/1.1 protocol without I/O: encoding of requests, and parsing of responses however their bytes arrive."""

from __future__ import annotations

import random

import pytest

from triarch._http.protocol import (
    HEADERS_MAX,
    LINE_BYTES_MAX,
    BadStatusLine,
    ConnectionLost,
    MalformedResponse,
    ResponseParser,
    encode_request,
)
from triarch.errors import ProtocolError, UsageError

COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTriarch-Index: 7\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + COUNTED
BARE_LINES = b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello"
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def parsed(*pieces: bytes, eof: bool = False) -> ResponseParser:
    parser = ResponseParser("master:1", 100)
    for piece in pieces:
        parser.feed(piece)
    if eof:
        parser.feed_eof()
    return parser


@pytest.mark.parametrize(
    ("data", "body", "is_reusable"),
    [
        (COUNTED, b"hello", True),
        (CHUNKED, b"hello", True),
        (INTERIM, b"hello", True),
        (BARE_LINES, b"hello", True),
        (UNTIL_CLOSE, b"hello", False),
        (EMPTY, b"", True),
        (COUNTED.replace(b"7", b"7\r\nConnection: Close"), b"hello", False),
    ],
)
def test_a_response_is_the_same_however_its_bytes_arrive(data: bytes, body: bytes, is_reusable: bool) -> None:
    until_close = data is UNTIL_CLOSE
    random.seed(1)
    splits = [[data], [data[i : i + 1] for i in range(len(data))]]
    for _ in range(50):
        cuts = sorted(random.sample(range(1, len(data)), 3))
        splits.append([data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    for pieces in splits:
        parser = parsed(*pieces, eof=until_close)
        assert parser.complete
        assert (parser.body(), parser.keep_alive) == (body, is_reusable)


def test_headers_are_known_by_names_in_lower_case() -> None:
    parser = parsed(COUNTED)
    assert (parser.status, parser.headers) == (200, {"content-length": "5", "triarch-index": "7"})


def test_a_connection_with_bytes_left_over_is_not_reused() -> None:
    assert not parsed(COUNTED + b"x").keep_alive


def test_a_streamed_body_is_taken_piece_by_piece_without_a_bound() -> None:
    parser = ResponseParser("master:1", None)
    taken = b""
    for _ in range(1000):
        parser.feed(b"" if parser.status else b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        parser.feed(b"4\r\nabcd\r\n")
        taken += parser.take_body()
    assert taken == b"abcd" * 1000
    assert parser.body() == b""


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9.2\r\n", b"220 mail", b"\x00", b"HTTP/2 200 \r\n\r\n", b"HTTP/1.1 20 x\r\n\r\n"]
)
def test_a_peer_that_speaks_something_else_is_refused_at_its_first_bytes(data: bytes) -> None:
    with pytest.raises(BadStatusLine):
        parsed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * LINE_BYTES_MAX,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (HEADERS_MAX + 2),
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: ²\r\n\r\n".encode("latin-1"),
        b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"0" * LINE_BYTES_MAX,
    ],
)
def test_a_malformed_response_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedResponse):
        parsed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101,
    ],
)
def test_a_body_over_its_bound_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="master:1"):
        parsed(data)


def test_the_end_of_the_connection_tells_a_lost_connection_from_a_cut_off_response() -> None:
    with pytest.raises(ConnectionLost):
        parsed(eof=True)
    for end in range(1, len(COUNTED)):
        with pytest.raises(MalformedResponse):
            parsed(COUNTED[:end], eof=True)


def test_a_request_is_one_piece_with_its_length() -> None:
    data = encode_request("POST", "/v1/jobs", "a:1", {"x": "y"}, b"{}")
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/jobs HTTP/1.1\r\nhost: a:1\r\n")
    assert b"content-type: application/json" in head
    assert head.endswith(b"content-length: 2")
    assert body == b"{}"
    assert b"content-length" not in encode_request("GET", "/", "a:1", {}, None)
    assert b"content-length: 0" in encode_request("DELETE", "/", "a:1", {}, None)


def test_a_header_with_a_line_break_is_not_sent() -> None:
    with pytest.raises(UsageError):
        encode_request("GET", "/", "a:1", {"x": "y\r\nhost: b"}, None)
