"""What is wrong with a model server or a directory of models, and what to do about it.

tfship doctor                              the server on this machine, and the model cnn in models/
tfship doctor --server gpu7 --model nn     REST and gRPC on the usual ports of another machine
tfship doctor --rest h:80 --models m/cnn   one port only, and the model's own directory
docker logs c 2>&1 | tfship doctor --log -    with what the server says itself
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
from tfship.client.doctor.model_directory import Local
from tfship.client.doctor.served_models import Told, judge
from tfship.client.doctor.server_config import ServerConfig
from tfship.client.targets import port_probe
from tfship.client.targets.connection import GRPC_PORT, REST_PORT, Connection, Servable, Tls
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train.common import cli
from tfship.train.common.errors import ResultError, UsageError

__all__ = ["main"]

_MODELS = Path("models")
# Each step over the network has its timeout, and all of them together so many.
_STEPS = 3.5
# Names that a server may know a model by, and labels that a version is often given.
_NAMES = ("default", "model", "mnist", "cnn", "nn")
_LABELS = ("stable", "canary", "latest", "production", "prod", "staging", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Look at server and models, print what was found, return 6 if something is wrong, else 0."""
    arguments = _parser().parse_args(argv)
    servable = Servable(flags.servable(arguments), arguments.version, arguments.label, arguments.signature)
    addresses = _addresses(arguments)
    config, findings = server_config.read(arguments.model_config_file, servable)
    log = _read(arguments.log)
    findings = [*findings, *_examined(arguments, servable, addresses, config, log)]
    wrong = [each for each in findings if each.level == FAULT]
    if arguments.json:
        print(json.dumps(_described(servable, addresses, findings), indent=2))
    else:
        for each in findings:
            print(line(each))
    return ResultError.exit_code if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship doctor", "Look at a server and a directory of models, and explain what is wrong."
    )
    where = parser.add_argument_group("where the server is (default: both usual ports of this machine)")
    where.add_argument(
        "--server", metavar="HOST[:PORT]", help=f"with a port only that one, else {REST_PORT} and {GRPC_PORT}"
    )
    where.add_argument("--rest", metavar="HOST:PORT", help="its port for REST")
    where.add_argument("--grpc", metavar="HOST:PORT", help="its port for gRPC")
    what = parser.add_argument_group("which model")
    what.add_argument(
        "--model", metavar="NAME", help="the servable's name (default: the only one there is, or cnn)"
    )
    which = what.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, metavar="N", help="(default: the latest)")
    which.add_argument("--label", help="of a version")
    what.add_argument("--signature", default=DEFAULT_SIGNATURE, metavar="NAME", help="the one to be called")
    what.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="the folder of models, or the model's own (default: models)",
    )
    what.add_argument(
        "--model_config_file", type=Path, metavar="FILE", help="the one that the server was started with"
    )
    what.add_argument("--log", metavar="FILE", help="what the server wrote; - for standard input")
    how = parser.add_argument_group("how it is reached")
    how.add_argument("--tls", action="store_true", help="encrypted, trusting the system's authorities")
    how.add_argument("--ca", type=Path, metavar="PEM", help="trust this authority (with --tls)")
    how.add_argument("--cert", type=Path, metavar="PEM", help="our own certificate")
    how.add_argument("--key", type=Path, metavar="PEM", help="its key")
    how.add_argument("--header", action="append", metavar="'NAME: VALUE'", help="with each request")
    how.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="for each step")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser


def _addresses(arguments: argparse.Namespace) -> list[tuple[str | None, Connection]]:
    """Return each address that is to be examined, with the protocol that it is for."""
    server = arguments.server
    if server is not None and (arguments.rest or arguments.grpc):
        raise UsageError("--server beside --rest or --grpc; expected the one or the others")
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
    tls = None
    if arguments.tls or arguments.ca or arguments.cert or arguments.key:
        tls = Tls(arguments.ca, arguments.cert, arguments.key)
    headers = flags.headers(arguments.header or ())
    connections = [
        (protocol, Connection(each, tls, headers, arguments.timeout, 0)) for protocol, each in found if each
    ]
    for _, connection in connections:
        port_probe.address(connection.server)
    return connections


