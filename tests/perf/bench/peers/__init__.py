"""Other task queues, measured with the same work on the same machine. Each has a module, which starts its processes
on free ports and in a folder of its own, measures, and stops the processes.

Each module has `measure(settings)`, which returns `Figures`, and states which of its data are durable.
"""

import os


def python_environment():
    """Returns the environment for processes that load the code of the tasks."""
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "apps")
    return {"PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"}
