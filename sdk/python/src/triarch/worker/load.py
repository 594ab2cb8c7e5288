"""Import of an app by `module:app`, and of the modules that register its tasks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from typing import Any

from triarch.app import CALL, CHUNK, Triarch


class AppNotFound(Exception):
    """The reference does not name an app."""


def load_app(reference: str, imports: Iterable[str] = ()) -> Triarch:
    """Returns the app that `module:app` names. `module` alone stands for the one app in it.

    The current directory is searched first, as by `python` itself. Then it imports the modules in `imports`, and those of
    `app.autodiscover_tasks`. If the app has no tasks after that, it imports the module `tasks` next to that of the app.
    """
    app = _load(reference)
    for name in [*imports, *app.discovered]:
        _import(name)
    if not own_tasks(app):
        neighbour = _tasks_next_to(reference.partition(":")[0])
        if neighbour is not None:
            _import(neighbour)
    return app


def own_tasks(app: Triarch) -> list[str]:
    """Returns the names of the tasks that the app has registered itself."""
    return sorted(name for name in app.tasks if name not in (CALL, CHUNK))


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            raise AppNotFound(
                f"there is no module {name!r}, which is to be imported for its tasks; correct --import or autodiscover_tasks"
            ) from None
        raise


def _tasks_next_to(module_name: str) -> str | None:
    """Returns the module `tasks` of the app's package, if there is one and it was not imported yet."""
    module = sys.modules.get(module_name)
    package = module_name if module is not None and hasattr(module, "__path__") else module_name.rpartition(".")[0]
    name = f"{package}.tasks" if package else "tasks"
    if name in sys.modules:
        return None
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    # Of a module outside of a package: only the file in the same directory.
    file = getattr(module, "__file__", None)
    same = file is not None and os.path.dirname(os.path.abspath(file)) == os.path.dirname(os.path.abspath(found.origin))
    return name if package or same else None


def _load(reference: str) -> Triarch:
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
