"""The rules of `docs/architecture.md`, held against every import in the tree; its tables are this test's tables."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter import __main__ as command_line
from planner import __main__ as planners_command_line

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("planner", "exporter")
_MAP = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Import:
    """One import that runs: whose, of what, where.

    Attributes:
        by: the importing module, such as `planner.placement.solve`.
        of: the imported module; for `from a import b` it is `a.b` where that is a module, else `a`.
        names: what `from` takes out of it.
        place: file and line, for messages.
    """

    by: str
    of: str
    names: tuple[str, ...]
    place: str

    @property
    def library(self) -> str:
        return self.of.partition(".")[0]


def modules() -> dict[str, Path]:
    """Returns every module of both packages by name, without the packages' own `__init__` where it is only a line."""
    found = {}
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            parts = path.relative_to(_ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path) -> Iterator[Import]:
    """Yields the imports of a module, lazy ones too; those for the type checker alone do not run and do not count."""

    def visit(node: ast.AST) -> Iterator[Import]:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                yield from visit(other)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, (), f"{path.relative_to(_ROOT)}:{node.lineno}")
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole in MODULES
                place = f"{path.relative_to(_ROOT)}:{node.lineno}"
                yield Import(name, whole if is_module else node.module, () if is_module else (alias.name,), place)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


MODULES = modules()
IMPORTS = [found for name, path in MODULES.items() for found in imports_of(name, path)]


def rows(heading: str) -> list[list[str]]:
    """Returns the rows of the first table under a heading of the map."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", _MAP, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/architecture.md has no section {heading!r}"
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(cell: str) -> list[str]:
    """Returns the modules that a cell names: `planner/plan.py` is `planner.plan`."""
    return [
        found.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        for found in re.findall(r"`([a-z0-9_/]+(?:\.py)?)`", cell)
    ]


DOORS = {library: set(names_in(row[1])) for row in rows("Doors") for library in re.findall(r"`(\w+)`", row[0])}
ROOMS = {names_in(row[0])[0]: row[2] for row in rows("Rooms")}
COMMANDS = [*command_line.COMMANDS.values()]


def in_room(name: str, rooms: set[str]) -> bool:
    """Says whether a module is one of `rooms` or lies in a package that is."""
    return any(name == room or name.startswith(room + ".") for room in rooms)


def room_of(name: str) -> str | None:
    """Returns the room that a module lies in; None for what stands above all rooms: the packages and their commands."""
    return next((room for room in ROOMS if in_room(name, {room})), None)


def guests_of(room: str) -> list[str]:
    """Returns the rooms that a room may import from, as its row says; `planner.*` is every room of the planner."""
    package = room.partition(".")[0]
    allowed: list[str] = []
    for word in filter(None, (word.strip() for word in ROOMS[room].split(","))):
        if word == "all":
            allowed += _PACKAGES[: _PACKAGES.index(package) + 1]
        elif word == "planner.*":
            allowed.append("planner")
        else:
            allowed.append(word if "." in word else f"{package}.{word}")
    return allowed


def test_every_module_lies_in_a_room() -> None:
    above = {*_PACKAGES, "planner.__main__", "exporter.__main__"}
    assert sorted(name for name in MODULES if room_of(name) is None) == sorted(above)
    assert [room for room in ROOMS if not any(in_room(name, {room}) for name in MODULES)] == []


def test_rooms_import_only_what_their_rows_allow() -> None:
    assert [
        f"{found.place}: {found.of}, but {room} may import {ROOMS[room] or 'no other room'}"
        for found in IMPORTS
        if found.library in _PACKAGES and found.of not in _PACKAGES
        for room in filter(None, [room_of(found.by)])
        if not in_room(found.of, {room, *guests_of(room)})
    ] == []


def test_rooms_follow_one_another_without_a_circle() -> None:
    graph = {room: {guest for guest in guests_of(room) if guest in ROOMS} for room in ROOMS if "all" not in ROOMS[room]}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_powerinfer_has_no_name_outside_its_rooms() -> None:
    (rule,) = re.findall(r"^6\. (.*?)(?=^\n)", _MAP, re.MULTILINE | re.DOTALL)
    allowed = {*names_in(rule), "planner.engines.powerinfer", "exporter.powerinfer"}
    homes = {"planner.engines.powerinfer", "exporter.powerinfer"}
    assert [
        f"{found.place}: {found.of}" for found in IMPORTS if in_room(found.of, homes) and not in_room(found.by, allowed)
    ] == []


def test_every_foreign_library_comes_in_through_its_door() -> None:
    strangers = [
        f"{found.place}: {found.library} has its doors: {sorted(DOORS.get(found.library, ()))}"
        for found in IMPORTS
        if found.library not in {*_PACKAGES, *sys.stdlib_module_names, "__future__"}
        and not in_room(found.by, DOORS.get(found.library, set()))
    ]
    assert strangers == []


def test_every_door_is_used() -> None:
    used = {(found.library, found.by) for found in IMPORTS}
    for library, doors in DOORS.items():
        for door in doors:
            assert any(name == library and in_room(by, {door}) for name, by in used), f"{door} imports no {library}"


def test_the_planner_never_imports_the_exporter() -> None:
    assert [found.place for found in IMPORTS if found.by.startswith("planner") and found.library == "exporter"] == []


def test_commands_are_for_the_command_line_and_reports_for_commands() -> None:
    for room, guests in (
        (
            "planner.commands",
            {
                "planner.commands",
                "exporter.commands",
                "planner.__main__",
                "exporter.__main__",
                "exporter.powerinfer.drop_in",
            },
        ),
        ("exporter.commands", {"exporter.commands", "exporter.__main__"}),
        ("planner.report", {"planner.report", "planner.commands", "exporter.commands"}),
    ):
        assert [found.place for found in IMPORTS if in_room(found.of, {room}) and not in_room(found.by, guests)] == []


def test_nobody_reaches_for_another_module_s_private_names() -> None:
    assert [
        f"{found.place}: {name}"
        for found in IMPORTS
        if found.library in _PACKAGES
        for name in found.names
        if name.startswith("_") and not name.startswith("__")
    ] == []


def test_what_an_architecture_is_stands_in_its_row_alone() -> None:
    """A comparison with an architecture's name elsewhere would be forgotten by whoever adds one."""
    from planner.engines.powerinfer.architectures import ARCHITECTURES

    # The engine's `quantize` itself asks whether it has a Falcon.
    known = {"planner.engines.powerinfer.quantisation"}
    comparing = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in ARCHITECTURES
    }
    assert comparing == known


