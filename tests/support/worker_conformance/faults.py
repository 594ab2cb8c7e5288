"""Faults that the gateway injects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from .gateway import Call, Gateway, Rule

#: A value that no field of the interface has.
UNKNOWN = {"field_of_a_later_version": {"list": [1, "two", None], "text": 'å " \\ \n'}}


class LoseAnswer(Rule):
    """Lets the master do what the first matching call asks for, and closes the connection instead of the answer."""

    def __init__(self, wanted: Callable[[Call], bool]) -> None:
        self.wanted = wanted
        self.lost: Call | None = None

    def answer(self, call: Call) -> None:
        """Loses the answer."""
        if self.lost is None and call.status == 200 and self.wanted(call):
            self.lost = call
            call.lost = True


class AnswerAll(Rule):
    """Answers every call in the place of the masters, and counts the calls."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.reply = (status, list(headers.items()), body)
        self.count = 0

    def request(self, call: Call) -> None:
        """Answers the call."""
        call.status, call.answer_headers, call.answer_raw = self.reply
        self.count += 1


class Refuse(AnswerAll):
    """No leader is known: every call is refused, with the time to wait."""

    def __init__(self) -> None:
        body = (
            b'{"type":"urn:triarch:problem:no_leader","title":"No leader is known","status":503,"code":"no_leader","detail":""}'
        )
        super().__init__(503, {"content-type": "application/problem+json", "retry-after": "1"}, body)


class Garble(AnswerAll):
    """Every call gets a page of a broken proxy as its answer, as a success."""

    def __init__(self) -> None:
        super().__init__(200, {"content-type": "text/html"}, b"<html><body>It works!</body></html>")


class UnknownFields(Rule):
    """Adds unknown fields to every answer, and to every task and verdict in it."""

    def answer(self, call: Call) -> None:
        """Adds the fields."""
        if not isinstance(call.answer, dict):
            return
        for name in ("tasks", "results"):
            for item in call.answer.get(name) or []:
                if isinstance(item, dict):
                    item.update(UNKNOWN)
        call.answer.update(UNKNOWN)


class ReportLost(Rule):
    """Says of one attempt that its lease is lost, whenever the worker lists it, and does not deliver the lease again."""

    def __init__(self, task: str) -> None:
        self.task = task
        #: Time of the first answer that said so.
        self.since = 0.0

    def answer(self, call: Call) -> None:
        """Adds the task to `lost`."""
        if call.route not in ("poll", "heartbeat") or not isinstance(call.answer, dict) or call.status != 200:
            return
        if call.holds(self.task):
            call.answer.setdefault("lost", []).append(self.task)
            self.since = self.since or call.begun
        if self.since and "tasks" in call.answer:
            call.answer["tasks"] = [task for task in call.tasks() if task.get("id") != self.task]


class RenameTask(Rule):
    """Gives a task another id for the worker: one that must be copied exactly."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.alias = f"{task}\"\\/../é %41\t'$(exit)"
        self.token: int | None = None
        #: Ids that the worker has sent for this lease, other than the one it was given.
        self.wrong: set[str] = set()

    def request(self, call: Call) -> None:
        """Restores the id."""
        for item in (*call.running(), *call.results()):
            if item.get("task") == self.alias:
                item["task"] = self.task
            elif self.token is not None and item.get("token") == self.token:
                self.wrong.add(str(item.get("task")))

    def answer(self, call: Call) -> None:
        """Replaces the id."""
        if not isinstance(call.answer, dict):
            return
        for item in call.tasks():
            if item.get("id") == self.task:
                self.token = item.get("token")
                item["id"] = self.alias
        for item in call.answer.get("results") or []:
            if isinstance(item, dict) and item.get("task") == self.task:
                item["task"] = self.alias
        for name in ("cancel", "lost"):
            tasks: list[Any] = call.answer.get(name) or []
            if self.task in tasks:
                call.answer[name] = [self.alias if task == self.task else task for task in tasks]


class RenameWorker(Rule):
    """Gives the next registration another id for the worker: one that must be encoded in a path."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.alias = ""

    def answer(self, call: Call) -> None:
        """Replaces the id in the answer to the registration."""
        if call.route == "register" and call.status == 201 and isinstance(call.answer, dict) and not self.alias:
            real = call.answer["id"]
            self.alias = f"{real}/a%20b"
            self.gateway.worker_aliases[real] = call.answer["id"] = self.alias

    def encoded(self, path: str) -> bool:
        """Returns whether a path, as the worker sent it, has the id in its encoded form."""
        return f"/v1/workers/{quote(self.alias, safe='')}" in path
