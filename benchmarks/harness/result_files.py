"""Result files: JSON with the number of their schema, which increases when a field changes its meaning."""

from pathlib import Path
from typing import Any

from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import read_json

__all__ = ["read"]


def read(path: Path, schema: int, command: str) -> dict[str, Any]:
    """Read a result file of `command`. Raises ArtifactError if it is missing, damaged or of another schema."""
    results = read_json(path)
    if not isinstance(results, dict) or results.get("schema") != schema:
        raise ArtifactError(f"{path}: not a result file of schema {schema}; run `{command}`")
    return results
