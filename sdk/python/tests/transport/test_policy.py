"""The retry policy: the next action of a call after each result of a try, without sockets and clocks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from triarch import Conflict, InvalidRequest, NoLeader, NotFound, QueueFull, RetryPolicy, Timeout, UsageError
from triarch._http.policy import MasterList, Request, Response, RetryState, parse_masters, path
from triarch.errors import ProtocolError

A, B, C = "http://a:1", "http://b:2", "http://c:3"


def problem(code: str, status: int, **more: Any) -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps({"code": code, "status": status, "detail": "told", **more}).encode()


class Conversation:
    """One call, and a clock that the test moves."""

    def __init__(self, call: Request | None = None, masters: tuple[str, ...] = (A, B, C)) -> None:
        self.masters = MasterList(masters)
        self.now_s = 0.0
        self.state = RetryState(self.masters, RetryPolicy(), call or Request.change("POST", "/v1/jobs", {}), 0.0)

    def next(self) -> tuple[str, float]:
        do = self.state.next_try(self.now_s)
        self.now_s += do.pause_s
        self.headers = do.headers
        return do.master, do.pause_s

    def answered(self, status: int, headers: dict[str, str], body: bytes) -> Response | None:
        return self.state.on_response(status, headers, body)


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("a:1, http://b:2 ,", [A, B]),
        ("http://a:1/,a:1", [A]),
        ("http://host", ["http://host:80"]),
        ("[::1]:7101", ["http://[::1]:7101"]),
    ],
)
def test_masters_are_read_in_one_form(text: str, urls: list[str]) -> None:
    assert parse_masters(text) == urls


@pytest.mark.parametrize("text", ["", " , ", "https://a:1", "http://", "a:port", "a:99999"])
def test_an_invalid_master_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_masters(text)


def test_an_invalid_id_is_not_sent() -> None:
    assert path("jobs", "a/b?c") == "/v1/jobs/a%2Fb%3Fc"
    with pytest.raises(NotFound):
        path("jobs", "..")


def test_the_leader_is_found_by_redirect_and_asked_first_from_then_on() -> None:
    talk = Conversation()
    assert talk.next() == (A, 0)
    assert talk.headers["triarch-forward"] == "never"
    assert talk.answered(307, {"location": f"{B}/v1/jobs"}, b"") is None
    assert talk.next() == (B, 0)
    answer = talk.answered(201, {"triarch-index": "7"}, b"{}")
    assert answer is not None
    assert (answer.index, answer.json(), talk.masters.first()) == (7, {}, B)


def test_redirects_without_end_are_not_followed_for_ever() -> None:
    talk = Conversation()
    seen = []
    for _ in range(12):
        master, _ = talk.next()
        seen.append(master)
        talk.answered(307, {"location": A if master != A else B}, b"")
    assert C in seen, "the third was never asked"


def test_every_try_of_a_change_has_the_same_id() -> None:
    talk = Conversation()
    ids = set()
    for _ in range(7):
        talk.next()
        ids.add(talk.headers["triarch-request-id"])
        talk.state.on_no_response("nothing")
    assert len(ids) == 1


def test_a_round_over_all_masters_comes_before_a_pause() -> None:
    talk = Conversation()
    pauses = []
    for _ in range(9):
        pauses.append(talk.next()[1])
        talk.answered(*problem("no_leader", 503))
    assert [pause > 0 for pause in pauses] == [False, False, False, True, False, False, True, False, False]


def test_an_unreachable_cluster_is_reported_before_the_deadline_by_its_own_error() -> None:
    talk = Conversation()
    with pytest.raises(NoLeader, match="refused"):
        while True:
            talk.next()
            talk.now_s += 0.01
            talk.state.on_unreachable("refused")
    assert talk.now_s < 6


def test_a_long_poll_is_retried_while_no_master_is_reachable() -> None:
    talk = Conversation(Request.get("/v1/tasks/t1-0", hold_s=20))
    with pytest.raises(NoLeader):
        while True:
            talk.next()
            talk.now_s += 0.1
            talk.state.on_unreachable("refused")
    assert talk.now_s >= 50


def test_an_unknown_outcome_is_never_reported_as_a_failure() -> None:
    talk = Conversation(Request.change("POST", "/v1/jobs", {}, request_id="r1"))
    talk.next()
    talk.state.on_no_response("reset")
    with pytest.raises(Timeout, match="outcome is unknown") as caught:
        while True:
            talk.next()
            talk.now_s += 1
            talk.answered(*problem("no_leader", 503))
    assert caught.value.request_id == "r1"


def test_a_request_that_is_sent_once_ends_with_its_first_unknown_outcome() -> None:
    for lost in (True, False):
        talk = Conversation(Request.change("POST", "/v1/cluster/transfer-leader", {}, once=True))
        talk.next()
        with pytest.raises(Timeout, match="outcome is unknown") as caught:
            if lost:
                talk.state.on_no_response("reset")
            else:
                talk.answered(*problem("timeout", 504))
        assert caught.value.request_id is None
    talk = Conversation(Request.change("POST", "/v1/cluster/transfer-leader", {}, once=True))
    talk.next()
    talk.state.on_unreachable("refused")
    assert talk.next() == (B, 0)


def test_a_full_queue_is_asked_again_after_what_it_asks_for() -> None:
    talk = Conversation()
    talk.next()
    talk.answered(*problem("queue_full", 429, retry_after_ms=700))
    assert talk.next() == (A, 0.7)
    with pytest.raises(QueueFull):
        while True:
            talk.answered(*problem("queue_full", 429, retry_after_ms=700))
            talk.next()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem("invalid_request", 400, field="tasks[0].kind"), InvalidRequest),
        (problem("conflict", 409, task="t1-0"), Conflict),
        ((400, {}, b"<html>"), ProtocolError),
        ((307, {"location": "nowhere:x"}, b""), ProtocolError),
    ],
)
def test_final_refusals_are_raised(answer: tuple[int, dict[str, str], bytes], kind: type[Exception]) -> None:
    talk = Conversation()
    talk.next()
    with pytest.raises(kind):
        talk.answered(*answer)


def test_nothing_that_comes_makes_it_fail_otherwise() -> None:
    bodies = [b"", b"null", b"[]", b"{}", b'{"code":1}', b"\xff", b'{"code":"x","status":"y","retry_after_ms":"z"}']
    for status in (100, 204, 304, 307, 400, 404, 418, 429, 500, 502, 503, 504, 507, 599):
        for body in bodies:
            talk = Conversation()
            talk.next()
            try:
                talk.answered(status, {"retry-after": "-1"}, body)
            except Exception as error:
                assert type(error).__module__ == "triarch.errors", (status, body, error)
