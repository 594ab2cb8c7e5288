"""Puts the `triarch` program among the wheel's scripts: that of TRIARCH_BIN, or one that cargo builds now."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "TRIARCH_BIN"


class BinaryHook(BuildHookInterface[Any]):
    """See the module."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the program, and says for whom the wheel is."""
        named = os.environ.get(VARIABLE)
        built = Path(named) if named else self._cargo_build()
        if not built.is_file():
            raise FileNotFoundError(f"there is no program at {built}, which {VARIABLE} names")
        self._directory = Path(tempfile.mkdtemp(prefix="triarch-wheel-"))
        program = self._directory / "triarch"
        shutil.copy2(built, program)
        program.chmod(0o755)
        _strip(program)
        build_data["shared_scripts"][str(program)] = "triarch"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform(program)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clears up."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _cargo_build(self) -> Path:
        workspace = Path(self.root).parents[1]
        if not (workspace / "Cargo.lock").is_file():
            raise FileNotFoundError(f"build this in Triarch's own repository, or name the program in {VARIABLE}")
        subprocess.run(
            ["cargo", "build", "--release", "--locked", "--package", "triarch", "--bin", "triarch"],
            cwd=workspace,
            check=True,
        )
        target = Path(os.environ.get("CARGO_TARGET_DIR") or workspace / "target")
        return target / "release" / "triarch"


def _strip(program: Path) -> None:
    """Leaves out symbols, most of its size. Where there is no `strip` the wheel is larger, and works as well."""
    if shutil.which("strip"):
        subprocess.run(["strip", str(program)], check=False)


def _platform(program: Path) -> str:
    """Returns the platform tag of the wheel: on Linux, the C library that the program requires."""
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if platform.startswith("linux_"):
        arch = platform.removeprefix("linux_")
        needed = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)\b", program.read_bytes())]
        if needed:
            return f"manylinux_2_{max(max(needed), 17)}_{arch}"
    return platform
