"""Workers: lease tasks, run them, and report their outcomes.

From a shell: ``triarch-worker module:app --concurrency 8``. From Python: :class:`Worker`.

# Invariants

* An attempt whose lease may have passed to another worker is stopped. The reason is a message of the cluster, or the silence of
  the cluster for the length of a lease.
* A result is reported until it is accepted or refused, and only under the token of its own lease.
* A worker keeps nothing on disk. When it dies, other workers run its attempts.

Execution is at least once, and exactly one result is accepted.
"""

from triarch.context import NotInATask, TaskContext, TaskStopped, current

from .config import WorkerConfig
from .load import AppNotFound, load_app
from .worker import Worker, WorkerError

__all__ = [
    "AppNotFound",
    "NotInATask",
    "TaskContext",
    "TaskStopped",
    "Worker",
    "WorkerConfig",
    "WorkerError",
    "current",
    "load_app",
]
