"""Conformance of workers: does a worker, in any language, keep the contract of the worker protocol?

The worker under test runs against a real cluster, through a gateway that records its calls and injects faults: lost answers,
refusals, unreadable answers, unknown fields, unusual ids. `checks` judges the recorded calls and the state of the cluster.
Uses only the standard library, and the package in `sdk/python` to start masters.
"""
