"""Three masters of the program, runs of `triarch bench` against them, and their metrics."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import time
import urllib.request

from tests.perf.support.sandbox import Sandbox, free_port, until


class Cluster(Sandbox):
    """Masters on free ports, with their data in a folder of their own. They are numbered from 0."""

    def __init__(self, binary, more=()):
        super().__init__()
        self.binary, self.more = binary, more
        self.masters = {}

    def __enter__(self):
        super().__enter__()
        self.ports = [free_port() for _ in range(3)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        try:
            for index in range(3):
                self.start_master(index)
            for index in range(3):
                self.until_ready(index)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_master(self, index):
        members = ",".join(f"{number + 1}=127.0.0.1:{port}" for number, port in enumerate(self.ports))
        self.masters[index] = self.start(
            self.binary, "server", "--id", str(index + 1), "--listen", f"127.0.0.1:{self.ports[index]}", "--data-dir",
            os.path.join(self.folder, f"node-{index + 1}"), "--cluster", members, *self.more,
        )

    def kill_master(self, index):
        self.masters[index].kill()
        self.masters[index].wait()

    def until_ready(self, index, seconds=300):
        """Returns the seconds until a master has caught up with a leader."""
        begun = time.perf_counter()

        def ready():
            if self.masters[index].poll() is not None:
                raise SystemExit(f"a master ended while it was waited for\n{self.log_ends()}")
            return urllib.request.urlopen(f"{self.urls[index]}/readyz", timeout=5).status == 200

        until(ready, f"an answer that {self.urls[index]} is ready", seconds, 0.01)
        return time.perf_counter() - begun

    def command(self, *words):
        return [self.binary, "bench", "--output", "json", "--masters", ",".join(self.urls), *map(str, words)]

    def bench(self, *words):
        """Runs `triarch bench` once. A run that does not verify its own work is an error."""
        command = self.command(*words)
        ran = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        if ran.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}\n{self.log_ends()}")
        return json.loads(ran.stdout)

    def lifecycle_rate(self, tasks, payload):
        """Returns the median of three runs of complete tasks in batches."""
        reports = [self.bench("--tasks", tasks, "--batch", 100, "--payload", payload) for _ in range(3)]
        return sorted(report["tasks_per_s"] for report in reports)[1]

    def leader(self):
        """Returns the index of the leader, once there is one."""
        found = []

        def known():
            found[:] = [index for index in range(3) if self.metrics(index).get("triarch_is_leader") == 1]
            return len(found) == 1

        until(known, "one leader", 60)
        return found[0]

    def metrics(self, index):
        """Returns the metrics of a master: the sum of all samples, by name."""
        with urllib.request.urlopen(f"{self.urls[index]}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                with contextlib.suppress(ValueError):
                    name = series.split("{")[0]
                    samples[name] = samples.get(name, 0.0) + float(value)
                    samples[series] = float(value)
        return samples

    def resident_bytes(self, index):
        with open(f"/proc/{self.masters[index].pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) * 1024

    def cpu_seconds(self, index):
        with open(f"/proc/{self.masters[index].pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def connection(self, index):
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.ports[index], timeout=300))


def ask(connection, method, path, body=None):
    """Sends one request. Any answer except success is an error."""
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"content-type": "application/json"})
    answer = connection.getresponse()
    received = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {received[:500]!r}")
    return json.loads(received or b"null")
