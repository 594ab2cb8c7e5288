"""Crawls a site: fetches every page once, with a bound on concurrent requests."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from urllib.parse import urlsplit

from local_site import site
from tasks import Page, app, fetch
from triarch import Handle, TaskFailed
from triarch.worker import Worker, WorkerConfig


def main() -> None:
    """Runs the example that its README describes."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("url", nargs="?", help="First page. Default: a site on loopback that the example serves.")
    parse.add_argument("--out", type=Path, default=Path("crawl.json"))
    parse.add_argument(
        "--pages",
        type=int,
        default=200,
        help="Number of pages of the example's own site, and maximum of fetched pages. Default: 200.",
    )
    parse.add_argument("--at-once", type=int, default=8, help="Maximum of concurrent requests to the site. Default: 8.")
    parse.add_argument("--no-worker", action="store_true", help="Use workers that run already.")
    asked = parse.parse_args()
    with contextlib.ExitStack() as stack:
        url = asked.url or stack.enter_context(site(asked.pages))
        if not asked.no_worker:
            config = WorkerConfig(queues=["crawl"], pool="async", concurrency=32)
            stack.enter_context(Worker(app, config))
        found, failed = asyncio.run(crawl(url, asked.pages, asked.at_once))
    asked.out.write_text(json.dumps(found, indent=1))
    for problem in failed:
        print(f"not there: {problem}")
    links = sum(len(page["links"]) for page in found)
    print(f"{len(found)} pages, {links} links, {sum(page['size'] for page in found)} characters: {asked.out}")


async def crawl(first: str, pages_max: int, at_once: int) -> tuple[list[Page], list[str]]:
    """Fetches pages as they are found."""
    known = {first}
    found: list[Page] = []
    failed: list[str] = []
    under_way: set[asyncio.Task[Page]] = set()
    host = urlsplit(first).netloc

    async def get(url: str) -> Page:
        # The limit holds for this host over all workers and all crawlers.
        handle: Handle[Page] = await fetch.aapply_async((url,), concurrency_key=f"crawl:{host}", concurrency_limit=at_once)
        return await handle

    under_way.add(asyncio.create_task(get(first)))
    while under_way:
        done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            try:
                page = task.result()
            except TaskFailed as error:
                failed.append(error.error["message"])
                continue
            found.append(page)
            for link in page["links"]:
                if link not in known and len(known) < pages_max + 1:
                    known.add(link)
                    under_way.add(asyncio.create_task(get(link)))
    await app.aclose()
    return sorted(found, key=lambda page: page["url"]), sorted(failed)


if __name__ == "__main__":
    main()
