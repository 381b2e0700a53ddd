"""`tfship benchmark`: measure, report, update the README's tables. Each command has its own --help.

tfship benchmark                    measure both models; print the tables; write JSON, HTML and Markdown
tfship report [FILE]                render the report of the last run, or of another result file, again
tfship benchmark gate               fail if anything got worse since a baseline
tfship benchmark training           compare the time of plain training with that of the fast recipe
tfship benchmark server             compare the embedded server's speed with TensorFlow Serving's
tfship benchmark soak               measure that server's start time and memory growth
tfship benchmark pictures           measure the accuracy on photographs of digits
tfship benchmark digits             measure the accuracy on corrupted, photographed and other digits
tfship benchmark client             measure the duration of the client's whole process
tfship benchmark rollout            replace servers behind Envoy, as the Kubernetes manifests do
tfship benchmark zoo                export networks of many kinds and compare them with Keras
tfship benchmark readme [--check]   write the committed results into the README files, or compare
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
