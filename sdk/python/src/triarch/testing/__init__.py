"""For tests: a real cluster on this machine."""

from triarch.testing.binary import BinaryNotFound, find_binary
from triarch.testing.cluster import LocalCluster, Master
from triarch.testing.process import Process, wait_until

__all__ = ["BinaryNotFound", "LocalCluster", "Master", "Process", "find_binary", "wait_until"]
