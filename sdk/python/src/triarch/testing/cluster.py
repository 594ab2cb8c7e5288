"""Local cluster for tests: masters as child processes, and workers if wanted.

Everything runs on loopback, on free ports, in a temporary directory. It ends with its owner, also when the owner is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from triarch._http.policy import Request
from triarch._http.protocol import MalformedResponse
from triarch._http.transport import fetch
from triarch.errors import ProtocolError
from triarch.testing.binary import find_binary
from triarch.testing.process import OrphanReaper, Process, wait_until

#: Default timeout of readiness, and of an election.
READY_TIMEOUT_S = 30.0
#: Attempts to start with other ports, when another program has taken one.
PORT_TRIES = 3


class Master(Process):
    """Master of a local cluster."""

    def __init__(self, reaper: OrphanReaper, id: int, port: int, command: Sequence[str], log: Path) -> None:
        super().__init__(reaper, f"master {id}", command, log, env={"TRIARCH_MASTERS": ""})
        self.id = id
        self.port = port

    @property
    def url(self) -> str:
        """URL of the master."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, timeout: float = 1.0) -> dict[str, Any] | None:
        """Returns the answer to a GET, or `None` without a success in time."""
        try:
            answer = fetch(self.url, Request.get(path), timeout)
            return json.loads(answer.body) if answer.status == 200 else None
        except (OSError, MalformedResponse, ProtocolError, ValueError):
            return None


