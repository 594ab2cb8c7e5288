"""The page on containers: its commands run in namespaces of this kernel, and the files for engines agree with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import pages
from guides import engine
from triarch.testing import find_binary

REPOSITORY = Path(__file__).parents[4]
PAGE = REPOSITORY / "docs" / "operate" / "in-a-container.md"
MANIFEST = REPOSITORY / "deploy" / "kubernetes" / "triarch.yaml"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the page is not there")


def _can_contain() -> bool:
    tools = all(shutil.which(tool) for tool in ("unshare", "nsenter", "setpriv", "ip", "jq", "curl"))
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return tools and os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def in_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Environment in which `docker` is the engine of the tests."""
    bin, state = tmp_path / "bin", tmp_path / "state"
    environment = pages.environment("", find_binary(), bin)
    state.mkdir()
    wrapper = bin / "docker"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {engine.__file__} "$@"\n')
    wrapper.chmod(0o755)
    environment["ENGINE_STATE"] = str(state)
    monkeypatch.setattr(engine, "STATE", state)
    try:
        yield environment
    finally:
        engine.clean()


@pytest.mark.skipif(not _can_contain(), reason="no namespaces can be made here")
def test_the_page_does_what_it_says(in_containers: dict[str, str], tmp_path: Path) -> None:
    """All blocks share one network namespace, so that the ports of the page are free."""
    network = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"]
    holder = subprocess.Popen(network, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        with pages.Visit(tmp_path / "page", in_containers, under=["nsenter", "-t", str(holder.pid), "--net"]) as visit:
            for block in pages.blocks(PAGE):
                visit.do(block)
    finally:
        holder.kill()
        holder.wait()


def _pod(kind: str) -> str:
    """Returns the part of the manifest about pods of masters or workers."""
    document = next(text for text in MANIFEST.read_text().split("\n---\n") if f"\nkind: {kind}\n" in text)
    return document[document.index("\n  template:") :]


def _value(text: str, name: str) -> str:
    found = re.findall(rf"\b{name}: *([^\s,}}]+)", text)
    assert len(found) == 1, f"{name}: {found}"
    return str(found[0])


def test_the_manifest_agrees_with_the_image_and_the_page() -> None:
    """User, volume, probes and times."""
    image = engine.Image()
    master, worker = _pod("StatefulSet"), _pod("Deployment")
    for pod in (master, worker):
        assert int(_value(pod, "runAsUser")) == image.user
        assert _value(pod, "allowPrivilegeEscalation") == "false"
    assert _value(master, "readOnlyRootFilesystem") == "true"
    assert _value(master, "mountPath") == image.volume
    assert _value(master, "containerPort") == image.settings["EXPOSE"]
    paths = dict(re.findall(r"(\w+)Probe:\s+httpGet: {path: (\S+),", master))
    assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}
    # An engine waits for longer than a worker by default.
    page = PAGE.read_text()
    shutdown_s = int(re.findall(r"`--shutdown-timeout` \((\d+) s\)", page)[0])
    assert f"[default: {shutdown_s}s]" in _help("worker", "--shutdown-timeout")
    wait_s = _value(worker, "terminationGracePeriodSeconds")
    assert int(wait_s) > shutdown_s
    assert f"terminationGracePeriodSeconds: {wait_s}" in page
    assert f"--stop-timeout {wait_s}" in page


def _help(command: str, option: str) -> str:
    text = subprocess.run([find_binary(), command, "--help"], capture_output=True, text=True, check=True, timeout=30).stdout
    return text[text.index(f"{option} ") :].split("\n\n")[0]


@pytest.mark.parametrize("number", [0, 2, 3])
def test_the_command_of_the_manifest_is_one_of_the_program(number: int, tmp_path: Path) -> None:
    """Masters get their ids and the members from the names of their pods, and the shell gives way to the program."""
    pod = _pod("StatefulSet")
    shell_words = re.findall(r"command: \[(.+)\]", pod)[0].split(", ")
    script = textwrap.dedent(re.findall(r"args:\n +- \|\n((?: {14}.*\n)+)", pod)[0])
    stub = tmp_path / "triarch"
    stub.write_text('#!/bin/sh\nps -o pid= -p $$\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOSTNAME": f"triarch-{number}"}
    with subprocess.Popen([*shell_words, script], env=environment, stdout=subprocess.PIPE, text=True) as shell:
        out, _ = shell.communicate(timeout=30)
    pid, *words = out.split()
    assert int(pid) == shell.pid
    settings = dict(zip(words[1::2], words[2::2], strict=False))
    assert settings["--id"] == str(number + 1)
    assert settings["--data-dir"].startswith(f"{engine.Image().volume}/")
    if number < 3:
        assert settings["--cluster"] == ",".join(f"{id}=triarch-{id - 1}.triarch-masters:7100" for id in (1, 2, 3))
    else:
        assert settings["--advertise"] == "triarch-3.triarch-masters:7100"
    # The program knows every option.
    for option in settings:
        assert _help("server", option)
