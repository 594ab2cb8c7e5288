"""Configuration of a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from triarch.errors import UsageError
from triarch.options import words

PoolKind = Literal["process", "thread", "async"]
POOLS: tuple[PoolKind, ...] = ("process", "thread", "async")

#: Bound of the cluster on the slots of one worker.
SLOTS_MAX = 10_000
PREFETCH_MAX_DEFAULT = 128


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration of a worker. Times are seconds."""

    #: Maximum number of concurrent attempts. Default: the number of processors.
    concurrency: int = field(default_factory=lambda: os.cpu_count() or 1)
    #: Pool in which attempts run: processes, threads, or an event loop.
    pool: PoolKind = "process"
    #: Queues from which the worker takes tasks. One text is one queue.
    queues: str | Sequence[str] = ("default",)
    #: Modules to import, because they register tasks of the app.
    imports: str | Sequence[str] = ()
    #: Name, unique among live workers. Default: host name and process id.
    name: str | None = None
    #: Labels and resources that tasks may require.
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, int] = field(default_factory=dict)
    #: Codecs that are read. Default: those of the app.
    accept: str | Collection[str] | None = None
    #: Maximum number of leases fetched ahead of free slots, while tasks are short. 0 turns it off. Default: 128.
    prefetch: int | None = None
    #: Number of tasks after which a pool process is replaced. Default: no limit.
    tasks_per_child_max: int | None = None
    #: Shutdown timeout: time for running tasks to finish.
    grace_s: float = 30.0
    #: Time for a stopped task to clean up before its process is killed.
    stop_grace_s: float = 5.0
    #: Whether clients can read what tasks print and log.
    capture: bool = True
    #: Hold of a long poll for work.
    poll_wait_s: float = 50.0
    #: Time for which registration is repeated while a worker that is heard from has the name. The name of one that is silent
    #: is waited for until its lease ends.
    name_patience_s: float = 600.0
    #: Deadline of the last report, and of deregistration.
    leave_patience_s: float = 3.0

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise UsageError(f"there is no pool {self.pool!r}; choose one of {', '.join(POOLS)}")
        for name in ("queues", "imports", "accept"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, words(getattr(self, name), name))
        if not 1 <= self.concurrency <= SLOTS_MAX // 2:
            raise UsageError(f"concurrency must be from 1 to {SLOTS_MAX // 2}, not {self.concurrency}")
        if not self.queues:
            raise UsageError("the worker has no queues; name at least one")
        if self.prefetch is not None and not 0 <= self.prefetch <= SLOTS_MAX // 2:
            raise UsageError(f"prefetch must be from 0 to {SLOTS_MAX // 2}, not {self.prefetch}")
        if self.tasks_per_child_max is not None and self.tasks_per_child_max < 1:
            raise UsageError(
                "tasks_per_child_max must be at least 1, because a pool process runs one task before it is replaced"
            )

    @property
    def prefetch_max(self) -> int:
        """Effective value of `prefetch`."""
        return PREFETCH_MAX_DEFAULT if self.prefetch is None else self.prefetch

    @property
    def worker_name(self) -> str:
        """Effective value of `name`."""
        return self.name or f"{socket.gethostname()[:100]}-{os.getpid()}"
