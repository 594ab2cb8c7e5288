"""Worker connections against scripted masters."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from triarch._http.transport import RequestCancelled, Transport
from triarch.errors import Refused, Timeout
from triarch.testing import wait_until
from triarch.worker.connection import WorkerConnection, is_final


class Scripted:
    """A master that answers every request as the test specifies."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard: list[str] = []
        self.connections: list[socket.socket] = []
        self.answer: Callable[[str], bytes | None] = lambda head: said(200, {"ok": True})
        self.answer_to: Callable[[str, bytes], bytes | None] = lambda head, body: self.answer(head)
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the connections that clients keep."""
        connections, self.connections = self.connections, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                length = int(lengths[0].split(b":")[1]) if lengths else 0
                while len(data) < length:
                    data += connection.recv(65536)
                body, data = data[:length], data[length:]
                self.heard.append(head.decode())
                answer = self.answer_to(head.decode(), body)
                if answer is not None:
                    connection.sendall(answer)


def said(status: int, document: Any, *headers: str) -> bytes:
    body = json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture
def masters() -> Iterator[list[Scripted]]:
    made = [Scripted() for _ in range(3)]
    yield made
    for one in made:
        one.close()


def _connection(masters: list[Scripted]) -> WorkerConnection:
    return WorkerConnection(Transport(one.url for one in masters))


def test_the_leader_is_followed_and_remembered(masters: list[Scripted]) -> None:
    leader = masters[2]
    for other in masters[:2]:
        other.answer = lambda head: said(307, {}, f"location: {leader.url}/v1/workers/w/poll", "triarch-leader: 3")
    connection = _connection(masters)
    for _ in range(3):
        assert connection.call("POST", "/v1/workers/w/poll", b"{}", deadline_s=5) == {"ok": True}
    assert [len(one.heard) for one in masters] == [1, 0, 3]
    # On one connection.
    assert len(leader.connections) == 1


def test_the_secret_of_a_worker_is_sent_to_every_master_and_kept_out_of_its_description(masters: list[Scripted]) -> None:
    leader = masters[1]
    masters[0].answer = lambda head: said(307, {}, f"location: {leader.url}/v1/workers/w/poll", "triarch-leader: 2")
    transport = Transport(one.url for one in masters)
    connection = WorkerConnection(transport, "s3cret")
    assert connection.call("POST", "/v1/workers/w/poll", b"{}", deadline_s=5) == {"ok": True}
    heads = masters[0].heard + leader.heard
    assert len(heads) == 2
    assert all("triarch-worker-secret: s3cret" in head.lower() for head in heads)
    assert "s3cret" not in repr(connection)
    assert WorkerConnection(transport).call("POST", "/v1/workers/w/poll", b"{}", deadline_s=5) == {"ok": True}
    assert "triarch-worker-secret" not in leader.heard[-1].lower()


def test_masters_that_point_at_each_other_are_no_endless_loop(masters: list[Scripted]) -> None:
    first, second, third = masters
    first.answer = lambda head: said(307, {}, f"location: {second.url}/x")
    second.answer = lambda head: said(307, {}, f"location: {first.url}/x")
    assert _connection(masters).call("POST", "/x", b"{}", deadline_s=5) == {"ok": True}
    assert len(third.heard) == 1


def test_a_dead_master_and_one_without_a_leader_are_passed_over(masters: list[Scripted]) -> None:
    masters[0].close()
    masters[1].answer = lambda head: said(503, {"code": "no_leader"}, "retry-after: 1")
    assert _connection(masters).call("POST", "/x", b"{}", deadline_s=5) == {"ok": True}


def test_a_master_that_hangs_is_passed_over(masters: list[Scripted]) -> None:
    masters[0].answer = lambda head: None
    assert _connection(masters).call("POST", "/x", b"{}", deadline_s=30, answer_timeout_s=0.2) == {"ok": True}
    with pytest.raises(Timeout, match="no answer within"):
        _connection(masters[:1]).call("POST", "/x", b"{}", deadline_s=0.5)


def test_a_connection_that_was_closed_meanwhile_costs_nothing(masters: list[Scripted]) -> None:
    connection = _connection(masters)
    assert connection.call("POST", "/x", b"{}", deadline_s=5) == {"ok": True}
    masters[0].hang_up()
    assert connection.call("POST", "/x", b"{}", deadline_s=5) == {"ok": True}
    # It was the same master: the end of a kept connection does not mean that the master has failed.
    assert [len(one.heard) for one in masters] == [2, 0, 0]


def test_a_refusal_is_raised_at_once(masters: list[Scripted]) -> None:
    masters[0].answer = lambda head: said(404, {"code": "unknown_worker", "detail": "register again"})
    with pytest.raises(Refused, match="register again") as refused:
        _connection(masters).call("POST", "/x", b"{}", deadline_s=5)
    assert (refused.value.code, refused.value.status) == ("unknown_worker", 404)


def test_a_held_call_can_be_abandoned_and_the_next_one_is_fine(masters: list[Scripted]) -> None:
    masters[0].answer = lambda head: None
    connection = _connection(masters)
    abandoned: list[bool] = []

    def hold() -> None:
        with contextlib.suppress(RequestCancelled):
            connection.call("POST", "/held", b"{}", deadline_s=30, hold_s=30)
            return
        abandoned.append(True)

    thread = threading.Thread(target=hold)
    thread.start()
    wait_until(lambda: masters[0].heard, 10, "the call to be heard")
    connection.abandon()
    thread.join(10)
    assert abandoned == [True]
    masters[0].answer = lambda head: said(200, {"ok": 2})
    assert connection.call("POST", "/x", b"{}", deadline_s=5) == {"ok": 2}
    connection.close()
    with pytest.raises(RequestCancelled):
        connection.call("POST", "/x", b"{}", deadline_s=5)


def test_an_answer_that_makes_no_sense_is_a_refusal_or_nothing(masters: list[Scripted]) -> None:
    masters[0].answer = lambda head: b"220 mail.example.com ESMTP\r\n"
    assert _connection(masters).call("POST", "/x", b"{}", deadline_s=5) == {"ok": True}
    masters[1].answer = lambda head: said(400, ["no", "object"])
    with pytest.raises(Refused, match="is this a Triarch master"):
        _connection(masters[1:]).call("POST", "/x", b"{}", deadline_s=5)


def test_a_leader_that_one_connection_finds_is_known_to_the_others(masters: list[Scripted]) -> None:
    leader = masters[2]
    for other in masters[:2]:
        other.answer = lambda head: said(307, {}, f"location: {leader.url}/x")
    transport = Transport(one.url for one in masters)
    for _ in range(3):
        assert WorkerConnection(transport).call("POST", "/x", b"{}", deadline_s=5) == {"ok": True}
    assert [len(one.heard) for one in masters] == [1, 0, 3]
    assert transport.masters.leader() == leader.url


def test_a_call_that_pauses_between_two_rounds_can_be_abandoned(masters: list[Scripted]) -> None:
    for one in masters:
        one.answer = lambda head: said(503, {"code": "unavailable", "retry_after_ms": 9_000})
    connection = _connection(masters)
    ended: list[type] = []

    def ask() -> None:
        try:
            connection.call("POST", "/x", b"{}", deadline_s=30)
        except RequestCancelled as error:
            ended.append(type(error))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: all(one.heard for one in masters), 10, "a round over all masters")
    connection.abandon()
    thread.join(5)
    assert ended == [RequestCancelled]


def test_a_refusal_without_a_problem_document_is_final(masters: list[Scripted]) -> None:
    masters[0].answer = lambda head: b"HTTP/1.1 413 x\r\ncontent-length: 4\r\n\r\nhtml"
    with pytest.raises(Refused) as refused:
        _connection(masters).call("POST", "/x", b"{}", deadline_s=5)
    assert refused.value.status == 413
    assert is_final(refused.value)
