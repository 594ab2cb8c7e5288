"""Answers and events that a client cannot read: an error for those who wait, and a repetition where that may help."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from triarch import HandleGroup, RetryPolicy, Triarch, TriarchError
from triarch.admin import events
from triarch.errors import ProtocolError
from triarch.outcome import Outcome

from .test_transport import Peer, answer

#: JSON that is no answer, and no JSON.
ANSWERS = [b"[]", b"{}", b'{"ended":{},"missing":[]}', b"null", b"<html>", b"\xff\xfe", b"9" * 5000]


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer(lambda one, _: answer(one))
    yield peer
    peer.listener.close()


@pytest.mark.parametrize("body", ANSWERS)
def test_those_who_wait_for_tasks_get_the_error(peer: Peer, body: bytes) -> None:
    peer.act = lambda one, _: answer(one, body)
    app = Triarch(peer.url, retry_policy=RetryPolicy(deadline_s=2.0))
    with pytest.raises(TriarchError):
        HandleGroup(app, [app.handle("t1"), app.handle("t2")]).results(timeout=20)


def test_a_wait_that_goes_on_while_no_master_is_reachable_also_survives_an_unreadable_answer(peer: Peer) -> None:
    ended = b'{"ended":[{"id":"t1","state":"succeeded","result":5}],"missing":[]}'
    peer.act = lambda one, number: answer(one, b"<html>" if number == 1 else ended)
    app = Triarch(peer.url)
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    app.watcher.add([("t1", results.put)], retry_unreachable=True)
    result = results.get(timeout=20)
    assert isinstance(result, Outcome)
    assert result.result == 5


def _stream(*messages: bytes) -> Callable[[socket.socket, int], bool]:
    """Sends one more of the messages on each connection, and then its end."""

    def act(one: socket.socket, number: int) -> bool:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        one.sendall(head + messages[min(number, len(messages)) - 1])
        return False

    return act


@pytest.mark.parametrize("data", [b"{", b"5", b"[]", b"\xff", b"<html>"])
def test_an_event_that_cannot_be_read_is_requested_again(peer: Peer, data: bytes) -> None:
    peer.act = _stream(b"id: 1\ndata: " + data + b"\n\n", b'id: 1\ndata: {"type":"x"}\n\n')
    app = Triarch(peer.url, retry_policy=RetryPolicy(deadline_s=10.0))
    assert next(events(app)) == {"type": "x"}


def test_events_that_can_never_be_read_end_with_the_reason(peer: Peer) -> None:
    peer.act = _stream(b"id: 1\ndata: <html>\n\n")
    app = Triarch(peer.url, retry_policy=RetryPolicy(deadline_s=0.5))
    begun = time.monotonic()
    with pytest.raises(TriarchError, match="cannot be read"):
        next(events(app))
    assert time.monotonic() - begun < 20


def test_a_number_that_python_does_not_read_costs_an_event_nothing(peer: Peer) -> None:
    peer.act = _stream(b'id: 1\ndata: {"type":"x","number":' + b"9" * 5000 + b"}\n\n")
    assert next(events(Triarch(peer.url)))["type"] == "x"


def test_an_answer_that_is_no_object_is_an_error_of_this_package(peer: Peer) -> None:
    peer.act = lambda one, _: answer(one, b"<html>")
    with pytest.raises(ProtocolError, match="not JSON"):
        Triarch(peer.url).cluster.status()
