"""`tfship benchmark training`: train plainly and by the fast recipe, in turn."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tfship.benchmarks import training
from tfship.benchmarks.report_command import OUT
from tfship.train import cli, data
from tfship.train.files import write_json

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
    digits = data.load(data.find(arguments.data, say=cli.say))
    results = training.compare(digits, arguments.repeats, say=cli.say)
    file = arguments.out / "training.json"
    write_json(file, results)
    print(json.dumps(results, indent=2) if arguments.json else training.text(results))
    print(f"\nwritten: {file}", file=sys.stderr)
    return 0
