"""The kernels in every form that this machine can run."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from engine.errors import KernelsUnavailable
from engine.native.load import load_kernels


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--checked", action="store_true", help="build the kernels with sanitizers, for this machine only")


@pytest.fixture(scope="session", autouse=True)
def _cpu():
    mx.set_default_device(mx.Device(mx.cpu))


@pytest.fixture(scope="session", params=["native", "avx2", "portable"])
def kernels(request: pytest.FixtureRequest) -> Any:
    checked = request.config.getoption("--checked")
    if checked and request.param != "native":
        pytest.skip("sanitizers look at one form")
    if request.param == "avx2" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX2")
    try:
        return load_kernels(request.param, threads=2, checked=checked)
    except KernelsUnavailable as unavailable:
        pytest.skip(unavailable.reason)
