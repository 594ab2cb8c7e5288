"""Test support: a real cluster on this machine, or eager execution without one."""

from triarch.testing.binary import BinaryNotFound, find_binary
from triarch.testing.cluster import LocalCluster, Master
from triarch.testing.connect import connected
from triarch.testing.eager import EagerCluster, eager
from triarch.testing.process import Process, wait_until

__all__ = [
    "BinaryNotFound",
    "EagerCluster",
    "LocalCluster",
    "Master",
    "Process",
    "connected",
    "eager",
    "find_binary",
    "wait_until",
]
