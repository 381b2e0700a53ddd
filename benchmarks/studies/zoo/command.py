"""`tfship benchmark zoo`: whether networks of the kinds that people bring are exported rightly.

tfship benchmark zoo                               all of them, in about an hour on two cores
tfship benchmark zoo --only vit,lstm               some
tfship benchmark zoo --only vit --formats float32  some formats only
"""

from collections.abc import Sequence
from pathlib import Path

from tfship.benchmarks.report.command import OUT
from tfship.export.conversion import formats
from tfship.train.common import cli, environment
from tfship.train.common.errors import ResultError, UsageError
from tfship.train.common.files import stage, write_json
from tfship.train.common.progress import Progress
from tfship.train.data import datasets

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Fit, export and compare, print the table, return the exit code; ResultError (6) if a network failed."""
    # Cards, formats and statistics are needed only here.
    from tfship.benchmarks.studies.zoo import study, table

    parser = cli.parser(
        "tfship benchmark zoo",
        "Build networks of many kinds, fit each for seconds, export it by `tfship export` without naming its range "
        "of values, and compare what is published with Keras. A network passes if it is exported right, or refused "
        "for the true reason.",
    )
    parser.add_argument(
        "--only", metavar="A,B", help=f"these networks, of {', '.join(study.ARCHITECTURES)}"
    )  # fmt: skip
    parser.add_argument("--formats", metavar="A,B", help="the TFLite formats to try (all if not given)")
    parser.add_argument(
        "--selective-seconds", type=float, default=60.0, metavar="S", help="time for the format selective"
    )
    parser.add_argument("--data", metavar="PATH", help="where the digits come from")
    parser.add_argument(
        "--out", type=Path, default=OUT / "zoo", metavar="FOLDER",
        help="where the work is done; logs stay there, and the files of networks that failed",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args(argv)
    names = list(dict.fromkeys((arguments.only or ",".join(study.ARCHITECTURES)).split(",")))
    if unknown := [name for name in names if name not in study.ARCHITECTURES]:
        raise UsageError(
            f"--only {','.join(unknown)}: no such network; expected some of {', '.join(study.ARCHITECTURES)}"
        )
    rows = formats.select(arguments.formats)
    settings = ["--formats", ",".join(row.name for row in rows)]
    settings += ["--selective-seconds", str(arguments.selective_seconds)]

    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    results = {
        "schema": table.SCHEMA,
        "data": digits.describe(),
        "environment": environment.describe(),
        "models": (models := []),
    }
    out = arguments.out.resolve()
    with stage(out, "digits.npz") as file, Progress("zoo", len(names), "networks") as progress:
        study.save_digits(digits, file)
        for name in names:
            progress.advance(0, note=name)
            row = study.measure(name, file, out / name, settings)
            models.append(row)
            progress.advance()
            progress.say(table.line(row))
            if row["verdict"] != study.FAILED:
                study.tidy(out / name)
            if arguments.json:
                write_json(arguments.json, results)
    print(table.text(results))
    if arguments.json:
        cli.say(f"\nwritten: {arguments.json}")
    if failed := [row["model"] for row in models if row["verdict"] == study.FAILED]:
        raise ResultError(f"{', '.join(failed)}: not exported rightly; see the table, and the logs in {out}")
    return 0
