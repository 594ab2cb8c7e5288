"""Clients that wait for the end of the same task: the time until the last of them has the answer."""

import contextlib
import json
import select
import socket
import statistics
import time

from tests.perf.scale.sizes import note, scaled
from tests.perf.support.cluster import Cluster, ask
from tests.perf.support.sandbox import until

WAITS = (1, 10, 100, 300, 1_000)
ROUNDS = 20
TIMEOUT_S = 60


def measure(options):
    points = []
    with Cluster(options.binary) as cluster:
        leader = cluster.leader()
        with cluster.connection(leader) as connection:
            worker = ask(connection, "POST", "/v1/workers", {"name": "waits", "queues": ["waits"], "kinds": ["wait"], "slots": 1})
            for count in scaled(options, WAITS):
                rounds = [one(cluster, leader, connection, worker["id"], count) for _ in range(ROUNDS)]
                points.append(note("waits", {
                    "waits": count,
                    "first_ms": statistics.median(first for first, _, _ in rounds),
                    "last_ms": statistics.median(last for _, last, _ in rounds),
                    "leader_cpu_ms": 1e3 * statistics.mean(cpu for _, _, cpu in rounds),
                }))
    return points


def one(cluster, leader, connection, worker, count):
    """Runs one task with its waiting clients. Returns the ms from the report of its result until the first and the
    last client had the answer, and the leader's processor time in s since before the clients connected.
    """
    submitted = ask(connection, "POST", "/v1/jobs", {"tasks": [{"kind": "wait", "queue": "waits", "payload": None}]})
    task = submitted["tasks"][0]
    before = cluster.cpu_seconds(leader)
    with contextlib.ExitStack() as stack:
        sockets = {}
        for _ in range(count):
            waiting = stack.enter_context(socket.create_connection(("127.0.0.1", cluster.ports[leader])))
            waiting.sendall(f"GET /v1/tasks/{task}?wait_ms={TIMEOUT_S * 1000} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
            waiting.setblocking(False)
            sockets[waiting.fileno()] = (waiting, bytearray())
        held = 'triarch_http_held{kind="wait"}'
        until(lambda: cluster.metrics(leader)[held] >= count, f"{count} waits", TIMEOUT_S)
        leased = ask(connection, "POST", f"/v1/workers/{worker}/poll", {"max": 1, "wait_ms": 20_000})["tasks"][0]
        results = [{"task": task, "token": leased["token"], "status": "succeeded", "result": None}]
        body = json.dumps({"results": results})
        begun = time.perf_counter()
        connection.request("POST", f"/v1/workers/{worker}/report", body, {"content-type": "application/json"})
        first, last = wait_for_responses(sockets)
        connection.getresponse().read()
    return (first - begun) * 1e3, (last - begun) * 1e3, cluster.cpu_seconds(leader) - before


def wait_for_responses(sockets):
    """Returns the times at which the first and the last client had the complete answer."""
    poll = select.epoll()
    with poll:
        for number in sockets:
            poll.register(number, select.EPOLLIN)
        first, left, deadline = None, set(sockets), time.monotonic() + TIMEOUT_S
        while left:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(left)} of {len(sockets)} waits were not told of the end")
            for number, _ in poll.poll(1):
                waiting, read = sockets[number]
                received = waiting.recv(65_536)
                read += received
                if not received or complete_response(read):
                    if not read.startswith(b"HTTP/1.1 200") or b'"succeeded"' not in read:
                        raise RuntimeError(f"a wait was answered: {bytes(read[:300])!r}")
                    first = first or time.perf_counter()
                    left.discard(number)
                    poll.unregister(number)
        return first, time.perf_counter()


def complete_response(read):
    head, found, body = bytes(read).partition(b"\r\n\r\n")
    if not found:
        return False
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(body) >= int(length.split(b":")[1])


def write_section(page, points):
    page.paragraph("## Waits for one task")
    page.paragraph(
        "The given number of clients wait for the same task by a long poll (`wait_ms`), each on a connection of its own. Then the "
        "result of the task is reported. The times run from the report until the first and the last client have the answer, and are "
        f"medians of {ROUNDS} tasks. They include the time of the clients, which are one Python program. The leader's processor time "
        "is the mean for a task, from the first connection on."
    )
    page.plot(
        "waits", "Time from a result to the waiting clients", "clients that wait for one task", "ms after the report",
        {
            "last client": [(point["waits"], point["last_ms"]) for point in points],
            "first client": [(point["waits"], point["first_ms"]) for point in points],
        },
    )
    page.table({
        "waits": "clients", "first_ms": "first client, ms", "last_ms": "last client, ms",
        "leader_cpu_ms": "leader's processor time, ms",
    }, points)
