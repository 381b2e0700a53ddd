"""Clients of other makers: installed programs, and packages in an environment that is made once a run.

Nothing is installed into the environment of the tests, and a machine without a package registry skips their tests.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import made_once

# The tests themselves run without a network (tests/conftest.py).
_ONLINE = {**os.environ}
# All reasons for which these tests are skipped begin with it.
_MISSING = "no third-party client: "
_REASON = "unavailable.txt"
_ASKED = "TFSHIP_THIRD_PARTY"
_SECONDS = 900
DRIVERS = Path(__file__).resolve().parent / "drivers"


def asked() -> bool:
    """Return whether clients are to be installed."""
    return bool(os.environ.get(_ASKED))


def program(name: str) -> str:
    """Return the path of an installed program, or skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{_MISSING}{name} isn't installed")
    return found


def python(factory: pytest.TempPathFactory, name: str, *packages: str) -> Path:
    """Return the interpreter of an environment with `packages` from the package index, or skip."""

    def make(folder: Path) -> None:
        _run(folder, sys.executable, "-m", "venv", folder)
        pip = (_python(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        # No sources: building them takes minutes, and tools.
        limits = ("--only-binary=:all:", "--no-compile", "--retries=1", "--timeout=20")
        _run(folder, *pip, *limits, *packages)

    return _python(_made(factory, f"python-{name}", make))


def node_modules(factory: pytest.TempPathFactory, *packages: str, name: str = "node") -> Path:
    """Return a folder `node_modules` with `packages` from the npm registry, or skip."""
    npm = program("npm")

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "package.json").write_text("{}")
        quiet = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1")
        _run(folder, npm, "install", *quiet, "--fetch-timeout=20000", *packages)

    return _made(factory, name, make) / "node_modules"


def _python(folder: Path) -> Path:
    # The folder is renamed when it is complete: scripts such as bin/pip name the old one.
    return folder / "bin" / "python"


def _made(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    if not asked():
        pytest.skip(f"takes minutes: set {_ASKED}=1 to install clients of other makers from their registries")
    folder = made_once(factory, f"third-party-{name}", make)
    if (reason := folder / _REASON).exists():
        pytest.skip(_MISSING + reason.read_text())
    return folder


def _run(folder: Path, *command: str | Path) -> None:
    """Run a command of an installation; write down why it failed, so that it isn't tried again."""
    if (folder / _REASON).exists():
        return
    try:
        done = subprocess.run(
            command, cwd=folder.parent if not folder.exists() else folder, env=_ONLINE, capture_output=True,
            text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
        failed, output = done.returncode != 0, done.stderr + done.stdout
    except subprocess.TimeoutExpired:
        failed, output = True, f"it took more than {_SECONDS} s"
    if failed:
        folder.mkdir(exist_ok=True)
        last = (output.strip().splitlines() or ["without a message"])[-1]
        (folder / _REASON).write_text(f"{' '.join(map(str, command[1:4]))} failed: {last}")


def grpclib(factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter with NVIDIA's client, which needs an older protobuf, and grpclib."""
    return python(factory, "tritonclient", "tritonclient[grpc,http]>=2.60", "grpclib>=0.4.9")


tritonclient = grpclib


def kserve_storage(factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter with KServe's storage initializer."""
    return python(factory, "kserve-storage", "kserve-storage>=0.16")


def azurite(factory: pytest.TempPathFactory) -> Path:
    """Return the program of an Azure Blob Storage server."""
    return node_modules(factory, "azurite", name="azurite") / "azurite" / "dist" / "src" / "blob" / "main.js"


def kserve(factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter with KServe's SDK: 450 MB of packages."""
    return python(factory, "kserve", "kserve>=0.15")


def grpc_js(factory: pytest.TempPathFactory) -> Path:
    """Return the folder `node_modules` with @grpc/grpc-js."""
    return node_modules(factory, "@grpc/grpc-js@1")


def kubernetes_models(factory: pytest.TempPathFactory) -> Path:
    """Return the folder `node_modules` with the schemas of KEDA's and the Prometheus operator's objects."""
    packages = ("@kubernetes-models/keda", "@kubernetes-models/prometheus-operator")
    return node_modules(factory, *packages, name="kubernetes-models")


def checkov(factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter with checkov, a checker of policies."""
    return python(factory, "checkov", "checkov>=3.2")
