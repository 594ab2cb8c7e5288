"""Growth of costs with waiting workers, queued tasks, queues, clients that wait for one task, and the length of the
log. Each has a module, which returns its points and adds them to a page.
"""

from tests.perf.scale import queued, queues, startup, waits, workers
from tests.perf.support.page import Page

ABOUT = """The cost of idle workers, queued tasks, queues, waiting clients and the length of the log. All axes of the plots begin at 0,
so a level line means that the cost does not grow. The three masters, the clients and the workers share one machine.
`scripts/bench.sh --part scale` writes this page; [scale.json](scale.json) has the same figures."""


def measure(options, circumstances):
    page = Page(options.into, "scale", "How costs grow", ABOUT)
    page.paragraph(circumstances)
    if options.scale != 1.0:
        page.paragraph(f"**A trial with {options.scale:g} of every count: the figures have no meaning.**")
    found = {}
    for part in (workers, queued, queues, waits, startup):
        name = part.__name__.rsplit(".", 1)[1]
        if options.only and name not in options.only:
            continue
        found[name] = part.measure(options)
        part.write_section(page, found[name])
    page.write({"circumstances": circumstances, "scale": options.scale, "points": found})
    return found

