"""Pages of documentation as programs: what their fenced blocks say, done in order, in a directory of their own.

What the first line of a block says, after its language:

=============================  =======================================================================================
``python title="tasks.py"``    a file of this name; so for any language
``python``                     run, in one interpreter for all such blocks of a page
``sh``                         run by bash; it must end well
``sh background``              started, and stopped at the end of the page: a worker
``sh cluster``                 what starts the cluster; the tests start theirs so, on other ports
``text output``                what the block before it has printed; ``…`` stands for anything within a line, and a line
                               that is ``…`` for any lines
``sh console-only="why"``      shown only, for a reason
``json``, ``text``, …          shown only
=============================  =======================================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Maximum time of one block in seconds.
BLOCK_TIMEOUT_S = 60.0

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>.*)$")
_RUN = ("python", "sh")
_SHOWN = ("json", "text", "toml", "ini", "dockerfile", "sql", "mermaid", "yaml", "nginx")


class PageError(AssertionError):
    """A block behaved differently from what the page shows."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    words: frozenset[str]
    settings: Mapping[str, str]
    text: str

    @property
    def at(self) -> str:
        """Returns the place of the block: the page and the line."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order. Refuses blocks without a label, or with an unknown one."""
    found: list[Block] = []
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            continue
        indent, close = len(fence["indent"]), fence["fence"]
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == close:
                break
            body.append(inner[indent:] if inner[:indent].strip() == "" else inner)
        else:
            raise PageError(f"{page.name}:{number}: the block has no end")
        said = shlex.split(fence["info"])
        language, rest = (said[0], said[1:]) if said else ("", [])
        settings = dict(word.split("=", 1) for word in rest if "=" in word)
        words = frozenset(word for word in rest if "=" not in word)
        block = Block(page, number, language, words, settings, "\n".join(body) + "\n")
        _check(block)
        found.append(block)
    return found


def _check(block: Block) -> None:
    if block.language not in (*_RUN, *_SHOWN):
        raise PageError(f"{block.at}: a block in {block.language!r}, which is neither run nor known to be only shown")
    if unknown := block.words - {"background", "cluster", "output"}:
        raise PageError(f"{block.at}: unknown words {sorted(unknown)}")
    if strange := set(block.settings) - {"title", "console-only"}:
        raise PageError(f"{block.at}: unknown settings {sorted(strange)}")
    if "console-only" in block.settings and len(block.settings["console-only"].split()) < 2:
        raise PageError(f"{block.at}: console-only says why")


