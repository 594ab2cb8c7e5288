"""A worker as one writes it at first: it works, until something goes wrong. The conformance checks must find out."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any

MASTER = os.environ["TRIARCH_MASTERS"].split(",")[0]
KIND = os.environ["TRIARCH_KIND"]


def post(url: str, body: Any) -> Any:
    """Sends a request, and follows a redirect."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 307:
            return post(error.headers["location"], body)
        raise


def run(worker: str, running: list[dict[str, Any]], lease: dict[str, Any]) -> None:
    """Runs a task, and reports it once."""
    item = {"task": lease["id"], "token": lease["token"]}
    payload = lease["payload"]
    time.sleep(payload["run_ms"] / 1000)
    if "fail" in payload:
        result = {**item, "status": "failed", "error": {"message": "failed"}}
    else:
        value = "x" * payload["result_bytes"] if "result_bytes" in payload else payload["value"]
        result = {**item, "status": "succeeded", "result": value}
    try:
        post(f"{MASTER}/v1/workers/{worker}/report", {"results": [result]})
    except OSError as error:
        print(error, flush=True)
    running.remove(item)


def heartbeats(worker: str, running: list[dict[str, Any]], pause_s: float) -> None:
    """Confirms the leases, whatever the answer says."""
    while True:
        time.sleep(pause_s)
        try:
            post(f"{MASTER}/v1/workers/{worker}/heartbeat", {"running": list(running)})
        except OSError as error:
            print(error, flush=True)


def main() -> None:
    """Polls in a loop."""
    about = {"name": f"bad-{os.getpid()}", "kinds": [KIND], "slots": 16}
    registered = post(f"{MASTER}/v1/workers", about)
    worker = registered["id"]
    running: list[dict[str, Any]] = []
    pause_s = registered["heartbeat_ms"] / 1000
    threading.Thread(target=heartbeats, args=(worker, running, pause_s), daemon=True).start()
    while True:
        try:
            answer = post(f"{MASTER}/v1/workers/{worker}/poll", {"max": 16, "wait_ms": 20_000})
        except (OSError, ValueError) as error:
            print(error, flush=True)
            continue
        for lease in answer["tasks"]:
            running.append({"task": lease["id"], "token": lease["token"]})
            threading.Thread(target=run, args=(worker, running, lease), daemon=True).start()


if __name__ == "__main__":
    main()
