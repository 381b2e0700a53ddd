"""`tfship benchmark gate`: check for regressions against a baseline, for continuous integration.

tfship benchmark gate --baseline old.json                      compares the last run with a kept file
tfship benchmark gate --baseline old.json --results new.json   compares any two files
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from tfship.benchmarks import report
from tfship.benchmarks.analysis import regression
from tfship.benchmarks.analysis.differences import BETTER, UNJUDGED, WORSE, Check
from tfship.benchmarks.analysis.regression import FileComparison
from tfship.benchmarks.report.command import OUT
from tfship.train.common import cli

__all__ = ["main"]

_MARKS = {WORSE: " WORSE", BETTER: " better"}


def main(argv: Sequence[str]) -> int:
    """Compare two result files, print the comparison and return the exit code: 1 if something got worse."""
    parser = cli.parser(
        "tfship benchmark gate",
        "Compare two result files row by row. The exit code is 1 if a row is missing or a figure got worse by more "
        "than noise: accuracy, times relative to float32, throughput, size, memory. Both files must have the same "
        "data, mode and schema. If they come from different machines, only large changes count.",
    )
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="the older results")
    parser.add_argument(
        "--results", type=Path, default=OUT / "results.json", metavar="FILE", help="the newer results"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the comparison as JSON instead of the table"
    )
    arguments = parser.parse_args(argv)
    old, new = (report.read(path) for path in (arguments.baseline, arguments.results))
    comparison = regression.compare(old, new)
    print(json.dumps(comparison.describe(), indent=2) if arguments.json else _text(comparison))
    return 1 if comparison.regressions else 0


def _text(comparison: FileComparison) -> str:
    """Return the comparison as text: a table of factors, the remarks and the regressions."""
    figures = list(
        dict.fromkeys(each.figure for each in comparison.checks if each.figure not in ("row", "accuracy"))
    )
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for each in comparison.checks:
        rows.setdefault((each.model, each.row), {})[each.figure] = _cell(each)
    table = tabulate(
        [
            [*name, cells.get("accuracy") or cells.get("row", ""), *(cells.get(each, "") for each in figures)]
            for name, cells in rows.items()
        ],
        ["model", "row", "accuracy", *figures],
        disable_numparse=True,
        colalign=("left", "left", *["right"] * (len(figures) + 1)),
    )
    worse = comparison.regressions
    judged = sum(each.found != UNJUDGED for each in comparison.checks)
    verdict = (
        f"{len(worse)} of {judged} figures got worse:"
        if worse
        else f"none of {judged} figures got worse beyond noise"
    )
    return "\n".join(
        [
            table,
            "",
            "Factor by which each figure got worse, times relative to float32 in the same run; accuracy: difference.",
            *(f"- {each}" for each in comparison.remarks),
            "",
            verdict,
            *(f"- {each.sentence()}" for each in worse),
        ]
    )


def _cell(check: Check) -> str:
    if check.worse is not None:
        value = f"{check.worse:.2f}"
    elif check.old is not None and check.new is not None:
        value = f"{check.new - check.old:+.4f}"
    else:
        value = "gone" if check.found == WORSE else "?"
    return value + _MARKS.get(check.found, "")
