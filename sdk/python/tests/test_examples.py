"""Runs the programs under `examples/` as their READMEs describe, on small real data, against a real cluster."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from triarch import Triarch
from triarch.testing import LocalCluster

REPOSITORY = Path(__file__).parents[3]
EXAMPLES = REPOSITORY / "examples"
TIMEOUT_S = 60.0

# The package may be tested without the rest of the repository.
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not there")


@pytest.fixture
def run(cluster: LocalCluster, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs an example in a directory of its own, and returns its output."""

    def run(name: str, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name / "main.py"), *words],
            cwd=tmp_path,
            env=_environment(cluster),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def _environment(cluster: LocalCluster) -> dict[str, str]:
    return {**os.environ, "TRIARCH_MASTERS": cluster.url, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def test_every_example_is_described_and_tried() -> None:
    """Every example is in the list, has a README, and has a test here."""
    names = sorted(path.parent.name for path in EXAMPLES.glob("*/main.py"))
    assert names
    listed = (EXAMPLES / "README.md").read_text()
    for name in names:
        assert f"[{name}]({name}/README.md)" in listed
        readme = (EXAMPLES / name / "README.md").read_text()
        assert f"python examples/{name}/main.py" in readme
        assert f"test_{name}" in globals()


def test_examples_are_tidy() -> None:
    """The examples pass the same checks as the package."""
    pytest.importorskip("ruff")
    for command in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(EXAMPLES)], check=True, timeout=TIMEOUT_S)


def test_thumbnails(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Every picture gets its thumbnail, duplicates are found, and a file that is no picture does not stop the rest."""
    images = pytest.importorskip("PIL.Image")
    output = run("thumbnails", "--count", "12", "--side", "64")
    assert "12 different" in output
    assert "14 of 15 pictures" in output
    assert "the same: another-copy.jpg, copy.jpg, picture-000.jpg" in output
    assert "not done: broken.jpg" in output
    names = {
        hashlib.sha256(path.read_bytes()).hexdigest()[:16] + ".png"
        for path in (tmp_path / "pictures").iterdir()
        if path.name != "broken.jpg"
    }
    made = {path.name for path in (tmp_path / "thumbnails").glob("*.png")}
    assert made == names
    for name in made:
        with images.open(tmp_path / "thumbnails" / name) as small:
            assert max(small.size) == 64
    # A second run over existing results changes nothing.
    assert "14 of 15 pictures" in run("thumbnails", "--side", "64")


def test_wordcount(run) -> None:  # type: ignore[no-untyped-def]
    """The counts are those of a single program."""
    tree = REPOSITORY / "docs"
    output = run("wordcount", str(tree), "--part-kib", "32", "--fan-in", "3", "--top", "15")
    counts = [line.split() for line in output.splitlines() if re.fullmatch(r" *\d+ +\S+", line)]
    expected: Counter[str] = Counter()
    files = [path for path in tree.rglob("*") if path.suffix in {".md", ".rs", ".py", ".txt", ".toml", ".sh"}]
    for path in files:
        expected.update(word.lower() for word in re.findall(r"[A-Za-z]+(?:'[a-z]+)?", path.read_text(errors="replace")))
    assert {word: int(number) for number, word in counts}.items() <= expected.items()
    assert sorted((int(number) for number, _ in counts), reverse=True) == [number for _, number in expected.most_common(15)]
    assert f"{len(files)} files" in output


def test_sweep(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The plot has a cell for each combination, and the worst one has the fastest infection and slowest recovery."""
    output = run("sweep", "--steps", "5", "--people", "500")
    assert "25 of 25" in output
    assert "with 1 infections a day and recovery 0.05" in output
    picture = (tmp_path / "sweep.svg").read_text()
    assert picture.count("<title>") == 25
    assert picture.endswith("</svg>")


def test_crawl(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Every page is fetched once, the busy one included, and the broken link is reported once."""
    output = run("crawl", "--pages", "40", "--at-once", "6")
    found = json.loads((tmp_path / "crawl.json").read_text())
    assert sorted(page["title"] for page in found) == sorted(f"Page {number}" for number in range(40))
    assert len({page["url"] for page in found}) == 40
    assert len(re.findall("not there: .*/nowhere", output)) == 1


def test_etl(run, tmp_path: Path, cluster: LocalCluster) -> None:  # type: ignore[no-untyped-def]
    """The database has the contents of the files, a second run changes nothing, and the schedule exists."""
    output = run("etl", "--orders", "60")
    assert "236 orders" in output
    assert "4 refused" in output
    with sqlite3.connect(tmp_path / "etl-data" / "orders.db") as db:
        before = db.execute("select shop, day, sku, pieces, cents from sales order by 1, 2, 3").fetchall()
    assert len({row[0] for row in before}) == 4
    app = Triarch(cluster.url)
    try:
        assert app.schedules.get("etl-nightly")["overlap"] == "forbid"
        run("etl", "--orders", "60")
        with sqlite3.connect(tmp_path / "etl-data" / "orders.db") as db:
            assert db.execute("select shop, day, sku, pieces, cents from sales order by 1, 2, 3").fetchall() == before
        # One workflow per day, whichever client submits it.
        assert len([job for job in app.jobs.list() if job["name"].startswith("etl 20")]) == 1
    finally:
        app.schedules.delete("etl-nightly")
