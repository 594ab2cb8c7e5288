"""Task of the crawler: fetches one page and returns its links."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from html.parser import HTMLParser
from typing import TypedDict
from urllib.parse import urldefrag, urljoin, urlsplit

from triarch import GiveUp, Triarch

app = Triarch(queue="crawl")

PAGE_BYTES_MAX = 1 << 20


class Page(TypedDict):
    """Contents of one page."""

    url: str
    title: str
    size: int
    links: list[str]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag == "a" and (href := dict(attrs).get("href")):
            self.links.append(href)

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


@app.task(timeout=20, max_attempts=4, backoff=0.2)
async def fetch(url: str) -> Page:
    """Fetches a page. Gives up on a missing page, and lets the cluster retry after a server error."""
    try:
        text = await asyncio.to_thread(_get, url)
    except urllib.error.HTTPError as error:
        if error.code < 500:
            raise GiveUp(f"{url}: HTTP {error.code}") from error
        raise
    reader = _Reader()
    reader.feed(text)
    here = urlsplit(url).netloc
    links = {urldefrag(urljoin(url, link)).url for link in reader.links}
    return {
        "url": url,
        "title": reader.title.strip(),
        "size": len(text),
        "links": sorted(link for link in links if urlsplit(link).netloc == here),
    }


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        data: bytes = answer.read(PAGE_BYTES_MAX)
    return data.decode("utf-8", "replace")
