"""The study's scenarios: servers of this machine behind Envoy, replaced, weighted, killed and counted."""

import contextlib
import http.client
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.benchmarks.harness import process_info
from tfship.benchmarks.harness.server_process import Addresses, Server, embedded
from tfship.benchmarks.studies.rollout import envoy
from tfship.benchmarks.studies.rollout.envoy import Envoy
from tfship.benchmarks.studies.rollout.manifest import PodSettings
from tfship.benchmarks.studies.rollout.traffic import Payload, Sent, repeat, sender, traffic
from tfship.train.common import interruption
from tfship.train.common.errors import ResultError
from tfship.train.common.progress import Progress

__all__ = ["CANARY", "STABLE", "Site", "balancing", "canary", "failure", "replacements"]

STABLE, CANARY = "stable", "canary"
_ALL = {STABLE: 100}
# One worker each, and no TensorFlow, so that two servers, Envoy and the callers fit two cores.
_FLAGS = ("--workers=1", "--prefer_tflite_model")
# Kubernetes removes an address from all nodes some time after a pod has begun to end.
_LAG_SECONDS = 1.0
_SETTLE_SECONDS = 1.0
_WATCH_SECONDS = 40.0


@dataclass(frozen=True)
class Site:
    """What all scenarios use: the folder of models, the request, the manifest's settings, the load.

    `wait` is the time between the removal of an address and SIGTERM.
    """

    models: Path
    request: Payload
    pod: PodSettings
    wait: float
    callers: int = 2
    pause: float = 0.01

    @contextlib.contextmanager
    def server(self, models: Path | None = None) -> Iterator[Server]:
        """Start a server with the manifest's flags; stop it at the end, if it still runs."""
        flags = (*self.pod.flags, *_FLAGS)
        with embedded(models or self.models, [self.request.model], *flags) as server:
            yield server

    def traffic(self, addresses: Addresses) -> contextlib.AbstractContextManager[Mapping[str, Sent]]:
        """Send requests during the block."""
        return traffic(addresses, self.request, self.callers, self.pause)


def replacements(site: Site, count: int, *, waits: bool = True) -> dict[str, Any]:
    """Replace one of two servers `count` times under load.

    As in a rolling update of the Deployment: the new server is ready, and Envoy has its address, before the old one's
    address is removed. After the manifest's wait, the old one gets SIGTERM. Unless it `waits`, it gets SIGTERM at once,
    and its address is removed a second later.
    """
    starts: list[float] = []
    drains: list[float] = []
    codes: list[int] = []
    begun = time.monotonic()
    with contextlib.ExitStack() as stack, _envoy(_ALL, site.pod) as balancer:
        servers = [stack.enter_context(site.server()) for _ in range(2)]
        _serve(balancer, STABLE, servers)
        with site.traffic(balancer) as counts, Progress("replacements", count, "servers") as progress:
            for _ in range(count):
                new = stack.enter_context(site.server())
                starts.append(new.ready_ms / 1e3)
                _serve(balancer, STABLE, [*servers, new])
                old, *servers = [*servers, new]
                if waits:
                    balancer.route(STABLE, servers)
                    _sleep(site.wait)
                old.process.send_signal(signal.SIGTERM)
                begin = time.monotonic()
                if not waits:
                    _sleep(_LAG_SECONDS)
                    balancer.route(STABLE, servers)
                _await_end(old, site.pod.drain)
                drains.append(time.monotonic() - begin)
                codes.append(old.process.returncode)
                progress.advance(1, note=f"{sum(len(each.failures) for each in counts.values())} failed")
    if failed := [code for code in codes if code]:
        raise ResultError(f"a server ended with exit code {failed[0]} after SIGTERM")
    return {
        "count": count,
        "wait_seconds": site.wait if waits else 0.0,
        "seconds": round(time.monotonic() - begun, 1),
        "start_seconds": [round(each, 2) for each in starts],
        "drain_seconds": [round(each, 2) for each in drains],
        **_counted(counts),
    }


def canary(site: Site, percent: int, requests: int) -> dict[str, Any]:
    """Send `requests` over each protocol to two servers, the second of which is to get `percent` of them."""
    with contextlib.ExitStack() as stack:
        weights = {STABLE: 100 - percent, CANARY: percent}
        balancer = stack.enter_context(_envoy(weights, site.pod))
        servers = [stack.enter_context(site.server()) for _ in weights]
        for name, server in zip(weights, servers, strict=True):
            _serve(balancer, name, [server])
        found: dict[str, Any] = {"percent": percent}
        for protocol in ("rest", "grpc"):
            sent, shares = _share(site, protocol, getattr(balancer, protocol), servers, requests, clients=4)
            found[protocol] = {**_row(sent), "canary_percent": round(100 * shares[1], 2)}
    return found


