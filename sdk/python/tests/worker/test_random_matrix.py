"""Short run of the random matrix. `scripts/test-python.sh --matrix` runs it for longer."""

from __future__ import annotations

from pathlib import Path

from triarch.testing import LocalCluster

from .random_matrix import RandomRun


def test_workers_lose_nothing_under_random_harm_while_masters_are_killed(tmp_path: Path) -> None:
    with LocalCluster(3) as cluster:
        report = RandomRun(cluster, tmp_path, seed=1).run(5, kill_every_s=2.5)
    assert report.tasks > 30
    assert report.kills > 0
