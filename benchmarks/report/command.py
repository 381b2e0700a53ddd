"""`tfship report`: render a result file again, optionally for another objective."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfship.benchmarks import report
from tfship.benchmarks.analysis import recommendation
from tfship.benchmarks.analysis.recommendation import OBJECTIVES
from tfship.export.publishing.gate import MAX_DROP
from tfship.train.common import cli
from tfship.train.common.files import write_bytes

__all__ = ["OUT", "add_judging", "main", "written"]

OUT = Path("benchmarks", "out")


def main(argv: Sequence[str]) -> int:
    """Write the page and the Markdown next to the results, print the tables, return the exit code."""
    parser = cli.parser(
        "tfship report",
        "Render results again: write report.html and report.md next to the file and print the tables.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=OUT / "results.json", metavar="FILE", help="the results"
    )
    add_judging(parser)
    arguments = parser.parse_args(argv)
    results = report.read(arguments.file)
    return written(results, arguments.file, arguments)


def add_judging(parser: argparse.ArgumentParser) -> None:
    """Add the options for the verdict and its output to `parser`."""
    parser.add_argument(
        "--objective", choices=OBJECTIVES, help="recommend for this objective only (default: for each)"
    )
    parser.add_argument(
        "--max-accuracy-drop", type=float, default=MAX_DROP, metavar="SHARE",
        help="maximum accuracy loss of a recommended format against float32, 0 to 1",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print results and verdict as JSON instead of the tables"
    )


def written(results: dict[str, Any], file: Path, arguments: argparse.Namespace) -> int:
    """Write the report of `results` next to their `file`, print it, return the exit code."""
    judged = recommendation.judge(results, arguments.objective, arguments.max_accuracy_drop)
    page, plain = file.with_name("report.html"), file.with_name("report.md")
    write_bytes(page, report.html(results, judged).encode())
    write_bytes(plain, report.markdown(results, judged).encode())
    print(
        json.dumps({**results, "verdict": judged}, indent=2)
        if arguments.json
        else report.text(results, judged)
    )
    print(f"\nwritten: {file}, {page}, {plain}", file=sys.stderr)
    return 0
