"""Tasks that do to their worker whatever code can do."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from triarch import Triarch, current

app = Triarch()


def note(name: str, text: object) -> None:
    with Path(os.environ["NOTES"], name).open("a") as file:
        file.write(f"{text}\n")


@app.task(max_attempts=1)
def add(x: int, y: int) -> int:
    print("adding", x, y)
    return x + y


@app.task(max_attempts=1)
async def aadd(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


def _may_end() -> bool:
    return Path(os.environ["NOTES"], "go on").exists()


@app.task(max_attempts=1)
def neighbour() -> str:
    """Runs next to the others until the test lets it end."""
    note("begun", os.getpid())
    until = time.monotonic() + 120
    while not _may_end() and time.monotonic() < until:
        time.sleep(0.02)
    print("the neighbour has ended")
    return "unharmed"


@app.task(max_attempts=1)
async def aneighbour() -> str:
    note("begun", os.getpid())
    until = time.monotonic() + 120
    while not _may_end() and time.monotonic() < until:
        await asyncio.sleep(0.02)
    return "unharmed"


@app.task(max_attempts=1)
def echo(value: Any = None) -> Any:
    return value


class Text(str):
    """A subclass of str that lies about itself."""

    def __str__(self) -> str:
        return "lies"

    def __len__(self) -> int:
        return 1


class BadMessage(Exception):
    def __str__(self) -> str:
        sys.exit("in __str__")


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def _print_lines(count: int, size: int) -> None:
    for _ in range(count):
        print("x" * size)


def _return_in_a_fork() -> str:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return "returned"


def _print_in_forks() -> int:
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            _print_lines(20, 100_000)
            os._exit(0)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] for child in children)


def _raise_in_a_fork() -> int:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fork_without_python() -> None:
    """Leaves a copy of the process that has all of its descriptors, and dies."""
    if ctypes.CDLL(None).fork() == 0:
        ctypes.CDLL(None).sleep(20)
        ctypes.CDLL(None)._exit(0)
    os._exit(9)


def _map_in_processes() -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def _terminate_child() -> int:
    child = subprocess.Popen(["sleep", "60"])
    child.terminate()
    return child.wait(timeout=20)


def _terminate_forks() -> list[int]:
    """Ends forked children by signals that the worker handles. Returns the signals by which they ended."""
    found = []
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
        os.kill(child, number)
        found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return found


def _orphan() -> str:
    subprocess.run(["sh", "-c", "setsid sleep 0.1 & :"], check=True)
    return "left"


def _allocate() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return len(bytearray(1 << 30))


def _limit_for_good() -> str:
    resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    assert soft == resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))
    return "limited"


def _leave_thread() -> str:
    def run() -> None:
        for _ in range(50):
            time.sleep(0.02)
            print("from the thread")
            with_context.progress(0.1, "from the thread")

    with_context = current()
    threading.Thread(target=run, daemon=True).start()
    return "left"


def _leave_alarm() -> str:
    def on_alarm(number: int, frame: Any) -> None:
        raise TimeoutError("somebody else's alarm")

    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGUSR1, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    return "left"


def _signal_itself(*numbers: int) -> str:
    for number in numbers:
        os.kill(os.getpid(), number)
    return "went on"


def _recurse(depth: int) -> int:
    return _recurse(depth + 1) + 1


def _raise(error: BaseException) -> None:
    raise error


def _raise_circle() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def _raise_chain() -> None:
    error: BaseException | None = None
    for number in range(500):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = following
    assert error is not None
    raise error


def _raise_group() -> None:
    group: Any = getattr(__import__("builtins"), "ExceptionGroup", None)
    if group is None:
        raise ValueError("bad input; KeyError: 'k'")
    raise group("unhandled errors", [ValueError("bad input"), group("inner", [KeyError("k"), TwoArguments(1, "two")])])


def _bad_type() -> None:
    kind = type("Bad", (Exception,), {"__module__": None})
    kind.__qualname__ = "Bad\udcff" * 200
    raise kind("a")


def _notes(note: Any) -> str:
    current().progress(0.5, note)
    return "noted"


def _close(numbers: range) -> str:
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)
    return "closed"


def _leave_files() -> str:
    with contextlib.suppress(OSError):
        while True:
            os.dup(0)
    return "left"


def _write_everywhere() -> str:
    for number in range(3, 1024):
        with contextlib.suppress(OSError):
            os.write(number, b"\xff" * 64)
    return "written"


ACTIONS: dict[str, Callable[[], Any]] = {
    "sys.exit": lambda: sys.exit(3),
    "sys.exit with text": lambda: sys.exit("bye"),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "generator exit": lambda: _raise(GeneratorExit()),
    "stop iteration": lambda: _raise(StopIteration(5)),
    "cancelled error": lambda: _raise(asyncio.CancelledError()),
    "base exception": lambda: _raise(BaseException("of the base")),
    "os._exit": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "abort": lambda: os.abort(),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "real-time signal": lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3),
    "signals": lambda: _signal_itself(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1),
    "harmless signals": lambda: _signal_itself(signal.SIGHUP, signal.SIGUSR2, signal.SIGALRM),
    "signal of the group": lambda: os.killpg(0, signal.SIGTERM),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork that returns": _return_in_a_fork,
    "fork that raises": _raise_in_a_fork,
    "forks that print": _print_in_forks,
    "fork in C that holds everything": _fork_without_python,
    "multiprocessing": _map_in_processes,
    "terminate a child": _terminate_child,
    "terminate forks": _terminate_forks,
    "orphan": _orphan,
    "memory": _allocate,
    "limit for good": _limit_for_good,
    "thread left behind": _leave_thread,
    "alarm left behind": _leave_alarm,
    "recursion": lambda: _recurse(0),
    "recursion limit": lambda: sys.setrecursionlimit(150),
    "directory": lambda: os.chdir("/"),
    "close stdout": lambda: sys.stdout.close(),
    "detach stdout": lambda: getattr(sys.stdout, "detach")(),  # noqa: B009
    "replace stdout": lambda: setattr(sys, "stdout", None),
    "umask": lambda: os.umask(0o777) != 0o777,
    "files left open": _leave_files,
    "bytes on every descriptor": _write_everywhere,
    "output of a child": lambda: subprocess.run(["echo", "from a child"]).returncode,
    "close descriptor 1": lambda: _close(range(1, 2)),
    "close descriptors 0 to 2": lambda: _close(range(3)),
    "close all descriptors": lambda: _close(range(3, 1024)),
    "large output": lambda: _print_lines(20_000, 1_000),
    "a gigabyte of output": lambda: _print_lines(1_000_000, 1_000),
    "one large line": lambda: _print_lines(1, 30_000_000),
    "binary output": lambda: sys.stdout.buffer.write(bytes(range(256))),
    "output of a subclass": lambda: sys.stdout.write(Text("a subclass of str\n")),
    "output with surrogates": lambda: print("\udcff\ud800"),
    "result of a large number": lambda: 10**5000,
    "result with surrogates": lambda: {"name": ["\udcff"]},
    "result that is no number": lambda: float("nan"),
    "result with other keys": lambda: {1: 2},
    "result of an object": object,
    "result too deep": lambda: _nested(200),
    "result in a circle": lambda: _circle(),
    "result without end": lambda: _doubled(50),
    "result too large": lambda: "x" * (2 << 20),
    "result with codec": lambda: {"codec": ["x"], "data": 5},
    "result with types": lambda: [
        Decimal("1.50"),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc),
        date(2026, 1, 2),
        timedelta(days=1, microseconds=2),
        UUID(int=5),
        b"\x00\xff",
        {"__type__": "mine"},
    ],
    "note with surrogates": lambda: _notes("reading \udcff\udcfe"),
    "long note in Chinese": lambda: _notes("語" * 2000),
    "note of a subclass": lambda: _notes(Text("a note")),
    "note of control characters": lambda: _notes("\x00\x1b\n" * 1000),
    "error with surrogates": lambda: _raise(ValueError("cannot parse \udcff")),
    "error with control characters": lambda: _raise(ValueError("\x01" * 5_000_000)),
    "error with a large number": lambda: _raise(ValueError(10**5000)),
    "error without a message": lambda: _raise(BadMessage()),
    "error of two arguments": lambda: _raise(TwoArguments(7, "seven")),
    "error in a circle": _raise_circle,
    "long chain of errors": _raise_chain,
    "group of errors": _raise_group,
    "error of a bad type": _bad_type,
    "error of a file": lambda: os.stat("/no/such/file\udcff"),
}


def _circle() -> Any:
    around: list[Any] = []
    around.append(around)
    return around


def _doubled(times: int) -> Any:
    """Returns a list that would be written as two to the power of `times` lists."""
    found: list[Any] = []
    for _ in range(times):
        found = [found, found]
    return found


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else []


@app.task(max_attempts=1)
def act(action: str) -> Any:
    return ACTIONS[action]()


@app.task(max_attempts=1)
async def aact(action: str) -> Any:
    await asyncio.sleep(0)
    return ACTIONS[action]()


# --- what only coroutines can do ---


async def _exit_in_a_task() -> str:
    async def run() -> None:
        sys.exit(4)

    asyncio.get_running_loop().create_task(run())
    await asyncio.sleep(0.05)
    return "went on"


async def _await_exit() -> None:
    async def run() -> None:
        sys.exit(4)

    await asyncio.create_task(run())


async def _stop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.05)
    return "went on"


async def _close_loop() -> None:
    asyncio.get_running_loop().close()


async def _cancel_all() -> str:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    return "cancelled"


async def _cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def _leave_task() -> str:
    async def run() -> None:
        while True:
            await asyncio.sleep(0.01)

    asyncio.get_running_loop().create_task(run())
    return "left"


async def _call_soon() -> str:
    asyncio.get_running_loop().call_soon(sys.exit, 5)
    await asyncio.sleep(0.05)
    return "went on"


async def _break_factory() -> str:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("no tasks here")

    loop = asyncio.get_running_loop()
    loop.set_task_factory(refuse)
    loop.set_exception_handler(refuse)
    return "broken"


COROUTINES: dict[str, Callable[[], Any]] = {
    "exit in a task": _exit_in_a_task,
    "exit of an awaited task": _await_exit,
    "exit in a callback": _call_soon,
    "stop": _stop,
    "close": _close_loop,
    "cancel all": _cancel_all,
    "cancel itself": _cancel_itself,
    "leave a task": _leave_task,
    # The last one, because it breaks the others.
    "break the factory": _break_factory,
}


@app.task(max_attempts=1)
async def awaits(action: str) -> Any:
    return await COROUTINES[action]()


@app.task(max_attempts=1)
async def blocks(seconds: float, in_python: bool) -> str:
    note("blocks", current().id)
    return _block(seconds, in_python)


def _block(seconds: float, in_python: bool) -> str:
    until = time.monotonic() + seconds
    if not in_python:
        time.sleep(seconds)
    while time.monotonic() < until:
        pass
    return "went on"


@app.task(max_attempts=1)
def get_pid() -> int:
    return os.getpid()


@app.task(max_attempts=1)
def limit_of_files() -> list[int]:
    return list(resource.getrlimit(resource.RLIMIT_NOFILE))


def _status(pid: str | int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["gone", "0"]


@app.task(max_attempts=1)
def zombies() -> list[str]:
    """Returns the process ids of the zombies in this namespace."""
    return [one.name for one in Path("/proc").iterdir() if one.name.isdigit() and _status(one.name)[0] == "Z"]


@app.task(max_attempts=1)
def parents() -> list[int]:
    """Returns the process ids from this process up to that of the namespace."""
    found = [os.getpid()]
    while found[-1] > 1:
        found.append(int(_status(found[-1])[1]))
    return found


@app.task(max_attempts=1)
def daemon() -> int:
    """Leaves a process in a session of its own, whose parent has ended."""
    text = "setsid sleep 100 >/dev/null 2>&1 & echo $!"
    found = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    return int(found.stdout)
