"""The checks: each states one rule of the contract, and finds out whether the worker keeps it."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from . import faults
from .bench import ENDLESS_MS, Bench
from .gateway import Call

#: Maximum calls per second while nothing can be done. Above the first, a worker does not obey `Retry-After`; above the second, it
#: calls in a loop.
CALLS_PER_S_WEAK = 12
CALLS_PER_S_MAX = 100
#: Time for which all calls are refused, in seconds.
OUTAGE_S = 1.0
#: Time for which an idle worker is watched, in seconds.
IDLE_S = 1.5
#: Maximum time in seconds between SIGTERM and the end of the worker.
STOP_S = 15.0
#: A value with the oddities of JSON that every language can hold.
VALUE = {"text": 'naïve “日本” \U0001f600 \\ " \n\t/', "list": [0, -1.5, True, None, [], {}], "": "empty key"}
#: Size of a result over the limit of 1 MiB.
TOO_LARGE_BYTES = 2 * 1024 * 1024
#: A value that tasks of no other check return.
FAILURE = "the disk said no: è"


class Broken(Exception):
    """The worker breaks the rule."""


class Weak(Exception):
    """The worker works without this, but less well."""


@dataclass(frozen=True)
class Check:
    """One rule, and the function that finds out about it. The function returns a remark, or raises."""

    name: str
    rule: str
    run: Callable[[Bench], str]


CHECKS: dict[str, Check] = {}


def check(name: str, rule: str) -> Callable[[Callable[[Bench], str]], Callable[[Bench], str]]:
    """Registers a check."""

    def register(run: Callable[[Bench], str]) -> Callable[[Bench], str]:
        CHECKS[name] = Check(name, rule, run)
        return run

    return register


@check("registers", "registers with a name, queues, kinds and slots")
def registers(bench: Bench) -> str:
    call = bench.gateway.wait(lambda call: call.route == "register" and call.status == 201, bench.patience_s)
    if call is None:
        refused = bench.gateway.find(lambda call: call.route == "register" and call.status >= 400)
        why = f": {refused.answer_raw.decode(errors='replace')}" if refused else ""
        raise Broken(f"no registration within {bench.patience_s:g} s{why}")
    bench.lease_s = call.answer["lease_ms"] / 1000
    kinds = call.body.get("kinds", ["exec"])
    if bench.kind not in kinds:
        raise Broken(f"it takes {kinds}; the tasks of these checks have the kind {bench.kind!r} (TRIARCH_KIND)")
    return f"as {call.answer['id']}, with {call.body.get('slots', 1)} slots"


@check("follows-redirects", "follows a 307 to the leader, with the same method and body")
def follows_redirects(bench: Bench) -> str:
    redirected = bench.gateway.find(lambda call: call.status == 307)
    if redirected is None:
        raise Weak("it was not redirected: it asked the leader at once, although TRIARCH_MASTERS begins with a follower")
    if bench.gateway.find(lambda call: call.route == redirected.route and call.status in (200, 201)) is None:
        raise Broken(f"{redirected.method} {redirected.path} was not sent again to the Location")
    return "to the leader, at registration"


@check("runs-tasks", "runs a task, and reports the result that its code returned")
def runs_tasks(bench: Bench) -> str:
    shown = bench.show(bench.submit(value=VALUE), bench.patience_s)
    if shown["state"] != "succeeded":
        raise Broken(f"the task is {shown['state']}: {bench.error_text(shown)}")
    if bench.result(shown) != VALUE:
        raise Broken(f"the result is {shown['result']!r}, and the task returned {VALUE!r}")
    return ""


@check("reports-failures", "reports a failure with its message")
def reports_failures(bench: Bench) -> str:
    shown = bench.show(bench.submit(fail=FAILURE, max_attempts=1), bench.patience_s)
    if shown["state"] != "failed":
        raise Broken(f"the task is {shown['state']}")
    if FAILURE not in bench.error_text(shown):
        raise Broken(f"the error does not contain the message {FAILURE!r}: {bench.error_text(shown)}")
    if not isinstance(shown["error"], dict) or not {"type", "message"} <= shown["error"].keys():
        raise Weak("the error has no `type` and `message`, which lists show")
    return ""


@check("bounds-results", "a result over 1 MiB becomes a failure, and is not reported for ever")
def bounds_results(bench: Bench) -> str:
    shown = bench.show(bench.submit(result_bytes=TOO_LARGE_BYTES, max_attempts=1), bench.patience_s)
    if shown["state"] not in ("failed", "succeeded"):
        raise Broken(f"the task is {shown['state']}, attempt {shown['attempt']}: report a failure under the same lease")
    if bench.runs(shown) != 1:
        raise Broken(f"the task was run {bench.runs(shown)} times")
    return "reported as a failure" if shown["state"] == "failed" else "shortened"


@check("limits-time", "stops an attempt at its timeout_ms, and reports a failure")
def limits_time(bench: Bench) -> str:
    shown = bench.show(bench.submit(run_ms=ENDLESS_MS, timeout_ms=400, max_attempts=1), bench.patience_s + 5)
    if shown["state"] != "failed":
        raise Broken(f"the task is {shown['state']} long after its limit of 400 ms")
    if not isinstance(shown["error"], dict) or shown["error"].get("type") != "timeout":
        raise Weak("the error has not the type `timeout`")
    return ""


@check("repeats-reports", "sends a result again when the answer to the report is lost, and does not run the task again")
def repeats_reports(bench: Bench) -> str:
    task = bench.submit(value="reported twice")
    mark = bench.gateway.mark()
    with bench.gateway.rule(faults.LoseAnswer(lambda call: _reports(call, task))) as rule:
        if bench.gateway.wait(lambda call: call.lost and _reports(call, task), bench.patience_s, mark) is None:
            raise Broken("the task was not reported")
        assert isinstance(rule, faults.LoseAnswer)
        lost = rule.lost
        again = bench.gateway.wait(lambda call: call is not lost and _reports(call, task), bench.patience_s, mark)
    if again is None:
        raise Broken(f"no second report within {bench.patience_s:g} s")
    first, second = (next(item for item in call.results() if item["task"] == task) for call in (lost, again) if call)
    if first != second:
        raise Broken(f"the second report differs: {second}, after {first}")
    if not bench.gateway.wait(lambda call: _accepted(call, task), bench.patience_s, mark):
        raise Broken("no report was acknowledged")
    return ""


@check("obeys-cancel", "stops an attempt that is named in `cancel`")
def obeys_cancel(bench: Bench) -> str:
    task = bench.submit(run_ms=ENDLESS_MS)
    if not bench.wait_running(task):
        raise Broken("the task was not taken")
    bench.cancel(task)
    if not bench.wait_dropped(task):
        raise Broken("the attempt is still listed as running")
    return ""


@check("obeys-lost", "stops an attempt that is named in `lost`: its lease belongs to others")
def obeys_lost(bench: Bench) -> str:
    task = bench.submit(run_ms=ENDLESS_MS)
    with bench.gateway.rule(faults.ReportLost(task)):
        if not bench.wait_running(task):
            raise Broken("the task was not taken")
        dropped = bench.wait_dropped(task)
        bench.cancel(task)
    if not dropped:
        raise Broken("the attempt is still listed as running")
    return ""


@check("copies-ids", "sends ids of tasks exactly as it received them")
def copies_ids(bench: Bench) -> str:
    task = bench.submit(value="odd id", max_losses=1)
    with bench.gateway.rule(faults.RenameTask(task)) as rule:
        shown = bench.show(task, bench.patience_s)
        assert isinstance(rule, faults.RenameTask)
        if rule.wrong:
            raise Broken(f"it received {rule.alias!r}, and sent {sorted(rule.wrong)}")
    if shown["state"] != "succeeded":
        raise Broken(f"the task is {shown['state']}: an id is any text of at most 200 bytes")
    return ""


@check("ignores-unknown-fields", "ignores fields of answers that it does not know")
def ignores_unknown_fields(bench: Bench) -> str:
    with bench.gateway.rule(faults.UnknownFields()):
        shown = bench.show(bench.submit(value="later version"), bench.patience_s)
    if shown["state"] != "succeeded":
        raise Broken(f"the task is {shown['state']} when the answers have more fields")
    return ""


@check("keeps-leases", "confirms the lease of a long attempt within `lease_ms`, over a change of the leader")
def keeps_leases(bench: Bench) -> str:
    lease_s = bench.lease_s
    task = bench.submit(run_ms=int(2.2 * lease_s * 1000), value="long", max_losses=1)
    if not bench.wait_running(task):
        raise Broken("the task was not taken")
    begun = time.monotonic()
    bench.gateway.wait(lambda call: call.holds(task) and call.begun > begun + 0.3 * lease_s, lease_s)
    bench.cluster.call("POST", "/v1/cluster/transfer-leader", {})
    shown = bench.show(task, 2.2 * lease_s + bench.patience_s)
    confirmed = [begun] + [call.begun for call in list(bench.gateway.calls) if call.holds(task) and call.status == 200]
    gap = max((after - before for before, after in itertools.pairwise(confirmed)), default=lease_s)
    if shown["state"] != "succeeded" or bench.runs(shown) != 1:
        raise Broken(
            f"the task is {shown['state']}, attempt {shown['attempt']}: it was listed as running {len(confirmed) - 1} times, "
            f"with gaps of up to {gap:.1f} s; a lease lasts {lease_s:g} s"
        )
    return f"gaps of at most {gap:.1f} s; a lease lasts {lease_s:g} s"


@check("remembers-leader", "sends its calls to the leader that it found")
def remembers_leader(bench: Bench) -> str:
    calls = [call for call in list(bench.gateway.calls) if call.worker and call.status]
    redirected = sum(call.status == 307 for call in calls)
    if redirected * 4 > len(calls):
        raise Weak(f"{redirected} of {len(calls)} calls were redirected: remember the host of the last Location")
    return f"{redirected} of {len(calls)} calls were redirected"


@check("sends-secret", "sends the secret of its registration with each of its calls")
def sends_secret(bench: Bench) -> str:
    calls = [call for call in list(bench.gateway.calls) if call.worker in bench.gateway.secrets]
    right = sum(call.headers.get("triarch-worker-secret") == bench.gateway.secrets[call.worker] for call in calls)
    if not right and not any("triarch-worker-secret" in call.headers for call in calls):
        raise Weak("never: others who know its id can report in its name")
    wrong = next(
        (call for call in calls if call.headers.get("triarch-worker-secret") != bench.gateway.secrets[call.worker]), None
    )
    if wrong is not None:
        raise Broken(f"{len(calls) - right} of {len(calls)} calls lack it, for example {wrong.route}: they are refused")
    return f"with all of {len(calls)} calls"


@check("drains", "when it reads `drain`, finishes its attempts, leaves and exits")
def drains(bench: Bench) -> str:
    worker = _current(bench)
    task = bench.submit(run_ms=500, value="drained")
    if not bench.wait_running(task):
        raise Broken("the task was not taken")
    bench.cluster.call("POST", f"/v1/workers/{worker}/drain")
    _leaves(bench, task, f"after POST /v1/workers/{worker}/drain")
    return ""


@check("asks-again", "a lost answer to a poll costs nothing: the next poll lists what runs, and gets the lease again")
def asks_again(bench: Bench) -> str:
    task = bench.submit(value="delivered twice")
    lost = faults.LoseAnswer(lambda call: any(item.get("id") == task for item in call.tasks()))
    begun = time.monotonic()
    with bench.gateway.rule(lost):
        shown = bench.show(task, 2 * bench.lease_s + bench.patience_s)
    if shown["state"] != "succeeded":
        raise Broken(f"the task is {shown['state']} {time.monotonic() - begun:.1f} s later")
    if bench.runs(shown) != 1:
        raise Weak("the lease ended, and the task was leased again: send `running` with each poll, also if it is empty")
    return ""


@check("backs-off", "waits between calls that are refused, and works again afterwards")
def backs_off(bench: Bench) -> str:
    return _outage(bench, faults.Refuse(), "503 no_leader with Retry-After: 1")


@check("survives-garbage", "takes an answer that it cannot read for an error, and waits")
def survives_garbage(bench: Bench) -> str:
    return _outage(bench, faults.Garble(), "a page in HTML as the answer to each call")


@check("registers-again", "after `unknown_worker`, stops its attempts and registers again")
def registers_again(bench: Bench) -> str:
    old = _current(bench)
    task = bench.submit(run_ms=ENDLESS_MS)
    if not bench.wait_running(task):
        raise Broken("the task was not taken")
    mark = bench.gateway.mark()
    rename = faults.RenameWorker(bench.gateway)
    with bench.gateway.rule(rename):
        bench.forget_worker(old)
        wanted = bench.gateway.wait(lambda call: call.route == "register" and call.status == 201, bench.patience_s, mark)
    if wanted is None:
        raise Broken(f"no second registration within {bench.patience_s:g} s")
    # The lease went back to the queue. The new registration may be given it, under another token.
    bench.cancel(task)
    _settled(bench, "registered again")
    stale = {item["token"] for call in list(bench.gateway.calls)[:mark] for item in call.running() if item.get("task") == task}
    if any(
        item.get("task") == task and item.get("token") in stale
        for call in list(bench.gateway.calls)[mark:]
        if call.worker not in ("", old)
        for item in call.running()
    ):
        raise Broken("it lists an attempt of its old registration under the new one")
    return f"as {bench.gateway.worker_aliases.get(wanted.answer['id'], _current(bench))}"


@check("encodes-ids", "percent-encodes its id in paths")
def encodes_ids(bench: Bench) -> str:
    if not bench.gateway.worker_aliases:
        raise Weak("not tried, because it did not register again")
    real, alias = next(iter(bench.gateway.worker_aliases.items()))
    calls = [call for call in list(bench.gateway.calls) if call.worker == real]
    raw = [call.sent_path for call in calls if f"/v1/workers/{alias}" in call.sent_path]
    if raw or not calls:
        raise Weak(f"its id was {alias!r}, and it sent {raw[0] if raw else 'nothing'}")
    return f"the id {alias!r}"


@check("holds-polls", "waits for work in a long poll, and not in a loop")
def holds_polls(bench: Bench) -> str:
    mark, begun = bench.gateway.mark(), time.monotonic()
    bench.gateway.wait(lambda call: False, IDLE_S, mark)
    polls = sum(call.route == "poll" for call in list(bench.gateway.calls)[mark:])
    rate = polls / (time.monotonic() - begun)
    if rate > 4:
        raise Weak(f"{rate:.0f} polls per second while it has nothing to do: send wait_ms")
    return f"{polls} polls in {IDLE_S:g} s of idleness"


@check("leaves", "on SIGTERM, takes no new tasks, finishes or hands back its attempts, leaves and exits")
def leaves(bench: Bench) -> str:
    task = bench.submit(run_ms=800, value="at the end")
    if not bench.wait_running(task):
        raise Broken("the task was not taken")
    bench.worker.terminate()
    signalled = time.monotonic()
    code = _leaves(bench, task, "after SIGTERM")
    late = bench.gateway.find(
        lambda call: call.route == "poll" and bool((call.body or {}).get("max")) and call.begun > signalled + 0.5
    )
    if late is not None:
        raise Broken(f"it polled for tasks {late.begun - signalled:.1f} s after SIGTERM")
    if code == -signal.SIGTERM:
        raise Weak("it left, and was ended by the signal")
    return f"in {time.monotonic() - signalled:.1f} s"


#: Checks that share one worker and run at the same time, then one after the other. A worker has one cluster for each session.
Step = tuple[Literal["each", "together"], tuple[str, ...]]
SESSIONS: tuple[tuple[Step, ...], ...] = (
    (
        ("each", ("registers", "follows-redirects", "runs-tasks")),
        (
            "together",
            (
                "reports-failures",
                "bounds-results",
                "limits-time",
                "repeats-reports",
                "obeys-cancel",
                "obeys-lost",
                "copies-ids",
            ),
        ),
        ("each", ("ignores-unknown-fields", "keeps-leases", "remembers-leader", "sends-secret", "drains")),
    ),
    (
        (
            "each",
            (
                "registers",
                "asks-again",
                "backs-off",
                "survives-garbage",
                "registers-again",
                "encodes-ids",
                "holds-polls",
                "leaves",
            ),
        ),
    ),
)


def outcomes(bench: Bench, step: Step, wanted: Callable[[str], bool]) -> Iterator[tuple[Check, str, str]]:
    """Runs the checks of a step. Yields each with its verdict, `ok`, `weak` or `FAIL`, and a remark."""
    names = [name for name in step[1] if wanted(name)]
    if step[0] == "each":
        for name in names:
            yield _outcome(bench, CHECKS[name])
        return
    found: dict[str, tuple[Check, str, str]] = {}

    def run(name: str) -> None:
        found[name] = _outcome(bench, CHECKS[name])

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread, name in zip(threads, names, strict=True):
        thread.join()
        yield found[name]


def _outcome(bench: Bench, check: Check) -> tuple[Check, str, str]:
    try:
        return check, "ok", check.run(bench)
    except Weak as weak:
        return check, "weak", str(weak)
    except Broken as broken:
        code = bench.worker.exit_code(0)
        ended = f"; the worker has ended with {code}" if code is not None else ""
        return check, "FAIL", f"{broken}{ended}"
    except RuntimeError as error:
        return check, "FAIL", f"not decided: {error}"


def _current(bench: Bench) -> str:
    """Returns the id of the last registration, as the cluster knows it."""
    last = [call for call in list(bench.gateway.calls) if call.route == "register" and call.status == 201][-1]
    aliases = {alias: real for real, alias in bench.gateway.worker_aliases.items()}
    id: Any = last.answer["id"]
    return str(aliases.get(id, id))


def _reports(call: Call, task: str) -> bool:
    return any(item.get("task") == task for item in call.results())


def _accepted(call: Call, task: str) -> bool:
    verdicts = call.answer.get("results") if isinstance(call.answer, dict) and not call.lost else None
    return any(verdict.get("task") == task and verdict.get("accepted") for verdict in verdicts or [])


def _settled(bench: Bench, value: str) -> None:
    """Runs one more task, to see that the worker works on."""
    shown = bench.show(bench.submit(value=value), bench.patience_s)
    if shown["state"] != "succeeded":
        raise Broken(f"a task submitted afterwards is {shown['state']} {bench.patience_s:g} s later")


def _outage(bench: Bench, rule: faults.AnswerAll, what: str) -> str:
    # A result that is ready during the outage makes the worker call.
    task = bench.submit(run_ms=300, value="finished during the outage")
    if not bench.wait_running(task):
        raise Broken("the task was not taken")
    with bench.gateway.rule(rule):
        time.sleep(OUTAGE_S)
    rate = rule.count / OUTAGE_S
    if rate > CALLS_PER_S_MAX:
        raise Broken(f"{rate:.0f} calls per second, with {what}")
    _settled(bench, "afterwards")
    shown = bench.show(task, bench.patience_s)
    if shown["state"] != "succeeded":
        raise Broken(f"a task that ended during the outage is {shown['state']} {bench.patience_s:g} s later")
    if rate > CALLS_PER_S_WEAK:
        raise Weak(f"{rate:.0f} calls per second, with {what}")
    return f"{rate:.0f} calls per second"


def _leaves(bench: Bench, task: str, when: str) -> int | None:
    """Waits until the worker has left and its process has ended, and checks what became of its last task."""
    left = bench.gateway.wait(lambda call: call.route == "leave" and call.status == 200, STOP_S)
    if left is None:
        raise Broken(f"no DELETE of its registration within {STOP_S:g} s {when}")
    code = bench.worker.exit_code(STOP_S)
    if code is None:
        raise Broken(f"it left, and its process still runs {STOP_S:g} s {when}")
    shown = bench.show(task)
    outcome = shown["attempts"][0]["outcome"] if shown["attempts"] else "none"
    if shown["state"] != "succeeded" and outcome != "returned":
        raise Broken(f"its last task is {shown['state']}, the attempt {outcome}: finish or hand back")
    return code
