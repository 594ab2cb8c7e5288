"""The threads of the package that wait and submit, against a transport that answers by itself: no cluster, no timing."""

from __future__ import annotations

import json
import threading
import weakref
from typing import Any

from triarch._http.policy import Request
from triarch._jobs.completion_watcher import CompletionWatcher
from triarch._jobs.submit import Submitter
from triarch.testing import wait_until

TASKS = [f"t1-{number}" for number in range(5)]


class Answers:
    """A transport whose tasks are taken and have ended as soon as the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = threading.Event()

    def call(self, request: Request, cancellation: object = None) -> Answers:
        self.asked.set()
        assert self.gate.wait(30)
        tasks = json.loads(request.body or b"")["tasks"]
        ended = [{"id": task, "state": "succeeded", "result": {}} for task in tasks if isinstance(task, str)]
        answer = Answers()
        answer.document = {"ended": ended, "missing": [], "id": "t1", "tasks": TASKS[: len(tasks)]}
        return answer

    document: Any = None

    def json(self, request: Request | None = None) -> Any:
        return self.document if request is None else self.call(request).document


class Owner:
    """Stands for a future: it notes which of those called before it are still there."""

    def __init__(self, seen: list[list[bool]], earlier: list[weakref.ref[Owner]]) -> None:
        self.seen, self.earlier = seen, earlier[:]
        earlier.append(weakref.ref(self))

    def then(self, *ids: object) -> None:
        self.seen.append([one() is not None for one in self.earlier])


def test_the_watcher_drops_each_waiter_before_it_calls_the_next() -> None:
    transport, seen, owners = Answers(), [], []  # type: Answers, list[list[bool]], list[weakref.ref[Owner]]
    watcher = CompletionWatcher(transport)  # type: ignore[arg-type]
    watcher.add([(task, Owner(seen, owners).then) for task in TASKS])
    transport.gate.set()
    wait_until(lambda: len(seen) == len(TASKS), 10, "the callbacks")
    assert seen == [[False] * number for number in range(len(TASKS))]
    wait_until(lambda: not any(one() for one in owners), 10, "the last waiter to be dropped")


def test_the_watcher_forgets_a_discarded_callback() -> None:
    transport, seen = Answers(), []  # type: Answers, list[list[bool]]
    watcher = CompletionWatcher(transport)  # type: ignore[arg-type]
    owner, other = Owner(seen, []), Owner(seen, [])
    watcher.add([(TASKS[0], owner.then), (TASKS[0], other.then), (TASKS[1], owner.then)])
    watcher.discard(TASKS[0], owner.then)
    assert len(watcher) == 2
    watcher.discard(TASKS[1], owner.then)
    assert len(watcher) == 1
    transport.gate.set()
    wait_until(lambda: len(seen) == 1, 10, "the callback that was not discarded")


def test_the_submitter_drops_each_submission_before_it_ends_the_next() -> None:
    transport, seen, owners = Answers(), [], []  # type: Answers, list[list[bool]], list[weakref.ref[Owner]]
    submitter = Submitter(transport)  # type: ignore[arg-type]
    # The first one is under way alone, while the others gather to a batch.
    submitter.soon(b"{}", "q", Owner([], []).then)
    assert transport.asked.wait(10)
    for _ in TASKS:
        submitter.soon(b"{}", "q", Owner(seen, owners).then)
    transport.gate.set()
    assert submitter.flush(10)
    assert seen == [[False] * number for number in range(len(TASKS))]
    wait_until(lambda: not any(one() for one in owners), 10, "the last submission to be dropped")
