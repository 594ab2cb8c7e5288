"""Generator of the list of public names in the docs: signatures and first sentences, from the code itself."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import triarch
import triarch.admin
import triarch.serialize
import triarch.testing
import triarch.worker
import triarch.workflow

BEGIN, END = "<!-- generated: names -->", "<!-- end of what is generated -->"

#: Names outside of `triarch.__all__` that users hold, or import from other modules.
_OF_APPS = ("Queues", "Schedules", "Workers", "Jobs", "Cluster")
_OF_WORKFLOWS = ("Step", "Signature", "Run", "Node")
_OF_CODECS = ("VALUE_BYTES_MAX", "codec", "register_codec", "Codec")

#: Interfaces between the parts of the package: public to them, and of no use to others.
_INTERNAL = {"to_wire", "but", "over", "spec", "specs", "build", "kinds", "await_end"}

#: Classes that only the package creates are listed without their constructor.
_MADE = {"Handle", "HandleGroup", "Node", "Run", "Task", "TaskContext", "TaskFuture", "Signature", "Master", "Process", "Step"}
_MADE |= {*_OF_APPS}


def names() -> str:
    """Returns the whole section, as Markdown."""
    aliases = [name for name in triarch.__all__ if _is_alias(triarch, name)]
    errors = [name for name in triarch.__all__ if _is_error(getattr(triarch, name))]
    rest = [name for name in triarch.__all__ if name not in errors and name not in aliases and name != "__version__"]
    parts = [*_section("triarch", triarch, rest), *_table("Exceptions of `triarch`", triarch, errors)]
    parts += _aliases("Old names of `triarch`", triarch, aliases)
    parts += _section("triarch.workflow", triarch.workflow, _OF_WORKFLOWS)
    parts += _section("Administration: `app.queues`, `app.schedules`, …", triarch.admin, _OF_APPS)
    parts += _section("triarch.serialize", triarch.serialize, _OF_CODECS)
    for module in (triarch.testing, triarch.worker):
        parts += _section(module.__name__, module, [name for name in module.__all__ if name not in triarch.__all__])
    return "\n".join(parts)


def _is_alias(module: Any, name: str) -> bool:
    """Returns whether this is the old name of a renamed class."""
    what = getattr(module, name)
    return inspect.isclass(what) and what.__name__ != name


def _aliases(title: str, module: Any, names: list[str]) -> list[str]:
    rows = [f"| `{name}` | `{getattr(module, name).__name__}` |" for name in names]
    return [f"### {_title(title)}\n", "| old name | name |\n|---|---|", *rows, ""]


def _is_error(what: object) -> bool:
    return isinstance(what, type) and issubclass(what, BaseException)


def _table(title: str, module: Any, names: Iterator[str] | list[str]) -> list[str]:
    rows = [f"| `{name}` | {_first(getattr(module, name))} |" for name in names]
    return [f"### {_title(title)}\n", "| | |\n|---|---|", *rows, ""]


def _title(title: str) -> str:
    return title if "`" in title else f"`{title}`"


def _section(title: str, module: Any, names: Any) -> Iterator[str]:
    yield f"### {_title(title)}\n"
    plain = [name for name in names if not inspect.isclass(getattr(module, name))]
    if plain:
        yield "| | |\n|---|---|"
        for name in plain:
            yield f"| `{_cell(name + _signature(getattr(module, name)))}` | {_first(getattr(module, name))} |"
        yield ""
    for name in names:
        if name not in plain:
            yield from _class(getattr(module, name))


def _class(what: type) -> Iterator[str]:
    made = "" if what.__name__ in _MADE or issubclass(what, BaseException) else _signature(what)
    fields = dict(_fields(what))
    if fields:
        made = "(…)"
    public = [base for base in what.__bases__ if not base.__name__.startswith("_")]
    bases = [base.__name__ for base in public if base.__module__.startswith("triarch")]
    also = f" Also has the members of `{bases[0]}`." if bases and not issubclass(what, BaseException) else ""
    yield f"**`{what.__name__}{made}`**: {_first(what)}{also}\n"
    rows = [f"| `{_cell(member)}` | {told} |" for member, told in (*fields.items(), *_members(what))]
    if rows:
        yield "| | |\n|---|---|"
        yield from rows
        yield ""


def _members(what: type) -> Iterator[tuple[str, str]]:
    """Returns the public methods and properties of the class itself, in the order of the source."""
    for name, member in vars(what).items():
        if name.startswith("_") or name in _INTERNAL:
            continue
        if isinstance(member, property):
            yield f".{name}", _first(member.fget)
        elif inspect.isfunction(member):
            prefix = "await " if inspect.iscoroutinefunction(member) else ""
            yield f"{prefix}.{name}{_signature(member, bound=True)}", _first(member)


def _fields(what: type) -> Iterator[tuple[str, str]]:
    """Returns the fields of a dataclass that have comments, with their defaults."""
    if not dataclasses.is_dataclass(what) or what.__name__ == "Signature":
        return
    defaults = {field.name: field.default for field in dataclasses.fields(what)}
    comment: list[str] = []
    for line in inspect.getsource(what).splitlines():
        line = line.strip()
        if line.startswith("#:"):
            comment.append(line[2:].strip())
        elif (found := re.match(r"(\w+):", line)) and found[1] in defaults and comment:
            default = defaults[found[1]]
            said = "" if default is dataclasses.MISSING or what.__name__ in _MADE else f"={default!r}"
            yield found[1] + said, _markdown(" ".join(comment))
            comment = []
        else:
            comment = []


def _signature(what: Any, *, bound: bool = False) -> str:
    if not callable(what):
        return ""
    try:
        signature = inspect.signature(what)
    except ValueError:
        return ""
    given = list(signature.parameters.values())
    if bound:
        given = given[1:]
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in given if not one.name.startswith("_")]
    text = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return re.sub(r"<factory>|<function .*? at 0x[0-9a-f]+>|<class '(?:\w+\.)*(\w+)'>", lambda found: found[1] or "…", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _first(what: Any) -> str:
    """Returns the first paragraph of the docstring, in Markdown."""
    text = what.__doc__ if what.__doc__ is not None else ""
    if not isinstance(what, type) and not callable(what):
        text = f"{what!r}"
    return _markdown(" ".join(inspect.cleandoc(text).split("\n\n")[0].split()) if text else "")


def _markdown(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return _cell(text).rstrip(":")
