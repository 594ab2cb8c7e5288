"""The page on proxies: its configuration runs in nginx, in front of masters of this machine, and its commands do what it says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import pages
from triarch.testing import LocalCluster, find_binary, wait_until

REPOSITORY = Path(__file__).parents[4]
PAGE = REPOSITORY / "docs" / "operate" / "behind-a-proxy.md"
NAME = "triarch.example"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="the page is not there"),
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]


@dataclass
class Proxy:
    """nginx with a configuration of the page."""

    directory: Path
    port: int
    masters: list[str]

    def start(self, text: str) -> subprocess.Popen[bytes]:
        """Starts nginx with a configuration whose names and ports are those of this machine."""
        for name, master in zip(("a.example:7100", "b.example:7100", "c.example:7100"), self.masters, strict=True):
            assert name in text
            text = text.replace(name, master.removeprefix("http://"))
        assert "listen 80;" in text
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        self.directory.mkdir(exist_ok=True)
        paths = "".join(
            f"{name}_temp_path {self.directory / name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = (
            f"daemon off;\nworker_processes 1;\npid {self.directory / 'pid'};\nerror_log {self.directory / 'error.log'};\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{paths}{text}\n}}\n"
        )
        file = self.directory / "nginx.conf"
        file.write_text(main)
        assert NGINX is not None
        process = subprocess.Popen([NGINX, "-p", str(self.directory), "-c", str(file)], stderr=subprocess.DEVNULL)

        def serves() -> bool:
            assert process.poll() is None, (self.directory / "error.log").read_text()
            with socket.socket() as one:
                return one.connect_ex(("127.0.0.1", self.port)) == 0

        wait_until(serves, 10, "nginx to listen")
        return process


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def masters() -> Iterator[LocalCluster]:
    """Masters that accept the name of the proxy."""
    with LocalCluster(server_args=["--allowed-host", NAME]) as cluster:
        cluster.start_exec_worker()
        yield cluster


def test_the_page_does_what_it_says(masters: LocalCluster, tmp_path: Path) -> None:
    """The commands reach nginx under the name of the page. The last ones run after the leader was killed."""
    proxy = Proxy(tmp_path / "nginx", _free_port(), masters.urls)
    environment = {**pages.environment("", find_binary(), tmp_path / "bin"), "CURL_HOME": str(tmp_path)}
    (tmp_path / ".curlrc").write_text(f'connect-to = "{NAME}:80:127.0.0.1:{proxy.port}"\n')
    blocks = pages.blocks(PAGE)
    configuration = next(block for block in blocks if block.language == "nginx")
    process = proxy.start(configuration.text)
    try:
        with pages.Visit(tmp_path / "page", environment) as visit:
            for block in blocks:
                if "after-" in block.text:
                    masters.kill_leader()
                if "triarch " in block.text and "curl" not in block.text:
                    # The command line resolves names with the system.
                    block = replace(block, text=block.text.replace(f"http://{NAME}", f"http://127.0.0.1:{proxy.port}"))
                visit.do(block)
    finally:
        process.terminate()
        process.wait(10)


def _post(port: int, path: str, body: bytes = b"") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"host": NAME, "content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_each_setting_of_the_page_is_needed(masters: LocalCluster, tmp_path: Path) -> None:
    """Without the setting, nginx breaks what the page says it breaks."""
    text = next(block.text for block in pages.blocks(PAGE) if block.language == "nginx")
    wait_s = int(re.findall(r"proxy_read_timeout (\d+)s", text)[0])
    assert wait_s > 120, "the masters hold an answer for up to 120 s"
    part = b'{"kind": "none", "payload": "' + b"x" * 600_000 + b'"}'
    large = b'{"tasks": [' + part + b"," + part + b"]}"
    without = [
        ("proxy_set_header Host $http_host;", "", "/v1/tasks/cancel", b'{"queue": "none"}', 421),
        ("client_max_body_size 17m;", "", "/v1/jobs", large, 413),
        (f"proxy_read_timeout {wait_s}s;", "proxy_read_timeout 1s;", "/v1/tasks/wait?wait_ms=3000", None, 504),
        ("proxy_pass http://triarch;", "proxy_pass http://triarch/;", "/v1/queues/a%2fb/pause", b"", 404),
    ]
    task = masters.master(1)
    with urllib.request.urlopen(
        urllib.request.Request(f"{task.url}/v1/jobs", b'{"tasks": [{"kind": "never"}]}', {"content-type": "application/json"})
    ) as answer:
        waiting = b'{"tasks": ["' + answer.read().split(b'"tasks":["')[1].split(b'"')[0] + b'"]}'
    for number, (setting, other, path, body, status) in enumerate(without):
        assert setting in text
        asked = waiting if body is None else body
        for changed, expected in ((text, 200), (text.replace(setting, other), status)):
            proxy = Proxy(tmp_path / f"nginx-{number}-{expected}", _free_port(), masters.urls)
            process = proxy.start(changed)
            try:
                answered = _post(proxy.port, path, asked)
            finally:
                process.terminate()
                process.wait(10)
            assert answered == expected or (expected == 200 and answered == 201), f"{setting}: {answered}"
