"""Three masters of the program, and `triarch bench` against them."""

import json
import os
import subprocess
import urllib.request

from tests.bench.peers.stage import Stage, free_port, until


class Cluster(Stage):
    """Masters on free ports, with their data in a folder of their own."""

    def __init__(self, binary, more=()):
        super().__init__()
        self.binary, self.more = binary, more

    def __enter__(self):
        super().__enter__()
        ports = [free_port() for _ in range(3)]
        members = ",".join(f"{place + 1}=127.0.0.1:{port}" for place, port in enumerate(ports))
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        for place, port in enumerate(ports):
            folder = os.path.join(self.folder, f"node-{place + 1}")
            self.start(
                self.binary, "server", "--id", str(place + 1), "--listen", f"127.0.0.1:{port}", "--data-dir", folder,
                "--cluster", members, *self.more,
            )
        for url in self.urls:
            until(lambda: urllib.request.urlopen(f"{url}/readyz", timeout=2).status == 200, f"{url} is ready")
        return self

    def bench(self, *words):
        """One run of `triarch bench`; a run that does not find its own work sound is an error."""
        command = [self.binary, "bench", "--output", "json", "--masters", ",".join(self.urls), *map(str, words)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        if ran.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}\n{self.said()}")
        return json.loads(ran.stdout)
