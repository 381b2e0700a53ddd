"""`tfship benchmark`: measure, report, keep the README's tables true. Each command has its own --help.

tfship benchmark                    measure both models; print the tables, write JSON, a page and Markdown
tfship report [FILE]                render the report of the last run, or of that result file, again
tfship benchmark gate               fail if anything got worse since a baseline
tfship benchmark training           train plainly and by the fast recipe, in turn; print the ratios
tfship benchmark server             the embedded server's speed against TensorFlow Serving's
tfship benchmark soak               how soon that server answers, whether its memory grows
tfship benchmark pictures           how well photographs of digits are read
tfship benchmark client             how long the client takes, process and all
tfship benchmark zoo                whether networks of many kinds are exported rightly
tfship benchmark readme [--check]   put the committed results into the README, or compare
"""

import importlib
import sys
from collections.abc import Sequence

from tfship.benchmarks.studies import command as studies
from tfship.benchmarks.studies.registry import STUDIES
from tfship.benchmarks.suite import command as suite


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    name, *rest = argv or [""]
    if name in STUDIES:
        return studies.main(name, rest)
    if name in suite.OTHERS:
        code: int = importlib.import_module(f"tfship.benchmarks.{suite.OTHERS[name]}").main(rest)
        return code
    return suite.main(argv)
