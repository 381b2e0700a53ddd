"""`tfship benchmark client`: how long the client takes, process and all, and one made with TensorFlow.

tfship benchmark client                                           ten rounds, about a minute
tfship benchmark client --pairs 20 --json benchmarks/results/client.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tfship.train.common import cli
from tfship.train.common.errors import ResultError
from tfship.train.common.files import write_json

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, return the exit code: 6 if a bar is missed."""
    arguments = _parser().parse_args(argv)
    # The server's protocol is needed only here.
    from tfship.benchmarks.studies import client_startup, client_startup_table

    results = client_startup.run(arguments.models, arguments.pairs)
    if arguments.json:
        write_json(arguments.json, results)
    print(client_startup_table.text(results))
    if arguments.json:
        cli.say(f"\nwritten: {arguments.json}")
    if missed := client_startup_table.missed(results):
        raise ResultError(f"missed: {'; '.join(missed)}; is this machine doing something else?")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship benchmark client",
        "Time whole processes that ask about one picture: the client over REST, over gRPC and without a server, and a "
        "script that uses TensorFlow and tensorflow-serving-api in the usual way (benchmarks/studies/usual_client.py).",
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of exported models")
    parser.add_argument("--pairs", type=cli.count, default=10, metavar="N", help="how often each is run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser
