"""`--compare` of the client's command line."""

import argparse
import json
import re
from collections.abc import Callable

from client import arguments as flags
from client.candidates import chosen
from client.compare import compare
from client.compare_report import describe, lines
from client.connection import GRPC_PORT, REST_PORT, Connection
from client.sources import expand
from train import cli
from train.errors import DataError, ResultError, UsageError

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Compare what was chosen and print it; return 6 where there is skew, 3 for a bad picture, else 0."""
    for name in ("csv", "show", "seen", "all_digits", "boxed"):
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
    print(text, flush=True)  # noqa: T201
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
    from client import ports

    heard = ports.listen(connection.server, connection.tls, ports.REST, connection.timeout)
    return GRPC_PORT if heard.what == ports.GRPC else REST_PORT
