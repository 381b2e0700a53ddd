"""Extraction of a lock file's entries for some packages: `python3 lock_subset.py requirements.txt httptools …`.

pip only installs a lock with hashes as a whole, and the server's images need a third of it. The dependencies are taken
from the comments that uv writes into the lock. The Dockerfile runs this before any package is installed, so it uses
only the standard library.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["subset"]

# `    # via starlette`, or a line each: `    # via`, `    #   keras`, `    #   tensorflow`.
_NEEDED_BY = re.compile(r"^    #(?: via|  ) (\S+)$", re.MULTILINE)
_ENTRY = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)


def subset(lock: str, names: Iterable[str]) -> str:
    """Return the entries of the packages `names` and their dependencies, in the order of `lock`.

    A package has several entries if its version depends on Python's. Raises ValueError for a name that isn't in the
    lock.
    """
    entries = [(entry.partition("==")[0], entry) for entry in _ENTRY.split(lock)[1:]]
    pending = set(names)
    if unknown := pending - {name for name, _ in entries}:
        raise ValueError(f"not in the lock: {', '.join(sorted(unknown))}")
    found: set[str] = set()
    while pending:
        found |= pending
        needed = {name for name, entry in entries if pending & set(_NEEDED_BY.findall(entry))}
        pending = needed - found
    return "".join(entry for name, entry in entries if name in found)


def main() -> None:
    """Print the entries of the packages that the command line names."""
    parser = argparse.ArgumentParser(
        prog="lock_subset.py",
        description="Print a lock file's entries for some packages and their dependencies.",
    )
    parser.add_argument("lock", type=Path, help="requirements.txt, written by `make lock`")
    parser.add_argument("names", nargs="+", metavar="NAME", help="name of a package")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(subset(arguments.lock.read_text(encoding="utf-8"), arguments.names))
    except ValueError as error:
        sys.exit(f"error: {arguments.lock}: {error}")


if __name__ == "__main__":
    main()
