"""Hashes and thumbnails a directory of pictures, finds duplicates, and writes a contact sheet."""

from __future__ import annotations

import argparse
import html
from collections import defaultdict
from pathlib import Path

from pictures import paint
from tasks import Seen, app, look_at
from triarch.worker import Worker, WorkerConfig


def main() -> None:
    """Runs the example that its README describes."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument(
        "pictures",
        nargs="?",
        type=Path,
        default=Path("pictures"),
        help="Directory of pictures. The example paints some if it does not exist. Default: pictures.",
    )
    parse.add_argument("--out", type=Path, default=Path("thumbnails"))
    parse.add_argument("--side", type=int, default=160)
    parse.add_argument("--count", type=int, default=60, help="Number of pictures to paint. Default: 60.")
    parse.add_argument("--no-worker", action="store_true", help="Use workers that run already.")
    asked = parse.parse_args()
    if not asked.pictures.exists():
        paint(asked.pictures, asked.count)
    asked.out.mkdir(parents=True, exist_ok=True)

    if asked.no_worker:
        work(asked.pictures, asked.out.resolve(), asked.side)
    else:
        with Worker(app, WorkerConfig(queues=["thumbnails"]), reference="tasks:app"):
            work(asked.pictures, asked.out.resolve(), asked.side)


def work(pictures: Path, out: Path, side: int) -> None:
    """Submits a task for every picture, and prints the results."""
    paths = sorted(str(path.resolve()) for path in pictures.iterdir() if path.is_file())
    many = look_at.starmap((path, str(out), side) for path in paths)
    many.wait()
    seen: list[Seen] = []
    for path, handle in zip(paths, many, strict=True):
        failed = handle.exception()
        if failed is None:
            seen.append(handle.result())
        else:
            print(f"not done: {Path(path).name}: {failed.error['message']}")

    by_hash: dict[str, list[str]] = defaultdict(list)
    for one in seen:
        by_hash[one["sha256"]].append(Path(one["path"]).name)
    for names in by_hash.values():
        if len(names) > 1:
            print(f"the same: {', '.join(sorted(names))}")

    rows = "".join(
        f'<figure><img src="{html.escape(one["thumbnail"])}"><figcaption>{html.escape(Path(one["path"]).name)}'
        f"<br>{one['size'][0]}×{one['size'][1]}</figcaption></figure>\n"
        for one in seen
    )
    style = "<style>figure{display:inline-block;margin:8px;font:12px sans-serif}</style>"
    (out / "index.html").write_text(f"<!doctype html><meta charset=utf-8><title>Pictures</title>{style}\n{rows}")
    print(f"{len(seen)} of {len(paths)} pictures, {len(by_hash)} different: {out / 'index.html'}")


if __name__ == "__main__":
    main()
