"""Diagnosis of a model server and a directory of models, with a remedy for each problem.

tfship doctor                                 the server on this machine, and the model cnn in models/
tfship doctor --server gpu7 --model nn        REST and gRPC on the usual ports of another machine
tfship doctor --rest h:80 --models m/cnn      one port only, and the model's own directory
docker logs c 2>&1 | tfship doctor --log -    also reads the server's log
"""

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tfship.client.cli import arguments as flags
from tfship.client.doctor import load_errors, model_directory, server_config
from tfship.client.doctor.address_check import examine
from tfship.client.doctor.findings import FAULT, WARNING, Finding, clean, fault, line, listed, ok, warning
from tfship.client.doctor.model_directory import LocalModel
from tfship.client.doctor.served_models import ServerReport, check
from tfship.client.doctor.server_config import ServerConfig
from tfship.client.targets import port_probe
from tfship.client.targets.connection import GRPC_PORT, REST_PORT, Connection, Servable
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train.common import cli
from tfship.train.common.errors import ResultError, UsageError

__all__ = ["main"]

_MODELS = Path("models")
# Each step over the network has the timeout; all steps together have this many timeouts.
_STEPS = 3.5
# Common names of models, and common labels of versions.
_NAMES = ("default", "model", "mnist", "cnn", "nn")
_LABELS = ("stable", "canary", "latest", "production", "prod", "staging", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Check server and models, print the findings, and return 6 if there is a fault, else 0."""
    arguments = _parser().parse_args(argv)
    servable = Servable(flags.servable(arguments), arguments.version, arguments.label, arguments.signature)
    addresses = _addresses(arguments)
    config, findings = server_config.read(arguments.model_config_file, servable)
    log = _log_text(arguments.log)
    findings = [*findings, *_findings(arguments, servable, addresses, config, log)]
    faults = [each for each in findings if each.level == FAULT]
    if arguments.json:
        print(json.dumps(_described(servable, addresses, findings), indent=2))
    else:
        for each in findings:
            print(line(each))
    return ResultError.exit_code if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship doctor", "Check a server and a directory of models, and explain each problem."
    )
    server = parser.add_argument_group("the server (default: both usual ports of this machine)")
    server.add_argument(
        "--server", metavar="HOST[:PORT]", help=f"address; without a port, checks {REST_PORT} and {GRPC_PORT}"
    )
    server.add_argument("--rest", metavar="HOST:PORT", help="address for REST")
    server.add_argument("--grpc", metavar="HOST:PORT", help="address for gRPC")
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--model",
        metavar="NAME",
        help="servable name (default: the only one in the folder of models, or cnn)",
    )
    which = model.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, metavar="N", help="version number (default: the latest)")
    which.add_argument("--label", help="version label")
    model.add_argument("--signature", default=DEFAULT_SIGNATURE, metavar="NAME", help="signature to check")
    model.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of models, or the model's own folder (default: models)",
    )
    model.add_argument(
        "--model_config_file", type=Path, metavar="FILE", help="config file that the server was started with"
    )
    model.add_argument("--log", metavar="FILE", help="log of the server; - for standard input")
    connection = parser.add_argument_group("the connection")
    flags.add_credentials(connection)
    connection.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="timeout of each step"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser


def _addresses(arguments: argparse.Namespace) -> list[tuple[str | None, Connection]]:
    """Return the addresses to check, each with its protocol, None for either protocol."""
    server = arguments.server
    if server is not None and (arguments.rest or arguments.grpc):
        raise UsageError("--server with --rest or --grpc; expected either --server, or --rest and --grpc")
    found: list[tuple[str | None, str | None]] = [
        (port_probe.REST, arguments.rest),
        (port_probe.GRPC, arguments.grpc),
    ]
    if not arguments.rest and not arguments.grpc:
        host = "localhost" if server is None else server
        if re.search(r":\d+$", host) and not host.endswith("::1"):
            found = [(None, host)]
        else:
            host = f"[{host}]" if ":" in host and not host.startswith("[") else host
            found = [(port_probe.REST, f"{host}:{REST_PORT}"), (port_probe.GRPC, f"{host}:{GRPC_PORT}")]
    tls, headers = flags.tls(arguments), flags.headers(arguments.header or ())
    connections = [
        (protocol, Connection(each, tls, headers, arguments.timeout, 0)) for protocol, each in found if each
    ]
    for _, connection in connections:
        port_probe.address(connection.server)
    return connections


def _findings(
    arguments: argparse.Namespace,
    servable: Servable,
    addresses: Sequence[tuple[str | None, Connection]],
    config: ServerConfig | None,
    log: str | None,
) -> list[Finding]:
    """Check the directory and the addresses concurrently, within the time for all steps, and return the findings."""
    models: Path = arguments.models or _MODELS
    names = [
        *model_directory.models_in(models),
        *(config.models if config else ()),
        models.resolve().name,
        *_NAMES,
    ]
    labels = [*(config.labels if config else ()), *_LABELS]
    reports = [ServerReport(" ".join(filter(None, (protocol, each.server)))) for protocol, each in addresses]
    inspected: list[LocalModel] = []

    def inspect() -> None:
        inspected.append(
            model_directory.inspect(
                models, servable.name, servable.version, required=arguments.models is not None
            )
        )

    tasks: list[tuple[str, Callable[[], None]]] = [(str(models), inspect)]
    for each, (protocol, connection) in zip(reports, addresses, strict=True):
        tasks.append((each.about, partial(examine, each, protocol, connection, servable, names, labels)))
    seconds = arguments.timeout * _STEPS
    unfinished = _concurrently(tasks, seconds)
    local = inspected[0] if inspected else LocalModel()
    findings = [each for report in reports for each in list(report.findings)]
    findings += _checked(reports, servable, local)
    findings += local.findings
    findings += server_config.on_disk(config, servable, local)
    if log is not None:
        findings += _in_log(arguments.log, log, serves=any(each.served is not None for each in reports))
    findings += [
        fault(
            about,
            f"the check didn't finish within {seconds:g} s",
            "it hangs or is overloaded: read its log, or give it more time by --timeout",
        )
        for about in unfinished
    ]
    return findings


def _concurrently(tasks: Sequence[tuple[str, Callable[[], None]]], seconds: float) -> list[str]:
    """Run named tasks concurrently and return the names of those that are unfinished after `seconds`.

    The libraries' timeouts apply between two bytes, so a server that sends single bytes would delay them indefinitely.
    Unfinished threads don't keep the process from exiting. Raises the first error of a task.
    """
    raised: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            raised.append(error)

    threads = {name: threading.Thread(target=guarded, args=(each,), daemon=True) for name, each in tasks}
    for each in threads.values():
        each.start()
    end = time.monotonic() + seconds
    for each in threads.values():
        each.join(max(0.0, end - time.monotonic()))
    if raised:
        raise raised[0]
    return [name for name, each in threads.items() if each.is_alive()]


def _checked(reports: Sequence[ServerReport], servable: Servable, local: LocalModel) -> Iterator[Finding]:
    """Yield the findings about the model, only once if both addresses report the same."""
    answered = [each for each in reports if each.versions is not None]
    unhealthy = [each for each in reports if each.healthy is False and each not in answered[:1]]
    for each in [*answered[:1], *unhealthy]:
        yield from check(each, servable, local)
    for other in answered[1:]:
        if _states(other) != _states(answered[0]):
            yield warning(
                other.about,
                f"reports {listed(other.versions or ())}, and {answered[0].about} reports "
                f"{listed(answered[0].versions or ())}",
                "check that both ports belong to one server; if they do, run the doctor again: its versions changed",
            )


def _states(report: ServerReport) -> set[tuple[int, str]]:
    return {(each.number, each.state) for each in report.versions or ()}


def _log_text(log: str | None) -> str | None:
    if log is None:
        return None
    try:
        return sys.stdin.read() if log == "-" else Path(log).read_text(errors="replace")
    except FileNotFoundError:
        raise UsageError(
            f"--log: {log}: no such file; expected the server's log, or - for standard input"
        ) from None


def _in_log(name: str, text: str, *, serves: bool) -> Iterator[Finding]:
    """Yield the known errors in a server's log, as warnings if it serves the model: they may be old."""
    about = "the log" if name == "-" else name
    found = load_errors.in_log(text)
    for text_line, reason in found:
        kind = warning if serves else fault
        yield kind(about, f"{reason.meaning} — {clean(text_line[-400:], 240)}", reason.remedy)
    if not found:
        yield ok(about, "contains no known error")


def _described(
    servable: Servable, addresses: Sequence[tuple[str | None, Connection]], findings: Sequence[Finding]
) -> dict[str, object]:
    return {
        "model": servable.name,
        "addresses": {protocol or "server": connection.server for protocol, connection in addresses},
        "ok": not any(each.level == FAULT for each in findings),
        "warnings": sum(each.level == WARNING for each in findings),
        "findings": [each.describe() for each in findings],
    }
