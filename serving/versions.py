"""Which versions of a model there are on disk, and which of them its policy wants served."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["choose", "find"]

# ASCII digits only: `int` takes much more, such as "1_0". Hidden and staged directories don't match.
_VERSION = re.compile(r"[0-9]+")
_LARGEST = 2**63 - 1  # a version is an int64 in the protocol


def find(base_path: Path) -> dict[int, Path]:
    """Return the integer-named directories in `base_path` by number. Raises OSError if it can't be read."""
    found: dict[int, Path] = {}
    # Sorted, so that of "1" and "01" it is always the same one that counts.
    for path in sorted(base_path.iterdir()):
        if _VERSION.fullmatch(path.name) and path.is_dir() and int(path.name) <= _LARGEST:
            found.setdefault(int(path.name), path)
    return found


def choose(policy: Any, found: Mapping[int, Path]) -> dict[int, Path]:
    """Return those of `found` that `policy`, a ServableVersionPolicy, wants: by default the latest one."""
    match policy.WhichOneof("policy_choice"):
        case "all":
            wanted = sorted(found)
        case "specific":
            wanted = sorted(set(policy.specific.versions) & found.keys())
        case _:
            wanted = sorted(found)[-(policy.latest.num_versions or 1) :]
    return {number: found[number] for number in wanted}
