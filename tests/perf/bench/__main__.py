"""Runs the measurements of docs/performance.md in rounds, and prints its tables: medians, with the lowest and
highest.

Every round runs each system once, so that other load on the machine affects all of them alike.
"""

import argparse
import dataclasses
import datetime
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

from tests.perf import scale
from tests.perf.bench import sustained
from tests.perf.support.cluster import Cluster
from tests.perf.support.sandbox import Settings

# Pages of the documentation. Only complete runs are written there.
PAGES = "docs/performance"
PARTS = ["own", "peers", "scale", "sustained"]

PEERS = {
    "Celery on Redis": "celery_redis",
    "Celery on RabbitMQ": "celery_rabbitmq",
    "RQ on Redis": "rq_redis",
    "Dask distributed": "dask_cluster",
    "HyperQueue (processes)": "hyperqueue",
    "beanstalkd": "beanstalkd",
}

# Longer than any peer takes. A peer that hangs must not stop the others.
MAX_PEER_SECONDS = 600


class Rounds:
    """Measured figures, by system and figure."""

    def __init__(self):
        self.figures = {}

    def add(self, name, **figures):
        for figure, value in figures.items():
            if value is not None:
                self.figures.setdefault(name, {}).setdefault(figure, []).append(value)
        print(f"  {name}: {figures}", file=sys.stderr)

    def cell(self, name, figure, digits=0):
        values = self.figures.get(name, {}).get(figure)
        if not values:
            return "—"
        summary = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
        return f"{summary[0]} ({summary[1]}–{summary[2]})"

    def median(self, name, figure):
        values = self.figures.get(name, {}).get(figure)
        return statistics.median(values) if values else None


def xargs(processes, at_once):
    """Returns how many processes per second the machine starts without a task queue."""
    begun = time.perf_counter()
    subprocess.run(f"seq {processes} | xargs -P {at_once} -n 1 true", shell=True, check=True)
    return processes / (time.perf_counter() - begun)


