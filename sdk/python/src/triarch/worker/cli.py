"""The command `triarch-worker`.

Exit codes: 0 after a shutdown, 1 when the worker could not go on, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

from triarch.errors import SerializationError, TriarchError, UsageError
from triarch.worker.capture import Capture
from triarch.worker.config import POOLS, PREFETCH_MAX_DEFAULT, WorkerConfig
from triarch.worker.load import AppNotFound, load_app
from triarch.worker.pools.parent_death import die_with_parent
from triarch.worker.process.descriptors import open_standard_descriptors, raise_limit
from triarch.worker.process.init_process import run_under_init
from triarch.worker.process.signals import (
    DefaultsAfterFork,
    ignore_harmless_signals,
    ignore_terminal_output_stops,
    reset_ignored_signals,
)
from triarch.worker.reload import PARENT, run_reloading
from triarch.worker.worker import Worker, captures

logger = logging.getLogger("triarch.worker")

#: Open files of one pool process in the worker, and those of the worker itself.
FILES_PER_PROCESS = 2
FILES_RESERVED = 32

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parse = argparse.ArgumentParser(
        prog="triarch-worker",
        description="Runs the tasks of an app until SIGTERM or Ctrl-C. A second signal shuts the worker down at once.",
    )
    parse.add_argument(
        "app", metavar="MODULE:APP", help="The app, such as `tasks:app`. The worker imports it from the current directory."
    )
    parse.add_argument(
        "-c",
        "--concurrency",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="Maximum number of concurrent tasks. Default: the number of processors.",
    )
    parse.add_argument(
        "--pool",
        choices=POOLS,
        default="process",
        help="Pool that runs the tasks. `process` isolates crashes and enforces time limits. `thread` and `async` are for tasks"
        " that wait. Default: process.",
    )
    parse.add_argument(
        "-q", "--queues", default="default", metavar="Q,Q", help="Queues from which the worker takes tasks. Default: `default`."
    )
    parse.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE,…",
        help="Modules to import because they register tasks of the app. Repeatable. Default: those of `app.autodiscover_tasks`, and"
        " `tasks` next to an app without tasks.",
    )
    parse.add_argument("--name", help="Name, unique among live workers. Default: host name and process id.")
    parse.add_argument("--label", action="append", default=[], metavar="K=V", help="Label that tasks may require. Repeatable.")
    parse.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="K=N",
        help="Amount of a resource that tasks may require. Repeatable.",
    )
    parse.add_argument(
        "--accept",
        metavar="CODEC,…",
        help="Codecs that the worker reads. `cloudpickle` runs code of those who submit tasks. Default: those of the app.",
    )
    parse.add_argument(
        "--masters", metavar="URL,URL", help="Masters of the cluster. Default: those of the app (environment: TRIARCH_MASTERS)."
    )
    parse.add_argument(
        "--prefetch",
        type=int,
        metavar="N",
        help="Maximum number of tasks fetched ahead of free slots. The worker fetches ahead only tasks that will begin within"
        f" 100 ms. 0 turns this off. Default: {PREFETCH_MAX_DEFAULT}.",
    )
    parse.add_argument(
        "--max-tasks-per-child",
        type=int,
        metavar="N",
        help="Number of tasks after which a pool process is replaced. Default: no limit.",
    )
    parse.add_argument(
        "--shutdown-timeout",
        "--drain",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="Time for running tasks to finish after SIGTERM, in seconds. Default: 30 s. Old name: --drain.",
    )
    parse.add_argument(
        "--stop-grace",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="Time for a stopped task to clean up before its process is killed, in seconds. Default: 5 s.",
    )
    parse.add_argument("--no-capture", action="store_true", help="Do not send the output of tasks to the cluster.")
    parse.add_argument("--reload", action="store_true", help="Restart when a source file changes. For development only.")
    parse.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="Lowest level of log lines. Default: info.",
    )
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    open_standard_descriptors()
    # Python has no stream where the worker was started without the descriptor.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    asked = parser().parse_args(words)
    if os.getpid() == 1:
        run_under_init()
    level = getattr(logging, asked.log_level.upper())
    if asked.reload:
        return run_reloading([word for word in words if word != "--reload"])
    reloader = os.environ.pop(PARENT, None)
    if reloader is not None:
        die_with_parent(int(reloader), signal.SIGTERM)
    # Before the import, so that handlers of the app stay as they are.
    handlers = DefaultsAfterFork()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        handlers.install(signal.SIGHUP, _on_hangup)
    reset_ignored_signals()
    ignore_harmless_signals()
    handlers.adopt()
    ignore_terminal_output_stops()
    soft_files, files = raise_limit()
    try:
        config = config_of(asked)
        if config.pool != "process":
            # Before the import and the log, because handlers keep the stream that they find.
            (captures() if config.capture else Capture(None)).install(private=True)
            config = replace(config, capture=False)
        app = load_app(asked.app, config.imports)
    except (UsageError, AppNotFound) as error:
        _complain(error)
        return 2
    # After the import, so that logging set up by the app stays as it is.
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("triarch").setLevel(level)
    config = _fitted(config, files)
    try:
        worker = Worker(
            app,
            config,
            masters=asked.masters,
            reference=asked.app,
            log_level=level,
            log_format=LOG_FORMAT,
            owns_process=True,
            soft_files=soft_files,
        )
    except (UsageError, SerializationError) as error:
        _complain(error)
        return 2
    code = 0
    try:
        _install_signal_handlers(worker, handlers)
        worker.run()
    except TriarchError as error:
        _complain(error)
        code = 2 if isinstance(error, UsageError) else 1
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    # Threads that tasks have left behind must not keep the process alive.
    os._exit(code)


def _complain(error: Exception) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"triarch-worker: {error}", file=sys.stderr, flush=True)


def _fitted(config: WorkerConfig, files: int) -> WorkerConfig:
    """Returns the configuration with as many pool processes as the limit of open files permits."""
    fit = (files - FILES_RESERVED) // FILES_PER_PROCESS
    if config.pool != "process" or files < 0 or config.concurrency <= fit:
        return config
    logger.warning(
        "the limit of %d open files permits %d pool processes, so the worker runs %d tasks at once instead of %d; raise the limit"
        " (ulimit -Hn) for more",
        files,
        fit,
        max(1, fit),
        config.concurrency,
    )
    return replace(config, concurrency=max(1, fit))


def config_of(asked: argparse.Namespace) -> WorkerConfig:
    """Returns the configuration that the command line describes."""
    return WorkerConfig(
        concurrency=asked.concurrency,
        pool=asked.pool,
        queues=_words(asked.queues),
        imports=[module for words in asked.imports for module in _words(words)],
        name=asked.name,
        labels=dict(_pair(text, "--label") for text in asked.label),
        resources={name: _amount(name, value) for name, value in (_pair(text, "--resource") for text in asked.resource)},
        accept=None if asked.accept is None else _words(asked.accept),
        prefetch=asked.prefetch,
        tasks_per_child_max=asked.max_tasks_per_child,
        grace_s=asked.shutdown_timeout,
        stop_grace_s=asked.stop_grace,
        capture=not asked.no_capture,
    )


def _install_signal_handlers(worker: Worker, handlers: DefaultsAfterFork) -> None:
    signals = 0

    def on_signal(number: int, _: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        # In another thread, because this one may hold a lock that is needed for it.
        threading.Thread(target=worker.stop, kwargs={"now": signals > 1, "wait": False}, daemon=True).start()

    handlers.install(signal.SIGTERM, on_signal)
    handlers.install(signal.SIGINT, on_signal)


def _on_hangup(number: int, _: FrameType | None) -> None:
    # In another thread, because this one may hold the lock of a handler.
    threading.Thread(target=reopen_log_files, daemon=True).start()


def reopen_log_files() -> None:
    """Reopens the files of all log handlers, because a log rotation has renamed them, and logs their number."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    files = {
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if isinstance(handler, logging.FileHandler)
    }
    for handler in files:
        handler.acquire()
        try:
            handler.close()
            handler.stream = open(handler.baseFilename, "a", encoding=handler.encoding, errors=handler.errors)  # noqa: SIM115
        finally:
            handler.release()
    if files:
        logger.info("SIGHUP: reopened %d log files", len(files))
    else:
        logger.info("SIGHUP has no effect: there are no log files to reopen; SIGTERM stops this worker")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE, not {text!r}")
    return name, value


def _amount(name: str, value: str) -> int:
    try:
        amount = int(value)
    except ValueError:
        amount = -1
    if amount < 0:
        raise UsageError(f"--resource {name} takes a whole number, not {value!r}")
    return amount
