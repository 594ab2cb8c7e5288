"""Command line: `scripts/compat.sh [LANGUAGE…]`.

The program of each language does the same: it submits a job, polls for its task as a worker, confirms the lease, reports a result,
reads the job and the task, and handles two problem documents. It must compile without errors against the generated types.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from triarch.testing import LocalCluster

SOURCES = Path(__file__).parent
#: Maximum time of one command in seconds. The first run downloads and compiles generators.
COMMAND_TIMEOUT_S = 900.0


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Runs a command, and returns its output. A failure ends the language."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(word) for word in command)} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def fresh(work: Path, language: str, keep: Sequence[str] = ()) -> Path:
    """Returns a directory with the sources of a language, and with what is to be kept of an earlier run."""
    directory = work / language
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(SOURCES / language, directory, dirs_exist_ok=True)
    return directory


def python(work: Path, document: Path, env: dict[str, str]) -> str:
    """Generates with openapi-python-client, and checks types with mypy."""
    directory = fresh(work, "python", keep=["venv"])
    bin = directory / "venv" / "bin"
    if not bin.is_dir():
        run(sys.executable, "-m", "venv", "venv", cwd=directory)
    run(bin / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt", cwd=directory)
    path = {"PATH": f"{bin}:{os.environ['PATH']}"}
    said = run(
        *(bin / "openapi-python-client", "generate", "--path", document, "--meta", "none"),
        *("--output-path", "triarch_client", "--overwrite", "--fail-on-warning"),
        cwd=directory,
        env=path,
    )
    run(bin / "mypy", "--strict", "--no-error-summary", "client.py", cwd=directory)
    run(bin / "python", "client.py", cwd=directory, env=env)
    return said


def typescript(work: Path, document: Path, env: dict[str, str]) -> str:
    """Generates with openapi-typescript, and compiles with tsc."""
    directory = fresh(work, "typescript", keep=["node_modules"])
    run("npm", "install", "--silent", "--no-audit", "--no-fund", cwd=directory)
    said = run("npx", "openapi-typescript", document, "-o", "schema.d.ts", cwd=directory)
    run("npx", "tsc", "--project", ".", cwd=directory)
    run("node", "out/client.js", cwd=directory, env=env)
    return said


def go(work: Path, document: Path, env: dict[str, str]) -> str:
    """Generates with oapi-codegen, and compiles with go."""
    directory = fresh(work, "go")
    (directory / "triarch").mkdir()
    said = run("go", "tool", "oapi-codegen", "-config", "config.yaml", document, cwd=directory)
    run("go", "vet", "./...", cwd=directory)
    run("go", "run", ".", cwd=directory, env=env)
    return said


#: The function of each language, and the commands that it needs.
LANGUAGES: dict[str, tuple[Callable[[Path, Path, dict[str, str]], str], tuple[str, ...]]] = {
    "python": (python, ()),
    "typescript": (typescript, ("node", "npm", "npx")),
    "go": (go, ("go",)),
}


def main() -> int:
    """Runs the languages. Returns 1 if one fails, and 77 if this machine can run none of those that were wanted."""
    parser = argparse.ArgumentParser(prog="scripts/compat.sh")
    parser.add_argument("--work", type=Path, required=True, help="directory for generated clients and generators")
    parser.add_argument("--document", type=Path, help="document to generate from (default: that of the cluster)")
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=f"{', '.join(LANGUAGES)} (all)")
    options = parser.parse_args()
    if unknown := set(options.languages) - LANGUAGES.keys():
        parser.error(f"unknown languages: {', '.join(sorted(unknown))}")
    passed, failed, skipped = 0, 0, 0
    options.work.mkdir(parents=True, exist_ok=True)
    with LocalCluster() as cluster:
        leader = cluster.leader().url
        document = options.document or options.work / "openapi.json"
        if options.document is None:
            with urllib.request.urlopen(f"{leader}/openapi.json", timeout=10) as answer:
                document.write_text(json.dumps(json.load(answer), indent=1))
        for language in options.languages or LANGUAGES:
            function, needs = LANGUAGES[language]
            if missing := [command for command in needs if shutil.which(command) is None]:
                print(f"(skipped: {language}, because {', '.join(missing)} is not here)")
                skipped += 1
                continue
            begun = time.monotonic()
            try:
                said = function(options.work.absolute(), document.absolute(), {"TRIARCH_MASTER": leader, "LANGUAGE": language})
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"FAILED: {language}\n{error}", flush=True)
                failed += 1
                continue
            passed += 1
            print(f"ok: {language}: generated, compiled and used in {time.monotonic() - begun:.0f} s", flush=True)
            if "warning" in said.lower():
                print(said)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0 if passed else 77


if __name__ == "__main__":
    sys.exit(main())