def ours(rounds, options):
    """Runs one round of Triarch itself."""
    size = ("--payload", options.payload)
    with Cluster(options.binary) as cluster:
        lifecycle_rate = cluster.bench("--tasks", options.tasks, "--batch", 100, *size)
        rounds.add("task lifecycle, batches of 100", rate=lifecycle_rate["tasks_per_s"])
        alone = cluster.bench("--tasks", options.tasks // 5, "--batch", 1, "--clients", 64, *size)
        rounds.add("task lifecycle, 64 connections, unbatched", rate=alone["tasks_per_s"], **latency(alone, "submit"))
        submit = cluster.bench("--mode", "submit", "--tasks", 1_000, "--batch", 1, "--clients", 1, *size)
        rounds.add("submit alone", rate=submit["tasks_per_s"], **latency(submit, "submit"))
        trips = cluster.bench("--mode", "round-trip", "--tasks", options.round_trips, *size)
        rounds.add("round trip", rate=trips["tasks_per_s"], **latency(trips, "round trip"))
        half = cluster.bench("--seconds", 10, "--rate", lifecycle_rate["tasks_per_s"] / 2, "--batch", 100, *size)
        rounds.add("at half of the highest rate", rate=half["tasks_per_s"], **latency(half, "submit"))
        processes = cluster.bench("--mode", "exec", "--tasks", options.processes)
        rounds.add("exec true, 16 slots", rate=processes["tasks_per_s"])
        bare = xargs(options.processes, 16)
        rounds.add("xargs -P 16 true", rate=bare)
        rounds.add("exec true to xargs", ratio=processes["tasks_per_s"] / bare)


def latency(report, of):
    summary = report["latency_ms"].get(of, {})
    return {"p50": summary.get("p50_ms"), "p99": summary.get("p99_ms")}


def peers(rounds, options, missing):
    """Runs one round of all other systems."""
    for name, module in PEERS.items():
        if options.only and module not in options.only:
            continue
        settings = Settings(options.peer_tasks, max(1, options.round_trips // 5), options.payload, options.peer_workers)
        try:
            summary = apart(module, settings)
        except RuntimeError as error:  # one peer that fails must not cost the others their figures
            missing[name] = f"failed: {str(error).splitlines()[-1]}"
            print(f"  {name} failed: {error}", file=sys.stderr)
            continue
        if "missing" in summary:
            missing[name] = summary["missing"]
            continue
        rounds.add(name, rate=summary["tasks_per_s"], p50=summary["round_trip_p50_ms"], p99=summary["round_trip_p99_ms"])


def apart(module, settings):
    """Returns the figures that one peer prints, in a separate process."""
    argv = [sys.executable, "-B", "-m", "tests.perf.bench.peers", module, json.dumps(dataclasses.asdict(settings))]
    peer = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        summary, errors = peer.communicate(timeout=MAX_PEER_SECONDS)
    except BaseException as error:
        peer.terminate()  # it ends what it started first
        _, errors = peer.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise RuntimeError(f"{errors}\nnot done within {MAX_PEER_SECONDS} s") from None
    if peer.returncode != 0:
        raise RuntimeError(errors.strip() or f"exit code {peer.returncode}")
    return json.loads(summary.splitlines()[-1])


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(rounds, options, missing):
    """Returns the tables in the format of docs/performance.md."""
    own = [
        "task lifecycle, batches of 100", "task lifecycle, 64 connections, unbatched", "submit alone", "round trip",
        "at half of the highest rate", "exec true, 16 slots", "xargs -P 16 true",
    ]
    rows = [
        [name, rounds.cell(name, "rate"), rounds.cell(name, "p50", 2), rounds.cell(name, "p99", 2)]
        for name in own if name in rounds.figures
    ]
    parts = []
    if rows:
        parts.append(table(["", "per second", "p50, ms", "p99, ms"], rows))
        parts.append(f"exec to xargs, by round: {rounds.cell('exec true to xargs', 'ratio', 2)}")
    batched = rounds.median("task lifecycle, batches of 100", "rate")
    unbatched = rounds.median("task lifecycle, 64 connections, unbatched", "rate")
    rows = []
    for name, module in PEERS.items():
        if name not in rounds.figures:
            continue
        durable = importlib.import_module(f"tests.perf.bench.peers.{module}").DURABLE
        rate = rounds.median(name, "rate")
        times = [f"{ours / rate:,.1f}" if ours and rate else "—" for ours in (batched, unbatched)]
        rows.append([
            name, durable, rounds.cell(name, "rate"), rounds.cell(name, "p50", 2), rounds.cell(name, "p99", 2), *times,
        ])
    if rows:
        heads = ["peer", "what is durable", "tasks per second", "round trip p50, ms", "p99, ms"]
        heads += ["Triarch in batches: times", "unbatched: times"]
        parts.append(table(heads, rows))
    parts += [f"not measured: {name}: {why}" for name, why in missing.items() if name not in rounds.figures]
    return "\n\n".join(parts)


def circumstances(options):
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown")
    today = datetime.date.today().isoformat()
    return (
        f"{today}, {os.cpu_count()} processors ({model}), load averages {load} at the beginning, payloads of "
        f"{options.payload} bytes, everything on this machine."
    )


def main():
    # On SIGTERM, all processes that this program has started end first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    read = argparse.ArgumentParser(description=__doc__)
    read.add_argument("--binary", default="target/release/triarch")
    read.add_argument("--rounds", type=int, default=3)
    read.add_argument("--tasks", type=int, default=50_000, help="number of tasks of a batched run")
    read.add_argument("--round-trips", type=int, default=500)
    read.add_argument("--processes", type=int, default=1_000)
    read.add_argument("--payload", type=int, default=256)
    read.add_argument("--peer-tasks", type=int, default=1_000)
    read.add_argument("--peer-workers", type=int, default=2)
    read.add_argument("--only", action="append", help="only this peer or this module of the scale part; may be repeated")
    read.add_argument("--part", action="append", choices=PARTS, help="part to measure, may be repeated [default: all]")
    read.add_argument("--into", default=PAGES, help="where the scale and sustained parts write their pages and plots")
    read.add_argument("--scale", type=float, default=1.0, help="factor of all counts in the scale part, for a trial: 0.01")
    read.add_argument("--minutes", type=float, default=20.0, help="duration of the sustained part in minutes")
    read.add_argument("--rate", type=float, help="tasks per second in the sustained part, instead of half of the highest rate")
    read.add_argument("--json", help="write everything that was measured here, too")
    options = read.parse_args()
    options.binary = os.path.abspath(options.binary)
    parts = options.part or PARTS
    trial = ("scale" in parts and (options.only or options.scale != 1)) or ("sustained" in parts and options.minutes < 20)
    if trial and options.into == PAGES:
        read.error(f"what is no whole run is not written to {PAGES}: name another folder with --into")
    rounds, missing = Rounds(), {}
    where = circumstances(options)
    if "own" in parts or "peers" in parts:
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            if "own" in parts:
                ours(rounds, options)
            if "peers" in parts:
                peers(rounds, options, missing)
        print(f"{where} {options.rounds} rounds.", summary(rounds, options, missing), sep="\n\n")
    measured = {"circumstances": where, "figures": rounds.figures, "missing": missing}
    if "scale" in parts:
        measured["scale"] = scale.measure(options, where)
    if "sustained" in parts:
        measured["sustained"] = sustained.measure(options, where)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(measured, file, indent=1)


if __name__ == "__main__":
    main()