class Visit:
    """Runs a page like a reader: in a directory, against a cluster."""

    def __init__(self, directory: Path, env: Mapping[str, str], under: Sequence[str] = ()) -> None:
        self.directory = directory
        self._env = dict(env)
        #: Command under which those of the page run, such as `nsenter`.
        self._under = list(under)
        self._interpreter: subprocess.Popen[str] | None = None
        self._background: list[subprocess.Popen[bytes]] = []
        self._printed: str | None = None

    def __enter__(self) -> Visit:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        # Workers of the page may work on it until then.
        if self._interpreter is not None:
            assert self._interpreter.stdin is not None
            self._interpreter.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._interpreter.wait(5)
            _end(self._interpreter)
        for process in self._background:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._background:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            _end(process)

    def do(self, block: Block) -> None:
        """Runs a block."""
        if "output" in block.words:
            self._compare(block)
        elif "title" in block.settings:
            path = self.directory / block.settings["title"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif "console-only" in block.settings or "cluster" in block.words or block.language in _SHOWN:
            self._printed = None
        elif "background" in block.words:
            log = (self.directory / f"background-{len(self._background)}.log").open("wb")
            with log:
                self._background.append(
                    subprocess.Popen(
                        [*self._under, "bash", "-c", f"exec {block.text.strip()}"],
                        cwd=self.directory,
                        env=self._env,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
        elif block.language == "sh":
            self._shell(block)
        else:
            self._python(block)

    def _shell(self, block: Block) -> None:
        with subprocess.Popen(
            [*self._under, "bash", "-euo", "pipefail", "-c", block.text],
            cwd=self.directory,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, error = process.communicate(timeout=BLOCK_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise PageError(f"{block.at}: not done within {BLOCK_TIMEOUT_S:g} s{self._logs()}") from None
        if process.returncode:
            raise PageError(f"{block.at}: ended with {process.returncode}\n{out}\n{error}{self._logs()}")
        self._printed = out

    def _python(self, block: Block) -> None:
        if self._interpreter is None:
            self._interpreter = subprocess.Popen(
                [sys.executable, "-u", "-c", _INTERPRETER],
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        process = self._interpreter
        assert process.stdin is not None
        assert process.stdout is not None
        # Blank lines in front, so that tracebacks show the line of the page.
        code = "\n" * block.line + block.text
        process.stdin.write(json.dumps({"code": code, "file": str(block.page), "within_s": BLOCK_TIMEOUT_S}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise PageError(f"{block.at}: the interpreter ended with {process.wait()}{self._logs()}")
        answer = json.loads(line)
        if answer["error"]:
            raise PageError(f"{block.at}: {answer['error']}\n{answer['out']}{self._logs()}")
        self._printed = answer["out"]

    def _compare(self, block: Block) -> None:
        if self._printed is None:
            raise PageError(f"{block.at}: there is nothing before it whose output this could be")
        if not matches(block.text, self._printed):
            raise PageError(f"{block.at}: the page says\n{block.text}\nand it was\n{self._printed}{self._logs()}")

    def _logs(self) -> str:
        logs = ""
        for number in range(len(self._background)):
            text = (self.directory / f"background-{number}.log").read_text(errors="replace")
            logs += f"\n--- background {number}, its end ---\n{text[-3000:]}"
        return logs


def matches(expected: str, printed: str) -> bool:
    """Returns whether output is as the page shows, where ``…`` stands for anything."""
    pattern = ""
    for line in expected.strip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + "[ ]*\n"
    return re.fullmatch(pattern, printed.strip() + "\n") is not None


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# Runs blocks in `__main__`, so that functions defined there are sent like those of a program or a notebook.
_INTERPRETER = r"""
import contextlib, faulthandler, io, json, sys, traceback
def _blocks():
    import __main__
    replies = sys.stdout
    sys.path.insert(0, "")
    for line in sys.stdin:
        asked = json.loads(line)
        out, error = io.StringIO(), None
        faulthandler.dump_traceback_later(asked["within_s"], exit=True)
        with contextlib.redirect_stdout(out):
            try:
                exec(compile(asked["code"], asked["file"], "exec"), __main__.__dict__)
            except BaseException:
                error = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"out": out.getvalue(), "error": error}), file=replies, flush=True)
_blocks()
"""


def environment(masters: str, binary: Path, scripts: Path) -> dict[str, str]:
    """Environment of a reader who has installed the package: its commands, `triarch` included, and the cluster."""
    scripts.mkdir(parents=True, exist_ok=True)
    link = scripts / "triarch"
    if not link.exists():
        link.symlink_to(binary.resolve())
    beside = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(scripts), str(beside), os.environ.get("PATH", "")]),
        "TRIARCH_MASTERS": masters,
        "TRIARCH_BIN": str(binary),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }


@contextlib.contextmanager
def dev_cluster(command: list[str], log: Path) -> Iterator[str]:
    """Runs the command by which a page starts a cluster, with another `--port`. Returns the addresses of the masters."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.DEVNULL, text=True, start_new_session=True
        )
    try:
        assert process.stdout is not None
        text = ""
        # One object, over several lines.
        for line in process.stdout:
            text += line
            with contextlib.suppress(ValueError):
                ready = json.loads(text)
                break
        else:
            raise PageError(f"{shlex.join(command)} ended with {process.wait()}: {log.read_text()[-2000:]}")
        yield ",".join(ready["masters"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        _end(process)
