"""`tfship compare`, also available as `tfship predict --compare`."""

import argparse
import json
import re
from collections.abc import Callable, Sequence

from tfship.client.cli import arguments as flags
from tfship.client.compare.comparison import compare
from tfship.client.compare.report import describe, lines
from tfship.client.compare.target_selection import chosen
from tfship.client.images.sources import expand
from tfship.client.targets.connection import GRPC_PORT, REST_PORT, Connection
from tfship.train.common import cli
from tfship.train.common.errors import DataError, ResultError, UsageError

__all__ = ["main", "run"]

# Flags of `tfship predict` for the output of single images.
_SINGLE_IMAGE_FLAGS = ("csv", "show", "seen", "all_digits", "boxed")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare targets on images, print the result, and return the exit code."""
    parser = cli.parser(
        "tfship compare",
        "Compare the predictions of several targets for the same images, and explain divergences.",
    )
    flags.add_images(parser)
    parser.add_argument(
        "--targets", default="", dest="compare", metavar="LIST",
        help="such as rest,grpc@host:8500,tflite:int8,web,savedmodel,keras (default: all)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of lines")
    flags.add_model(parser)
    flags.add_connection(parser)
    parser.set_defaults(target="rest", **dict.fromkeys(_SINGLE_IMAGE_FLAGS, False))
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Compare the chosen targets and print the result; return 6 for skew, 3 for an invalid image, else 0."""
    for name in _SINGLE_IMAGE_FLAGS:
        if getattr(arguments, name):
            raise UsageError(
                f"--{name.replace('_', '-')} with --compare: comparisons print no single images; omit one of them"
            )
    if arguments.target != "rest":
        raise UsageError(f"--target {arguments.target} with --compare: use --compare={arguments.target},…")
    sources = expand(arguments.images)
    candidates = chosen(arguments.compare, flags.choice(arguments, local=True), _connections(arguments))
    comparison = compare(sources, candidates, cli.say)
    for problem in comparison.problems:
        cli.say(f"error: {cli.one_line(problem)}")
    text = json.dumps(describe(comparison), indent=2) if arguments.json else "\n".join(lines(comparison))
    print(text, flush=True)
    if comparison.skewed:
        return ResultError.exit_code
    return DataError.exit_code if comparison.problems else 0


def _connections(arguments: argparse.Namespace) -> Callable[[str, int], Connection]:
    """Return a function that returns the connection for an address and a protocol's usual port; "" means --server."""
    host, port = _host(arguments.server)
    protocol_port = _protocol_port(flags.connection(arguments, REST_PORT)) if port else None

    def connection(address: str, usual: int) -> Connection:
        # --server's port belongs to one protocol; for the other one, its usual port is used.
        server = arguments.server if protocol_port == usual else f"{host}:{usual}"
        return flags.connection(argparse.Namespace(**{**vars(arguments), "server": address or server}), usual)

    return connection


def _host(server: str | None) -> tuple[str, str]:
    if server is None:
        return "localhost", ""
    match = re.fullmatch(r"(.+?)(?::(\d+))?", server) if server.count(":") < 2 or "]" in server else None
    return (match[1], match[2] or "") if match else (f"[{server}]", "")


def _protocol_port(connection: Connection) -> int:
    """Return the usual port of the protocol that a server speaks, REST's if that can't be determined."""
    from tfship.client.targets import port_probe

    found = port_probe.probe(connection.server, connection.tls, port_probe.REST, connection.timeout)
    return GRPC_PORT if found.kind == port_probe.GRPC else REST_PORT
