"""Reading of result files, validated against the schema."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tfship.benchmarks.harness import result_files
from tfship.train.common.errors import ArtifactError

__all__ = ["read"]

_SCHEMA = Path(__file__).resolve().parent / "results.schema.json"
_COMMAND = "tfship benchmark"


def read(path: Path) -> dict[str, Any]:
    """Read a result file of `tfship benchmark`.

    Raises ArtifactError if it is missing, damaged, of another schema version or invalid; the message names the place.
    """
    schema = json.loads(_SCHEMA.read_bytes())
    results = result_files.read(path, schema["properties"]["schema"]["const"], _COMMAND)
    problem = best_match(Draft202012Validator(schema).iter_errors(results))
    if problem is not None:
        # The validator's message may contain a whole row.
        reason = problem.message if len(problem.message) <= 200 else f"{problem.message[:200]}…"
        raise ArtifactError(f"{path}: {problem.json_path}: {reason}; run `{_COMMAND}`")
    for name, model in results["models"].items():
        if all(row["name"] != model["reference"] for row in model["rows"]):
            raise ArtifactError(
                f"{path}: {name}: the row of the reference, {model['reference']!r}, is missing; run `{_COMMAND}`"
            )
    return results
