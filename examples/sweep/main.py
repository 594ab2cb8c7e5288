"""Sweeps two parameters of an epidemic, and draws the results."""

from __future__ import annotations

import argparse
from pathlib import Path

from plot import heat_map
from tasks import app, epidemic
from triarch.worker import Worker, WorkerConfig


def main() -> None:
    """Runs the example that its README describes."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, default=Path("sweep.svg"))
    parse.add_argument("--steps", type=int, default=12, help="Number of values of each parameter. Default: 12.")
    parse.add_argument("--people", type=int, default=2000)
    parse.add_argument("--no-worker", action="store_true", help="Use workers that run already.")
    asked = parse.parse_args()
    if asked.no_worker:
        work(asked.out, asked.steps, asked.people)
    else:
        with Worker(app, WorkerConfig(queues=["sweep"]), reference="tasks:app"):
            work(asked.out, asked.steps, asked.people)


def work(out: Path, steps: int, people: int) -> None:
    """Submits all combinations, shows the progress, and draws the results."""
    contacts = [round(0.1 + 0.9 * step / max(1, steps - 1), 3) for step in range(steps)]
    recovery = [round(0.05 + 0.45 * step / max(1, steps - 1), 3) for step in range(steps)]
    cells = [(row, column) for row in range(steps) for column in range(steps)]

    with app.executor(max_attempts=3) as executor:
        futures = [executor.submit(epidemic, contacts[column], recovery[row], people=people) for row, column in cells]
        peaks = [[0.0] * steps for _ in range(steps)]
        for done, ((row, column), future) in enumerate(zip(cells, futures, strict=True), 1):
            peaks[row][column] = future.result()["peak"]
            if done % steps == 0:
                print(f"{done} of {len(cells)}", flush=True)

    out.write_text(heat_map("Ill at the peak", contacts, recovery, peaks, ("infections a day", "chance to recover in a day")))
    worst = max((peaks[row][column], contacts[column], recovery[row]) for row, column in cells)
    print(f"at worst {worst[0]:.0%} are ill at once, with {worst[1]:g} infections a day and recovery {worst[2]:g}: {out}")


if __name__ == "__main__":
    main()
