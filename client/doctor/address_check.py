"""One address of a server, examined: who speaks there, and what that server tells of a model."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tfship.client.doctor.findings import Finding, fault, ok
from tfship.client.doctor.served_models import Told
from tfship.client.targets import port_probe
from tfship.client.targets.connection import GRPC_PORT, REST_PORT, Connection, Servable
from tfship.client.targets.model_info import AVAILABLE
from tfship.client.targets.server_info import GrpcInspector, Inspector, RestInspector
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["examine"]

_FLAGS = {port_probe.REST: f"--rest (usually {REST_PORT})", port_probe.GRPC: f"--grpc (usually {GRPC_PORT})"}
_STARTS = {port_probe.REST: "--rest_api_port", port_probe.GRPC: "--port"}

# By what was heard (`client.targets.port_probe.Heard`): what is wrong, and what to do about it.
_HEARD = {
    "unknown host": ("no such host ({detail})", "check the name, or give the address by number"),
    "refused": (
        "nothing listens there (connection refused)",
        "start the server (`tfship serve`) with {starts}={port}, or name the right port; in a container, publish it "
        "(-p {port}:{port}), and see its log: until its models are loaded, a server opens no port",
    ),
    "unreachable": (
        "no connection ({detail})",
        "see whether the machine is up, and whether a firewall is between; a container's port must be published "
        "(-p {port}:{port})",
    ),
    "silent": (
        "takes connections and never answers (waited {timeout:g} s)",
        "whatever listens there hangs or is no model server; look at its log, restart it, or name another port",
    ),
    "closed": (
        "takes connections and closes them at once",
        "a container whose server isn't up does that: see its log (docker logs), and whether the ports that it "
        "publishes are those that the server opens",
    ),
    "other": (
        "something else answers there ({detail!r}), no model server",
        "name the port of the model server",
    ),
    "tls": (
        "expects TLS, and was spoken to in plain text",
        "add --tls, and --ca for an authority of your own",
    ),
    "plain": (
        "speaks plain text, and was spoken to in TLS",
        "leave --tls, --ca and --cert away, or start the server with --ssl_config_file",
    ),
    "untrusted": (
        "its certificate isn't trusted ({detail})",
        "give the authority that signed it by --ca, and the host's name as in the certificate",
    ),
    "certificate": (
        "ends the connection where a client's certificate is due",
        "give one by --cert and --key that an authority of the server (custom_ca) has signed",
    ),
    "broken tls": ("TLS can't be agreed on ({detail})", "look at the server's log and its --ssl_config_file"),
}


def examine(
    told: Told,
    protocol: str | None,
    connection: Connection,
    servable: Servable,
    names: Iterable[str],
    labels: Sequence[str],
) -> None:
    """Examine the address of `connection`, meant for `protocol` or for either, and write what comes of it into `told`.

    Bit by bit, so that what is known by then is there if it takes too long.
    `names` and `labels` are tried where the server doesn't know those of `servable`.
    """
    heard = port_probe.listen(
        connection.server, connection.tls, protocol or port_probe.REST, connection.timeout
    )
    if heard.what not in (port_probe.REST, port_probe.GRPC):
        found, remedy = _HEARD[heard.what]
        values = {
            "detail": heard.detail, "timeout": connection.timeout, "starts": _STARTS[protocol or port_probe.REST],
            "port": port_probe.address(connection.server)[1],
        }  # fmt: skip
        told.findings.append(fault(told.about, found.format(**values), remedy.format(**values)))
        return
    if protocol and heard.what != protocol:
        told.findings.append(
            fault(
                told.about,
                f"speaks {_spoken(heard.what)}, so it is no port for {protocol}",
                f"give this address by {_FLAGS[heard.what]}, and that for {protocol} by {_FLAGS[protocol]}",
            )
        )
    inspector = (RestInspector if heard.what == port_probe.REST else GrpcInspector)(
        replace(connection, retries=0)
    )
    try:
        _ask(told, inspector, servable, names, labels)
    except Unreachable as error:
        told.findings.append(_unanswered(told.about, connection, str(error)))
    except Refused as error:
        told.findings.append(
            fault(
                told.about,
                f"refuses ({error})",
                "see whether this is the model server, and what its log says",
            )
        )
    except ValueError as error:
        told.findings.append(
            fault(
                told.about,
                f"speaks {_spoken(heard.what)}, but isn't a model server (it sent {error})",
                "another server has this port: name the model server's",
            )
        )
    else:
        if protocol in (None, heard.what):
            told.findings.append(ok(told.about, f"a model server answers over {heard.what}"))
    finally:
        inspector.close()


def _ask(
    told: Told, inspector: Inspector, servable: Servable, names: Iterable[str], labels: Sequence[str]
) -> None:
    told.healthy = inspector.healthy()
    versions = inspector.versions(servable.name)
    if not versions:
        tried = dict.fromkeys([*inspector.models(), *names])
        tried.pop(servable.name, None)
        told.others = [name for name in tried if inspector.versions(name)]
        told.versions = versions
        return
    told.versions = versions
    if not any(each.state == AVAILABLE for each in versions):
        return
    try:
        told.served = inspector.served(servable)
    except Refused as error:
        told.refusal = str(error)
        if servable.label is not None:
            told.labels = dict(_labels(inspector, servable, labels))


def _labels(inspector: Inspector, servable: Servable, labels: Sequence[str]) -> Iterable[tuple[str, int]]:
    for label in labels:
        try:
            yield label, inspector.served(replace(servable, label=label)).version
        except Refused:
            continue


def _unanswered(about: str, connection: Connection, reason: str) -> Finding:
    proxies = "" if connection.is_local else _proxies(connection.server)
    if proxies:
        return fault(
            about,
            f"answers directly, but not through the proxy that the environment sets ({proxies}): {reason}",
            f"take it out for this host: export no_proxy={port_probe.address(connection.server)[0]}",
        )
    return fault(
        about,
        f"doesn't answer a question about the model ({reason})",
        "it is overloaded, shuts down, or isn't ready yet: wait and ask again, and look at its log",
    )


def _proxies(server: str) -> str:
    """Return the proxies in the environment that a request to `server` would go through."""
    import requests

    if requests.utils.should_bypass_proxies(f"http://{server}", None):
        return ""
    names = [
        each
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
        for each in (name, name.upper())
    ]
    return ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))


def _spoken(what: str) -> str:
    return "HTTP/1.1 (as REST)" if what == port_probe.REST else "HTTP/2 (as gRPC)"
