"""Print the part of a lock file that some packages need: `python3 lock_subset.py requirements.txt uvicorn …`.

pip installs a lock with hashes as a whole only, and a container of the server needs a third of this one. Which
package needs which stands in the lock itself, in the comments that uv writes. Run by the Dockerfile, before
anything is installed: the standard library is all it may use.
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
    """Return the entries of `names`, and of all packages that they need, as they stand in `lock`.

    A package has several entries where its version depends on Python's. Raises ValueError for a name that isn't in
    the lock.
    """
    entries = [(entry.partition("==")[0], entry) for entry in _ENTRY.split(lock)[1:]]
    wanted = set(names)
    if unknown := wanted - {name for name, _ in entries}:
        raise ValueError(f"not in the lock: {', '.join(sorted(unknown))}")
    found: set[str] = set()
    while wanted:
        found |= wanted
        needed = {name for name, entry in entries if wanted & set(_NEEDED_BY.findall(entry))}
        wanted = needed - found
    return "".join(entry for name, entry in entries if name in found)


def main() -> None:
    """Print the entries of the packages that the command line names."""
    parser = argparse.ArgumentParser(
        prog="locked.py", description="Print the part of a lock file that is needed."
    )
    parser.add_argument("lock", type=Path, help="requirements.txt, as `make lock` writes it")
    parser.add_argument("names", nargs="+", metavar="NAME", help="a package")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(subset(arguments.lock.read_text(encoding="utf-8"), arguments.names))
    except ValueError as error:
        sys.exit(f"error: {arguments.lock}: {error}")


if __name__ == "__main__":
    main()
