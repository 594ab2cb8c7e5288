"""Tasks that workers of these tests run."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from triarch import GiveUp, Retry, SoftTimeout, TaskStopped, Triarch, current

app = Triarch()


def note(name: str, text: object) -> None:
    with Path(os.environ["NOTES"], name).open("a") as file:
        file.write(f"{text}\n")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def variable(name: str) -> str | None:
    return os.environ.get(name)


@app.task(max_attempts=1)
def die(how: str) -> None:
    note("died", os.getpid())
    if how == "exit":
        os._exit(7)
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(max_attempts=3, backoff=0.1)
def die_once(how: str) -> int:
    if current().attempt == 1:
        die.fn(how)
    return current().attempt


@app.task(max_attempts=1)
def nap(seconds: float) -> float:
    note("begun", current().token)
    time.sleep(seconds)
    note("ended", current().token)
    return seconds


def may_go_on(after: str = "go on") -> bool:
    return Path(os.environ["NOTES"], after).exists()


@app.task(max_attempts=1)
def held(number: int, after: str = "go on") -> int:
    """Runs until the test lets it continue."""
    note("begun", current().token)
    until = time.monotonic() + 120
    while not may_go_on(after) and time.monotonic() < until:
        time.sleep(0.01)
    note("ended", current().token)
    return number


@app.task(max_attempts=1)
async def aheld(number: int) -> int:
    """The same, as a coroutine."""
    note("begun", current().token)
    until = time.monotonic() + 120
    while not may_go_on() and time.monotonic() < until:
        await asyncio.sleep(0.01)
    note("ended", current().token)
    return number


@app.task(max_attempts=1)
def tidy(seconds: float) -> None:
    note("begun", os.getpid())
    try:
        time.sleep(seconds)
    except TaskStopped as stopped:
        note("stopped", stopped.reason)
        raise
    finally:
        note("tidied", current().token)


@app.task(max_attempts=1)
def stubborn(seconds: float) -> None:
    note("begun", os.getpid())
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.1)
        except BaseException:
            note("ignored", "!")
    note("ended", "!")


@app.task(max_attempts=1, soft_timeout=0.3)
def soft(seconds: float) -> str:
    try:
        for _ in range(int(seconds * 100)):
            time.sleep(0.01)
    except SoftTimeout:
        return "in time"
    return "too late"


@app.task(max_attempts=1, soft_timeout=0.3)
def soft_unhandled() -> None:
    for _ in range(1000):
        time.sleep(0.01)


@app.task(max_attempts=1, soft_timeout=0.3)
async def soft_async() -> None:
    await asyncio.sleep(30)


@app.task(max_attempts=1)
async def anap(seconds: float) -> float:
    note("begun", current().token)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("stopped", current().stop_reason)
        raise
    return seconds


@app.task(max_attempts=1)
def looks_up(seconds: float) -> None:
    note("begun", os.getpid())
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            current().check()
        except TaskStopped as stopped:
            note("stopped", stopped.reason)
            raise
        time.sleep(0.02)


@app.task
def context() -> dict[str, Any]:
    this = current()
    return {"id": this.id, "job": this.job, "name": this.name, "attempt": this.attempt, "token": this.token}


@app.task(max_attempts=2, backoff=0.1)
def raises() -> None:
    note("tried", current().attempt)
    try:
        {}["missing"]  # type: ignore[index]
    except KeyError as error:
        raise ValueError("no such thing") from error


@app.task(max_attempts=5, backoff=0.1, give_up_on=(ZeroDivisionError,))
def gives_up(how: str) -> None:
    note("tried", current().attempt)
    if how == "raise":
        raise GiveUp("it makes no sense")
    print(1 // 0)


@app.task(max_attempts=2, backoff=3600)
def asks_for_a_delay(after_s: float) -> None:
    note("tried", f"{current().attempt} {time.time()}")
    raise Retry("busy", after=after_s)


@app.task(max_attempts=1)
def talks() -> None:
    print("to whom it may concern")
    print("a warning", file=sys.stderr)
    logging.getLogger("mine").warning("of the log: %d", 42)
    current().progress(0.4, "half asleep")
    until = time.monotonic() + 60
    while not may_go_on() and time.monotonic() < until:
        time.sleep(0.02)
    print("the last words")


@app.task(max_attempts=1)
def says(words: str) -> None:
    print(words)


@app.task(max_attempts=2, backoff=0.01)
def says_and_fails() -> None:
    number = current().attempt
    print(f"this is attempt {number}")
    raise ValueError(f"attempt {number} fails")


@app.task(max_attempts=1)
def large(bytes: int) -> str:
    return "x" * bytes


@app.task(max_attempts=1)
def unspeakable() -> object:
    return object()


@app.task(max_attempts=1)
def leaves_children(seconds: float) -> None:
    child = subprocess.Popen(["sleep", str(seconds)])
    note("child", child.pid)
    note("begun", os.getpid())
    time.sleep(seconds)


@app.task(max_attempts=1)
def exits() -> None:
    sys.exit(3)


packed = Triarch(serializer="msgpack", accept=("json", "msgpack"))


@packed.task(max_attempts=1)
def size(data: bytes) -> int:
    return len(data)
