"""`tfship benchmark soak`: how soon a TFLite-only server answers, and whether its memory grows.

tfship benchmark soak                                             three minutes of it, about four in all
tfship benchmark soak --requests 1000000 --json soak.json         as many requests as it takes
tfship benchmark soak --seconds 30 --starts 1 -- --workers=1      flags after -- are the server's
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tfship.train.common import cli
from tfship.train.common.errors import ResultError
from tfship.train.common.files import write_json
from tfship.train.data import datasets

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Measure, print the tables, return the exit code: 6 if the server answered wrongly, whatever its memory."""
    own, flags = cli.split(argv)
    arguments = _parser().parse_args(own)
    # The server's protocol and LiteRT are needed only here.
    from tfship.benchmarks.harness import load_generators
    from tfship.benchmarks.studies import soak, soak_table

    load_generators.require()
    plan = soak.SoakPlan(
        requests=arguments.requests,
        seconds=arguments.seconds or (None if arguments.requests else soak.SoakPlan.seconds),
        starts=arguments.starts,
        seconds_each=arguments.seconds_each,
        connections=arguments.connections,
        flags=flags,
    )
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    results = soak.run(arguments.models, plan, digits)
    if arguments.json:
        write_json(arguments.json, results)
    print(soak_table.text(results))
    if arguments.json:
        cli.say(f"\nwritten: {arguments.json}")
    if faulty := soak_table.problems(results):
        raise ResultError(
            f"wrong answers in {len(faulty)} runs, marked FAULTY above; the first is {faulty[0]}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship benchmark soak",
        "Measure how soon a TFLite-only server with both models answers, and its memory over many requests: right ones "
        "of every kind and wrong ones. Needs wrk and h2load (Debian: wrk nghttp2-client), and Linux. What stands after "
        "-- goes to the server: -- --workers=1",
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of exported models")
    parser.add_argument("--data", metavar="PATH", help="where the digits that are sent come from")
    parser.add_argument(
        "--requests", type=cli.count, metavar="N", help="whole rounds until so many are answered"
    )
    parser.add_argument(
        "--seconds", type=cli.count, metavar="S",
        help="or until so much time is over; 180 if neither is given",
    )  # fmt: skip
    parser.add_argument(
        "--starts", type=cli.count, default=5, metavar="N", help="of the server, for each protocol"
    )
    parser.add_argument(
        "--seconds-each", type=cli.count, default=2, metavar="S", help="how long a round asks for each thing"
    )
    parser.add_argument(
        "--connections", type=cli.count, default=4, metavar="N", help="how many of each protocol at a time"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser
