"""Triarch: tasks, workers and futures on a replicated task master.

::

    from triarch import Triarch

    app = Triarch("http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    print(add.delay(1, 2).result(timeout=10))
"""

from ._http.policy import Patience, RetryPolicy
from .app import Triarch
from .context import NotInATask, TaskContext, TaskStopped, current
from .errors import (
    AlreadyFinished,
    ArgumentsError,
    Conflict,
    GiveUp,
    InvalidRequest,
    NoLeader,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    RateLimited,
    Refused,
    RemoteError,
    ResultTimeout,
    Retry,
    SerializationError,
    SoftTimeout,
    StaleToken,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    Timeout,
    TriarchError,
    UsageError,
)
from .futures import Client, ClusterExecutor, TaskFuture, as_completed
from .handle import Handle, HandleGroup, Many
from .options import Backoff, TaskOptions
from .task import Task
from .workflow import Dag, chain, chord, group

__version__ = "0.1.0"

__all__ = [
    "AlreadyFinished",
    "ArgumentsError",
    "Backoff",
    "Client",
    "ClusterExecutor",
    "Conflict",
    "Dag",
    "GiveUp",
    "Handle",
    "HandleGroup",
    "InvalidRequest",
    "Many",
    "NoLeader",
    "NotFound",
    "NotInATask",
    "Patience",
    "PayloadTooLarge",
    "QueueFull",
    "RateLimited",
    "Refused",
    "RemoteError",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "SerializationError",
    "SoftTimeout",
    "StaleToken",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskFuture",
    "TaskOptions",
    "TaskStopped",
    "Timeout",
    "Triarch",
    "TriarchError",
    "UsageError",
    "__version__",
    "as_completed",
    "chain",
    "chord",
    "current",
    "group",
]
