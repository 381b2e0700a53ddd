"""Which of the versions on disk a model's policy wants served."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["choose"]


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
