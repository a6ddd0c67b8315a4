"""The one-way street: every import of every module, also those inside functions, points up the table below."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"

# A room imports from its own row and from the rows above it. A new room gets a place here first.
LAYERS = {
    "numbers": {"errors", "schedules", "noise", "quadratic", "rows", "seeding", "sizes"},
    "decisions": {"batching", "duality", "planning"},
    "tensors": {"loading", "optimizers", "gradients", "curvature"},
    "lightning": {"module", "data", "models", "callbacks", "probing", "lean"},
    "results": {"claims", "reporting"},
    "front doors": {"choices", "processes", "frontdoor", "pool", "preview", "results", "training"},
}
ROWS = list(LAYERS)

PURE = ["numbers", "decisions"]  # the standard library only
BELOW_LIGHTNING = [*PURE, "tensors"]
HYDRA_ROOMS = {"choices", "frontdoor", "pool", "preview", "training"}


def dotted(path: Path) -> str:
    """src/noisescale/data/__init__.py -> noisescale.data; train.py -> train."""
    parts = path.relative_to(SRC if path.is_relative_to(SRC) else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {dotted(path): path for path in sorted((SRC / "noisescale").rglob("*.py"))}
SCRIPTS = {dotted(path): path for path in sorted(ROOT.glob("*.py"))}


def imported(source: str, package: str, modules: set[str]) -> Iterator[str]:
    """Dotted names of what `source`, a module of `package`, imports: one of `modules` where it is one, else as written."""
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
    """noisescale.data.images -> data; the package itself is no room."""
    return name.split(".")[1] if "." in name else ""


def row(name: str) -> int:
    return next(i for i, layer in enumerate(ROWS) if room(name) in LAYERS[layer])


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "noisescale"}


def rooms_in(layers: list[str]) -> list[str]:
    return [name for name in FILES if any(room(name) in LAYERS[layer] for layer in layers)]


def top_level(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


IN_ROOMS = [name for name in FILES if room(name)]


def test_the_walk_sees_every_kind_of_import() -> None:
    source = """
import os.path, torch.nn as nn
from noisescale import planning, __version__
from . import epochs
from .epochs import read
from ..errors import ConfigError
def later():
    from noisescale.data import images
"""
    modules = {"noisescale", "noisescale.planning", "noisescale.callbacks.epochs", "noisescale.errors", "noisescale.data"}
    expected = {"os.path", "torch.nn", *modules}
    assert set(imported(source, "noisescale.callbacks", modules)) == expected


def test_every_room_has_one_place_in_the_table() -> None:
    placed = [name for layer in LAYERS.values() for name in layer]
    assert len(placed) == len(set(placed))
    assert {room(name) for name in IN_ROOMS} <= set(placed)


@pytest.mark.parametrize("name", IN_ROOMS)
def test_imports_point_up_the_table(name: str) -> None:
    downwards = {other for other in ours(imports_of(name)) if room(other) and row(other) > row(name)}
    assert not downwards, f"{name} ({ROWS[row(name)]}) imports {downwards}"


def test_the_package_itself_imports_none_of_its_rooms() -> None:
    assert not ours(imports_of("noisescale"))


def test_no_two_modules_import_each_other() -> None:
    graph = {name: ours(imports_of(name)) - {name} for name in FILES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES)  # raises CycleError with the cycle


@pytest.mark.parametrize("name", rooms_in(PURE))
def test_numbers_and_decisions_need_the_standard_library_only(name: str) -> None:
    assert top_level(imports_of(name)) <= sys.stdlib_module_names | {"noisescale"}


def test_planning_loads_no_torch() -> None:
    rooms = ", ".join(rooms_in(PURE))
    heavy = "('torch', 'numpy', 'pytorch_lightning', 'hydra', 'omegaconf')"
    code = f"import sys, {rooms}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("name", rooms_in(BELOW_LIGHTNING))
def test_what_lies_above_lightning_does_not_import_it(name: str) -> None:
    assert not top_level(imports_of(name)) & {"pytorch_lightning", "lightning"}


@pytest.mark.parametrize("name", IN_ROOMS)
def test_hydra_stops_at_the_front_doors(name: str) -> None:
    assert room(name) in HYDRA_ROOMS or not top_level(imports_of(name)) & {"hydra", "omegaconf"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_front_door_is_thin(name: str) -> None:
    """Configuration in, one call: the work is in a room of the package."""
    assert top_level(imports_of(name)) <= sys.stdlib_module_names | {"noisescale", "hydra", "omegaconf"}
