"""Worker: registers, leases tasks, runs them in a pool, and reports their outcomes, until it is shut down."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from triarch import context as contexts
from triarch._http.transport import Transport
from triarch.app import CALL, Triarch
from triarch.errors import Conflict, ProtocolError, Refused, TriarchError, UsageError
from triarch.worker.capture import Capture
from triarch.worker.config import WorkerConfig
from triarch.worker.connection import RequestCancelled, WorkerConnection, is_final
from triarch.worker.execute import Runner
from triarch.worker.leases import Leases
from triarch.worker.load import own_tasks
from triarch.worker.pools.base import Pool
from triarch.worker.pools.loop import LoopPool
from triarch.worker.pools.processes import ProcessPool
from triarch.worker.pools.shared_state import SharedState
from triarch.worker.pools.threads import ThreadPool
from triarch.worker.session import Session, SessionEnd
from triarch.worker.shutdown import Shutdown

log = logging.getLogger("triarch.worker")

#: Pause between two registrations, and the deadline of one.
REGISTER_PAUSE_S = 0.5
#: Interval of the warnings that the name is taken.
NAME_WARNING_INTERVAL_S = 30.0
REGISTER_DEADLINE_S = 5.0


class WorkerError(TriarchError):
    """The worker could not continue. An unreachable cluster is no reason, because the worker keeps trying."""


class Worker:
    """Worker for the tasks of an app. `run` works until `stop`. `start` does so in a thread of its own.

    The pool `process` imports the app in every process, by `reference` (`module:app`). `owns_process` says that this process is the
    worker's alone, so that the worker may reap orphans of its tasks. `soft_files` is the limit of open files for pool processes.
    """

    def __init__(
        self,
        app: Triarch,
        config: WorkerConfig | None = None,
        *,
        masters: str | Iterable[str] | None = None,
        reference: str | None = None,
        log_level: int | None = None,
        log_format: str = "%(message)s",
        on_running: Callable[[str], None] = lambda id: None,
        owns_process: bool = False,
        soft_files: int | None = None,
    ) -> None:
        self.app = app
        self.config = config or WorkerConfig()
        self._owns_process = owns_process
        self._soft_files = soft_files
        self._shared = SharedState() if owns_process and self.config.pool != "process" else None
        if self.config.pool == "process" and reference is None:
            raise UsageError("the pool `process` imports the app in each process; pass reference='module:app'")
        # Not the app's: a leader that its clients find says nothing about the requests of the worker.
        self._transport = Transport(masters if masters is not None else app.transport.masters.all())
        self._reference = reference
        self._runner = Runner(app, self.config.accept)
        self._log_level = log_level
        self._log_format = log_format
        self._shutdown = Shutdown()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._broken: str | None = None
        self._registered = threading.Event()
        self._on_running = on_running
        #: The worker's id, while it is registered.
        self.id: str | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.config.worker_name} {self.config.pool}×{self.config.concurrency} id={self.id}>"

    # --- from any thread ---

    def start(self, timeout: float = 30.0) -> Worker:
        """Starts the worker in a thread of its own. Returns when the worker is registered."""
        if self._thread is not None:
            raise UsageError("the worker was started already; make another Worker")
        self._thread = threading.Thread(target=self._run_in_thread, name="triarch-worker", daemon=True)
        self._thread.start()
        if not self._registered.wait(timeout) or self._error is not None:
            self.stop(now=True)
            raise self._error or WorkerError(
                f"the worker was not registered within {timeout:g} s; check that the masters can be reached"
            )
        return self

    def stop(self, *, now: bool = False, wait: bool = True, timeout: float | None = None) -> None:
        """Takes no more tasks, finishes or returns its leases, and deregisters. `now` does not wait for running tasks."""
        self._shutdown.ask(now=now)
        thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._error = error
            log.error("the worker ended: %s", error)
        finally:
            self._registered.set()

    # --- life cycle ---

    def run(self) -> None:
        """Works until it was shut down and has deregistered."""
        capture = captures() if self.config.capture and self.config.pool != "process" else None
        if capture is not None:
            capture.install()
        try:
            while True:
                asked_at = time.monotonic()
                registered = self._register()
                if registered is None:
                    return
                if self._work(registered, asked_at) is SessionEnd.LEAVING:
                    break
                if self._shutdown.is_asked:
                    break
                log.info("registering again")
        finally:
            self.id = None
            if capture is not None:
                capture.remove()
        if self._broken is not None:
            raise WorkerError(self._broken)

    def _work(self, registered: dict[str, Any], asked_at: float) -> SessionEnd:
        # A new lease table for each registration, so that leases of another one are never taken for its own.
        config = self.config
        leases = Leases(config.concurrency, config.prefetch_max)
        pool = self._pool(leases)
        leases.on_work = pool.wake
        leases.on_stop = pool.stop
        session = Session(self._transport, config, leases, self._shutdown, registered, asked_at)
        self.id = session.id
        log.info(
            "worker %s (%s) takes %s from %s: %d at once, pool %s",
            config.worker_name,
            session.id,
            ", ".join(self._runner.kinds) or "nothing",
            ", ".join(config.queues),
            config.concurrency,
            config.pool,
        )
        self._warn_without_tasks()
        pool.start()
        try:
            self._registered.set()
            self._on_running(session.id)
            return session.run()
        finally:
            pool.close()

    def _warn_without_tasks(self) -> None:
        if own_tasks(self.app):
            return
        log.warning(
            "the app has registered no tasks, so this worker takes %s. Tasks register when their module is imported: name it with"
            " --import MODULE, import it in the module of the app, or call app.autodiscover_tasks",
            "only functions that clients send (kind triarch.call)" if CALL in self._runner.kinds else "no task of yours",
        )

    def _pool(self, leases: Leases) -> Pool:
        config = self.config
        if config.pool == "thread":
            return ThreadPool(leases, config.concurrency, self._runner, shared=self._shared)
        if config.pool == "async":
            return LoopPool(leases, config.concurrency, self._runner, stop_grace_s=config.stop_grace_s, shared=self._shared)
        return ProcessPool(
            leases,
            config.concurrency,
            app=self._reference or "",
            accept=None if config.accept is None else list(config.accept),
            stop_grace_s=config.stop_grace_s,
            tasks_per_child_max=config.tasks_per_child_max,
            log_level=self._log_level,
            log_format=self._log_format,
            capture=config.capture,
            imports=config.imports,
            soft_files=self._soft_files,
            owns_process=self._owns_process,
            on_broken=self._on_broken_pool,
        )

    def _on_broken_pool(self, why: str) -> None:
        self._broken = why
        # In a thread of its own, because the pool's thread calls this.
        threading.Thread(target=self._shutdown.ask, kwargs={"now": True}, daemon=True).start()

    def _register(self) -> dict[str, Any] | None:
        """Registers, however long it takes to reach a cluster. Returns `None` after a shutdown request."""
        config = self.config
        kinds = self._runner.kinds
        if not kinds:
            raise WorkerError(
                "the app has no tasks that this worker accepts; register tasks, or accept more codecs with --accept"
            )
        body = json.dumps(
            {
                "name": config.worker_name,
                "queues": list(config.queues),
                "slots": config.concurrency + config.prefetch_max,
                "labels": dict(config.labels),
                "resources": dict(config.resources),
                "kinds": kinds,
            }
        ).encode()
        begun = time.monotonic()
        warn_at = begun
        # The same id until there is an answer. Otherwise a registration with a lost answer would collide with its own name.
        request_id = uuid.uuid4().hex
        connection = WorkerConnection(self._transport)
        self._shutdown.listeners.append(connection.abandon)
        try:
            while not self._shutdown.is_asked:
                try:
                    return _registered(
                        connection.call("POST", "/v1/workers", body, deadline_s=REGISTER_DEADLINE_S, request_id=request_id)
                    )
                except RequestCancelled:
                    continue
                except Conflict as error:
                    silent = _is_holder_silent(error)
                    if time.monotonic() - begun >= config.name_patience_s and not silent:
                        raise WorkerError(
                            f"the name {config.worker_name} is taken; choose another with --name: {error}"
                        ) from None
                    if time.monotonic() >= warn_at:
                        warn_at = time.monotonic() + NAME_WARNING_INTERVAL_S
                        if silent:
                            log.warning(
                                "the name of this worker still belongs to one that is silent; it waits until the lease of"
                                " that one ends: %s",
                                error,
                            )
                        else:
                            log.warning(
                                "the name of this worker is taken; it waits up to %g s until the name is free: %s",
                                config.name_patience_s,
                                error,
                            )
                    # The cluster remembers a refusal under its request id, too.
                    request_id = uuid.uuid4().hex
                except Refused as error:
                    if is_final(error):
                        raise WorkerError(f"the cluster refused to register this worker: {error}") from None
                    log.warning("not registered yet, registration is repeated: %s", error)
                except TriarchError as error:
                    log.warning("not registered yet, registration is repeated: %s", error)
                self._shutdown.wait(REGISTER_PAUSE_S)
            return None
        finally:
            self._shutdown.listeners.remove(connection.abandon)
            connection.close()
            self._transport.close()


def _is_holder_silent(error: Conflict) -> bool:
    """Returns whether the worker that has the name was silent for more than half of its lease.

    Such a worker is probably dead, and loses the name at the end of its lease. Older masters do not say.
    """
    silent_ms, lease_ms = (error.problem.get(name) for name in ("silent_for_ms", "lease_ms"))
    return isinstance(silent_ms, int) and isinstance(lease_ms, int) and silent_ms > lease_ms / 2


def _registered(answer: dict[str, Any]) -> dict[str, Any]:
    """Refuses an answer that is none to a registration."""
    numbers = (answer.get("heartbeat_ms"), answer.get("lease_ms"))
    texts = (answer.get("id"), answer.get("secret") or "")
    if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, (int, float)) for one in numbers):
        raise ProtocolError(f"this is not the answer to a registration: {str(answer)[:200]}; is this a Triarch master?")
    return answer


def captures() -> Capture:
    """Returns the capture of what tasks in this process write."""
    return Capture(_captured)


def _captured(stream: str, text: str) -> str | None:
    """Buffers text of the attempt in this process, if there is one."""
    context = contexts.current_or_none()
    if context is None or not text:
        return None
    context._write(stream, text)
    return context.id
