"""Read a package's imports without running it, and say which of them break the rules of the rooms.

``read_package`` gives a plain list of modules with their imports; every ``*_violations`` function takes that list and returns
one readable line per broken rule.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

TORCH_MARKER = "# arch: imports torch at module level"
"""A line of its own in a module of ``sr`` or ``infer`` that is made of torch classes."""

TORCH_ROOMS = ("sr", "infer")
MAX_LINES = 600


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported name, as a dotted path."""

    target: str
    line: int
    deferred: bool
    """True inside a function: it happens when the function runs."""
    typing_only: bool
    """True under ``if TYPE_CHECKING``: it never happens."""

    @property
    def at_load(self) -> bool:
        """Whether importing the module performs it."""
        return not (self.deferred or self.typing_only)

    @property
    def top(self) -> str:
        """The distribution-level name, ``odc`` for ``odc.geo.geobox``."""
        return self.target.partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Module:
    """One source file."""

    name: str
    path: Path
    imports: tuple[Import, ...]
    torch_marked: bool

    @property
    def room(self) -> str:
        """The second part of the name: ``model`` for ``eocube.model.frame``; empty for the package itself."""
        return room_of(self.name)


class _Collector(ast.NodeVisitor):
    """Walk one file; remember whether we stand in a function or under TYPE_CHECKING."""

    def __init__(self, package: str, known: Collection[str]) -> None:
        self.package, self.known = package, known
        self.deferred = self.typing_only = False
        self.found: list[Import] = []

    def _add(self, target: str, node: ast.stmt | ast.expr) -> None:
        self.found.append(Import(target=target, line=node.lineno, deferred=self.deferred, typing_only=self.typing_only))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            self._add(inner if inner in self.known else base, node)

    def visit_Call(self, node: ast.Call) -> None:
        """Take ``import_module("name")`` for an import."""
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in {"import_module", "__import__"} and node.args and isinstance(node.args[0], ast.Constant):
            self._add(str(node.args[0].value), node)
        self.generic_visit(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self.deferred = self.deferred, True
        self.generic_visit(node)
        self.deferred = before

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815  names that ast asks for

    def visit_If(self, node: ast.If) -> None:
        before = self.typing_only
        self.typing_only = before or ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for statement in node.body:
            self.visit(statement)
        self.typing_only = before
        for statement in node.orelse:
            self.visit(statement)


def module_name(path: Path, root: Path) -> str:
    """``root/model/frame.py`` → ``eocube.model.frame``, ``root/model/__init__.py`` → ``eocube.model``."""
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_package(root: Path) -> list[Module]:
    """Parse every Python file under the package folder ``root``."""
    paths = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    modules = []
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        collector = _Collector(package, paths)
        collector.visit(ast.parse(text, filename=str(path)))
        marked = TORCH_MARKER in text.splitlines()
        modules.append(Module(name=name, path=path, imports=tuple(collector.found), torch_marked=marked))
    return modules


def internal(modules: Sequence[Module]) -> Iterator[tuple[Module, Import]]:
    """Imports of the package's own modules."""
    for module in modules:
        own = module.name.partition(".")[0]
        yield from ((module, imported) for imported in module.imports if imported.top == own)


def room_of(dotted: str) -> str:
    """``eocube.model.frame`` → ``model``; ``eocube`` → the empty string."""
    return [*dotted.split("."), ""][1]


def room_violations(modules: Sequence[Module], may_import: Mapping[str, Collection[str]]) -> list[str]:
    """Imports between rooms that the table does not allow, and files that belong to no room.

    ``may_import[room]`` names the rooms that a room may import beside itself; the room ``""`` is the package's ``__init__``.
    """
    found = [f"{m.name}: {m.room!r} is no room of the table of who may import whom" for m in modules if m.room not in may_import]
    for module, imported in internal(modules):
        target = room_of(imported.target)
        if module.room in may_import and target != module.room and target not in may_import[module.room]:
            found.append(f"{module.name}:{imported.line} imports {imported.target}; {module.room!r} may not import {target!r}")
    return found


def table_cycle(may_import: Mapping[str, Collection[str]]) -> list[str]:
    """Rooms of the table that may import each other in a circle, or an empty list."""
    return _cycle({room: set(others) for room, others in may_import.items()})


def cycle_violations(modules: Sequence[Module]) -> list[str]:
    """One circle of modules that import each other, deferred and typing imports included."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules}
    for module, imported in internal(modules):
        if imported.target != module.name:
            graph[module.name].add(imported.target)
    circle = _cycle(graph)
    return [f"modules import each other in a circle: {' -> '.join(circle)}"] if circle else []


def _cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def plain_violations(modules: Sequence[Module], plain: Mapping[str, Collection[str]]) -> list[str]:
    """Imports in the plain rooms that are neither the standard library, the package, nor allowed by name; deferred ones too."""
    found = []
    for module in modules:
        if module.room not in plain:
            continue
        allowed = {module.name.partition(".")[0], *sys.stdlib_module_names, *plain[module.room]}
        found += [
            f"{module.name}:{imported.line} imports {imported.target}; {module.room!r} is the standard library and "
            f"{sorted(plain[module.room])} only"
            for imported in module.imports
            if imported.top not in allowed
        ]
    return found


def torch_violations(modules: Sequence[Module]) -> list[str]:
    """Torch at load time outside marked modules of ``sr`` and ``infer``, directly or through a marked module."""
    marked = {module.name for module in modules if module.torch_marked}
    misplaced = [m for m in modules if m.torch_marked and m.room not in TORCH_ROOMS]
    found = [f"{module.name} is marked for torch; only modules of {TORCH_ROOMS} may be" for module in misplaced]
    plain = ((module, imported) for module in modules if not module.torch_marked for imported in module.imports)
    return found + [
        f"{module.name}:{imported.line} imports {imported.target} at load time: import it inside the function that needs it, "
        f"or (in {TORCH_ROOMS}) put the line {TORCH_MARKER!r} into the module"
        for module, imported in plain
        if imported.at_load and (imported.top == "torch" or imported.target in marked)
    ]


def length_violations(paths: Collection[Path], max_lines: int = MAX_LINES) -> list[str]:
    """Files that are too long to be told in order."""
    counted = ((path, len(path.read_text(encoding="utf-8").splitlines())) for path in sorted(paths))
    return [f"{path} has {lines} lines, more than {max_lines}: split it" for path, lines in counted if lines > max_lines]


def testing_violations(modules: Sequence[Module]) -> list[str]:
    """Imports of the package's ``testing`` room from outside it."""
    return [
        f"{module.name}:{imported.line} imports {imported.target}; only tests import testing"
        for module, imported in internal(modules)
        if room_of(imported.target) == "testing" and module.room != "testing"
    ]
