"""Clusters for the tests of the client: real masters on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from triarch.testing import LocalCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Three masters shared by all tests that do not stop or change them."""
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
def own_cluster() -> Iterator[LocalCluster]:
    """Three masters for a test that kills them."""
    with LocalCluster() as cluster:
        yield cluster
