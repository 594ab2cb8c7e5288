"""Measures one peer in a separate process, and prints its figures: `python -m tests.perf.bench.peers MODULE
SETTINGS`, where the settings are `sandbox.Settings` as JSON.

The process is separate because clients of peers keep global state: connections, and addresses that they read at
import. A second round would contact the servers of the first, which are gone.
"""

import importlib
import json
import sys

from tests.perf.support.sandbox import Missing, Settings

module, settings = sys.argv[1:]
peer = importlib.import_module(f"tests.perf.bench.peers.{module}")
try:
    print(json.dumps(peer.measure(Settings(**json.loads(settings))).summary()))
except (Missing, ImportError) as error:
    print(json.dumps({"missing": str(error)}))
