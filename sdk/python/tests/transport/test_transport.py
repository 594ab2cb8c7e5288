"""The transport against peers that fail in the ways in which masters fail, and in worse ways."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from triarch import NoLeader, RetryPolicy, Timeout, TriarchError
from triarch._http.policy import Request
from triarch._http.transport import Cancellation, RequestCancelled, Transport
from triarch.testing import wait_until

BRIEF = RetryPolicy(deadline_s=1.0, unreachable_deadline_s=0.5, answer_timeout_s=0.3)


class Peer:
    """Accepts connections, reads one request after the other, and handles each as the test specifies."""

    def __init__(self, act: Callable[[socket.socket, int], bool]) -> None:
        self.act = act
        self.connections = 0
        self.closed = 0
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        try:
            self._answer(one)
        finally:
            one.close()
            self.closed += 1

    def _answer(self, one: socket.socket) -> None:
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                chunk = one.recv(65536)
                if not chunk:
                    return
                head += chunk
            self.requests.append(head)
            if not self.act(one, len(self.requests)):
                return


def answer(one: socket.socket, body: bytes = b"{}", more: bytes = b"") -> bool:
    one.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), more, body))
    return True


def silent(one: socket.socket, _: int) -> bool:
    return bool(one.recv(1))


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.listener.close()


def test_connections_are_kept(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, _: answer(one)))
    transport = Transport(peers[0].url)
    for _ in range(5):
        assert transport.json(Request.get("/v1/cluster")) == {}
    assert peers[0].connections == 1
    threads = [threading.Thread(target=transport.json, args=(Request.get("/v1/cluster"),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert peers[0].connections == 4, "each thread has its own"
    transport.close()


def test_a_kept_connection_that_was_closed_costs_no_try(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, _: not answer(one)))
    transport = Transport(peers[0].url)
    for number in range(5):
        assert transport.call(Request.get("/v1/cluster")).master == peers[0].url
        wait_until(lambda number=number: peers[0].closed > number, 10, "the connection to be closed")  # type: ignore[misc]
    assert all(b"triarch-forward: never" in request for request in peers[0].requests)


def test_a_request_is_repeated_when_the_master_closes_the_connection(peers: list[Peer]) -> None:
    # Every second request on a kept connection meets its end.
    peers.append(Peer(lambda one, number: number % 2 == 1 and answer(one)))
    transport = Transport(peers[0].url)
    ids = set()
    for number in range(4):
        call = Request.change("POST", "/v1/jobs", {}, request_id=f"r{number}")
        assert transport.json(call) == {}
        ids.add(call.request_id)
    asked = [request for request in peers[0].requests if b"r1" in request]
    assert len(asked) == 2, "the second request, and it again under the same id"


def test_the_next_master_is_asked_when_one_is_gone_or_silent(peers: list[Peer]) -> None:
    peers.append(Peer(silent))
    peers.append(Peer(lambda one, _: answer(one)))
    transport = Transport(f"127.0.0.1:1,{peers[0].url},{peers[1].url}", RetryPolicy(answer_timeout_s=0.2))
    begun = time.monotonic()
    assert transport.call(Request.change("POST", "/v1/jobs", {})).master == peers[1].url
    assert time.monotonic() - begun < 5
    sent = {
        line for request in (*peers[0].requests, *peers[1].requests) for line in request.split(b"\r\n") if b"request-id" in line
    }
    assert len(sent) == 1


def test_an_unreachable_cluster_raises_no_leader(peers: list[Peer]) -> None:
    with pytest.raises(NoLeader, match="refused"):
        Transport("127.0.0.1:1", BRIEF).json(Request.get("/v1/cluster"))


def test_silence_after_a_change_raises_an_unknown_outcome(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, _: False))
    with pytest.raises(Timeout, match="outcome is unknown"):
        Transport(peers[0].url, BRIEF).json(Request.change("POST", "/v1/jobs", {}))


def test_answers_in_chunks_and_after_a_hundred_are_read(peers: list[Peer]) -> None:
    text = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTRIARCH-Index: 7\r\n\r\n"
        b'5;x=y\r\n{"a":\r\nA\r\n "bcdefg"}\r\n0\r\nx: y\r\n\r\n'
    )
    peers.append(Peer(lambda one, _: one.send(text) > 0))
    transport = Transport(peers[0].url)
    for _ in range(3):
        answered = transport.call(Request.get("/v1/x"))
        assert (answered.json(), answered.index) == ({"a": "bcdefg"}, 7)
    assert peers[0].connections == 1


def test_an_answer_that_ends_with_its_connection_is_read(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, _: one.send(b"HTTP/1.0 200 OK\r\n\r\n[1]") < 0))
    transport = Transport(peers[0].url)
    assert [transport.json(Request.get("/v1/x")) for _ in range(2)] == [[1], [1]]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00\xff\x00",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 999 ?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{nope",
        b"HTTP/1.1 307 X\r\ncontent-length: 0\r\nlocation: ftp://x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_a_malformed_answer_raises_a_protocol_error(peers: list[Peer], garbage: bytes) -> None:
    peers.append(Peer(lambda one, _: one.send(garbage) < 0))
    with pytest.raises(TriarchError):
        Transport(peers[0].url, BRIEF).json(Request.change("POST", "/v1/jobs", {}))


def test_a_question_is_broken_off(peers: list[Peer]) -> None:
    held = threading.Event()

    def act(one: socket.socket, number: int) -> bool:
        held.set()
        return silent(one, number)

    peers.append(Peer(act))
    transport = Transport(peers[0].url)
    cancellation = Cancellation()
    ended: list[object] = []

    def ask() -> None:
        try:
            ended.append(transport.call(Request.get("/v1/x", hold_s=20), cancellation))
        except RequestCancelled as error:
            ended.append(type(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert held.wait(10)
    cancellation.cancel()
    asking.join(3)
    assert ended == [RequestCancelled]
    with pytest.raises(RequestCancelled):
        transport.call(Request.get("/v1/x"), cancellation)


def test_a_connection_attempt_takes_no_longer_than_its_try(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[float] = []

    def refuse(address: tuple[str, int], timeout_s: float) -> socket.socket:
        timeouts.append(timeout_s)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(NoLeader):
        Transport("127.0.0.1:1", BRIEF).json(Request.get("/v1/cluster", deadline_s=0.1))
    assert timeouts
    assert max(timeouts) <= 0.1
