"""The client of openapi-python-client."""

import os
from http import HTTPStatus

from triarch_client import Client
from triarch_client.api.jobs import jobs_show, jobs_submit
from triarch_client.api.tasks import tasks_list, tasks_show
from triarch_client.api.workers import workers_heartbeat, workers_leave, workers_poll, workers_register, workers_report
from triarch_client.models import (
    Heartbeat,
    Job,
    JobState,
    LeasedTask,
    LeaveAnswer,
    Poll,
    PollAnswer,
    Problem,
    ProblemCode,
    Register,
    Registered,
    RegisterLabels,
    RegisterResources,
    Report,
    ReportAnswer,
    ReportStatus,
    RunningTask,
    SubmitJob,
    Submitted,
    Task,
    TaskList,
    TaskResult,
    TaskSpec,
    TaskState,
)

client = Client(base_url=os.environ["TRIARCH_MASTER"])
KIND = "compat-python"

spec = TaskSpec(kind=KIND, payload={"number": 42}, priority=3, tags=["compat"])
job = SubmitJob(idempotency_key=f"python-{os.getpid()}", tasks=[spec])
submitted = jobs_submit.sync(client=client, body=job)
assert isinstance(submitted, Submitted), submitted
assert submitted.duplicate is False

about = Register(
    name=KIND,
    kinds=[KIND],
    slots=1,
    labels=RegisterLabels.from_dict({"zone": "eu"}),
    resources=RegisterResources.from_dict({"mem_mb": 512}),
)
registered = workers_register.sync(client=client, body=about)
assert isinstance(registered, Registered), registered
worker = registered.id
# Secret of the worker, where the cluster gives one.
secret = registered.secret or ""

polled = workers_poll.sync(worker, client=client, body=Poll(max_=1, wait_ms=5000), triarch_worker_secret=secret)
assert isinstance(polled, PollAnswer), polled
lease: LeasedTask = polled.tasks[0]
assert (lease.job, lease.attempt, lease.payload) == (submitted.id, 1, {"number": 42})
assert polled.drain is False

beat = Heartbeat(running=[RunningTask(task=lease.id, token=lease.token, progress=0.5)])
directives = workers_heartbeat.sync(worker, client=client, body=beat, triarch_worker_secret=secret)
assert directives is not None
assert not isinstance(directives, Problem)
assert directives.lost == []

result = TaskResult(task=lease.id, token=lease.token, status=ReportStatus.SUCCEEDED, result={"answer": 42})
reported = workers_report.sync(worker, client=client, body=Report(results=[result]), triarch_worker_secret=secret)
assert isinstance(reported, ReportAnswer), reported
assert reported.results[0].accepted

ended = jobs_show.sync(submitted.id, client=client, wait_ms=5000)
assert isinstance(ended, Job), ended
assert ended.state is JobState.SUCCEEDED
assert ended.counts["succeeded"] == 1
shown = tasks_show.sync(lease.id, client=client)
assert isinstance(shown, Task), shown
assert shown.result == {"answer": 42}
listed = tasks_list.sync(client=client, state=TaskState.SUCCEEDED, kind=KIND, limit=10)
assert isinstance(listed, TaskList), listed
assert [row.id for row in listed.tasks] == [lease.id]

# Problem documents have one type, whatever the operation.
missing = tasks_show.sync_detailed("t999999-0", client=client)
assert missing.status_code is HTTPStatus.NOT_FOUND
assert isinstance(missing.parsed, Problem)
assert missing.parsed.code is ProblemCode.NOT_FOUND
job.tasks = [TaskSpec(kind=KIND, payload=1)]
conflict = jobs_submit.sync(client=client, body=job)
assert isinstance(conflict, Problem), conflict
assert conflict.code is ProblemCode.CONFLICT
assert conflict.status == 409
assert conflict.detail

left = workers_leave.sync(worker, client=client, triarch_worker_secret=secret)
assert isinstance(left, LeaveAnswer), left
assert left.returned == 0
print("ok")