def _examined(
    arguments: argparse.Namespace,
    servable: Servable,
    addresses: Sequence[tuple[str | None, Connection]],
    config: ServerConfig | None,
    log: str | None,
) -> list[Finding]:
    """Examine directory and addresses at the same time, for no longer than all steps' timeouts, and judge."""
    models: Path = arguments.models or _MODELS
    names = [
        *model_directory.models_in(models),
        *(config.models if config else ()),
        models.resolve().name,
        *_NAMES,
    ]
    labels = [*(config.labels if config else ()), *_LABELS]
    told = [Told(" ".join(filter(None, (protocol, each.server)))) for protocol, each in addresses]
    local: list[Local] = []

    def look() -> None:
        local.append(
            model_directory.look(models, servable.name, servable.version, asked=arguments.models is not None)
        )

    work: list[tuple[str, Callable[[], None]]] = [(str(models), look)]
    for each, (protocol, connection) in zip(told, addresses, strict=True):
        work.append((each.about, partial(examine, each, protocol, connection, servable, names, labels)))
    seconds = arguments.timeout * _STEPS
    late = _at_once(work, seconds)
    findings = [each for one in told for each in list(one.findings)]
    findings += _judged(told, servable, local[0] if local else Local())
    findings += local[0].findings if local else []
    findings += server_config.on_disk(config, servable, local[0] if local else Local())
    if log is not None:
        findings += _in_log(arguments.log, log, serves=any(one.served is not None for one in told))
    findings += [
        fault(
            about,
            f"looking at it wasn't done after {seconds:g} s",
            "who is that slow hangs or is overloaded: see its log, or give it more time by --timeout",
        )
        for about in late
    ]
    return findings


def _at_once(work: Sequence[tuple[str, Callable[[], None]]], seconds: float) -> list[str]:
    """Do all work at once and return the names of what wasn't done after `seconds`; it is left behind.

    A server that sends a byte now and then keeps libraries waiting whose timeouts are between two bytes. The threads
    don't hold up the end of the process. Raises what one of them raised.
    """
    raised: list[BaseException] = []

    def guarded(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:  # noqa: BLE001 - raised again below, where it can be told
            raised.append(error)

    threads = {name: threading.Thread(target=guarded, args=(each,), daemon=True) for name, each in work}
    for each in threads.values():
        each.start()
    end = time.monotonic() + seconds
    for each in threads.values():
        each.join(max(0.0, end - time.monotonic()))
    if raised:
        raise raised[0]
    return [name for name, each in threads.items() if each.is_alive()]


def _judged(told: Sequence[Told], servable: Servable, local: Local) -> Iterator[Finding]:
    """Yield what is wrong with the model, once for all addresses that tell the same."""
    answered = [each for each in told if each.versions is not None]
    unhealthy = [each for each in told if each.healthy is False and each not in answered[:1]]
    for each in [*answered[:1], *unhealthy]:
        yield from judge(each, servable, local)
    for other in answered[1:]:
        if _seen(other) != _seen(answered[0]):
            yield warning(
                other.about,
                f"tells of other versions than {answered[0].about}: {listed(other.versions or ())}, and there "
                f"{listed(answered[0].versions or ())}",
                "see that both ports are the same server's; if they are, ask again: it was changing",
            )


def _seen(told: Told) -> set[tuple[int, str]]:
    return {(each.number, each.state) for each in told.versions or ()}


def _read(log: str | None) -> str | None:
    if log is None:
        return None
    try:
        return sys.stdin.read() if log == "-" else Path(log).read_text(errors="replace")
    except FileNotFoundError:
        raise UsageError(
            f"--log: {log}: no such file; expected what the server wrote, or - for stdin"
        ) from None


def _in_log(name: str, text: str, *, serves: bool) -> Iterator[Finding]:
    """Yield the complaints in a server's log; of one that serves all the same, they may be old."""
    about = "the log" if name == "-" else name
    found = load_errors.in_log(text)
    for words, reason in found:
        kind = warning if serves else fault
        yield kind(about, f"{reason.meaning} — {clean(words[-400:], 240)}", reason.remedy)
    if not found:
        yield ok(about, "no complaint in it that is known here")


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
