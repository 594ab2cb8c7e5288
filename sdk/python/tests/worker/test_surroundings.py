"""What surrounds a worker: its output, its limits, its place among the processes, and the modules with its tasks."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from triarch import Handle, TaskFailed, Triarch
from triarch.testing import Process, wait_until

from .conftest import HERE, Bench

POOLS = ("process", "thread", "async")


def _by_shell(
    bench: Bench,
    before: str,
    *args: str,
    pool: str = "process",
    after: str = "",
    concurrency: int = 2,
    under: Sequence[str] = (),
) -> Process:
    """Starts a worker as a shell does, with limits before it and redirections after it."""
    command = [sys.executable, "-m", "triarch.worker", "harmful_tasks:app", "--masters", bench.cluster.url]
    command += [
        "--queues",
        bench.queue,
        "--pool",
        pool,
        "--concurrency",
        str(concurrency),
        "--name",
        f"shell-{bench.queue}",
        *args,
    ]
    text = f"{before} exec {shlex.join([*under, *command])} {after}"
    return bench.cluster._start(f"shell-{bench.queue}", ["bash", "-c", text], env={"NOTES": str(bench.notes)}, cwd=HERE)


def _send(bench: Bench, name: str, *args: Any, **options: Any) -> Handle[Any]:
    options.setdefault("max_attempts", 1)
    return bench.app.send_task(f"harmful_tasks.{name}", args, queue=bench.queue, **options)


# --- output ---


@pytest.mark.parametrize(
    ("pool", "after"),
    [
        ("process", "0<&- >&- 2>&-"),
        ("process", ">/dev/full 2>/dev/full"),
        ("thread", "> >(exec true) 2>&1"),
        ("thread", ">&- 2>&-"),
        ("async", ">&- 2>/dev/full"),
    ],
)
def test_output_that_goes_nowhere_costs_no_task_and_no_worker(bench: Bench, pool: str, after: str) -> None:
    worker = _by_shell(bench, "", "--log-level", "debug", pool=pool, after=after)
    assert [_send(bench, "add", number, 1).result(timeout=30) for number in range(3)] == [1, 2, 3]
    assert _send(bench, "act", "binary output").result(timeout=30) == 256
    large = _send(bench, "act", "one large line")
    assert large.result(timeout=30) is None
    assert "x" * 1000 in large.logs()
    assert worker.is_running()
    worker.terminate()
    wait_until(lambda: worker.returncode is not None, 30, "the worker to end")
    assert worker.returncode == 0


@pytest.mark.parametrize("pool", POOLS)
def test_each_line_of_a_task_and_of_its_fate_names_the_task(bench: Bench, pool: str) -> None:
    worker = bench.worker("--log-level", "debug", app="harmful_tasks:app", concurrency=2, pool=pool)
    good = _send(bench, "add", 1, 2)
    assert good.result(timeout=30) == 3
    bad = _send(bench, "act", "error of a file")
    with pytest.raises(TaskFailed):
        bad.result(timeout=30)

    def text() -> str:
        return worker.log.read_text()

    wait_until(lambda: f"task {bad.id} (harmful_tasks.act) failed" in text(), 10, "the line of the failure")
    lines = text().splitlines()
    assert f"[{good.id}] adding 1 2" in lines
    assert any(f"DEBUG triarch.worker: task {good.id} (harmful_tasks.add) received, attempt 1" in line for line in lines)
    assert any(
        re.search(rf"INFO triarch.worker: task {good.id} \(harmful_tasks.add\) succeeded in 0\.\d+ s$", line) for line in lines
    )
    failed = next(line for line in lines if f"task {bad.id} (harmful_tasks.act) failed" in line)
    assert "WARNING" in failed
    assert failed.endswith("No such file or directory: '/no/such/file\\udcff'")


# --- limits ---


def test_processes_that_cannot_be_started_cost_no_task(bench: Bench) -> None:
    # Few files are a limit that the worker knows. Few processes are found out.
    worker = _by_shell(bench, "ulimit -n 60;", concurrency=40)
    handles = [_send(bench, "add", number, 1) for number in range(60)]
    assert [handle.result(timeout=60) for handle in handles] == [number + 1 for number in range(60)]
    assert all(bench.outcomes(handle.id) == ["succeeded"] for handle in handles)
    assert "permits 14 pool processes" in worker.log.read_text()


def test_the_limit_of_open_files_is_raised_for_the_worker_and_not_for_its_tasks(bench: Bench) -> None:
    _by_shell(bench, "ulimit -Sn 100;", concurrency=2)
    assert _send(bench, "limit_of_files").result(timeout=30)[0] == 100


def test_a_pool_that_falls_short_returns_leases(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from triarch.worker.leases import Leases
    from triarch.worker.pools import processes
    from triarch.worker.pools.processes import ProcessPool

    monkeypatch.setattr(processes, "_RETURN_AFTER_S", 0.2)
    started: list[int] = []
    original = ProcessPool._start_one

    def start_one(pool: ProcessPool) -> None:
        if started and not allowed:
            raise OSError(24, "Too many open files")
        started.append(1)
        original(pool)

    allowed: list[bool] = []
    monkeypatch.setattr(ProcessPool, "_start_one", start_one)
    monkeypatch.syspath_prepend(str(HERE))
    leases = Leases(4, 0)
    pool = ProcessPool(leases, 4, app="harmful_tasks:app", accept=None, stop_grace_s=1.0)
    lease = {"job": "j", "kind": "harmful_tasks.neighbour", "payload": None, "attempt": 1}
    leases.add([{**lease, "id": f"t{number}", "token": number} for number in range(4)])
    pool.start()
    try:
        wait_until(lambda: leases.has_results, 30, "leases to be handed back")
        assert leases.slots_left == 1
        taken = leases.take_results(with_work=False)
        assert all(b'"status":"returned"' in (one.result or b"") for one in taken)
        # The one that runs and the one that comes next stay.
        assert {one.task for one in taken} <= {"t1", "t2", "t3"}
        allowed.append(True)
        wait_until(lambda: leases.slots_left == 4, 30, "the means to be there again")
    finally:
        pool.close()


# --- processes ---


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="no process namespace can be made here")
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_process_1_reaps_orphans_and_passes_signals_on(bench: Bench, pool: str) -> None:
    worker = _by_shell(bench, "", pool=pool, under=["unshare", "--kill-child", "--pid", "--fork", "--mount-proc"])
    for _ in range(3):
        assert _send(bench, "act", "orphan").result(timeout=30) == "left"

    def zombies() -> list[str]:
        return _send(bench, "zombies").result(timeout=30)  # type: ignore[no-any-return]

    assert _send(bench, "parents").result(timeout=30)[-1] == 1
    wait_until(lambda: not zombies(), 20, "the orphans to be reaped")
    # The signal reaches unshare, whose child is process 1 of the namespace.
    inner = int(Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()[0])
    assert Path(f"/proc/{inner}/cmdline").read_bytes().rstrip(b"\0") == b"triarch-init"
    os.kill(inner, 15)
    wait_until(lambda: worker.returncode is not None, 30, "the worker to end")
    assert worker.returncode == 0


def test_orphans_of_a_process_pool_are_reaped_and_end_with_the_worker(bench: Bench) -> None:
    worker = _by_shell(bench, "", "--stop-grace", "0.5")
    assert _send(bench, "act", "orphan").result(timeout=30) == "left"
    daemon = _send(bench, "daemon").result(timeout=30)

    def parent_of(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])

    wait_until(lambda: parent_of(daemon) == worker.pid, 10, "the worker to adopt the daemon")
    children = Path(f"/proc/{worker.pid}/task")

    def zombies() -> int:
        pids = [pid for thread in children.iterdir() for pid in (thread / "children").read_text().split()]
        return sum(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z" for pid in pids)

    wait_until(lambda: zombies() == 0, 20, "the orphans to be reaped")
    worker.terminate()
    wait_until(lambda: not Path(f"/proc/{daemon}").exists(), 30, "the daemon to end")


# --- a loop that is blocked ---


@pytest.mark.parametrize("in_python", [True, False])
def test_a_task_that_blocks_the_loop_is_named_and_others_go_on(bench: Bench, in_python: bool) -> None:
    worker = bench.worker("--stop-grace", "0.3", app="harmful_tasks:app", concurrency=3, pool="async")
    neighbour = _send(bench, "aneighbour")
    wait_until(lambda: bench.lines("begun"), 30, "the neighbour to begin")
    seconds = 60 if in_python else 6
    blocker = _send(bench, "blocks", seconds, in_python, timeout=2.5)
    wait_until(lambda: bench.lines("blocks"), 30, "the loop to be blocked")
    begun = time.monotonic()
    assert _send(bench, "aadd", 1, 2).result(timeout=30) == 3
    assert time.monotonic() - begun < 10
    with pytest.raises(TaskFailed) as failed:
        blocker.result(timeout=30)
    assert failed.value.type == "timeout"
    bench.go_on()
    # It goes on when the loop is free again.
    assert neighbour.result(timeout=30) == "unharmed"
    assert bench.outcomes(neighbour.id) == ["succeeded"]
    assert f"task {blocker.id} (harmful_tasks.blocks) blocks an event loop" in worker.log.read_text()
    assert [_send(bench, "aadd", number, 1).result(timeout=30) for number in range(5)] == [1, 2, 3, 4, 5]


# --- tasks in other modules ---

APP = "from triarch import Triarch\n\napp = Triarch()\n"
TASKS = "from {app} import app\n\n\n@app.task\ndef answer() -> int:\n    return 42\n"


def _write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        file = directory / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return directory


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_tasks_in_other_modules_are_found(bench: Bench, tmp_path: Path, pool: str) -> None:
    directory = _write(tmp_path, proj__main=APP, proj__mail=TASKS.format(app="proj.main"))
    bench.worker("--import", "proj.mail", app="proj.main:app", cwd=directory, pool=pool)
    assert bench.app.send_task("proj.mail.answer", queue=bench.queue).result(timeout=30) == 42


def test_tasks_are_discovered(bench: Bench, tmp_path: Path) -> None:
    named = APP + 'app.autodiscover_tasks(["mail"])\n'
    directory = _write(tmp_path, proj__main=named, mail__tasks=TASKS.format(app="proj.main"))
    bench.worker(app="proj.main:app", cwd=directory)
    assert bench.app.send_task("mail.tasks.answer", queue=bench.queue).result(timeout=30) == 42


@pytest.mark.parametrize("package", ["proj__", ""])
def test_the_module_tasks_next_to_an_app_without_tasks_is_found(bench: Bench, tmp_path: Path, package: str) -> None:
    module = package.replace("__", ".")
    directory = _write(tmp_path, **{f"{package}main": APP, f"{package}tasks": TASKS.format(app=f"{module}main")})
    bench.worker(app=f"{module}main:app", cwd=directory)
    assert bench.app.send_task(f"{module}tasks.answer", queue=bench.queue).result(timeout=30) == 42


def test_a_worker_without_tasks_says_so(bench: Bench, tmp_path: Path) -> None:
    worker = bench.worker(app="alone:app", cwd=_write(tmp_path, alone=APP))
    wait_until(lambda: "registered no tasks" in worker.log.read_text(), 30, "the warning")
    assert "--import" in worker.log.read_text()


def test_a_module_that_is_not_there_is_bad_usage(bench: Bench, tmp_path: Path) -> None:
    worker = bench.worker("--import", "nowhere", app="alone:app", cwd=_write(tmp_path, alone=APP))
    wait_until(lambda: worker.returncode is not None, 30, "the worker to end")
    assert worker.returncode == 2
    assert "there is no module 'nowhere'" in worker.log.read_text()
    assert isinstance(bench.app, Triarch)
