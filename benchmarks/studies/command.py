"""`tfship benchmark NAME`: run a study, print its tables and write its results."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tfship.benchmarks.studies.registry import STUDIES
from tfship.train.common import cli, environment
from tfship.train.common.errors import ResultError, UsageError
from tfship.train.common.files import write_json

__all__ = ["main"]


def main(name: str, argv: Sequence[str]) -> int:
    """Run the study `name` and return the exit code. Raises ResultError (exit code 6) for unmet requirements."""
    study = STUDIES[name]
    module = study.measurement()
    parser = cli.parser(f"tfship benchmark {name}", module.DESCRIPTION)
    if "models" in study.reads:
        parser.add_argument("--models", type=Path, default=Path("models"), help="folder of exported models")
    if "data" in study.reads:
        parser.add_argument("--data", metavar="PATH", help="MNIST: a Keras .npz or a folder of IDX files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    module.add_arguments(parser)
    own, flags = cli.split(argv)
    arguments = parser.parse_args(own)
    if flags and not study.flags:
        raise UsageError(f"tfship benchmark {name}: starts no server; remove {' '.join(flags)}")
    about = {
        "schema": study.schema,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment.describe(),
        "load_before": round(os.getloadavg()[0], 2),
    }

    def save(results: dict[str, Any]) -> None:
        if arguments.json:
            write_json(arguments.json, {**about, **results})

    results = {**about, **module.measure(arguments, flags, save)}
    save(results)
    table = study.table()
    print(table.render(results, "simple"))
    if arguments.json:
        cli.say(f"\nwritten: {arguments.json}")
    if found := table.failures(results):
        raise ResultError("; ".join(found))
    return 0
