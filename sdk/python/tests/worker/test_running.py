"""Running tasks: their inputs, their results and errors, and the worker's command line."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from triarch import TaskFailed, Triarch, current
from triarch._http.policy import Request, path
from triarch.testing import wait_until

from .conftest import HERE, Bench

POOLS = ("process", "thread", "async")


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_knows_its_attempt(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=2, pool=pool)
    handle = bench.submit("context")
    context = handle.result(timeout=30)
    lease = bench.task(handle.id)["attempts"][0]
    assert context == {
        "id": handle.id,
        "job": handle.job,
        "name": "tasks_of_tests.context",
        "attempt": 1,
        "token": lease["token"],
    }


def test_outside_of_a_task_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="in the code of a task"):
        current()


@pytest.mark.parametrize("pool", POOLS)
def test_exceptions_travel_with_their_causes(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=1, pool=pool)
    with pytest.raises(TaskFailed) as failed:
        bench.submit("raises").result(timeout=30)
    assert bench.lines("tried") == ["1", "2"]
    error = failed.value
    assert (error.type, error.error["message"]) == ("ValueError", "no such thing")
    assert error.error["cause"]["type"] == "KeyError"
    assert "tasks_of_tests.py" in (error.traceback or "")
    # Frames of the runtime itself do not help users.
    assert "triarch/worker" not in (error.traceback or "")


@pytest.mark.parametrize(("how", "type"), [("raise", "triarch.errors.GiveUp"), ("divide", "ZeroDivisionError")])
def test_a_failure_that_is_not_retryable_gets_no_other_attempt(bench: Bench, how: str, type: str) -> None:
    bench.worker(concurrency=1)
    with pytest.raises(TaskFailed) as failed:
        bench.submit("gives_up", how).result(timeout=30)
    assert failed.value.type == type
    assert bench.lines("tried") == ["1"]


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_chooses_the_delay_before_its_next_attempt_and_gets_no_attempt_more(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=1, pool=pool)
    wait_until(lambda: bench.app.cluster.status()["level"] == 2, 30, "the cluster to have level 2")
    with pytest.raises(TaskFailed) as failed:
        bench.submit("asks_for_a_delay", 0.5).result(timeout=30)
    assert (failed.value.type, failed.value.message) == ("triarch.errors.Retry", "busy")
    (first, began), (second, again) = (line.split() for line in bench.lines("tried"))
    assert (first, second) == ("1", "2")
    # The back-off would be an hour.
    assert float(again) - float(began) >= 0.5


@pytest.mark.parametrize("pool", POOLS)
def test_progress_and_output_can_be_watched(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=1, pool=pool)
    handle = bench.submit("talks")

    def progress() -> dict[str, Any]:
        return bench.task(handle.id)

    wait_until(lambda: progress().get("progress") == 0.4, 30, "the progress to be seen")
    assert progress()["note"] == "half asleep"
    assert bench.task(handle.id)["state"] == "running"

    def output() -> str:
        logs = bench.app.transport.json(Request.get(path("tasks", handle.id, "logs")))
        return "".join(chunk["text"] for chunk in logs["chunks"])

    wait_until(lambda: "42" in output(), 30, "the output to be seen")
    text = output()
    assert "to whom it may concern\n" in text
    assert "a warning\n" in text
    assert "of the log: 42" in text
    assert bench.task(handle.id)["state"] == "running"
    bench.go_on()
    handle.result(timeout=30)
    wait_until(lambda: "the last words\n" in output(), 10, "the last words to be seen")


@pytest.mark.parametrize("pool", POOLS)
def test_the_output_of_a_short_task_is_complete_with_its_result(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=1, pool=pool)
    for _ in range(5):
        handle = bench.submit("says", "the last words")
        handle.result(timeout=30)
        assert "the last words\n" in handle.logs()


def test_a_result_that_is_too_large_fails_once_with_advice(bench: Bench) -> None:
    bench.worker(concurrency=1)
    with pytest.raises(TaskFailed) as failed:
        bench.submit("large", 2 << 20, max_attempts=3).result(timeout=30)
    assert "object store" in failed.value.error["message"]
    assert len(bench.lines("begun")) == 0
    assert bench.submit("large", 1 << 19).result(timeout=30) == "x" * (1 << 19)


def test_a_result_that_cannot_be_written_fails_once_with_advice(bench: Bench) -> None:
    bench.worker(concurrency=1)
    handle = bench.submit("unspeakable", max_attempts=3)
    with pytest.raises(TaskFailed) as failed:
        handle.result(timeout=30)
    assert "serializer" in failed.value.error["message"]
    assert bench.outcomes(handle.id) == ["failed"]


# --- codecs ---


def _packed(bench: Bench) -> Any:
    app = Triarch(bench.cluster.url, serializer="msgpack", queue=bench.queue)

    @app.task(name="tasks_of_tests.size")
    def size(data: bytes) -> int:
        return len(data)

    return size


def test_a_codec_that_is_accepted_is_read(bench: Bench) -> None:
    bench.worker(concurrency=1, app="tasks_of_tests:packed")
    assert _packed(bench).delay(b"\x00\xff" * 100).result(timeout=30) == 200


def test_a_codec_that_is_not_accepted_is_refused(bench: Bench) -> None:
    bench.worker("--accept", "json", concurrency=1, app="tasks_of_tests:packed")
    handle = _packed(bench).delay(b"\x00\xff" * 100)
    with pytest.raises(TaskFailed) as failed:
        handle.result(timeout=30)
    assert "'msgpack'" in failed.value.error["message"]
    assert bench.outcomes(handle.id) == ["failed"]


def test_functions_that_travel_run_only_where_they_are_accepted(bench: Bench) -> None:
    app = Triarch(bench.cluster.url, serializer="cloudpickle", queue=bench.queue)
    bench.worker(concurrency=1)
    travelled = app.tasks["triarch.call"].apply_async((lambda x: x * 2, 21))
    assert bench.submit("add", 1, 2).result(timeout=30) == 3
    assert bench.task(travelled.id)["state"] == "queued"
    bench.worker("--accept", "json,cloudpickle", concurrency=1)
    assert travelled.result(timeout=30) == 42


# --- the command ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_module:app"], "there is no module"),
        (["tasks_of_tests:no_app"], "there is no 'no_app'"),
        (["tasks_of_tests:add"], "not a Triarch app"),
        (["tasks_of_tests"], "no single app"),
        (["tasks_of_tests:app", "--concurrency", "0"], "concurrency must be from 1"),
        (["tasks_of_tests:app", "--resource", "gpu=many"], "a whole number"),
        (["tasks_of_tests:app", "--masters", "ftp://x"], "use http"),
    ],
)
def test_bad_usage_exits_with_2_and_the_reason(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from triarch.worker.cli import main

    monkeypatch.chdir(HERE)
    monkeypatch.syspath_prepend(str(HERE))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_labels_and_resources_are_what_tasks_require(bench: Bench) -> None:
    bench.worker("--label", "zone=eu", "--resource", "gpu=1", concurrency=2)
    here = bench.submit("add", 1, 2, labels={"zone": "eu"}, resources={"gpu": 1})
    elsewhere = bench.submit("add", 1, 2, labels={"zone": "us"})
    assert here.result(timeout=30) == 3
    assert bench.task(elsewhere.id)["state"] == "queued"


def test_reload_takes_up_what_has_changed(bench: Bench, tmp_path: Path) -> None:
    module = tmp_path / "changing.py"

    def write(answer: int) -> None:
        code = f"""
            from triarch import Triarch
            app = Triarch()
            @app.task(name="tasks_of_tests.add")
            def add(x, y):
                return {answer}
            """
        module.write_text(textwrap.dedent(code) + f"# {'x' * answer}\n")

    write(1)
    worker = bench.worker("--reload", app="changing:app", cwd=tmp_path, concurrency=1)
    assert bench.submit("add", 0, 0).result(timeout=30) == 1
    write(2)
    wait_until(lambda: bench.submit("add", 0, 0).result(timeout=30) == 2, 30, "the change to be taken up")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def test_a_worker_in_the_same_process(triarch_app: Triarch, triarch_worker: Any) -> None:
    @triarch_app.task
    def double(x: int) -> int:
        return 2 * x

    @triarch_app.task
    async def half(x: int) -> float:
        return x / 2

    triarch_worker(triarch_app)
    assert double.delay(21).result(timeout=30) == 42
    assert half.delay(21).result(timeout=30) == 10.5
