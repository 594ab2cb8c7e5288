"""Finds the `triarch` program, and says how to get it when it is not there."""

from __future__ import annotations

import importlib
import os
import shutil
import sysconfig
from pathlib import Path

VARIABLE = "TRIARCH_BIN"


class BinaryNotFound(RuntimeError):
    """There is no `triarch` program on this machine."""

    def __init__(self, looked_at: list[str]) -> None:
        super().__init__(
            "there is no `triarch` program here: install it with `pip install 'triarch[server]'`, put it on the PATH, "
            f"or name it in {VARIABLE} (looked at: {', '.join(looked_at)})"
        )


def find_binary() -> Path:
    """The `triarch` program: of `TRIARCH_BIN`, of the distribution `triarch-server`, or on the PATH, in this order."""
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        if not _is_program(path):
            raise BinaryNotFound([f"{VARIABLE}={named}"])
        return path
    looked_at = [VARIABLE]
    try:
        brought = Path(str(importlib.import_module("triarch_server").find_binary()))
    except (ImportError, FileNotFoundError):
        looked_at.append("triarch-server, which is not installed")
    else:
        return brought
    beside = Path(sysconfig.get_path("scripts")) / "triarch"
    if _is_program(beside):
        return beside
    looked_at.append(str(beside))
    on_path = shutil.which("triarch")
    if on_path is not None:
        return Path(on_path)
    looked_at.append("PATH")
    raise BinaryNotFound(looked_at)


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
