"""Clients of the Open Inference Protocol by NVIDIA (tritonclient) and KServe, over HTTP and both HTTP/2 engines."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_fixtures import eventually
from tfship.serving.server.model_server import Settings
from third_party_clients import environments
from third_party_clients.server import Server, started

DOUBLED = [[2.0, 4.0], [6.0, 9.0]]


@pytest.fixture(params=["ngh2", "h2"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with started(tmp_path, Settings(http2_engine=request.param)) as server:
        yield server


def _check(server: Server, python: Path, script: str) -> dict[str, dict[str, Any]]:
    """Return what a script of `drivers` prints."""
    ports = (str(server.client.rest_port), str(server.client.grpc_port))
    done = subprocess.run(
        [python, environments.DRIVERS / script, *ports],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    eventually(lambda: not server.connections)
    return found


def test_tritonclient(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = _check(server, environments.tritonclient(tmp_path_factory), "tritonclient_check.py")
    for name, each in found.items():
        assert (each["live"], each["ready"], each["models"], each["name"]) == (
            True, True, [True, False], "double",
        )  # fmt: skip
        assert each["rows"] == DOUBLED
        assert (each["large"], each["gzip"]) == (True, True)
        status, message = each["unknown"]
        assert status == {"http": "404", "grpc": "StatusCode.NOT_FOUND"}[name]
        assert "größe" in message
        assert each["shape"][0] == {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}[name]
    assert found["grpc"]["deadline"][0] == "StatusCode.DEADLINE_EXCEEDED"
    assert found["grpc"]["afterwards"] == DOUBLED


def test_kserve(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = _check(server, environments.kserve(tmp_path_factory), "kserve_check.py")
    for each in found.values():
        assert (each["live"], each["ready"]) == (True, True)
        assert each["models"] == [True, False]
        assert (each["typed"], each["binary"], each["large"]) == (DOUBLED, DOUBLED, True)
        assert "größe" in each["unknown"]
