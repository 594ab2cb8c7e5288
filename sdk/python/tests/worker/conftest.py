from __future__ import annotations

import importlib
import uuid
from pathlib import Path
from typing import Any

import pytest

from triarch import Handle, Triarch
from triarch._http.policy import Request, path
from triarch.testing import LocalCluster, Process, wait_until

HERE = Path(__file__).parent


class Bench:
    """An app whose tasks run in workers in separate processes."""

    def __init__(self, cluster: LocalCluster, notes: Path) -> None:
        self.cluster = cluster
        self.queue = f"q-{uuid.uuid4().hex[:12]}"
        self.notes = notes
        self.app = Triarch(cluster.url, accept=("json", "msgpack", "cloudpickle"))

    def worker(self, *args: str, app: str = "tasks_of_tests:app", **more: Any) -> Process:
        env = {"NOTES": str(self.notes), "TRIARCH_MASTERS": self.cluster.url, **more.pop("env", {})}
        more.setdefault("cwd", HERE)
        return self.cluster.start_worker(app, queues=self.queue, args=args, env=env, **more)

    def submit(self, name: str, *args: Any, **options: Any) -> Any:
        """Submits a task of `tasks_of_tests` by its name."""
        app: Triarch = importlib.import_module("tasks_of_tests").app
        task = app.tasks[f"tasks_of_tests.{name}"]
        spec = task.spec(args, {}, task.options.but({"queue": self.queue, **options}))
        submitted = self.app.submitter.job([spec])
        return Handle(self.app, submitted.tasks[0], submitted.job, name=task.name)

    def submit_together(self, *calls: tuple[Any, ...]) -> list[Any]:
        """Submits tasks of `tasks_of_tests` as one job, each given by its name and arguments."""
        app: Triarch = importlib.import_module("tasks_of_tests").app
        specs = []
        for name, *args in calls:
            task = app.tasks[f"tasks_of_tests.{name}"]
            specs.append(task.spec(args, {}, task.options.but({"queue": self.queue})))
        body = b'{"tasks":[' + b",".join(specs) + b"]}"
        job = self.app.transport.json(Request.change("POST", "/v1/jobs", body))
        return [Handle(self.app, id, job["id"]) for id in job["tasks"]]

    def task(self, id: str, wait_ms: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self.app.transport.json(Request.get(path("tasks", id), {"wait_ms": wait_ms}))
        return found

    def outcomes(self, id: str) -> list[str | None]:
        """Returns how the attempts of a task have ended, `None` for one that runs.

        Attempts that were `returned` count as nothing and are left out: on a busy machine, a lease goes back before the worker has
        read of it.
        """
        ends = [one.get("outcome") for one in self.task(id)["attempts"]]
        return [end for end in ends if end != "returned"]

    def post(self, *segments: str) -> Any:
        return self.app.transport.json(Request.change("POST", path(*segments)))

    def wait_for_heartbeat(self, worker: str) -> None:
        """Waits until the worker has received one more answer, so that it knows the state of the cluster."""

        def silent_ms() -> int:
            found = self.app.transport.json(Request.get(path("workers", worker)))
            return int(found["silent_ms"])

        # The answer to one heartbeat has arrived when the next one is sent.
        for _ in range(2):
            last = silent_ms()

            def asks_again() -> bool:
                nonlocal last
                before, last = last, silent_ms()
                return last < before

            wait_until(asks_again, 30, "the worker to ask again")

    def go_on(self, after: str = "go on") -> None:
        """Lets the tasks continue that are `held`."""
        (self.notes / after).touch()

    def lines(self, name: str) -> list[str]:
        """Returns the lines that tasks have written under a name."""
        file = self.notes / name
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def bench(triarch_cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("NOTES", str(tmp_path))
    return Bench(triarch_cluster, tmp_path)
