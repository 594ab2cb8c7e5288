"""A long run at half of the highest rate: latency, elections, and whether memory stays flat."""

import json
import os
import statistics
import subprocess
import sys
import time

from tests.perf.support.cluster import Cluster
from tests.perf.support.page import Page

BATCH = 100
SUBMIT_P99_GOAL_MS = 10
# Maximum growth of memory from the second quarter of the run to the last one. Before the second quarter, the finished
# tasks that are kept still grow towards their bounds.
GROWTH_GOAL_PERCENT = 5
SAMPLE_INTERVAL_S = 5

ABOUT = """Task lifecycles in batches, submitted in an open loop at half of the highest rate. The three masters, the clients and the workers
share one machine. `scripts/bench.sh --part sustained` writes this page; [sustained.json](sustained.json) has the same figures."""


def measure(options, circumstances):
    with Cluster(options.binary) as cluster:
        highest = cluster.lifecycle_rate(options.tasks, options.payload)
        rate = options.rate or highest / 2
        print(f"  highest rate {highest:,.0f}, running at {rate:,.0f} for {options.minutes:g} minutes", file=sys.stderr)
        before = [cluster.metrics(index) for index in range(3)]
        leader = cluster.leader()
        report, looks = run(cluster, rate, options)
        after = [cluster.metrics(index) for index in range(3)]
        found = {
            "minutes": options.minutes,
            "highest_rate": highest,
            "rate_asked": rate,
            "rate": report["tasks_per_s"],
            "submit_ms": report["latency_ms"]["submit"],
            "life_ms": report["latency_ms"]["life"],
            "elections": most(before, after, "triarch_leader_changes_total"),
            "campaigns": sum(now["triarch_campaigns_total"] - then["triarch_campaigns_total"] for now, then in zip(after, before)),
            "terms": most(before, after, "triarch_term"),
            "leader": leader,
            "looks": looks,
            "memory_growth_percent": growth([look["resident_bytes"][leader] for look in looks]),
            "ended_by_second": report["ended_by_second"],
            "check": report["check"],
        }
    write_section(found, options, circumstances)
    return found


def most(before, after, name):
    return int(max(now[name] - then[name] for now, then in zip(after, before)))


def run(cluster, rate, options):
    """Returns the report of the run, and samples of the masters' use of resources."""
    words = ("--seconds", options.minutes * 60, "--rate", rate, "--batch", BATCH, "--payload", options.payload)
    command = cluster.command(*words)
    looks, begun = [], time.monotonic()
    summary = os.path.join(cluster.folder, "report.json")
    with open(summary, "w") as out, open(os.path.join(cluster.folder, "bench.log"), "w+") as log:
        bench = subprocess.Popen(command, stdout=out, stderr=log)
        cluster.processes.append(bench)
        bench.log = log.name
        cpu = [cluster.cpu_seconds(index) for index in range(3)]
        while bench.poll() is None:
            at = time.monotonic() - begun
            if at > options.minutes * 60 + 300:
                raise RuntimeError(f"the run does not end\n{cluster.log_ends()}")
            if len(looks) * SAMPLE_INTERVAL_S <= at and at <= options.minutes * 60:
                looks.append({
                    "second": round(at, 1),
                    "resident_bytes": [cluster.resident_bytes(index) for index in range(3)],
                    "cpu_seconds": [cluster.cpu_seconds(index) - cpu[index] for index in range(3)],
                })
            time.sleep(0.2)
        if bench.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{cluster.log_ends()}")
    with open(summary) as report:
        return json.load(report), looks


def growth(values):
    """Returns by how many percent the last quarter's median exceeds that of the second."""
    quarter = len(values) // 4
    if quarter < 1:
        return None
    early, late = statistics.median(values[quarter:2 * quarter]), statistics.median(values[-quarter:])
    return 100 * (late / early - 1)


def write_section(found, options, circumstances):
    page = Page(options.into, "sustained", "At half of the highest rate", ABOUT)
    page.paragraph(circumstances)
    if options.minutes < 20:
        page.paragraph(f"**A trial of {options.minutes:g} minutes: too short to say anything about memory.**")
    page.paragraph(
        f"The highest rate, the median of three short runs, was {found['highest_rate']:,.0f} tasks per second. For "
        f"{found['minutes']:g} minutes, {found['rate_asked']:,.0f} tasks per second were due, and {found['rate']:,.0f} per second ended."
    )
    page.table(
        {"what": "latency, ms", "p50_ms": "p50", "p90_ms": "p90", "p99_ms": "p99", "p999_ms": "p99.9", "max_ms": "longest"},
        [{"what": "submission", **found["submit_ms"]}, {"what": "task lifecycle", **found["life_ms"]}],
    )
    page.goal("Submission p99", found["submit_ms"]["p99_ms"], SUBMIT_P99_GOAL_MS, " ms")
    page.goal("Leader changes", found["elections"], 0)
    page.paragraph(f"Campaigns: {found['campaigns']:.0f}; new terms: {found['terms']}.")
    page.goal("Growth of the leader's memory from the second quarter of the run to the last one", found["memory_growth_percent"], GROWTH_GOAL_PERCENT, " %")
    leader, looks = found["leader"], found["looks"]
    minutes = lambda index: [(look["second"] / 60, look["resident_bytes"][index] / 2**20) for look in looks]
    followers = [index for index in range(3) if index != leader]
    lines = {"leader": minutes(leader), "a follower": minutes(followers[0]), "the other": minutes(followers[1])}
    page.plot("sustained-memory", "Memory of the masters", "minutes", "resident memory, MiB", lines)
    ended = found["ended_by_second"]
    blocks = [(second, ended[second:second + SAMPLE_INTERVAL_S]) for second in range(0, len(ended) - SAMPLE_INTERVAL_S, SAMPLE_INTERVAL_S)]
    if blocks:
        line = [((second + SAMPLE_INTERVAL_S / 2) / 60, sum(block) / SAMPLE_INTERVAL_S) for second, block in blocks]
        page.plot("sustained-rate", "Tasks that ended", "minutes", "tasks per second", {"ended": line}, ("due", found["rate_asked"]))
    rows = []
    for minute in range(int(options.minutes) + 1):
        near = min(looks, key=lambda look: abs(look["second"] - minute * 60))
        rows.append({
            "minute": minute,
            **{f"mib_{index}": near["resident_bytes"][index] / 2**20 for index in range(3)},
            "cpu": near["cpu_seconds"][leader] / near["second"] * 100 if near["second"] >= 1 else None,
        })
    heads = {"minute": "minute", f"mib_{leader}": "leader, MiB"}
    heads |= {f"mib_{index}": "follower, MiB" for index in followers} | {"cpu": "leader's mean so far, % of a processor"}
    page.table(heads, rows)
    page.write({"circumstances": circumstances, **found})
