"""Flags that choose the target and the server, and their values."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfship.client.targets.connection import GRPC_PORT, MOST_RETRIES, REST_PORT, Connection, Servable, Tls
from tfship.client.targets.registry import TARGETS, Choice, Kind, parse
from tfship.export.publishing import store
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.export.storage import filesystems
from tfship.train.common.errors import UsageError

__all__ = [
    "add_connection",
    "add_credentials",
    "add_images",
    "add_model",
    "add_target",
    "choice",
    "connection",
    "headers",
    "servable",
    "tls",
]

_MODEL = "cnn"
_TIMEOUT, _RETRIES = 10.0, 2


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name images."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image files, folders, patterns (*.png), URLs, or - for standard input",
    )  # fmt: skip


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the target; `choice` reads them."""
    group = add_model(parser)
    group.add_argument(
        "--target",
        default="rest",
        metavar="KIND[:PATH]",
        help="; ".join(f"{row.name}: {row.what}" for row in TARGETS.values())
        + ". The last three take a PATH: a file, a version directory or the directory of versions; tflite also takes "
        "a format, such as tflite:int8",
    )


def add_model(parser: argparse.ArgumentParser) -> Any:
    """Add the flags that choose a model for any target, and return their group."""
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--model", metavar="NAME",
        help=f"servable name (default: the only one in the folder of models, else {_MODEL})",
    )  # fmt: skip
    group.add_argument("--version", type=int, metavar="N", help="version number (default: the newest)")
    group.add_argument("--label", metavar="L", help="version label, instead of a number")
    group.add_argument("--signature", default=DEFAULT_SIGNATURE, metavar="NAME", help=(
        "serving_default takes scaled values, serving_uint8 pixels, serving_bytes encoded images, which the model "
        "prepares"
    ))  # fmt: skip
    group.add_argument(
        "--models", type=_models, default=Path("models"), metavar="FOLDER",
        help="folder of models and contracts, also an s3://, gs:// or az:// URL, from which the version is copied",
    )  # fmt: skip
    group.add_argument(
        "--contract", type=Path, metavar="PATH",
        help="contract.json, or the version directory that holds one: preparation of images and names of classes "
        "(default: the version's in the folder of models, else that of digits)",
    )  # fmt: skip
    return group


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the connection to a server; `connection` reads them."""
    group = parser.add_argument_group("the connection to a server")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        help=f"address (default: localhost:{REST_PORT}, for gRPC localhost:{GRPC_PORT})",
    )
    add_credentials(group)
    group.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help=f"timeout of a request, all attempts together (default: {_TIMEOUT:g})",
    )
    group.add_argument(
        "--retries", type=int, metavar="N",
        help=f"further attempts if the server isn't reachable or ready, 0 to {MOST_RETRIES} (default: {_RETRIES})",
    )  # fmt: skip
    group.add_argument(
        "--gzip", action=argparse.BooleanOptionalAction,
        help="compress large requests (default: only those to other machines)",
    )  # fmt: skip


def add_credentials(group: Any) -> None:
    """Add the flags of encryption and headers; `tls` and `headers` read them."""
    group.add_argument("--tls", action="store_true", help="use TLS; implied by the next three flags")
    group.add_argument(
        "--ca", type=Path, metavar="FILE", help="PEM: trusted authorities (default: the system's)"
    )
    group.add_argument("--cert", type=Path, metavar="FILE", help="PEM: client certificate")
    group.add_argument("--key", type=Path, metavar="FILE", help="PEM: private key of the client certificate")
    group.add_argument(
        "--header", action="append", metavar="'NAME: VALUE'",
        help="send this header with each request, such as an API key; @FILE as VALUE reads it from a file; repeatable",
    )  # fmt: skip


def choice(arguments: argparse.Namespace, *, local: bool = False) -> Choice:
    """Return the chosen target; `local`: targets in this process may be opened, too.

    A version in object storage is copied, or for a server only its contract. Raises UsageError for conflicting flags,
    and what `remote_models.local_copy` does.
    """
    kind, path = parse(arguments.target)
    if not kind.served:
        _only_for_servers(kind, arguments)
    chosen = Servable(servable(arguments), arguments.version, arguments.label, arguments.signature)
    models, contract = arguments.models, arguments.contract
    if isinstance(models, str):
        from tfship.client.targets import remote_models

        if local or not kind.served:
            copy = remote_models.local_copy(models, chosen.name, chosen.version)
            models, version = copy.models, copy.version if not kind.served else chosen.version
            chosen = replace(chosen, version=version)
        else:
            contract = contract or remote_models.local_contract(models, chosen.name, chosen.version)
            models = Path("models")
    return Choice(
        kind,
        chosen,
        models,
        path,
        contract,
        connection(arguments, GRPC_PORT if kind.name == "grpc" else REST_PORT) if kind.served else None,
    )


def servable(arguments: argparse.Namespace) -> str:
    """Return the chosen servable's name. Raises UsageError if there are several and none was chosen."""
    if arguments.model:
        return str(arguments.model)
    folder = arguments.models or Path("models")
    if isinstance(folder, str):
        from tfship.export.storage.remote_versions import servables

        found = servables(folder)
    else:
        # The doctor also takes a servable's own folder, which may hold no versions.
        found = [] if store.versions(folder) or folder.name == _MODEL else store.servables(folder)
    if len(found) == 1:
        return found[0]
    if found and _MODEL not in found:
        raise UsageError(f"{folder} holds {', '.join(found)}; give one by --model")
    return _MODEL


def connection(arguments: argparse.Namespace, port: int) -> Connection:
    """Return the connection to the server, by default to `port` of this machine."""
    return Connection(
        arguments.server or f"localhost:{port}",
        tls(arguments),
        headers(arguments.header or ()),
        _TIMEOUT if arguments.timeout is None else arguments.timeout,
        _RETRIES if arguments.retries is None else arguments.retries,
        arguments.gzip,
    )


def tls(arguments: argparse.Namespace) -> Tls | None:
    """Return the chosen TLS settings, None for plain text."""
    encrypted = arguments.tls or arguments.ca or arguments.cert or arguments.key
    return Tls(arguments.ca, arguments.cert, arguments.key) if encrypted else None


def headers(lines: Sequence[str]) -> dict[str, str]:
    """Return `NAME: VALUE` lines as a mapping; `@FILE` as VALUE is read from the file. Raises UsageError."""
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
                reason = getattr(error, "strerror", None) or "not a text file"
                raise UsageError(f"--header {name}: {value[1:]}: {reason}") from None
        found[name] = value
    return found


def _models(text: str) -> Path | str:
    """Return the folder of models, as a path, or the URL of one in object storage."""
    return text if filesystems.is_url(text) else Path(text)


def _only_for_servers(kind: Kind, arguments: argparse.Namespace) -> None:
    given = [
        f"--{name}"
        for name in ("server", "label", "tls", "ca", "cert", "key", "header", "timeout", "retries", "gzip")
        if getattr(arguments, name) not in (None, False, [])
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} with --target {kind.name}: it uses no server; omit it, or choose rest or grpc"
        )
