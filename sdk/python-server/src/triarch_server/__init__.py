"""Where the `triarch` program of this distribution is."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

__all__ = ["find_binary"]


def find_binary() -> str:
    """The path of the program, wherever pip has put it."""
    places = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", scheme=_user_scheme())]
    # `pip install --target` and `--prefix` put scripts next to the packages.
    here = Path(__file__).resolve().parent
    places += [str(here.parent / "bin"), str(here.parents[3] / "bin") if len(here.parents) > 3 else ""]
    for place in places:
        program = Path(place, "triarch")
        if place and program.is_file() and os.access(program, os.X_OK):
            return str(program)
    raise FileNotFoundError(f"the program of triarch-server is in none of {', '.join(filter(None, places))}: install it again")


def _user_scheme() -> str:
    if sys.platform == "darwin" and sys._framework:
        return "osx_framework_user"
    return "posix_user"
