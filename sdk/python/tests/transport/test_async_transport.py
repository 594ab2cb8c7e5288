"""The transport for asyncio against peers that fail in the ways in which masters fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from triarch import NoLeader, RetryPolicy, Timeout, TriarchError
from triarch._http.async_transport import CONNECTIONS_MAX, AsyncTransport
from triarch._http.policy import Request
from triarch._http.transport import Transport

from .test_transport import BRIEF, Peer, answer, silent


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.listener.close()


def run(masters: str, policy: RetryPolicy | None, main: Callable[[AsyncTransport], Awaitable[None]]) -> None:
    async def whole() -> None:
        transport = AsyncTransport(Transport(masters, policy))
        try:
            await main(transport)
        finally:
            await transport.close()

    asyncio.run(whole())


def test_connections_are_kept_and_bounded(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, _: answer(one)))

    async def main(transport: AsyncTransport) -> None:
        for _ in range(5):
            assert await transport.json(Request.get("/v1/cluster")) == {}
        assert peers[0].connections == 1
        await asyncio.gather(*(transport.json(Request.get("/v1/cluster")) for _ in range(5 * CONNECTIONS_MAX)))
        assert peers[0].connections <= CONNECTIONS_MAX

    run(peers[0].url, None, main)


def test_connections_to_all_masters_together_are_bounded(peers: list[Peer]) -> None:
    peers += [Peer(lambda one, _: answer(one)) for _ in range(3)]

    async def main(transport: AsyncTransport) -> None:
        for peer in peers:
            transport.masters.record_success(peer.url)
            await asyncio.gather(*(transport.json(Request.get("/v1/cluster")) for _ in range(2 * CONNECTIONS_MAX)))
        assert all(peer.connections > 1 for peer in peers)
        # Peers notice the end of a connection a moment later.
        while sum(peer.connections - peer.closed for peer in peers) > CONNECTIONS_MAX:
            await asyncio.sleep(0.01)

    async def in_time(transport: AsyncTransport) -> None:
        await asyncio.wait_for(main(transport), 10)

    run(",".join(peer.url for peer in peers), None, in_time)


def test_a_kept_connection_that_was_closed_costs_no_try(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, _: not answer(one)))

    async def main(transport: AsyncTransport) -> None:
        for _ in range(5):
            assert (await transport.call(Request.get("/v1/cluster"))).master == peers[0].url
        # Every second request on a kept connection meets its end.
        peers.append(Peer(lambda one, number: number % 2 == 1 and answer(one)))
        transport.masters.discover([peers[1].url])
        transport.masters.record_success(peers[1].url)
        for _ in range(4):
            assert (await transport.call(Request.change("POST", "/v1/jobs", {}))).master == peers[1].url

    run(peers[0].url, BRIEF, main)
    assert all(b"triarch-forward: never" in request for peer in peers for request in peer.requests)


def test_the_next_master_is_asked_when_one_is_gone_or_silent(peers: list[Peer]) -> None:
    peers.append(Peer(silent))
    peers.append(Peer(lambda one, _: answer(one)))

    async def main(transport: AsyncTransport) -> None:
        begun = time.monotonic()
        assert (await transport.call(Request.change("POST", "/v1/jobs", {}))).master == peers[1].url
        assert time.monotonic() - begun < 5

    run(f"127.0.0.1:1,{peers[0].url},{peers[1].url}", RetryPolicy(answer_timeout_s=0.2), main)


def test_an_unreachable_cluster_and_an_unknown_outcome_raise_different_errors(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, _: False))

    async def unreachable(transport: AsyncTransport) -> None:
        with pytest.raises(NoLeader):
            await transport.json(Request.get("/v1/cluster"))

    async def unknown(transport: AsyncTransport) -> None:
        with pytest.raises(Timeout, match="outcome is unknown"):
            await transport.json(Request.change("POST", "/v1/jobs", {}))

    run("127.0.0.1:1", BRIEF, unreachable)
    run(peers[0].url, BRIEF, unknown)


def test_a_cancelled_request_leaves_no_half_read_response(peers: list[Peer]) -> None:
    peers.append(Peer(lambda one, number: silent(one, number) if number == 1 else answer(one, b"[%d]" % number)))

    async def main(transport: AsyncTransport) -> None:
        asking = asyncio.create_task(transport.json(Request.get("/v1/held", hold_s=20)))
        while not peers[0].requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await transport.json(Request.get("/v1/x")) == [2]
        assert peers[0].connections == 2

    run(peers[0].url, None, main)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00\xff\x00",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{nope",
        b"HTTP/1.1 307 X\r\ncontent-length: 0\r\nlocation: ftp://x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_a_malformed_answer_is_an_error_of_this_package(peers: list[Peer], garbage: bytes) -> None:
    peers.append(Peer(lambda one, _: one.send(garbage) < 0))

    async def main(transport: AsyncTransport) -> None:
        with pytest.raises(TriarchError):
            await transport.json(Request.change("POST", "/v1/jobs", {}))

    run(peers[0].url, BRIEF, main)
