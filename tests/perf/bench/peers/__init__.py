"""Other task queues, measured with the same work on the same machine: one module each, which starts what it needs on free
ports and in a folder of its own, measures, and stops it again.

Each has `measure(settings)`, which returns a `Figures`, and names what it takes for durable."""

import os


def python_environment():
    """For processes that load what workers run."""
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "apps")
    return {"PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"}
