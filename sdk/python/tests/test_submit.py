"""Batched submissions, when one of the waiting threads is interrupted."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, cast

import pytest

from triarch._http.policy import Request
from triarch._http.transport import Transport
from triarch._jobs.submit import Submitter


class Gated:
    """Replaces the transport: every request waits for the gate, and is answered with an id for each task."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = threading.Semaphore(0)

    def json(self, call: Request) -> dict[str, Any]:
        self.asked.release()
        assert self.gate.wait(30)
        count = (call.body or b"").count(b"kind")
        return {"id": "j1-0", "tasks": [f"t1-{number}" for number in range(count)]}


def interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_one_holds_up_nobody() -> None:
    gated = Gated()
    submitter = Submitter(cast(Transport, gated))
    submitted: list[tuple[str, str]] = []

    def submit() -> None:
        submitted.append(submitter.one(b'{"kind":"x"}', "q"))

    threads = [threading.Thread(target=submit, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert gated.asked.acquire(timeout=30)
    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        # Both requests are in flight, so this submission has to wait.
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            submitter.one(b'{"kind":"x"}', "q")
    finally:
        signal.signal(signal.SIGALRM, before)
    late = threading.Thread(target=submit, daemon=True)
    late.start()
    gated.gate.set()
    for thread in [*threads, late]:
        thread.join(30)
    assert len(submitted) == 3
    assert not submitter._lanes, "a turn was left to one who is gone"
