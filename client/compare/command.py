"""`tfship compare`, which is also `--compare` of `tfship predict`."""

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

# Flags of `tfship predict` that `--compare` has no use for.
_OF_SINGLE_PICTURES = ("csv", "show", "seen", "all_digits", "boxed")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare targets on pictures, print what was found, and return the exit code."""
    parser = cli.parser(
        "tfship compare",
        "Ask several targets about the same pictures, and find out why they answer differently.",
    )
    flags.add_images(parser)
    parser.add_argument(
        "--targets", default="", dest="compare", metavar="LIST",
        help="such as rest,grpc@host:8500,tflite:int8,savedmodel,keras (default: all that there are)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of lines")
    flags.add_model(parser)
    flags.add_connection(parser)
    parser.set_defaults(target="rest", **dict.fromkeys(_OF_SINGLE_PICTURES, False))
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Compare what was chosen and print it; return 6 where there is skew, 3 for a bad picture, else 0."""
    for name in _OF_SINGLE_PICTURES:
        if getattr(arguments, name):
            raise UsageError(
                f"--{name.replace('_', '-')} with --compare: nothing is said of single pictures; leave one of them out"
            )
    if arguments.target != "rest":
        raise UsageError(f"--target {arguments.target} with --compare: write --compare={arguments.target},…")
    sources = expand(arguments.images)
    candidates = chosen(arguments.compare, flags.choice(arguments), _way(arguments))
    comparison = compare(sources, candidates, cli.say)
    for problem in comparison.problems:
        cli.say(f"error: {cli.one_line(problem)}")
    text = json.dumps(describe(comparison), indent=2) if arguments.json else "\n".join(lines(comparison))
    print(text, flush=True)
    if comparison.skewed:
        return ResultError.exit_code
    return DataError.exit_code if comparison.problems else 0


def _way(arguments: argparse.Namespace) -> Callable[[str, int], Connection]:
    """Return a function from an address, "" for what --server says, and a protocol's usual port to the connection."""
    host, port = _host(arguments.server)
    speaks = _speaks(flags.connection(arguments, REST_PORT)) if port else None

    def way(address: str, usual: int) -> Connection:
        # --server's port is that of one protocol; the other is looked for where it usually is.
        server = arguments.server if speaks == usual else f"{host}:{usual}"
        return flags.connection(argparse.Namespace(**{**vars(arguments), "server": address or server}), usual)

    return way


def _host(server: str | None) -> tuple[str, str]:
    if server is None:
        return "localhost", ""
    match = re.fullmatch(r"(.+?)(?::(\d+))?", server) if server.count(":") < 2 or "]" in server else None
    return (match[1], match[2] or "") if match else (f"[{server}]", "")


def _speaks(connection: Connection) -> int:
    """Return the usual port of the protocol that an address speaks, REST's where that can't be told."""
    from tfship.client.targets import port_probe

    heard = port_probe.listen(connection.server, connection.tls, port_probe.REST, connection.timeout)
    return GRPC_PORT if heard.what == port_probe.GRPC else REST_PORT
