"""Compiling and loading: once per machine, side by side, and never a reason to fall over."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.device import prepare_device
from engine.errors import KernelsUnavailable
from engine.native import build as native
from engine.native.load import usable_cpus


@pytest.fixture
def compilers(tmp_path, monkeypatch):
    """A path on which programs are only those that a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def compiler(folder: Path, script: str) -> None:
    program = folder / "g++"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def linker(folder: Path) -> Path:
    """A compiler that writes down each call and makes an empty file of what it should."""
    calls = folder / "calls"
    compiler(folder, f'echo "$@" >> {calls}\nfor last in "$@"; do :; done\n: > "$last"')
    return calls


def test_without_a_compiler_there_is_a_reason(compilers):
    with pytest.raises(KernelsUnavailable, match=r"no C\+\+ compiler"):
        native.build()


def test_a_device_without_kernels_says_why(compilers):
    device = prepare_device()
    assert device.native is None
    if device.kind == "cpu":
        assert device.kernels.startswith("none: there is no C++ compiler")
        assert "g++" in device.advice


def test_kernels_can_be_switched_off():
    device = prepare_device("off")
    assert device.native is None
    assert device.kernels in {"off", ""}


def test_a_compiler_that_fails_ends_in_one_line(compilers, tmp_path):
    compiler(compilers, "echo 'x.cpp:3:1: fatal error: no such thing' >&2; echo more >&2; exit 1")
    with pytest.raises(KernelsUnavailable, match=r"the compiler failed: .*fatal error: no such thing") as raised:
        native.build(cache=tmp_path / "cache")
    assert "\n" not in raised.value.reason
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_second_build_compiles_nothing(compilers, tmp_path):
    calls = linker(compilers)
    first = native.build(cache=tmp_path / "cache")
    count = len(calls.read_text().splitlines())
    assert count == len(list(Path(native.__file__).parent.glob("*.cpp"))) + 2  # nanobind's own file, and the link
    assert native.build(cache=tmp_path / "cache") == first
    assert len(calls.read_text().splitlines()) == count


def test_another_target_or_compiler_is_another_module(compilers, tmp_path):
    linker(compilers)
    first = native.build(cache=tmp_path / "cache")
    assert native.build("portable", cache=tmp_path / "cache") != first
    linker(compilers)
    compiler(compilers, (compilers / "g++").read_text() + "# changed")
    assert native.build(cache=tmp_path / "cache") != first


def test_a_folder_that_cannot_be_written_is_a_reason(compilers, tmp_path):
    linker(compilers)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(KernelsUnavailable, match="could not be stored"):
        native.build(cache=tmp_path / "cache")


def test_two_processes_may_build_at_once(tmp_path):
    code = f"import pathlib, engine.native.build as b; b.build(cache=pathlib.Path({str(tmp_path)!r}))"
    linker(tmp_path)
    programs = [
        subprocess.Popen([sys.executable, "-c", code], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}) for _ in range(2)
    ]
    assert [each.wait() for each in programs] == [0, 0]
    assert len(list(tmp_path.glob("*.so"))) == 1
    assert not list(tmp_path.glob("building-*"))


def test_threads_can_be_set(kernels):
    for number in (1, 3, 2):
        kernels.set_threads(number)
        assert kernels.threads() == number
    assert usable_cpus() >= 1
