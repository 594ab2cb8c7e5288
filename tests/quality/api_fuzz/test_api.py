"""Generated requests, valid and invalid, to every route of /openapi.json.

Checks of every answer:
- No answer is a 5xx, except the documented 503 (no leader, no capacity) and 507 (a disk has failed).
- The document describes the answer: its status, its content type, and its schema.
- A request that violates the schema is refused, and so is a method that does not exist.
- A refused request has changed nothing: the digest of the table is the same as before.

Requests go to every master in turn, so that forwarding and redirects are tested too. The seed is printed; the same
seed sends the same requests (pytest --hypothesis-seed).
"""

import itertools
import os
import urllib.parse

import prometheus_client.openmetrics.parser
import prometheus_client.parser
import pytest
import requests
import schemathesis
from conftest import MASTERS
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

# Number of requests per route, in addition to those that cover each of its parameters.
EXAMPLES = int(os.environ.get("TRIARCH_FUZZ_EXAMPLES", "20"))
# Maximum time of an answer. Requested waits are cut to less.
MAX_RESPONSE_S = 20
MAX_WAIT_MS = 20
# Time that moves timers beyond the run. A timer would change the table during a request.
FAR_FUTURE_MS = 1_000_000_000

# Endless streams, which tests/integration/cluster tests.
ENDLESS = ["/v1/events"]

CHECKS = [
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]

CHECKS_OF_REDIRECTS = [content_type_conformance, response_schema_conformance, status_code_conformance]
MAX_REDIRECTS = 4

session = requests.Session()
asked = [0]
turn = itertools.cycle(MASTERS.urls)

schema = schemathesis.openapi.from_url(MASTERS.urls[0] + "/openapi.json").exclude(path=ENDLESS)


def request(method, path, body=None):
    answer = session.request(method, MASTERS.urls[0] + path, json=body, timeout=MAX_RESPONSE_S)
    answer.raise_for_status()
    return answer.json()


def digest():
    return request("GET", "/v1/cluster?digest=true")["digest"]["value"]


class ExistingObjects:
    """Creates objects, so that requests also refer to existing ones. None of them changes by itself."""

    def __init__(self):
        task = {"kind": "fuzz", "queue": "fuzz", "key": "a", "max_attempts": 1}
        jobs = [request("POST", "/v1/jobs", {"name": "fuzz", "tasks": [task]}) for _ in range(8)]
        names = [f"fuzz-{number}" for number in range(4)]
        workers = [request("POST", "/v1/workers", {"name": name, "kinds": ["none"]}) for name in names]
        self.ids = {
            "jobs": itertools.cycle(job["id"] for job in jobs),
            "tasks": itertools.cycle(job["tasks"][0] for job in jobs),
            "workers": itertools.cycle(worker["id"] for worker in workers),
        }
        # Some of the tasks run and one has ended. Their worker is never called again, because it would get more tasks.
        busy = request("POST", "/v1/workers", {"name": "busy", "kinds": ["fuzz"], "queues": ["fuzz"], "slots": 3})
        running = []
        while len(running) < 3:
            wanted = {"max": 3 - len(running), "wait_ms": 1_000}
            running += request("POST", f"/v1/workers/{busy['id']}/poll", wanted)["tasks"]
        result = {"task": running[0]["id"], "token": running[0]["token"], "status": "failed"}
        request("POST", f"/v1/workers/{busy['id']}/report", {"results": [result]})

    def id_for(self, path):
        noun = path.split("/")[2]
        return next(self.ids[noun]) if noun in self.ids else None


OBJECTS = ExistingObjects()
every_other = itertools.cycle([True, False])


def is_positive(case):
    meta = case.meta
    return meta is not None and meta.generation.mode.is_positive


def short(value):
    return min(value, MAX_WAIT_MS) if isinstance(value, int) else value


def postpone(case):
    """Postpones jobs that are submitted to start soon."""
    tasks = case.body.get("tasks") if isinstance(case.body, dict) else None
    for task in tasks if isinstance(tasks, list) else []:
        for name in ("delay_ms", "expires_ms") if isinstance(task, dict) else ():
            if type(task.get(name)) is int and task[name] > 0:
                task[name] = max(task[name], FAR_FUTURE_MS)


def make_harmless(case):
    """Takes out what would only wait, what would change the table later, and what would take the cluster apart; says
    whether the case may be asked."""
    postpone(case)
    for name in ("wait_ms", "follow_ms"):
        if isinstance(case.query, dict) and str(case.query.get(name, "")).isdigit():
            case.query[name] = short(int(case.query[name]))
    if isinstance(case.body, dict) and "wait_ms" in case.body:
        case.body["wait_ms"] = short(case.body["wait_ms"])
    index = case.headers.get("triarch-min-index") if case.headers else None
    if index is not None and str(index).isdigit():
        case.headers["triarch-min-index"] = "1"
    if is_positive(case) and "id" in (case.path_parameters or {}) and next(every_other):
        case.path_parameters["id"] = OBJECTS.id_for(case.path) or case.path_parameters["id"]
    if case.path == "/v1/cluster/nodes" and case.method == "POST":
        # A master that does not exist would be added and waited for.
        return not is_positive(case)
    if case.path == "/v1/cluster/transfer-leader":
        # An election for each request would leave little time for anything else.
        return not is_positive(case) or (isinstance(case.body, dict) and case.body.get("to") not in (None, 1, 2, 3))
    if case.path == "/v1/cluster/nodes/{id}":
        return str(case.path_parameters["id"]) not in ("1", "2", "3")
    return True


def send(case):
    """Sends the request to the next master, and follows its redirect."""
    base = next(turn)
    for _ in range(MAX_REDIRECTS):
        response = case.call(base_url=base, session=session, timeout=MAX_RESPONSE_S)
        asked[0] += 1
        if response.status_code != 307:
            return response
        case.validate_response(response, checks=CHECKS_OF_REDIRECTS)
        target = urllib.parse.urlsplit(response.headers["location"][0])
        base = f"{target.scheme}://{target.netloc}"
    raise AssertionError(f"redirected without end: {response.headers}")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_route(case):
    if not make_harmless(case):
        return
    before = digest()
    response = send(case)
    if response.status_code >= 500:
        assert response.status_code in (503, 507), f"{response.status_code}: {response.text}"
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400:
        assert digest() == before, f"refused with {response.status_code}, and yet the table is another one"


@pytest.mark.parametrize("url", MASTERS.urls)
def test_metrics_are_read_by_prometheus_own_parsers(masters, url):
    """Both text formats contain the same families."""
    families = {}
    for name, accept, parser in (
        ("plain", "text/plain", prometheus_client.parser),
        ("openmetrics", "application/openmetrics-text; version=1.0.0", prometheus_client.openmetrics.parser),
    ):
        response = session.get(url + "/metrics", headers={"accept": accept}, timeout=MAX_RESPONSE_S)
        assert response.status_code == 200, response.text
        read = list(parser.text_string_to_metric_families(response.text))
        families[name] = {(family.name, family.type) for family in read}
        assert all(family.documentation for family in read)
    assert families["plain"] == families["openmetrics"]
    assert ("triarch_leader_changes", "counter") in families["plain"]


def test_masters_live_and_hold_the_same(masters):
    assert masters.ended() == []
    assert masters.panics() == []
    masters.equal_digests()
    print(f"{asked[0]} requests were made")
