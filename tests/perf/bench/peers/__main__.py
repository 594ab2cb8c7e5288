"""Measures one peer in a process of its own, and prints its figures: `python -m tests.perf.bench.peers MODULE SETTINGS`, where the
settings are those of `stage.Settings` as JSON.

In its own process because clients of peers keep state in theirs: connections, and addresses read when they were imported.
A second round would ask the servers of the first, which are gone."""

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