class LocalCluster:
    """Cluster of masters on free ports of this machine. Default: three.

    >>> with LocalCluster() as cluster:           # doctest: +SKIP
    ...     app = Triarch(cluster.url)
    ...     cluster.kill_leader()
    """

    def __init__(
        self,
        masters: int = 3,
        *,
        binary: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        lease_ms: int | None = None,
        server_args: Sequence[str] = (),
        log: str = "info,openraft=error",
    ) -> None:
        if masters < 1:
            raise ValueError("a cluster has at least one master")
        self._count = masters
        self._binary = Path(binary) if binary is not None else None
        self._kept_dir = Path(data_dir) if data_dir is not None else None
        self._server_args = list(server_args)
        if lease_ms is not None:
            self._server_args += ["--lease-ms", str(lease_ms)]
        self._log = log
        self._named = 0
        self._reaper: OrphanReaper | None = None
        self._dir: Path | None = None
        self.masters: list[Master] = []
        self.workers: list[Process] = []

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        running = sum(master.is_running() for master in self.masters)
        return f"<LocalCluster {running}/{self._count} masters {self.url}>"

    @property
    def urls(self) -> list[str]:
        """URLs of the masters."""
        return [master.url for master in self.masters]

    @property
    def url(self) -> str:
        """URLs of the masters in one string, as `Triarch(…)` and `--masters` take it."""
        return ",".join(self.urls)

    @property
    def directory(self) -> Path:
        """Directory of data and logs."""
        if self._dir is None:
            raise RuntimeError("the cluster is not started")
        return self._dir

    # --- life cycle ---

    def start(self, timeout: float = READY_TIMEOUT_S) -> LocalCluster:
        """Starts all masters and waits until they have a leader and are ready."""
        if self._reaper is not None:
            raise RuntimeError("the cluster is started already")
        if self._binary is None:
            self._binary = find_binary()
        for last in (False,) * (PORT_TRIES - 1) + (True,):
            self._prepare()
            for master in self.masters:
                master.start()
            try:
                self._wait_formed(timeout)
            except _PortTaken:
                self.stop()
                if last:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                break
        return self

    def stop(self) -> None:
        """Ends all processes. Removes the data, unless a directory was given."""
        reaper, self._reaper = self._reaper, None
        if reaper is None:
            return
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            with contextlib.suppress(Exception):
                worker.stop(2.0)
        for master in self.masters:
            with contextlib.suppress(Exception):
                master.kill9()
        reaper.close()
        self.workers = []
        if self._dir is not None and self._kept_dir is None:
            shutil.rmtree(self._dir, ignore_errors=True)

    # --- masters ---

    def master(self, id: int) -> Master:
        """Returns a master by its number, from 1."""
        return self.masters[id - 1]

    def leader(self, timeout: float = READY_TIMEOUT_S) -> Master:
        """Returns the leader. Waits for an election if there is none."""
        deadline = time.monotonic() + timeout
        while True:
            leader = self._find_leader()
            if leader is not None:
                return leader
            if time.monotonic() > deadline:
                raise TimeoutError(f"no leader within {timeout:g} s; {self._log_tail()}")
            time.sleep(0.02)

    def followers(self, timeout: float = READY_TIMEOUT_S) -> list[Master]:
        """Returns the running masters that do not lead."""
        leader = self.leader(timeout)
        return [master for master in self.masters if master is not leader and master.is_running()]

    def kill_leader(self, timeout: float = READY_TIMEOUT_S) -> Master:
        """Kills the leader with SIGKILL and returns it. `.start()` starts it again."""
        leader = self.leader(timeout)
        leader.kill9()
        return leader

    def wait_ready(self, timeout: float = READY_TIMEOUT_S) -> None:
        """Waits until every master that runs knows a leader and is caught up."""

        def ready() -> bool:
            running = [master for master in self.masters if master.is_running() and not master.is_paused]
            return bool(running) and all(master.ask("/readyz") is not None for master in running)

        wait_until(ready, timeout, f"the masters to be ready; {self._log_tail()}", every=0.05)

    def heal(self, timeout: float = READY_TIMEOUT_S) -> None:
        """Resumes paused masters, starts ended ones, and waits until all are ready."""
        for master in self.masters:
            if master.is_paused:
                master.resume()
            master.start()
        self.wait_ready(timeout)
        self.leader(timeout)

    # --- workers ---

    def stop_workers(self, timeout_s: float = 5.0) -> None:
        """Ends all workers that were started here."""
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.stop(timeout_s)

    def start_worker(
        self,
        app: str,
        *,
        concurrency: int = 2,
        pool: str = "process",
        queues: str | None = None,
        name: str | None = None,
        args: Sequence[str] = (),
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        masters: str | None = None,
    ) -> Process:
        """Starts `triarch-worker` for an app, named as `module:app`, as a process of its own."""
        command = [sys.executable, "-m", "triarch.worker", app, "--masters", masters or self.url]
        command += ["--concurrency", str(concurrency), "--pool", pool]
        name = name or self._name("python")
        command += ["--name", name]
        if queues is not None:
            command += ["--queues", queues]
        return self._start(name, [*command, *args], env={"PYTHONUNBUFFERED": "1", **(env or {})}, cwd=cwd)

    def start_exec_worker(self, *, slots: int = 2, name: str | None = None, args: Sequence[str] = ()) -> Process:
        """Starts `triarch worker`, which runs `exec` tasks."""
        name = name or self._name("exec")
        command = [str(self._binary), "worker", "--masters", self.url, "--slots", str(slots), "--name", name]
        return self._start(name, [*command, *args])

    def _name(self, kind: str) -> str:
        self._named += 1
        return f"{kind}-{self._named}"

    def _start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Process:
        if self._reaper is None:
            raise RuntimeError("the cluster is not started")
        log = self.directory / "logs" / f"{name}.log"
        worker = Process(self._reaper, name, command, log, env=env, cwd=cwd)
        worker.start()
        self.workers.append(worker)
        return worker

    # --- internal ---

    def _prepare(self) -> None:
        self._reaper = OrphanReaper()
        if self._kept_dir is None:
            self._dir = Path(tempfile.mkdtemp(prefix="triarch-"))
            self._reaper.directory(self._dir)
        else:
            self._dir = self._kept_dir
        ports = _free_ports(self._count)
        cluster = ",".join(f"{id}=127.0.0.1:{port}" for id, port in enumerate(ports, 1))
        self.masters = []
        for id, port in enumerate(ports, 1):
            command = [str(self._binary), "server", "--id", str(id), "--cluster", cluster]
            command += ["--data-dir", str(self._dir / f"master-{id}"), "--log", self._log, *self._server_args]
            log = self._dir / "logs" / f"master-{id}.log"
            self.masters.append(Master(self._reaper, id, port, command, log))

    def _wait_formed(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            for master in self.masters:
                if not master.is_running():
                    words = master.log_tail()
                    message = f"{master.name} ended with {master.returncode}: {words}"
                    raise _PortTaken(message) if "in use" in words.lower() else RuntimeError(message)
            if all(master.ask("/readyz") is not None for master in self.masters):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster was not ready within {timeout:g} s; {self._log_tail()}")
            time.sleep(0.03)

    def _find_leader(self) -> Master | None:
        best: tuple[int, Master] | None = None
        for master in self.masters:
            if not master.is_running() or master.is_paused:
                continue
            view = master.ask("/v1/cluster?consistency=stale")
            if view is None or view.get("leader") != master.id:
                continue
            term = int(view.get("term", 0))
            if best is None or term > best[0]:
                best = (term, master)
        return None if best is None else best[1]

    def _log_tail(self) -> str:
        return "\n".join(f"[{master!r}] {master.log_tail(3)}" for master in self.masters)


class _PortTaken(RuntimeError):
    """Another program has taken a port."""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
