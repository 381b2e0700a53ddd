"""Check of one server address: the protocol that it speaks, and what its server reports about a model."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tfship.client.doctor.findings import Finding, fault, ok
from tfship.client.doctor.served_models import ServerReport
from tfship.client.targets import port_probe
from tfship.client.targets.connection import GRPC_PORT, REST_PORT, Connection, Servable
from tfship.client.targets.model_info import AVAILABLE
from tfship.client.targets.server_info import GrpcInspector, Inspector, RestInspector
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["examine"]

_FLAGS = {port_probe.REST: f"--rest (usually {REST_PORT})", port_probe.GRPC: f"--grpc (usually {GRPC_PORT})"}
_SERVER_FLAGS = {port_probe.REST: "--rest_api_port", port_probe.GRPC: "--port"}

# By `client.targets.port_probe.ProbeResult.kind`: the fault, and its remedy.
_FAULTS = {
    "unknown host": ("no such host ({detail})", "correct the name, or give the IP address"),
    "refused": (
        "no process listens there (connection refused)",
        "start the server (`tfship serve`) with {flag}={port}, or give the right port; in a container, publish it "
        "(-p {port}:{port}), and read its log: a server opens its ports once its models are loaded",
    ),
    "unreachable": (
        "no connection ({detail})",
        "check whether the machine is up, and whether a firewall blocks the port; a container's port must be published "
        "(-p {port}:{port})",
    ),
    "silent": (
        "accepts connections and never responds (waited {timeout:g} s)",
        "the process there hangs or is no model server; read its log, restart it, or give another port",
    ),
    "closed": (
        "accepts connections and closes them at once",
        "typical of a container whose server isn't up: read its log (docker logs), and check whether it publishes the "
        "ports that the server opens",
    ),
    "other": (
        "another service responds there ({detail!r}), no model server",
        "give the port of the model server",
    ),
    "tls": (
        "expects TLS, and got plain text",
        "add --tls, and --ca for a private authority",
    ),
    "plain": (
        "speaks plain text, and got TLS",
        "omit --tls, --ca and --cert, or start the server with --ssl_config_file",
    ),
    "untrusted": (
        "its certificate isn't trusted ({detail})",
        "give the authority that signed it by --ca, and the host's name as in the certificate",
    ),
    "certificate": (
        "ends the connection where it expects a client certificate",
        "give one by --cert and --key that an authority of the server (custom_ca) has signed",
    ),
    "broken tls": (
        "the TLS handshake fails ({detail})",
        "read the server's log and check its --ssl_config_file",
    ),
}


def examine(
    report: ServerReport,
    protocol: str | None,
    connection: Connection,
    servable: Servable,
    names: Iterable[str],
    labels: Sequence[str],
) -> None:
    """Check the address of `connection`, expected to speak `protocol` (None: either), and fill in `report`.

    The report is filled step by step, so that it is of use if the check takes too long. `names` and `labels` are tried
    if the server doesn't know those of `servable`.
    """
    found = port_probe.probe(
        connection.server, connection.tls, protocol or port_probe.REST, connection.timeout
    )
    if found.kind not in (port_probe.REST, port_probe.GRPC):
        problem, remedy = _FAULTS[found.kind]
        values = {
            "detail": found.detail, "timeout": connection.timeout, "flag": _SERVER_FLAGS[protocol or port_probe.REST],
            "port": port_probe.address(connection.server)[1],
        }  # fmt: skip
        report.findings.append(fault(report.about, problem.format(**values), remedy.format(**values)))
        return
    if protocol and found.kind != protocol:
        report.findings.append(
            fault(
                report.about,
                f"speaks {_spoken(found.kind)}, so it is no port for {protocol}",
                f"give this address by {_FLAGS[found.kind]}, and that for {protocol} by {_FLAGS[protocol]}",
            )
        )
    inspector = (RestInspector if found.kind == port_probe.REST else GrpcInspector)(
        replace(connection, retries=0)
    )
    try:
        _inspect(report, inspector, servable, names, labels)
    except Unreachable as error:
        report.findings.append(_no_response(report.about, connection, str(error)))
    except Refused as error:
        report.findings.append(
            fault(
                report.about,
                f"refuses the request ({error})",
                "check whether this is the model server, and read its log",
            )
        )
    except ValueError as error:
        report.findings.append(
            fault(
                report.about,
                f"speaks {_spoken(found.kind)}, but isn't a model server ({error})",
                "another server has this port: give the model server's",
            )
        )
    else:
        if protocol in (None, found.kind):
            report.findings.append(ok(report.about, f"a model server responds over {found.kind}"))
    finally:
        inspector.close()


def _inspect(
    report: ServerReport,
    inspector: Inspector,
    servable: Servable,
    names: Iterable[str],
    labels: Sequence[str],
) -> None:
    report.healthy = inspector.healthy()
    versions = inspector.versions(servable.name)
    if not versions:
        tried = dict.fromkeys([*inspector.models(), *names])
        tried.pop(servable.name, None)
        report.others = [name for name in tried if inspector.versions(name)]
        report.versions = versions
        return
    report.versions = versions
    if not any(each.state == AVAILABLE for each in versions):
        return
    try:
        report.served = inspector.served(servable)
    except Refused as error:
        report.refusal = str(error)
        if servable.label is not None:
            report.labels = dict(_labels(inspector, servable, labels))


def _labels(inspector: Inspector, servable: Servable, labels: Sequence[str]) -> Iterable[tuple[str, int]]:
    for label in labels:
        try:
            yield label, inspector.served(replace(servable, label=label)).version
        except Refused:
            continue


def _no_response(about: str, connection: Connection, reason: str) -> Finding:
    proxies = "" if connection.is_local else _proxies(connection.server)
    if proxies:
        return fault(
            about,
            f"responds directly, but not through the proxy that the environment sets ({proxies}): {reason}",
            f"bypass the proxy for this host: export no_proxy={port_probe.address(connection.server)[0]}",
        )
    return fault(
        about,
        f"doesn't respond to a request about the model ({reason})",
        "it is overloaded, shutting down, or not ready yet: run the doctor again later, and read the server's log",
    )


def _proxies(server: str) -> str:
    """Return the proxies in the environment that a request to `server` would use."""
    import requests

    if requests.utils.should_bypass_proxies(f"http://{server}", None):
        return ""
    names = [
        each
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
        for each in (name, name.upper())
    ]
    return ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))


def _spoken(kind: str) -> str:
    return "HTTP/1.1 (as REST)" if kind == port_probe.REST else "HTTP/2 (as gRPC)"