def test_there_are_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        if found.of in MODULES and found.of != found.by:
            graph[found.by].add(found.of)
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", _PACKAGES)
def test_importing_a_package_brings_in_no_library(package: str) -> None:
    script = f"import sys, {package}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert not {"numpy", *DOORS} & set(done.stdout.split())


def test_the_help_of_every_command_comes_without_any_library() -> None:
    script = """
import contextlib, io, sys
from exporter.__main__ import main
for name in sys.argv[1:]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as printed:
        main([name, "--help"])
    assert printed.getvalue().startswith(f"usage: hotsplit {name} "), printed.getvalue()
    print(name, *sorted({each.partition(".")[0] for each in sys.modules}))
"""
    names = [command.rpartition(".")[2] for command in COMMANDS]
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True, cwd=_ROOT)
    seen = {command: imported for command, *imported in map(str.split, done.stdout.splitlines())}
    assert list(seen) == names
    for command, imported in seen.items():
        assert not {"numpy", *DOORS} & set(imported), command


def test_every_command_is_on_the_command_line() -> None:
    names = ("common", "experts", "expert_fit", "expert_study", "placement")
    shared = {f"planner.commands.{name}" for name in names}
    written = {name for name in MODULES if re.fullmatch(r"\w+\.commands\.\w+", name)} - shared
    assert sorted(COMMANDS) == sorted(written)
    planners = planners_command_line.COMMANDS
    assert {command for command in COMMANDS if command.startswith("planner.")} == set(planners.values())
    for commands in (command_line.COMMANDS, planners):
        assert all(module.endswith(f".commands.{name}") for name, module in commands.items())
