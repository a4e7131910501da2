"""The rules of the house: who may import whom, who reads the environment, who starts processes."""

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


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


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
