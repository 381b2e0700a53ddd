"""`tfship benchmark pictures`: how well pictures as people take them are read.

tfship benchmark pictures                       2,000 photographs of test digits, both networks
tfship benchmark pictures --count 200 --seed 7  fewer, and others
"""

from collections.abc import Sequence
from pathlib import Path

from tfship.train.common import cli
from tfship.train.common.errors import ResultError, UsageError
from tfship.train.common.files import write_json
from tfship.train.data import datasets
from tfship.train.recipe import NETWORKS

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, return the exit code: 6 if a bar was missed."""
    parser = cli.parser(
        "tfship benchmark pictures",
        "Turn test digits into photographs (paper, ink, shadow, noise, tilt, a table around, JPEG), prepare them as "
        "the client does, and tell how many are still read rightly; and whether untouched images stay what they are.",
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of exported models")
    parser.add_argument("--model", action="append", choices=NETWORKS, help="only this one (may be repeated)")
    parser.add_argument("--data", metavar="PATH", help="where the digits come from")
    parser.add_argument("--count", type=cli.count, default=2000, metavar="N", help="of photographs")
    parser.add_argument("--seed", type=cli.count, default=1, metavar="N", help="of the photographs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args(argv)
    # The client and LiteRT are needed only here.
    from tfship.benchmarks.studies import photographs_study

    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    if arguments.count > len(digits.x_test):
        raise UsageError(f"--count {arguments.count}: there are {len(digits.x_test)} test images")
    names = arguments.model or list(NETWORKS)
    results = photographs_study.measure(arguments.models, names, digits, arguments.count, arguments.seed)
    if arguments.json:
        write_json(arguments.json, results)
    print(photographs_study.text(results))
    if arguments.json:
        cli.say(f"\nwritten: {arguments.json}")
    if found := photographs_study.missed(results):
        raise ResultError("; ".join(found))
    return 0
