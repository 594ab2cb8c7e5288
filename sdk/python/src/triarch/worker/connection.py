"""Worker connection: calls of one thread of a worker to the cluster, cancellable from other threads.

This is a thin layer over the client's transport and retry policy. All connections of a worker share one transport, and with it one
list of masters. All connections therefore know a leader that one of them finds. Every call of a worker is safe to repeat, so a
call is tried at one master after another until its deadline.
"""

from __future__ import annotations

import threading
from typing import Any

from triarch._http.policy import Request
from triarch._http.transport import Cancellation, RequestCancelled, Transport
from triarch.errors import ProtocolError, Refused, refusal

__all__ = ["RequestCancelled", "WorkerConnection"]


class WorkerConnection:
    """Calls of one thread at a time. Any thread may call ``abandon`` and ``close``."""

    def __init__(self, transport: Transport, secret: str | None = None) -> None:
        self._transport = transport
        #: The cluster refuses calls in the name of this worker without it.
        self._headers = {} if secret is None else {"triarch-worker-secret": secret}
        self._lock = threading.Lock()
        self._cancellation = Cancellation()
        self._calling = False
        self._closed = False

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        deadline_s: float,
        hold_s: float = 0.0,
        request_id: str | None = None,
        answer_timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Returns the document that the cluster answers.

        ``deadline_s`` bounds all tries, in addition to ``hold_s``, for which a long poll may be held. ``answer_timeout_s``
        bounds the first try alone.

        Raises :class:`~triarch.errors.Refused` for a refusal, another :class:`~triarch.errors.TriarchError` when no master
        answered, and :class:`~triarch._http.transport.RequestCancelled` after ``abandon`` or ``close``.
        """
        request = Request(
            method,
            path,
            body,
            headers=self._headers,
            request_id=request_id,
            hold_s=hold_s,
            deadline_s=deadline_s,
            answer_timeout_s=answer_timeout_s,
            retry_unreachable=True,
            mutates=False,
        )
        with self._lock:
            if self._closed:
                raise RequestCancelled
            self._cancellation.reset()
            self._calling = True
        try:
            response = self._transport.call(request, self._cancellation)
        except ProtocolError as error:
            if error.status is not None and 400 <= error.status < 500:
                # A refusal without a problem document, from a proxy perhaps. It would be the same again.
                raise refusal({"status": error.status, "detail": f"{error}; is this a Triarch master?"}) from None
            raise
        finally:
            self._calling = False
        return response.document() if response.body else {}

    def abandon(self) -> None:
        """Cancels the call in progress, if there is one."""
        with self._lock:
            if self._calling:
                self._cancellation.cancel()

    def close(self) -> None:
        """Cancels the call in progress, and refuses every later one."""
        with self._lock:
            self._closed = True
            self._cancellation.cancel()


def is_final(error: Refused) -> bool:
    """Returns whether the cluster would refuse the same request again."""
    return error.status < 429
