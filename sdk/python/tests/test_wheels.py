"""`pip install "triarch[server]"` in a fresh environment installs the program, and the two packages work together."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from triarch.testing import find_binary, wait_until

SDK = Path(__file__).parents[2]

TASKS = """
from triarch import Triarch
app = Triarch()

@app.task
def add(x: int, y: int) -> int:
    return x + y
"""

SUBMIT = """
from tasks import app, add
print(add.delay(1, 2).result(timeout=60))
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the programs of an environment with both wheels and nothing else."""
    pytest.importorskip("hatchling")
    directory = tmp_path_factory.mktemp("wheels")
    dist = directory / "dist"
    for project in ("python", "python-server"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(dist)],
            cwd=SDK / project,
            env={**os.environ, "TRIARCH_BIN": str(find_binary())},
            check=True,
        )
    names = sorted(path.name for path in dist.glob("*.whl"))
    assert len(names) == 2
    assert names[0].endswith("-py3-none-any.whl")
    assert "linux" not in names[1] or "manylinux" in names[1]
    venv.create(directory / "venv", with_pip=True)
    programs = directory / "venv" / "bin"
    install = ["install", "--quiet", "--no-index", "--find-links", str(dist), "triarch[server]"]
    subprocess.run([str(programs / "python"), "-m", "pip", *install], check=True)
    return programs


@contextlib.contextmanager
def _running(command: list[str], directory: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_cluster_a_worker_and_a_task_of_the_wheels(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "submit.py").write_text(SUBMIT)
    port = _ports_after()
    masters = ",".join(f"http://127.0.0.1:{port + number}" for number in (1, 2, 3))
    env = {"PATH": f"{fresh}:/usr/bin:/bin", "TRIARCH_MASTERS": masters, "HOME": str(tmp_path)}
    dev = [str(fresh / "triarch"), "dev", "--port", str(port), "--workers", "0", "--data-dir", str(tmp_path / "data")]
    with _running(dev, tmp_path, env) as cluster:
        wait_until(lambda: _listens(port + 1) or cluster.poll() is not None, 60, "the cluster to listen")
        assert cluster.poll() is None, (tmp_path / "triarch.log").read_text()
        with _running([str(fresh / "triarch-worker"), "tasks:app", "-c", "1"], tmp_path, env):
            done = subprocess.run(
                [str(fresh / "python"), "submit.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=90
            )
    assert done.stdout == "3\n", done.stderr


def test_the_program_is_found_by_the_package(fresh: Path, tmp_path: Path) -> None:
    code = "from triarch.testing import find_binary; print(find_binary())"
    env = {"PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [str(fresh / "python"), "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(fresh / "triarch")
    version = [str(fresh / "python"), "-m", "triarch_server", "--version"]
    assert "triarch" in subprocess.run(version, env=env, capture_output=True, text=True, check=True).stdout


def _ports_after() -> int:
    """Returns a port that is free, with the three ports after it."""
    while True:
        port = random.randrange(20_000, 30_000)
        if not any(map(_listens, range(port, port + 5))):
            return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
