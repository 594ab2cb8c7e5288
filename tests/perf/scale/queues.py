"""Effect of many non-empty queues on the rate of another queue."""

from tests.perf.scale.sizes import fill, note, scaled
from tests.perf.support.cluster import Cluster

QUEUES = (0, 1_000, 3_000, 10_000)
SLOWER_GOAL = 20


def measure(options):
    points = []
    with Cluster(options.binary) as cluster:
        there = 0
        for count in scaled(options, QUEUES):
            first = there
            fill(cluster, count - there, lambda number: f"queue-{first + number}", options.payload)
            there = count
            points.append(note("queues", {"queues": count, "rate": cluster.lifecycle_rate(options.tasks, options.payload)}))
    return points


def write_section(page, points):
    page.paragraph("## Queues")
    page.paragraph(
        "The rate of complete task lifecycles in one queue, while the given number of other queues hold one task each, which no worker "
        "takes."
    )
    page.plot(
        "queues", "Rate with other queues", "queues, one task in each", "task lifecycles per second",
        {"rate": [(point["queues"], point["rate"]) for point in points]},
    )
    page.table({"queues": "queues", "rate": "tasks per second"}, points)
    first, last = points[0], points[-1]
    page.goal(f"Decrease of the rate with {last['queues']:,} queues", 100 * (1 - last["rate"] / first["rate"]), SLOWER_GOAL, " %")
