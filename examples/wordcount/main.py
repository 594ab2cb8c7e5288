"""Counts the words of a source tree by map and reduce, as one workflow."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tasks import app, count, merge, most
from triarch.worker import Worker, WorkerConfig

REPOSITORY = Path(__file__).resolve().parents[2]
SUFFIXES = {".md", ".rs", ".py", ".txt", ".toml", ".sh"}
SKIPPED = {"target", "node_modules", ".git", ".venv", "venv", "__pycache__"}


def main() -> None:
    """Runs the example that its README describes."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("tree", nargs="?", type=Path, default=REPOSITORY)
    parse.add_argument("--top", type=int, default=10)
    parse.add_argument(
        "--part-kib", type=int, default=256, help="Size of the text that one task counts, in KiB. Default: 256 KiB."
    )
    parse.add_argument("--fan-in", type=int, default=8, help="Number of counts that one task adds up. Default: 8.")
    parse.add_argument("--no-worker", action="store_true", help="Use workers that run already.")
    asked = parse.parse_args()
    if asked.no_worker:
        work(asked)
    else:
        with Worker(app, WorkerConfig(queues=["wordcount"]), reference="tasks:app"):
            work(asked)


def work(asked: argparse.Namespace) -> None:
    """Builds the workflow, submits it, and prints the result."""
    parts = list(shares(files(asked.tree), asked.part_kib << 10))
    if not parts:
        raise SystemExit(f"there is no text below {asked.tree}; name a directory with text files")
    dag = app.dag(name="wordcount", on_failure="fail_fast")
    counts = [dag.add(count, part) for part in parts]
    # The counts are merged as a tree, because the inputs of one task are bounded.
    while len(counts) > 1:
        counts = [dag.add(merge, counts[begin : begin + asked.fan_in]) for begin in range(0, len(counts), asked.fan_in)]
    last = dag.add(most, counts[0], asked.top)
    run = dag.submit()
    for word, number in run[last].result():
        print(f"{number:8}  {word}")
    print(f"{sum(map(len, parts))} files, {len(run)} tasks, job {run.job}")


def files(tree: Path) -> Iterator[tuple[Path, int]]:
    """Yields the text files below a directory, with their lengths in bytes."""
    for path in sorted(tree.rglob("*")):
        if path.suffix in SUFFIXES and not SKIPPED.intersection(path.parts) and path.is_file():
            yield path, path.stat().st_size


def shares(found: Iterator[tuple[Path, int]], size: int) -> Iterator[list[str]]:
    """Splits the text files into shares of about the same size."""
    share: list[str] = []
    held = 0
    for path, length in found:
        share.append(str(path))
        held += length
        if held >= size:
            yield share
            share, held = [], 0
    if share:
        yield share


if __name__ == "__main__":
    main()
