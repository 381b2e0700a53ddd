"""`tfship benchmark training`: train plainly and by the fast recipe, in turn."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tfship.benchmarks.report.command import OUT
from tfship.benchmarks.studies import training_time
from tfship.train.common import cli
from tfship.train.common.files import write_json
from tfship.train.data import datasets

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Train, print the ratios, write them, return the exit code."""
    parser = cli.parser(
        "tfship benchmark training", "Train plainly and by the fast recipe, in turn; print the ratios."
    )  # fmt: skip
    parser.add_argument("--data", metavar="PATH", help="MNIST: a Keras .npz or a folder of IDX files")
    parser.add_argument("--repeats", type=cli.count, default=3, metavar="N", help="pairs of runs, by seed")
    parser.add_argument("--out", type=Path, default=OUT, help="where training.json is written")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the table")
    arguments = parser.parse_args(argv)
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    results = training_time.compare(digits, arguments.repeats, say=cli.say)
    file = arguments.out / "training.json"
    write_json(file, results)
    print(json.dumps(results, indent=2) if arguments.json else training_time.text(results))
    print(f"\nwritten: {file}", file=sys.stderr)
    return 0
