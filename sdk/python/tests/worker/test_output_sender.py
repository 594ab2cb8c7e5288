"""The sender of live output against a real cluster, tested without a worker."""

from __future__ import annotations

import pytest

from triarch._http.policy import Request, path
from triarch._http.transport import Transport
from triarch.worker.attempt import Attempt
from triarch.worker.connection import WorkerConnection
from triarch.worker.leases import Leases
from triarch.worker.output_sender import BYTES_PER_ATTEMPT_MAX, OutputSender

from .conftest import Bench


def _leased(bench: Bench) -> tuple[str, Leases, Attempt]:
    """Returns the path of a worker that the test has registered, and an attempt that was leased to it."""
    bench.submit("says", "nothing")
    worker = {"name": bench.queue, "queues": [bench.queue], "slots": 1, "kinds": ["tasks_of_tests.says"]}
    id = str(bench.app.transport.json(Request.change("POST", path("workers"), worker))["id"])
    poll = {"max": 1, "wait_ms": 20_000}
    tasks = bench.app.transport.json(Request.change("POST", path("workers", id, "poll"), poll))["tasks"]
    leases = Leases(1, 0)
    leases.add(tasks)
    attempt = leases.next()
    assert attempt is not None
    return path("workers", id), leases, attempt


def test_all_that_was_written_before_a_result_is_sent_before_it(bench: Bench) -> None:
    worker, leases, attempt = _leased(bench)
    sender = OutputSender(WorkerConnection(Transport(bench.cluster.urls)), worker, leases)
    words = "".join(f"{number:7}\n" for number in range(BYTES_PER_ATTEMPT_MAX // 8 + 1))
    attempt.write("stdout", words)
    sender.send_before_results([attempt])
    sender.close()
    logs = bench.app.transport.json(Request.get(path("tasks", attempt.task, "logs")))
    assert "".join(chunk["text"] for chunk in logs["chunks"]) == words


def test_results_do_not_fail_for_output_that_cannot_be_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, leases, attempt = _leased(bench)
    attempt.write("stdout", "unheard of")
    # The cluster does not know the worker, and later no master is reachable.
    for sender in (
        OutputSender(WorkerConnection(Transport(bench.cluster.urls)), "/v1/workers/nobody", leases),
        OutputSender(WorkerConnection(Transport("http://127.0.0.1:9")), worker, leases),
    ):
        sender.send_before_results([attempt])
        sender.close()
    # An invalid answer does not stop the sender either.
    sender = OutputSender(WorkerConnection(Transport(bench.cluster.urls)), worker, leases)
    monkeypatch.setattr(WorkerConnection, "call", lambda *args, **more: {"attempts": [{"strange": True}]})
    sender.send_before_results([attempt])
    assert attempt.output is not None
    assert attempt.output.has_unsent