def balancing(site: Site, requests: int) -> dict[str, Any]:
    """Send `requests` over one gRPC channel in three ways, and return the share of the busier of two servers.

    Through Envoy, as with a service mesh; by the client's round robin, as with a headless Service; and over one
    connection, as with an ordinary Service.
    """
    with contextlib.ExitStack() as stack:
        balancer = stack.enter_context(_envoy(_ALL, site.pod))
        servers = [stack.enter_context(site.server()) for _ in range(2)]
        _serve(balancer, STABLE, servers)
        both = f"ipv4:{','.join(each.grpc for each in servers)}"
        ways = {
            "envoy": (balancer.grpc, "pick_first"),
            "round_robin": (both, "round_robin"),
            "connection": (servers[0].grpc, "pick_first"),
        }
        found = {}
        for name, (address, policy) in ways.items():
            sent, shares = _share(site, "grpc", address, servers, requests, clients=1, policy=policy)
            found[name] = {**_row(sent), "busier_percent": round(100 * max(shares), 2)}
    return found


def failure(site: Site, kind: str) -> dict[str, Any]:
    """Kill one of two servers under load (`killed`), or take its model away (`unready`).

    Returns the number of failed requests, and the seconds from the event to the last of them.
    """
    with contextlib.ExitStack() as stack:
        balancer = stack.enter_context(_envoy(_ALL, site.pod))
        other = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tfship-")))
        # Its version is a link, which can be removed.
        (version,) = (site.models / site.request.model).iterdir()
        link = other / site.request.model / version.name
        link.parent.mkdir()
        link.symlink_to(version.resolve())
        servers = [stack.enter_context(site.server()), stack.enter_context(site.server(other))]
        _serve(balancer, STABLE, servers)
        with site.traffic(balancer) as counts:
            _sleep(_SETTLE_SECONDS)
            event = time.monotonic()
            if kind == "killed":
                _kill(servers[1])
            else:
                link.unlink()
            healthy = {servers[0].rest}
            end = event + _WATCH_SECONDS
            while balancer.healthy(f"{STABLE}-rest") != healthy and time.monotonic() < end:
                _sleep(0.05)
            removed = time.monotonic() - event
            _sleep(site.pod.ready_period + _SETTLE_SECONDS)
    rows = _counted(counts)
    for protocol, sent in counts.items():
        last = max((moment - event for moment, _ in sent.failures), default=0.0)
        rows[protocol]["last_failure_seconds"] = round(last, 2)
    return {"kind": kind, "removed_seconds": round(removed, 2), **rows}


@contextlib.contextmanager
def _envoy(weights: Mapping[str, int], pod: PodSettings) -> Iterator[Envoy]:
    with (
        tempfile.TemporaryDirectory(prefix="tfship-") as folder,
        envoy.running(Path(folder), weights, pod) as balancer,
    ):
        yield balancer


def _serve(balancer: Envoy, cluster: str, servers: Sequence[Server]) -> None:
    balancer.route(cluster, servers)
    balancer.wait_until_healthy(cluster, servers)


def _await_end(server: Server, seconds: float) -> None:
    try:
        server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise ResultError(f"a server didn't end within {seconds:.0f} s after SIGTERM") from None


def _kill(server: Server) -> None:
    """Kill a server with its processes, as when a node fails."""
    # The process itself comes first, so that it can't replace its workers.
    for pid in process_info.tree(server.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()


def _share(
    site: Site,
    protocol: str,
    address: str,
    servers: Sequence[Server],
    requests: int,
    *,
    clients: int,
    policy: str = "pick_first",
) -> tuple[Sent, list[float]]:
    """Send requests and return their counts, and the share of each server by its own metrics."""
    before = [_served(each, site.pod.metrics) for each in servers]
    with contextlib.ExitStack() as stack:
        sends = [stack.enter_context(sender(protocol, address, site.request, policy)) for _ in range(clients)]
        sent = repeat(sends, requests)
    counts = [_served(each, site.pod.metrics) - was for each, was in zip(servers, before, strict=True)]
    return sent, [each / max(1, sum(counts)) for each in counts]


def _served(server: Server, path: str) -> int:
    """Return the number of requests that a server has completed, by its metrics page."""
    connection = http.client.HTTPConnection(server.rest, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        page = connection.getresponse().read().decode()
    lines = [each for each in page.splitlines() if each.startswith(":tensorflow:serving:request_count{")]
    return round(sum(float(each.rpartition(" ")[2]) for each in lines))


def _sleep(seconds: float) -> None:
    with interruption.waiting():
        time.sleep(seconds)


def _counted(counts: Mapping[str, Sent]) -> dict[str, Any]:
    return {protocol: _row(sent) for protocol, sent in counts.items()}


def _row(sent: Sent) -> dict[str, Any]:
    reasons = sorted({reason for _, reason in sent.failures})
    return {"requests": sent.requests, "failed": len(sent.failures), "reasons": reasons[:3]}
