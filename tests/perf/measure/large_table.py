"""Measures the cost of a large table: memory per task, the time of a submission, and the time of a restart.

Starts three masters as separate processes on free ports, submits equal numbers of delayed and queued tasks, and
prints the results. It uses only the standard library. It stops the processes that it started, by pid, and deletes its
data.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BATCH = 10_000


def free_ports(count):
    """Returns free ports, all reserved at the same time."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Masters:
    """Three masters on this machine."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.ports = free_ports(3)
        self.processes = {}

    def start(self, node):
        cluster = ",".join(f"{i + 1}=127.0.0.1:{port}" for i, port in enumerate(self.ports))
        log = open(os.path.join(self.folder, f"master-{node}.log"), "ab")
        argv = [self.binary, "server", "--id", str(node), "--listen", f"127.0.0.1:{self.ports[node - 1]}"]
        argv += ["--data-dir", os.path.join(self.folder, f"node-{node}"), "--cluster", cluster]
        self.processes[node] = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill(self, node):
        process = self.processes.pop(node)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self):
        for node in list(self.processes):
            self.kill(node)

    def request(self, node, method, path, body=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[node - 1], timeout=timeout)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def leader(self, timeout_s=60):
        """Returns the id of the leader, once it accepts a write."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for node in list(self.processes):
                try:
                    status, cluster = self.request(node, "GET", "/v1/cluster", timeout=5)
                    if status == 200 and cluster.get("leader"):
                        return cluster["leader"]
                except (OSError, ValueError, http.client.HTTPException):
                    pass
            time.sleep(0.02)
        raise SystemExit("no leader came to be")

    def until_ready(self, node, timeout_s=300):
        """Returns the seconds until a master reports that it has caught up."""
        begun = time.monotonic()
        while time.monotonic() - begun < timeout_s:
            try:
                if self.request(node, "GET", "/readyz", timeout=5)[0] == 200:
                    return time.monotonic() - begun
            except (OSError, ValueError, http.client.HTTPException):
                pass
            time.sleep(0.02)
        raise SystemExit(f"master {node} did not become ready")

    def resident_bytes(self, node):
        with open(f"/proc/{self.processes[node].pid}/status") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise SystemExit("no VmRSS")


def submit(connection, job):
    connection.request("POST", "/v1/jobs", json.dumps(job), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 201:
        raise SystemExit(f"submission refused: {answer.status} {body[:300]!r}")


def latencies(masters, leader, count):
    """Submits one task at a time. Returns the latencies in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", masters.ports[leader - 1], timeout=60)
    job = {"tasks": [{"kind": "measure", "queue": "probe", "payload": "x"}]}
    seen = []
    for at in range(count + 20):
        begun = time.perf_counter()
        submit(connection, job)
        if at >= 20:
            seen.append((time.perf_counter() - begun) * 1000)
    connection.close()
    seen.sort()
    return {"p50": seen[len(seen) // 2], "p99": seen[len(seen) * 99 // 100], "max": seen[-1]}


def fill(masters, leader, count, task):
    """Submits `count` tasks in batches. Returns the tasks per second."""
    connection = http.client.HTTPConnection("127.0.0.1", masters.ports[leader - 1], timeout=120)
    begun = time.monotonic()
    for _ in range(count // BATCH):
        submit(connection, {"tasks": [task] * BATCH})
    connection.close()
    return count / (time.monotonic() - begun)


def run(options, measure):
    """Measures, and stops the masters in any case."""
    options.add_argument("--binary", required=True)
    given = options.parse_args()
    folder = tempfile.mkdtemp(prefix="triarch-measure-")
    masters = Masters(os.path.abspath(given.binary), folder)
    try:
        measure(masters, given)
    finally:
        masters.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tasks", type=int, default=1_000_000, help="delayed ones, and as many queued ones")
    options.add_argument("--payload-bytes", type=int, default=256)
    options.add_argument("--probes", type=int, default=1_000)
    run(options, measure)


def measure(masters, given):
    report = lambda text: print(text, flush=True)
    for node in (1, 2, 3):
        masters.start(node)
    leader = masters.leader()
    before = latencies(masters, leader, given.probes)
    base = {node: masters.resident_bytes(node) for node in (1, 2, 3)}
    report(f"empty table: submit p50 {before['p50']:.2f} ms, p99 {before['p99']:.2f}, max {before['max']:.2f}")
    payload = "x" * (given.payload_bytes - 2)
    delayed = {"kind": "measure", "queue": "later", "payload": payload, "delay_ms": 86_400_000}
    queued = {"kind": "measure", "queue": "now", "payload": payload}
    for name, task in (("delayed", delayed), ("queued", queued)):
        rate = fill(masters, leader, given.tasks, task)
        report(f"{given.tasks} {name} tasks submitted: {rate:.0f} a second, in batches of {BATCH}")
    if masters.leader() != leader:
        report("the leader changed while they were submitted")
        leader = masters.leader()
    count = 2 * given.tasks
    for node in (1, 2, 3):
        each = (masters.resident_bytes(node) - base[node]) / count
        role = "leader" if node == leader else "follower"
        report(f"master {node} ({role}): {each:.0f} bytes resident for each task, {each - given.payload_bytes:.0f} above its payload")
    after = latencies(masters, leader, given.probes)
    report(f"full table: submit p50 {after['p50']:.2f} ms, p99 {after['p99']:.2f}, max {after['max']:.2f}")
    report(f"p99 full / empty: {after['p99'] / before['p99']:.2f}")
    follower = next(node for node in (1, 2, 3) if node != leader)
    masters.kill(follower)
    masters.start(follower)
    report(f"a killed follower started again: ready after {masters.until_ready(follower):.1f} s")
    for node in (1, 2, 3):
        masters.kill(node)
    begun = time.monotonic()
    for node in (1, 2, 3):
        masters.start(node)
    leader = masters.leader(300)
    connection = http.client.HTTPConnection("127.0.0.1", masters.ports[leader - 1], timeout=300)
    submit(connection, {"tasks": [queued]})
    report(f"all three killed and started again: first submission acknowledged after {time.monotonic() - begun:.1f} s")
    status, queues = masters.request(leader, "GET", "/v1/queues", timeout=60)
    found = {queue["name"]: queue["depth"] + queue["delayed"] for queue in queues["queues"]}
    expected = {"later": given.tasks, "now": given.tasks + 1}
    right = all(found.get(name) == number for name, number in expected.items())
    report(f"tasks found again: {found}; {'none lost' if right else f'EXPECTED {expected}'}")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
