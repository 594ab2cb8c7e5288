"""Workers: they lease tasks, run them, and report what came of them.

From a shell: ``triarch-worker module:app --concurrency 8``. From Python: :class:`Worker`.

What a worker guarantees to the code it runs: an attempt whose lease may have passed to another is stopped, be it because the
cluster says so or because the cluster has been silent for a whole lease. What it guarantees to the cluster: a result is reported
until it is accepted or refused, and only under the token of its own lease. It keeps nothing on disk: a worker that dies is lost,
and others run its attempts. Execution is at least once, and exactly one result is accepted.
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
