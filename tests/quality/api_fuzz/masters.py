"""Three masters that run for the duration of the fuzzer."""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

NODES = 3
# Maximum time in which a cluster forms, also on a slow and busy machine.
READY_TIMEOUT_S = 60
# Nothing that the fuzzer leaves behind times out during the run, in particular no worker.
LEASE_MS = 86_400_000

PR_SET_PDEATHSIG = 1


def die_with_parent():
    """Stops all masters, whatever ends the fuzzer."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_address():
    """Returns a loopback address on which the ports of the masters are free."""
    for nth in range(1, 1_000):
        seed = os.getpid() * 251 + nth
        address = f"127.{max(seed >> 16 & 255, 1)}.{seed >> 8 & 255}.{min(max(seed & 255, 1), 254)}"
        sockets = [socket.socket() for _ in range(NODES)]
        try:
            for id, one in enumerate(sockets, start=1):
                one.bind((address, 7100 + id))
            return address
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no loopback address is free")


class Masters:
    def __init__(self, binary):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="triarch-fuzz-"))
        address = free_address()
        self.urls = [f"http://{address}:{7100 + id}" for id in range(1, NODES + 1)]
        members = ",".join(f"{id}={address}:{7100 + id}" for id in range(1, NODES + 1))
        self.processes = []
        for id in range(1, NODES + 1):
            command = [binary, "server", "--id", str(id), "--cluster", members]
            command += ["--data-dir", str(self.directory / f"master-{id}"), "--lease-ms", str(LEASE_MS)]
            log = open(self.directory / f"master-{id}.log", "wb")
            self.processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
                )
            )
        try:
            self.wait_ready()
        except BaseException:
            self.stop(keep=True)
            raise

    def wait_ready(self):
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = list(self.urls)
        while waiting:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not ready: {waiting}; see {self.directory}")
            try:
                with urllib.request.urlopen(waiting[0] + "/readyz", timeout=2) as answer:
                    json.load(answer)
                waiting.pop(0)
            except OSError:
                time.sleep(0.05)

    def equal_digests(self):
        """Waits until all masters have given a digest at one log index, each having applied what is committed now; fails when
        two of them differ at any index. The same as triarch_harness::equal_digests."""
        with urllib.request.urlopen(self.urls[0] + "/v1/cluster", timeout=READY_TIMEOUT_S) as answer:
            committed = json.load(answer)["commit_index"]
        seen = {}
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            for url in self.urls:
                asked = urllib.request.Request(url + "/v1/cluster?digest=true&consistency=stale")
                asked.add_header("triarch-min-index", str(committed))
                with urllib.request.urlopen(asked, timeout=READY_TIMEOUT_S) as answer:
                    digest = json.load(answer)["digest"]
                here = seen.setdefault(digest["index"], {})
                before = here.setdefault(url, digest["value"])
                assert {digest["value"], before} == set(here.values()), f"tables differ at {digest['index']}: {here}, {digest}"
                if len(here) == len(self.urls):
                    return digest
            assert time.monotonic() < deadline, f"no log index at which all have given a digest: {seen}"
            time.sleep(0.05)

    def ended(self):
        """Returns the masters that have exited, with their exit codes."""
        codes = [(id, process.poll()) for id, process in enumerate(self.processes, start=1)]
        return [(id, code) for id, code in codes if code is not None]

    def panics(self):
        logs = sorted(self.directory.glob("master-*.log"))
        return [line for log in logs for line in log.read_text(errors="replace").splitlines() if "panicked at" in line]

    def stop(self, keep):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        if keep:
            print(f"what the masters left is kept in {self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
