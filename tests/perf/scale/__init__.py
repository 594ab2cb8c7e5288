"""Growth of costs with waiting workers, queued tasks, queues, clients that wait for one task, and the length of the
log. Each has a module, which returns its points and adds them to a page.
"""

from tests.perf.scale import queued, queues, startup, waits, workers
from tests.perf.support.page import Page

ABOUT = """Each plot begins at 0 on both axes: a line that stays level costs nothing more. Three masters, the clients and the workers
share one machine. Written by `scripts/bench.sh --part scale`; the figures are in [scale.json](scale.json) too."""


def measure(options, circumstances):
    page = Page(options.into, "scale", "How costs grow", ABOUT)
    page.paragraph(circumstances)
    if options.scale != 1.0:
        page.paragraph(f"**A trial: every number is {options.scale:g} of what it should be, and the figures say nothing.**")
    found = {}
    for part in (workers, queued, queues, waits, startup):
        name = part.__name__.rsplit(".", 1)[1]
        if options.only and name not in options.only:
            continue
        found[name] = part.measure(options)
        part.write_section(page, found[name])
    page.write({"circumstances": circumstances, "scale": options.scale, "points": found})
    return found

