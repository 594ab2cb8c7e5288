"""The page on workers in any language: its calls run a task, its workers keep the contract, and a bad worker is found out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import pages
from triarch.testing import LocalCluster, find_binary

REPOSITORY = Path(__file__).parents[4]
PAGE = REPOSITORY / "docs" / "workers" / "any-language.md"
CONFORMANCE = "scripts/worker-conformance.sh"
TIMEOUT_S = 90.0

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the page is not there")


def _environment(masters: str, scripts: Path) -> dict[str, str]:
    return {**pages.environment(masters, find_binary(), scripts), "PYTHON": sys.executable}


def test_the_calls_on_the_page_run_a_task(cluster: LocalCluster, tmp_path: Path) -> None:
    """The calls with curl, without the checks."""
    blocks = pages.blocks(PAGE)
    first_check = next(number for number, block in enumerate(blocks) if CONFORMANCE in block.text)
    with pages.Visit(tmp_path / "page", _environment(cluster.url, tmp_path / "bin")) as visit:
        for block in blocks[:first_check]:
            visit.do(block)


def _run(commands: list[str], environment: dict[str, str]) -> list[tuple[int, str]]:
    """Runs commands of the page at the same time. Each starts clusters of its own."""
    runs = [
        subprocess.Popen(
            ["bash", "-c", command],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        said = [run.communicate(timeout=TIMEOUT_S)[0] for run in runs]
    finally:
        for run in runs:
            if run.poll() is None:
                run.terminate()
                run.wait()
    return [(run.returncode, text) for run, text in zip(runs, said, strict=True)]


def _commands() -> list[str]:
    commands = [block.text.strip() for block in pages.blocks(PAGE) if block.language == "sh" and CONFORMANCE in block.text]
    assert [shlex.split(command)[0] for command in commands] == [CONFORMANCE] * 3
    return commands


def test_the_worker_of_the_page_keeps_the_contract_and_a_bad_worker_is_found_out(tmp_path: Path) -> None:
    """All checks of the worker in Python; the bad worker fails exactly those that it breaks."""
    bad = (
        f"{CONFORMANCE} --only {','.join(EXPECTED_OF_BAD_WORKER)} {sys.executable} {Path(__file__).with_name('bad_worker.py')}"
    )
    (code, text), (code_of_bad, text_of_bad) = _run([_commands()[0], bad], _environment("", tmp_path / "bin"))
    assert code == 0, text
    shown = next(block.text for block in pages.blocks(PAGE) if "output" in block.words and "weak" in block.text)
    assert pages.matches(shown, text), text
    assert code_of_bad == 1, text_of_bad
    verdicts = {name: verdict for verdict, name in re.findall(r"^(ok|weak|FAIL) +([a-z-]+)", text_of_bad, flags=re.MULTILINE)}
    assert verdicts == EXPECTED_OF_BAD_WORKER, text_of_bad


def test_the_worker_in_bash_and_that_for_commands_keep_the_contract(tmp_path: Path) -> None:
    """Some of the checks. Those that depend on the time of a lease ask much of a shell on a busy machine."""
    some = f"{CONFORMANCE} --only {','.join(SOME_CHECKS)}"
    commands = [command.replace(CONFORMANCE, some, 1) for command in _commands()[1:]]
    for code, text in _run(commands, _environment("", tmp_path / "bin")):
        assert code == 0, text
        assert f"{len(SOME_CHECKS)} ok, 0 weak, 0 FAIL" in text


SOME_CHECKS = ("registers", "runs-tasks", "reports-failures", "repeats-reports", "drains")

#: Verdicts on `bad_worker.py`. It does run tasks.
EXPECTED_OF_BAD_WORKER = {
    "registers": "ok",
    "follows-redirects": "ok",
    "runs-tasks": "ok",
    "reports-failures": "FAIL",
    "bounds-results": "FAIL",
    "repeats-reports": "FAIL",
    "obeys-cancel": "FAIL",
    "obeys-lost": "FAIL",
    "copies-ids": "ok",
    "ignores-unknown-fields": "ok",
    "sends-secret": "weak",
    "backs-off": "FAIL",
}


def test_the_page_lists_every_check() -> None:
    """The table of the page is what `--list` prints."""
    listed = subprocess.run(
        [str(REPOSITORY / CONFORMANCE), "--list"], env={**os.environ}, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    checks = dict(line.split(maxsplit=1) for line in listed.splitlines())
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", PAGE.read_text().split("| check | rule |")[1], flags=re.MULTILINE))
    assert table == checks
    assert f"{len(checks)} ok, 0 weak, 0 FAIL" in PAGE.read_text()


def test_the_worker_in_the_examples_has_every_rule_of_the_page() -> None:
    """The comments of the workers refer to rules by their numbers."""
    rules = {int(number) for number in re.findall(r"^(\d+)\. \*\*", PAGE.read_text(), flags=re.MULTILINE)}
    assert rules == set(range(1, 12))
    for name in ("worker.py", "worker.sh"):
        named = {
            int(number) for number in re.findall(r"[Rr]ule (\d+)", (REPOSITORY / "examples" / "workers" / name).read_text())
        }
        assert {1, 2, 3, 4, 5, 6, 7, 9} <= named <= rules, name
