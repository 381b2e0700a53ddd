"""The flags that say what answers: `--target` and `--server` with all that goes with them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfship.client.targets.connection import GRPC_PORT, MOST_RETRIES, REST_PORT, Connection, Servable, Tls
from tfship.client.targets.registry import TARGETS, Choice, Kind, parse
from tfship.export.publishing import store
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train.common.errors import UsageError

__all__ = [
    "add_connection",
    "add_images",
    "add_model",
    "add_target",
    "choice",
    "connection",
    "headers",
    "servable",
]

_MODEL = "cnn"
_TIMEOUT, _RETRIES = 10.0, 2


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name pictures."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="picture files, folders of them, patterns (*.png), URLs, or - for standard input",
    )  # fmt: skip


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose what answers; `choice` reads them."""
    group = add_model(parser)
    group.add_argument(
        "--target",
        default="rest",
        metavar="KIND[:PATH]",
        help="; ".join(f"{row.name}: {row.what}" for row in TARGETS.values())
        + ". The last three take a PATH: a file, a version directory or the directory of versions; tflite also "
        "a format, such as tflite:int8",
    )


def add_model(parser: argparse.ArgumentParser) -> Any:
    """Add the flags that choose a model, whatever answers, and return their group."""
    group = parser.add_argument_group("what answers")
    group.add_argument(
        "--model", metavar="NAME",
        help=f"the servable's name (default: the only one in the folder of models, else {_MODEL})",
    )  # fmt: skip
    group.add_argument("--version", type=int, metavar="N", help="of the servable (default: the newest)")
    group.add_argument("--label", metavar="L", help="of a version, instead of its number")
    group.add_argument("--signature", default=DEFAULT_SIGNATURE, metavar="NAME", help=(
        "serving_default gets scaled values, serving_uint8 pixels, serving_bytes the picture as it is, and "
        "prepares it itself"
    ))  # fmt: skip
    group.add_argument(
        "--models", type=Path, default=Path("models"), metavar="FOLDER", help="where models and contracts are"
    )
    group.add_argument(
        "--contract", type=Path, metavar="PATH",
        help="a contract.json, or the version directory that holds one: what pictures become and what the classes "
        "are called (default: the version's in the folder of models, or else that of the digits)",
    )  # fmt: skip
    return group


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a server is reached; `connection` reads them."""
    group = parser.add_argument_group("the way to a server")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        help=f"(default: localhost:{REST_PORT}, for gRPC localhost:{GRPC_PORT})",
    )
    group.add_argument("--tls", action="store_true", help="encrypted; the next three imply it")
    group.add_argument("--ca", type=Path, metavar="FILE", help="PEM: whom to trust (default: the system's)")
    group.add_argument("--cert", type=Path, metavar="FILE", help="PEM: this client's certificate")
    group.add_argument("--key", type=Path, metavar="FILE", help="PEM: its private key")
    group.add_argument(
        "--header", action="append", metavar="'NAME: VALUE'",
        help="sent with each request, such as an API key; a VALUE of @FILE is read from there. May be repeated",
    )  # fmt: skip
    group.add_argument(
        "--timeout", type=float, metavar="SECONDS", help=f"for a server's answer (default: {_TIMEOUT:g})"
    )
    group.add_argument(
        "--retries", type=int, metavar="N",
        help=f"when it isn't there or isn't ready, 0 to {MOST_RETRIES} (default: {_RETRIES})",
    )  # fmt: skip
    group.add_argument(
        "--gzip", action=argparse.BooleanOptionalAction,
        help="compress large requests (default: unless the server is on this machine)",
    )  # fmt: skip


def choice(arguments: argparse.Namespace) -> Choice:
    """Return what was chosen. Raises UsageError for flags that don't go together."""
    kind, path = parse(arguments.target)
    if not kind.served:
        _only_for_servers(kind, arguments)
    return Choice(
        kind,
        Servable(servable(arguments), arguments.version, arguments.label, arguments.signature),
        arguments.models,
        path,
        arguments.contract,
        connection(arguments, GRPC_PORT if kind.name == "grpc" else REST_PORT) if kind.served else None,
    )


def servable(arguments: argparse.Namespace) -> str:
    """Return the name of the servable that is asked for. Raises UsageError where there are several."""
    if arguments.model:
        return str(arguments.model)
    folder = arguments.models or Path("models")
    # The doctor also takes a servable's own folder, which may be a wrong one.
    found = [] if store.versions(folder) or folder.name == _MODEL else store.servables(folder)
    if len(found) == 1:
        return found[0]
    if found and _MODEL not in found:
        raise UsageError(f"{folder} holds {', '.join(found)}; name one by --model")
    return _MODEL


def connection(arguments: argparse.Namespace, port: int) -> Connection:
    """Return the way to the server, by default at `port` of this machine."""
    encrypted = arguments.tls or arguments.ca or arguments.cert or arguments.key
    return Connection(
        arguments.server or f"localhost:{port}",
        Tls(arguments.ca, arguments.cert, arguments.key) if encrypted else None,
        headers(arguments.header or ()),
        _TIMEOUT if arguments.timeout is None else arguments.timeout,
        _RETRIES if arguments.retries is None else arguments.retries,
        arguments.gzip,
    )


def headers(lines: Sequence[str]) -> dict[str, str]:
    """Return `NAME: VALUE` lines as a mapping; a value of `@FILE` is the file's text. UsageError for other lines."""
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not name:
            raise UsageError("--header: expected 'NAME: VALUE' or 'NAME: @FILE'")
        if value.startswith("@"):
            try:
                value = Path(value[1:]).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not a text"
                raise UsageError(f"--header {name}: {value[1:]}: {reason}") from None
        found[name] = value
    return found


def _only_for_servers(kind: Kind, arguments: argparse.Namespace) -> None:
    given = [
        f"--{name}"
        for name in ("server", "label", "tls", "ca", "cert", "key", "header", "timeout", "retries", "gzip")
        if getattr(arguments, name) not in (None, False, [])
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} with --target {kind.name}: no server is asked; leave it out, or choose rest or grpc"
        )
