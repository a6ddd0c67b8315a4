"""Imports go in one direction: every import of every module, even inside a function, goes down; tests import helpers, not each other."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import python
from tests.helpers.repository import REPOSITORY

SRC = REPOSITORY / "src"
TESTS = REPOSITORY / "tests"

# A room may import from itself and from the rooms in the rows above its own in this table. A new room must be added here first.
LAYERS = (
    {"errors", "files", "checkpoint_files", "seeding", "signals", "progress"},  # the files on the ground
    {"schedules"},
    {"plans"},
    {"execution"},
    {"measures", "data", "models"},
    {"studies"},
    {"callbacks"},  # the public face: only re-exports
    {"app"},
)

PURE = {"errors", "files", "checkpoint_files", "seeding", "signals", "schedules", "plans"}  # the standard library only


def dotted(path: Path) -> str:
    """src/noisescale/data/__init__.py -> noisescale.data; train.py -> train."""
    parts = path.relative_to(SRC if path.is_relative_to(SRC) else REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {dotted(path): path for path in sorted((SRC / "noisescale").rglob("*.py"))}
SCRIPTS = {dotted(path): path for path in sorted(REPOSITORY.glob("*.py"))}


def imported(source: str, package: str, modules: set[str]) -> Iterator[str]:
    """Dotted names of what `source`, a module of `package`, imports; `from a import b` gives a.b if that is one of `modules`, else a."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base


def imports_of(name: str) -> set[str]:
    path = FILES.get(name) or SCRIPTS[name]
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    return set(imported(path.read_text(encoding="utf-8"), package, set(FILES)))


def room(name: str) -> str:
    """noisescale.data.images -> data; empty for the package itself, which is not in a room."""
    return name.split(".")[1] if "." in name else ""


def floor(of: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if of in rooms)


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "noisescale"}


def allowed(name: str, other: str) -> bool:
    """Whether `name` may import `other`, which must be below it or in the same room."""
    return room(other) == room(name) or floor(room(other)) < floor(room(name))


def top_level(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


IN_ROOMS = [name for name in FILES if room(name)]
IN_PURE = [name for name in IN_ROOMS if room(name) in PURE]


def test_the_walk_sees_every_kind_of_import() -> None:
    source = """
import os.path, torch.nn as nn
from noisescale import errors, __version__
from . import epochs
from .epochs import read
from ..errors import ConfigError
def later():
    from noisescale.data import images
"""
    modules = {"noisescale", "noisescale.measures.epochs", "noisescale.errors", "noisescale.data"}
    expected = {"os.path", "torch.nn", *modules}
    assert set(imported(source, "noisescale.measures", modules)) == expected


def test_every_room_has_one_place_in_the_table() -> None:
    placed = [name for rooms in LAYERS for name in rooms]
    assert len(placed) == len(set(placed))
    assert {room(name) for name in IN_ROOMS} == set(placed)


@pytest.mark.parametrize("name", IN_ROOMS)
def test_imports_go_down_only(name: str) -> None:
    up = {other for other in ours(imports_of(name)) if room(other) and not allowed(name, other)}
    assert not up, f"{name} imports {up}"


def test_the_callbacks_are_a_face_of_re_exports() -> None:
    tree = ast.parse(FILES["noisescale.callbacks"].read_text())
    assert [name for name in FILES if room(name) == "callbacks"] == ["noisescale.callbacks"]
    assert not [node for node in tree.body if not isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign))]


def test_the_package_itself_imports_none_of_its_rooms() -> None:
    assert not ours(imports_of("noisescale"))


def test_no_two_modules_import_each_other() -> None:
    graph = {name: ours(imports_of(name)) - {name} for name in FILES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES)  # raises CycleError, which names the cycle


@pytest.mark.parametrize("name", IN_PURE)
def test_schedules_and_plans_need_the_standard_library_only(name: str) -> None:
    assert top_level(imports_of(name)) <= sys.stdlib_module_names | {"noisescale"}


def test_planning_loads_no_torch() -> None:
    heavy = "('torch', 'numpy', 'pytorch_lightning', 'hydra', 'omegaconf')"
    code = f"import sys, {', '.join(IN_PURE)}; print([name for name in {heavy} if name in sys.modules])"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("name", IN_ROOMS)
def test_hydra_lives_in_the_app_alone(name: str) -> None:
    assert room(name) == "app" or not top_level(imports_of(name)) & {"hydra", "omegaconf"}


def test_no_test_imports_from_another() -> None:
    """What tests share is in tests/helpers, and helpers import no tests, so each file can be read, moved and run on its own."""
    helpers = {dotted(path) for path in (TESTS / "helpers").rglob("*.py")}
    for path in TESTS.rglob("*.py"):
        package = dotted(path.parent / "__init__.py")
        found = set(imported(path.read_text(encoding="utf-8"), package, helpers))
        strangers = {name for name in found if name.split(".")[0] in ("tests", "conftest")} - helpers
        assert not strangers, f"{path.relative_to(REPOSITORY)} imports {strangers}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_front_door_is_thin(name: str) -> None:
    """A program takes the configuration and makes one call; the work is done in a room of the package."""
    assert top_level(imports_of(name)) <= sys.stdlib_module_names | {"noisescale", "hydra", "omegaconf"}
