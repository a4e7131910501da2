"""The rules of the house: rooms and their order, who may import whom, who reads the environment."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import blas

ROOT = Path(__file__).parent.parent
ENGINE = sorted((ROOT / "engine").rglob("*.py"))
SERVER = sorted((ROOT / "server").rglob("*.py"))
ARCHITECTURES = sorted(path for path in (ROOT / "engine" / "architectures").glob("*.py") if path.stem != "__init__")

# The rooms of the server from the top floor down. A module imports rooms of its own floor and below.
FLOORS = [
    {"cli"},
    {"serve"},
    {"app"},
    {"api/models"},
    {"api/decisions"},
    {"api/messages", "api/responses", "api/tokens"},
    {"api/chat", "api/completions", "api/rerank"},
    {"api/embeddings", "api/shared"},
    {"api/operations", "generation"},
    {"http", "monitoring"},
    {"models"},
    {"worker"},
    {"terminal"},
    {"store"},
    {"wire"},
    {"config_file", "options", "settings"},
    {"errors", "limits", "parsing", "exit_codes", "log_lines", "sizes", "version"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAX_MODULES = 25
MAX_ROOT_MODULES = 14


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(module: str) -> str:
    """The room of a module of the server: a folder, an API's folder, or a module at the root."""
    parts = module.split(".")[1:]
    return "/".join(parts[:2] if parts[0] == "api" and len(parts) > 2 else parts[:1])


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def rooms_imported(path: Path) -> set[str]:
    modules = {module for module in imported(path) if module.startswith("server.")}
    return {room(module) for module in modules} & FLOOR_OF.keys()


def find_circle(imports: dict[str, set[str]]) -> list[str]:
    """A way through the folders that ends where it began; empty where there is none."""

    def search(folder: str, way: tuple[str, ...]) -> list[str]:
        if folder in way:
            return [*way[way.index(folder) :], folder]
        for each in sorted(imports.get(folder, set()) - {folder} - done):
            if found := search(each, (*way, folder)):
                return found
        done.add(folder)
        return []

    done: set[str] = set()
    return next((found for folder in sorted(imports) if (found := search(folder, ()))), [])


@pytest.mark.parametrize("path", [path for path in SERVER if path.stem not in ("__init__", "__main__")], ids=name)
def test_no_import_of_the_server_runs_up(path):
    own = room(module_of(path))
    assert own in FLOOR_OF, f"{own} has no floor: say in FLOORS where it belongs"
    assert not [each for each in rooms_imported(path) if FLOOR_OF[each] < FLOOR_OF[own]]


def test_rooms_of_the_server_import_one_another_in_no_circle():
    imports: dict[str, set[str]] = {}
    for path in SERVER:
        if path.parent != ROOT / "server" or path.stem != "__init__":
            imports.setdefault(room(module_of(path)), set()).update(rooms_imported(path))
    assert find_circle(imports) == []


def test_folders_of_the_engine_import_one_another_in_no_circle():
    imports: dict[str, set[str]] = {}
    folders = {path.name for path in (ROOT / "engine").iterdir() if any(path.glob("*.py"))}
    for path in ENGINE:
        parts = (module.split(".") for module in imported(path) if module.startswith("engine."))
        folder = path.relative_to(ROOT / "engine").parts[0]
        if folder in folders:
            imports.setdefault(folder, set()).update(each[1] for each in parts if each[1] in folders)
    assert find_circle(imports) == []


def test_no_folder_is_crowded():
    counts = {
        name(folder): len([path for path in folder.glob("*.py") if path.stem != "__init__"])
        for tree in ("engine", "server", "tests")
        for folder in [ROOT / tree, *(ROOT / tree).rglob("*")]
        if folder.is_dir() and folder.name != "architectures"
    }
    assert not {folder: count for folder, count in counts.items() if count > MAX_MODULES}
    assert counts["server"] <= MAX_ROOT_MODULES


@pytest.mark.parametrize("tree", ["engine", "server"])
def test_the_tests_mirror_the_tree(tree):
    tests = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests" / tree).rglob("test_*.py")}
    assert not [str(folder) for folder in tests if not (ROOT / folder).is_dir()]


@pytest.mark.parametrize("path", ENGINE, ids=name)
def test_the_engine_never_imports_the_server(path):
    assert not [module for module in imported(path) if module.split(".")[0] in {"server", "fastapi", "asyncio"}]


@pytest.mark.parametrize("path", ARCHITECTURES, ids=name)
def test_architectures_never_import_one_another(path):
    assert not [module for module in imported(path) if module.startswith("engine.architectures")]


@pytest.mark.parametrize("path", sorted((ROOT / "engine" / "layers").glob("*.py")), ids=name)
def test_layers_take_numbers_not_configurations(path):
    assert "engine.config.ConfigReader" not in imported(path)


@pytest.mark.parametrize("path", ENGINE + SERVER, ids=name)
def test_nothing_unpickles_or_evaluates(path):
    tree = ast.parse(path.read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec"}
    assert not {module.split(".")[0] for module in imported(path)} & {"pickle", "torch", "transformers", "mlx_lm"}


@pytest.mark.parametrize("path", [path for path in ENGINE + SERVER if path.stem != "settings"], ids=name)
def test_only_the_settings_read_the_environment(path):
    assert not {"os.environ", "os.getenv"} & set(imported(path))
    uses = [node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    assert not {"environ", "getenv"} & set(uses)


def test_the_parent_process_imports_no_mlx():
    modules = "server.app, server.worker.supervisor, server.cli.app, engine.text.load"
    code = f"import sys, {modules}; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


COMPUTING = [
    "engine.engine",
    "engine.embedding.embedder",
    "engine.evaluation.evaluate",
    *(f"engine.compression.{each}" for each in ("prune", "distill", "student", "trainer")),
]


@pytest.mark.parametrize("module", COMPUTING)
def test_whoever_computes_loads_the_fast_blas_before_mlx(module):
    if blas.preload() == "bundled":
        pytest.skip("there is no OpenBLAS on this machine")
    code = f"import {module}, engine.device; sys = __import__('sys'); sys.exit(engine.device._BLAS == 'bundled')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
