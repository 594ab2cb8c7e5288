"""Lookup of the `triarch` program."""

from __future__ import annotations

import importlib
import os
import shutil
import sysconfig
from pathlib import Path

VARIABLE = "TRIARCH_BIN"


class BinaryNotFound(RuntimeError):
    """This machine has no `triarch` program."""

    def __init__(self, looked_at: list[str]) -> None:
        super().__init__(
            "there is no `triarch` program here: install it with `pip install 'triarch[server]'`, put it on the PATH, "
            f"or name it in {VARIABLE} (looked at: {', '.join(looked_at)})"
        )


def find_binary() -> Path:
    """Returns the path of the `triarch` program: from `TRIARCH_BIN`, from the distribution `triarch-server`, or from the PATH."""
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
    in_scripts = Path(sysconfig.get_path("scripts")) / "triarch"
    if _is_program(in_scripts):
        return in_scripts
    looked_at.append(str(in_scripts))
    on_path = shutil.which("triarch")
    if on_path is not None:
        return Path(on_path)
    looked_at.append("PATH")
    raise BinaryNotFound(looked_at)


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
