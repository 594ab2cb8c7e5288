"""Container engine for tests: runs what `docker` commands of a page say, in namespaces and control groups of this kernel.

There is no engine on test machines, and no image. A container here is a process 1 in its own process and mount namespace, with
the entry point, the user, the stop signal and the health check of the Dockerfile; the program stands where the image has it. The
network is that of the caller (`--network host`). Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

DOCKERFILE = Path(__file__).parents[4] / "deploy" / "docker" / "Dockerfile"
STATE = Path(os.environ.get("ENGINE_STATE", "/nonexistent"))
#: Environment of a container, which gets nothing of the caller's.
PATH = "/usr/local/bin:/usr/bin:/bin"


class Image:
    """Settings of the last stage of the Dockerfile."""

    def __init__(self) -> None:
        stage = DOCKERFILE.read_text().replace("\\\n", " ").split("\nFROM ")[-1]
        self.settings = dict(re.findall(r"^([A-Z]+) +(.+)$", stage, flags=re.MULTILINE))
        self.user = int(self.settings["USER"])
        self.entry_point: list[str] = json.loads(self.settings["ENTRYPOINT"])
        self.stop_signal = signal.Signals[self.settings["STOPSIGNAL"]]
        self.volume = self.settings["VOLUME"]
        self.health_check: list[str] = json.loads(self.settings["HEALTHCHECK"].split(" CMD ", 1)[1])
        self.program = re.findall(r"^COPY --from=build \S+ (\S+)$", stage, flags=re.MULTILINE)[0]


class Container:
    """One container, as files in the state directory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = STATE / name
        self.exit_code = self.directory / "exit-code"

    @property
    def process_1(self) -> int:
        """Id of its process 1, as seen from outside."""
        unshare = int((self.directory / "pid").read_text())
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])

    def ended(self, timeout_s: float) -> bool:
        """Waits for its end."""
        deadline = time.monotonic() + timeout_s
        while not (self.exit_code.exists() and self.exit_code.read_text()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def memory_group(name: str) -> Path:
    """Makes a control group with the memory controller, below that of the caller. Version 1 or 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            group = Path("/sys/fs/cgroup/memory") / path.lstrip("/") / name
        elif number == "0" and not Path("/sys/fs/cgroup/memory").is_dir():
            group = Path("/sys/fs/cgroup") / path.lstrip("/") / name
        else:
            continue
        group.mkdir(exist_ok=True)
        return group
    raise SystemExit("engine: no control group has the memory controller")


def run(words: list[str]) -> int:
    """Does `docker run`."""
    parser = argparse.ArgumentParser(prog="docker run")
    parser.add_argument("-d", dest="detached", action="store_true")
    parser.add_argument("--rm", action="store_true")
    parser.add_argument("--name", default=f"container-{os.getpid()}")
    parser.add_argument("--network", choices=["host"], required=True)
    parser.add_argument("--memory")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--no-healthcheck", action="store_true")
    parser.add_argument("--stop-timeout", type=float, default=10.0)
    parser.add_argument("-v", dest="volume")
    parser.add_argument("-e", dest="env", action="append", default=[])
    parser.add_argument("image", choices=["triarch"])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    image = Image()
    container = Container(options.name)
    container.directory.mkdir()
    (container.directory / "stop-timeout").write_text(str(options.stop_timeout))
    volume = STATE / "volumes" / (options.volume.split(":")[0] if options.volume else options.name)
    if not volume.is_dir():
        volume.mkdir(parents=True, mode=0o700)
        os.chown(volume, image.user, image.user)
    if options.volume:
        assert options.volume.split(":")[1] == image.volume, "a volume elsewhere"
    inside = ["mount --make-rprivate /"]
    if options.memory:
        group = memory_group(f"triarch-test-{os.getpid()}")
        (container.directory / "group").write_text(str(group))
        limit = int(options.memory.removesuffix("m")) << 20
        one = group / "memory.limit_in_bytes"
        (one if one.exists() else group / "memory.max").write_text(str(limit))
        inside.append(f"echo $$ > {group / 'cgroup.procs'}")
    program = shlex.quote(os.environ["TRIARCH_BIN"])
    above = str(Path(image.volume).parent)
    inside += [
        f"mount --bind {program} /mnt" if Path("/mnt").is_file() else "mount -t tmpfs tmpfs /mnt",
        f"touch /mnt/program && mount --bind {program} /mnt/program",
        f"mount -t tmpfs tmpfs {Path(image.program).parent} && touch {image.program} && mount --bind /mnt/program {image.program}",
        f"mkdir /mnt/volume && mount --bind {shlex.quote(str(volume))} /mnt/volume",
        f"mount -t tmpfs tmpfs {above} && mkdir {image.volume} && mount --bind /mnt/volume {image.volume}",
    ]
    if options.read_only:
        inside.append("mount -o remount,bind,ro /")
    command = [*image.entry_point, *options.command]
    as_user = f"setpriv --reuid {image.user} --regid {image.user} --clear-groups --inh-caps=-all --no-new-privs"
    environment = " ".join(shlex.quote(word) for word in (f"PATH={PATH}", *options.env))
    inside.append(f"cd / && exec {as_user} env -i {environment} {shlex.join(command)}")
    script = container.directory / "inside.sh"
    script.write_text("set -e\n" + "\n".join(inside) + "\n")
    started = f"unshare --pid --fork --kill-child --mount --mount-proc sh {script}"
    if not options.detached:
        return subprocess.run(["sh", "-c", f"exec {started}"]).returncode
    log, code = container.directory / "log", container.exit_code
    supervisor = f"{started} & echo $! > {container.directory / 'pid'}; wait $!; echo $? > {code}"
    with log.open("wb") as output:
        subprocess.Popen(
            ["sh", "-c", supervisor], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(container.process_1, 0)
            print(options.name)
            return 0
        except (OSError, IndexError, ValueError):
            time.sleep(0.02)
    raise SystemExit(f"engine: {options.name} has not started: {log.read_text()}")


def stop(words: list[str]) -> int:
    """Does `docker stop`."""
    for name in words:
        container = Container(name)
        os.kill(container.process_1, Image().stop_signal)
        if not container.ended(float((container.directory / "stop-timeout").read_text())):
            os.kill(container.process_1, signal.SIGKILL)
            container.ended(10)
        print(name)
    return 0


def inspect(words: list[str]) -> int:
    """Does `docker inspect -f` for the exit code and the health."""
    assert words[0] == "-f"
    container = Container(words[2])
    if words[1] == "{{.State.ExitCode}}":
        print(container.exit_code.read_text().strip())
    elif words[1] == "{{.State.Health.Status}}":
        check = subprocess.run(enter(container, Image().health_check), capture_output=True, timeout=10)
        print("unhealthy" if check.returncode else "healthy")
    else:
        raise SystemExit(f"engine: unknown format {words[1]}")
    return 0


def enter(container: Container, command: list[str]) -> list[str]:
    """Returns a command that runs in a container, as its user."""
    user = str(Image().user)
    return ["nsenter", "-t", str(container.process_1), "-p", "-m", "setpriv", "--reuid", user, "--clear-groups", *command]


def execute(words: list[str]) -> int:
    """Does `docker exec`."""
    return subprocess.run(enter(Container(words[0]), words[1:])).returncode


def clean() -> None:
    """Ends all containers, and removes their control groups."""
    for directory in STATE.iterdir():
        container = Container(directory.name)
        if (directory / "pid").exists():
            try:
                if not container.exit_code.exists():
                    os.kill(container.process_1, signal.SIGKILL)
                    container.ended(10)
            except (OSError, IndexError):
                pass
        if (directory / "group").exists():
            group = Path((directory / "group").read_text())
            for _ in range(100):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


if __name__ == "__main__":
    commands = {"run": run, "stop": stop, "inspect": inspect, "exec": execute}
    sys.exit(commands[sys.argv[1]](sys.argv[2:]))
