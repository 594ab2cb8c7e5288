"""Options of submissions, and the check of arguments: what people type means what they meant, or is refused by its name."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from triarch import ArgumentsError, Triarch, UsageError
from triarch.arguments import ArgumentCheck
from triarch.options import TaskOptions
from triarch.worker import WorkerConfig

app = Triarch("http://127.0.0.1:9")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


def _wire(**options: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(add.spec((1,), {}, TaskOptions().but(options)))
    return said


@pytest.mark.parametrize(
    "eta",
    [
        "2030-01-31T12:00:00+01:00",
        "2030-01-31T11:00:00Z",
        "2030-01-31 11:00:00.000+00:00",
        datetime(2030, 1, 31, 11, tzinfo=timezone.utc),
        datetime(2030, 1, 31, 13, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_an_eta_is_a_moment_or_text(eta: Any) -> None:
    assert _wire(eta=eta)["run_at"] == "2030-01-31T11:00:00.000Z"


def test_an_eta_that_utc_cannot_write_is_refused() -> None:
    for eta in (
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ):
        with pytest.raises(UsageError, match=r"eta is .* outside of the years"):
            _wire(eta=eta)


def test_expires_is_a_span_or_a_moment() -> None:
    assert _wire(expires=60)["expires_ms"] == 60_000
    soon = datetime.now(timezone.utc) + timedelta(seconds=100)
    for moment in (soon, soon.isoformat()):
        assert 90_000 < _wire(expires=moment)["expires_ms"] <= 100_000
    assert _wire(expires=datetime(2001, 1, 1, tzinfo=timezone.utc))["expires_ms"] == 1

    # Of a task's own options: counted from each submission, not from the definition.
    @app.task(name="expires", expires=soon)
    def expires() -> None: ...

    first = json.loads(expires.spec((), {}, expires.options))["expires_ms"]
    assert 90_000 < first <= 100_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eta": "tomorrow"}, "eta is 'tomorrow'"),
        ({"eta": 5}, "eta is 5"),
        ({"expires": "soon"}, "expires is 'soon'"),
        ({"countdown": "5 s"}, "countdown is '5 s'"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": [1]}, r"timeout is \[1\]"),
        ({"labels": "zone=eu"}, "labels takes a dictionary"),
        ({"resources": ["gpu"]}, "resources takes a dictionary"),
        ({"tags": [1]}, "tags takes texts"),
        ({"tags": ["\udcff"]}, "no Unicode text"),
        ({"unique_key": "\udcff"}, "no Unicode text"),
        ({"queue": object()}, "cannot be sent"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _wire(**options)


def test_one_text_is_one_word() -> None:
    assert _wire(tags="abc")["tags"] == ["abc"]
    assert _wire(tags=("a", "b"))["tags"] == ["a", "b"]
    assert WorkerConfig(queues="mail").queues == ["mail"]
    assert WorkerConfig(accept="json").accept == ["json"]
    assert Triarch("http://127.0.0.1:9", accept="json").accept == {"json"}


def test_exceptions_to_give_up_on_may_be_one() -> None:
    @app.task(name="one", give_up_on=ValueError)
    def one() -> None: ...

    assert one.give_up_on == (ValueError,)
    with pytest.raises(UsageError, match="classes of exceptions"):
        app.task(name="other", give_up_on="ValueError")(print)  # type: ignore[call-overload]


def _named() -> None: ...


def test_names_must_be_text() -> None:
    with pytest.raises(UsageError, match="Unicode"):
        app.task(name="bad\udcff")(_named)
    with pytest.raises(UsageError, match="200 bytes"):
        app.task(name="語" * 67)(_named)


# --- arguments ---


def _accepts(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    try:
        ArgumentCheck(fn).check("it", args, kwargs)
    except ArgumentsError:
        return False
    return True


def _decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn("connection", *args, **kwargs)

    return wrapper


def test_arguments_are_checked_as_python_would() -> None:
    def f(a: int, b: int = 2, *, c: int = 3) -> None: ...
    def g(*args: int, **kwargs: int) -> None: ...
    def h(a: int, /, *, b: int) -> None: ...

    assert _accepts(f, 1)
    assert _accepts(f, 1, 2)
    assert _accepts(f, a=1, c=5)
    assert not _accepts(f)
    assert not _accepts(f, 1, 2, 3)
    assert not _accepts(f, 1, a=1)
    assert not _accepts(f, 1, d=1)
    assert _accepts(g)
    assert _accepts(g, 1, 2, 3, x=1)
    assert _accepts(h, 1, b=2)
    assert not _accepts(h, 1)
    assert not _accepts(h, a=1, b=2)
    # A decorator may add arguments, and some functions have no signature.
    assert _accepts(_decorated(f), 1)
    assert _accepts(functools.partial(f, 1))
    assert _accepts(min, 1)


def test_a_call_with_wrong_arguments_is_not_submitted() -> None:
    delay: Any = add.delay
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})):
        with pytest.raises(ArgumentsError, match="its arguments are: x, y") as refused:
            delay(*args, **kwargs)
        assert isinstance(refused.value, TypeError)
    with pytest.raises(ArgumentsError):
        (add.s(1) | add.s(2, 3)).submit()
