"""Architecture of the package: layers, no import circles, one HTTP stack, and the vocabulary of names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import triarch

ROOT = Path(triarch.__file__).parent
TESTS = Path(__file__).parent

#: From the bottom up. A module imports only from its own layer and from those above it in this list.
LAYERS: dict[str, tuple[str, ...]] = {
    "errors and options": ("arguments", "errors", "options", "context", "progress", "text"),
    "values": (
        "_values",
        "_values.error_codec",
        "_values.json_reader",
        "_values.json_types",
        "_values.value_codecs",
        "outcome",
        "serialize",
    ),
    "protocol without I/O": ("_http", "_http.policy", "_http.protocol"),
    "transport": ("_http.async_transport", "_http.transport"),
    "submission and waiting": ("_fork", "_jobs", "_jobs.async_submit", "_jobs.completion_watcher", "_jobs.submit"),
    "interfaces": ("_interfaces",),
    "handles, tasks, workflows": ("handle", "stall", "workflow", "task", "admin", "futures"),
    "app": ("app", ""),
    "worker state": (
        "worker.attempt",
        "worker.capture",
        "worker.config",
        "worker.leases",
        "worker.load",
        "worker.machine_load",
        "worker.output",
        "worker.prefetch",
        "worker.process",
        "worker.process.descriptors",
        "worker.process.forked",
        "worker.process.init_process",
        "worker.process.signals",
        "worker.process.title",
        "worker.shutdown",
        "worker.task_log",
    ),
    "worker execution": (
        "worker.execute",
        "worker.pools",
        "worker.pools.base",
        "worker.pools.child",
        "worker.pools.framing",
        "worker.pools.loop",
        "worker.pools.loop_thread",
        "worker.pools.orphans",
        "worker.pools.own_loop",
        "worker.pools.parent_death",
        "worker.pools.process_state",
        "worker.pools.processes",
        "worker.pools.shared_state",
        "worker.pools.threads",
    ),
    "worker communication": ("worker.connection", "worker.output_sender", "worker.session"),
    "worker": ("worker", "worker.__main__", "worker.cli", "worker.reload", "worker.worker"),
    "testing": (
        "testing",
        "testing._orphan_reaper",
        "testing.binary",
        "testing.cluster",
        "testing.connect",
        "testing.eager",
        "testing.process",
    ),
    "pytest": ("pytest_plugin",),
}

#: Words for which the field has others. They occur in no file name, and in no name of a class, function or constant.
OLD_WORDS = {
    "crew",
    "desk",
    "hand",
    "hands",
    "news",
    "pace",
    "patience",
    "place",
    "story",
    "tell",
    "told",
    "verdict",
    "verdicts",
}
OLD_FILES = {"_aio", "_asubmit", "_guard", "_watch", "link", "machine", "parents", "sending", "wire"}
#: Public spellings that stay as aliases.
ALIASES = {"Patience"}

POLLS = {"POLLIN", "PollSelector"}
OTHER_HTTP_STACKS = {"aiohttp", "h11", "http", "httpcore", "httpx", "requests", "urllib3"}


def _name(path: Path, root: Path) -> str:
    """The dotted name of a module within its package; empty for the package itself."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sources(root: Path = ROOT) -> dict[str, str]:
    return {_name(path, root): path.read_text() for path in sorted(root.rglob("*.py"))}


def _imports(name: str, source: str, modules: dict[str, str]) -> Iterator[str]:
    """The modules of the package that this one imports, wherever the import stands.

    Imports inside functions and under ``TYPE_CHECKING`` count. The import of a parent package, which Python makes by itself,
    does not.
    """
    is_package = not name or any(other.startswith(f"{name}.") for other in modules)
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "triarch":
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ".".join(part for part in package.split(".")[: len(package.split(".")) - node.level + 1] if part)
                base = ".".join(part for part in (base, node.module or "") if part)
            elif node.module is not None and node.module.split(".")[0] == "triarch":
                base = node.module.partition(".")[2]
            else:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}" if base else alias.name
                yield inner if inner in modules else base


def _graph(modules: dict[str, str]) -> dict[str, set[str]]:
    return {name: set(_imports(name, source, modules)) - {name} for name, source in modules.items()}


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components with more than one module."""
    reachable: dict[str, set[str]] = {}
    for name in graph:
        seen: set[str] = set()
        todo = list(graph[name])
        while todo:
            other = todo.pop()
            if other not in seen:
                seen.add(other)
                todo += graph.get(other, ())
        reachable[name] = seen
    return [
        sorted(other for other in reachable[name] if name in reachable[other])
        for name in graph
        if name in reachable[name] and name == min(other for other in reachable[name] if name in reachable[other])
    ]


def _upward(graph: dict[str, set[str]]) -> list[str]:
    layer = {module: number for number, modules in enumerate(LAYERS.values()) for module in modules}
    return [f"{name} -> {other}" for name, others in graph.items() for other in others if layer[other] > layer[name]]


def _defined_names(source: str) -> Iterator[str]:
    """The names of classes, functions, methods and constants."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name) and target.id.isupper())


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_every_module_has_a_layer() -> None:
    assert sorted(_sources()) == sorted(module for modules in LAYERS.values() for module in modules)


def test_no_module_imports_from_a_layer_above() -> None:
    assert _upward(_graph(_sources())) == []


def test_there_is_no_import_circle() -> None:
    assert _circles(_graph(_sources())) == []


def test_only_one_http_stack_is_used() -> None:
    found = []
    for name, source in _sources().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if not node.level else []
            else:
                continue
            found += [
                f"{name}: {one}" for one in names if one.split(".")[0] in OTHER_HTTP_STACKS or one.startswith("urllib.request")
            ]
    assert found == []


def test_nothing_needs_poll_which_eventlet_removes() -> None:
    found = [
        name
        for name, source in _sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Attribute, ast.alias)) and getattr(node, "attr", getattr(node, "name", "")) in POLLS
    ]
    assert found == []


def test_file_names_are_in_the_words_of_the_field() -> None:
    files = [*ROOT.rglob("*.py"), *TESTS.rglob("*.py")]
    assert [file.name for file in files if file.stem in OLD_FILES or _words(file.stem) & OLD_WORDS] == []


def test_names_are_in_the_words_of_the_field() -> None:
    found = [
        f"{root.name}/{name}: {defined}"
        for root in (ROOT, TESTS)
        for name, source in _sources(root).items()
        for defined in _defined_names(source)
        if _words(defined) & OLD_WORDS and defined not in ALIASES
    ]
    assert found == []


# The checks themselves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "upper",
    [
        "from .app import Triarch",
        "import triarch.app",
        "from triarch import app",
        "def f():\n    from .app import Triarch",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .app import Triarch",
    ],
)
def test_a_circle_is_found_wherever_the_import_stands(upper: str) -> None:
    modules = {**_sources(), "handle": f"{upper}\n{_sources()['handle']}".replace("from __future__ import annotations\n", "")}
    graph = _graph(modules)
    assert any({"app", "handle"} <= set(circle) for circle in _circles(graph))
    assert "handle -> app" in _upward(graph)


def test_imports_are_resolved_from_packages_and_modules() -> None:
    modules = {"": "", "a": "", "p": "", "p.b": "", "p.q": "", "p.q.c": ""}
    assert set(_imports("p.b", "from . import q\nfrom ..a import x\nfrom .q.c import y", modules)) == {"p.q", "a", "p.q.c"}
    assert set(_imports("p", "from .b import x\nfrom . import unknown", modules)) == {"p.b", "p"}
    assert set(_imports("", "from .p import b, x", modules)) == {"p.b", "p"}
