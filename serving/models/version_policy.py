"""Version numbers: selection by a model's version policy, and numbers that clients send."""

from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["choose", "parse_version"]


_Where = TypeVar("_Where")


def choose(policy: Any, found: Mapping[int, _Where]) -> dict[int, _Where]:
    """Return the versions in `found` selected by `policy`, a ServableVersionPolicy: by default the latest."""
    match policy.WhichOneof("policy_choice"):
        case "all":
            chosen = sorted(found)
        case "specific":
            chosen = sorted(set(policy.specific.versions) & found.keys())
        case _:
            chosen = sorted(found)[-(policy.latest.num_versions or 1) :]
    return {number: found[number] for number in chosen}


def parse_version(digits: str) -> int | None:
    """Return the version number that a client wrote in decimal `digits`; None if it is larger than an int64."""
    significant = digits.lstrip("0") or "0"
    # Python refuses to read a number of thousands of digits.
    number = int(significant) if len(significant) <= 19 else 2**63
    return number if number < 2**63 else None
