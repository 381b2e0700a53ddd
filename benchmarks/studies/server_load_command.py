"""`tfship benchmark server`: the embedded server under load, against TensorFlow Serving's figures.

tfship benchmark server                                        everything, about seven minutes
tfship benchmark server --only 'nn-1-*,cnn-64-grpc' --connections 8,32 --seconds 2 --repeats 1
tfship benchmark server --format float32,int8 --json speed.json -- --workers=2    flags after -- are the server's
"""

import argparse
import fnmatch
from collections.abc import Sequence
from pathlib import Path

from tfship.benchmarks.studies import reference
from tfship.benchmarks.studies.reference import LoadCell
from tfship.export.conversion import formats
from tfship.train.common import cli
from tfship.train.common.errors import ResultError, UsageError
from tfship.train.common.files import write_json
from tfship.train.data import datasets

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Measure, print the tables, return the exit code: 6 if the server answered wrongly, whatever its speed."""
    own, flags = cli.split(argv)
    arguments = _parser().parse_args(own)
    cells = _cells(arguments.only)
    rows = formats.select(arguments.format)
    if foreign := [row.name for row in rows if row.edge != "float32"]:
        raise UsageError(
            f"--format {','.join(foreign)}: takes other tensors than the reference; expected float32 ones"
        )
    # The server's protocol and LiteRT are needed only here.
    from tfship.benchmarks.harness import load_generators
    from tfship.benchmarks.studies import server_load, server_load_table

    load_generators.require()
    plan = server_load.LoadPlan(
        cells, arguments.connections, arguments.seconds, arguments.repeats, [row.name for row in rows], flags
    )
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    results = server_load.run(arguments.models, plan, digits)
    if arguments.json:
        write_json(arguments.json, results)
    print(server_load_table.text(results))
    if arguments.json:
        cli.say(f"\nwritten: {arguments.json}")
    if faulty := server_load_table.problems(results):
        raise ResultError(
            f"wrong answers in {len(faulty)} cells, marked FAULTY above; the first is {faulty[0]}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship benchmark server",
        f"Measure the embedded server against {reference.MACHINE}. Needs wrk and h2load (Debian: wrk nghttp2-client). "
        "What stands after -- goes to the server: -- --workers=2",
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of exported models")
    parser.add_argument("--data", metavar="PATH", help="where the digits that are sent come from")
    parser.add_argument(
        "--only",
        metavar="A,B",
        help=f"some cells, * for any: {', '.join(cell.name for cell in reference.RATES)}",
    )
    parser.add_argument(
        "--connections", type=_counts, default=[1, 8, 32], metavar="A,B", help="how many at a time"
    )
    parser.add_argument("--seconds", type=cli.count, default=4, metavar="S", help="how long a run lasts")
    parser.add_argument(
        "--repeats", type=cli.count, default=3, metavar="N", help="runs of each; the median counts"
    )
    parser.add_argument(
        "--format", default=reference.FORMAT, metavar="A,B", help="of the files that are served, in turn"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser


def _cells(only: str | None) -> list[LoadCell]:
    if only is None:
        return list(reference.RATES)
    patterns = [part.strip() for part in only.split(",")]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in reference.RATES):
            names = ", ".join(cell.name for cell in reference.RATES)
            raise UsageError(f"--only: no cell is called {pattern!r}; there are {names}")
    return [
        cell
        for cell in reference.RATES
        if any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)
    ]


def _counts(value: str) -> list[int]:
    return [cli.count(each.strip()) for each in value.split(",")]
