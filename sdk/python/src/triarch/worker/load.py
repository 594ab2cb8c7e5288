"""Import of an app by `module:app`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from triarch.app import Triarch


class AppNotFound(Exception):
    """The reference does not name an app."""


def load_app(reference: str) -> Triarch:
    """Returns the app that `module:app` names. `module` alone stands for the one app in it.

    The current directory is searched first, as by `python` itself.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name:
        raise AppNotFound(f"{reference!r} names no module; write module:app")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            raise AppNotFound(
                f"there is no module {module_name!r} in {here} or on the path; change the directory or set PYTHONPATH"
            ) from None
        raise
    if not attribute:
        apps = {name: value for name, value in vars(found).items() if isinstance(value, Triarch)}
        if len({id(app) for app in apps.values()}) == 1:
            return next(iter(apps.values()))
        names = ", ".join(f"{module_name}:{name}" for name in apps) or "none"
        raise AppNotFound(f"{module_name!r} has no single app; write module:app (apps: {names})")
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AppNotFound(f"there is no {attribute!r} in {module_name!r}; write module:app") from None
    if not isinstance(found, Triarch):
        raise AppNotFound(f"{reference!r} is a {type(found).__name__}, not a Triarch app; write module:app")
    return found
