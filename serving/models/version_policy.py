"""Selection of the versions to serve by a model's version policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["choose"]


def choose(policy: Any, found: Mapping[int, Path]) -> dict[int, Path]:
    """Return the versions in `found` selected by `policy`, a ServableVersionPolicy: by default the latest."""
    match policy.WhichOneof("policy_choice"):
        case "all":
            chosen = sorted(found)
        case "specific":
            chosen = sorted(set(policy.specific.versions) & found.keys())
        case _:
            chosen = sorted(found)[-(policy.latest.num_versions or 1) :]
    return {number: found[number] for number in chosen}
