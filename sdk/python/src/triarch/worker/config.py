"""How a worker is to be."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from triarch.errors import UsageError

PoolKind = Literal["process", "thread", "async"]
POOLS: tuple[PoolKind, ...] = ("process", "thread", "async")

#: The cluster takes no more slots of one worker.
SLOTS_MAX = 10_000
PREFETCH_MAX_DEFAULT = 128


@dataclass(frozen=True)
class WorkerConfig:
    """How a worker is to be. Times are seconds."""

    #: Attempts at once.
    concurrency: int = field(default_factory=lambda: os.cpu_count() or 1)
    #: Where they run: in processes, in threads, or on an event loop.
    pool: PoolKind = "process"
    #: Queues it takes from.
    queues: Sequence[str] = ("default",)
    #: Unique among live workers.
    name: str | None = None
    #: What tasks may require by value, and by amount.
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, int] = field(default_factory=dict)
    #: Codecs that are read; those of the app unless told.
    accept: Collection[str] | None = None
    #: At most so many tasks are fetched ahead of free slots, and only while tasks are short; 0 to fetch none.
    prefetch: int | None = None
    #: A pool process is replaced after so many tasks.
    tasks_per_child_max: int | None = None
    #: How long running tasks may take to finish once the worker was told to go.
    grace_s: float = 30.0
    #: How long a task that was told to stop may take to clean up before its process is killed.
    stop_grace_s: float = 5.0
    #: Whether what tasks print and log can be watched.
    capture: bool = True
    #: How long a question for work is held; it is asked anew at the end.
    poll_wait_s: float = 50.0
    #: How long to try while another live worker has the name: one that died is only lost after its lease.
    name_patience_s: float = 60.0
    #: How long to try to tell the last results, and then to say goodbye.
    leave_patience_s: float = 3.0

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise UsageError(f"there is no pool {self.pool!r}; there are {', '.join(POOLS)}")
        if not 1 <= self.concurrency <= SLOTS_MAX // 2:
            raise UsageError(f"concurrency is from 1 to {SLOTS_MAX // 2}, not {self.concurrency}")
        if not self.queues:
            raise UsageError("a worker takes from at least one queue")
        if self.prefetch is not None and not 0 <= self.prefetch <= SLOTS_MAX // 2:
            raise UsageError(f"prefetch is from 0 to {SLOTS_MAX // 2}, not {self.prefetch}")
        if self.tasks_per_child_max is not None and self.tasks_per_child_max < 1:
            raise UsageError("a pool process runs at least one task before it is replaced")

    @property
    def prefetch_max(self) -> int:
        """See `prefetch`."""
        return PREFETCH_MAX_DEFAULT if self.prefetch is None else self.prefetch

    @property
    def worker_name(self) -> str:
        """The name, or one made of machine and process."""
        return self.name or f"{socket.gethostname()[:100]}-{os.getpid()}"
