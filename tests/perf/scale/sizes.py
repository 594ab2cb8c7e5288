"""Sizes of the measurements, scaled down for trials, and functions that fill a cluster to a size."""

import sys

from tests.perf.support.cluster import ask

BATCH = 10_000


def scaled(options, counts):
    """Returns the counts of a part, scaled down for a trial; 0 stays 0, and different counts stay different."""
    return sorted({round(count * options.scale) if count * options.scale >= 1 else min(count, 1) for count in counts})


def fill(cluster, count, queue_of, payload_bytes):
    """Submits tasks of a kind that no worker runs."""
    with cluster.connection(cluster.leader()) as connection:
        for first in range(0, count, BATCH):
            tasks = [
                {"kind": "nobody", "queue": queue_of(number), "payload": "x" * (payload_bytes - 2)}
                for number in range(first, min(first + BATCH, count))
            ]
            ask(connection, "POST", "/v1/jobs", {"tasks": tasks})


def note(part, point):
    print(f"  {part}: {point}", file=sys.stderr)
    return point
