"""Test site on loopback: linked pages, broken links, and one page that is busy at first."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def site(pages: int, *, seed: int = 1) -> Iterator[str]:
    """Serves this number of pages. Yields the address of the first page."""
    chance = random.Random(seed)
    # An earlier page links to each page, so all pages are reachable. Each page also links to some random pages.
    links: dict[int, set[int]] = {number: set() for number in range(pages)}
    for number in range(1, pages):
        links[chance.randrange(number)].add(number)
    for number in range(pages):
        links[number].update(chance.randrange(pages) for _ in range(4))
    was_busy = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/") or "0"
            number = int(name) if name.isdigit() else -1
            if number == pages // 2 and not was_busy.is_set():
                was_busy.set()
                self._answer(503, "busy")
            elif number not in links:
                self._answer(404, "no such page")
            else:
                anchors = "".join(f'<li><a href="/{other}#top">page {other}</a>' for other in sorted(links[number]))
                dead = '<a href="/nowhere">gone</a>' if number % 10 == 0 else ""
                self._answer(200, f"<title>Page {number}</title><h1>Page {number}</h1><ul>{anchors}</ul>{dead}")

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
