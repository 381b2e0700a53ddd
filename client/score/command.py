"""`tfship score`: write the predictions for many images to a Parquet file.

tfship score photos/ --model cnn --out scores.parquet            folders, files and patterns, in this process
tfship score 's3://bucket/photos/*.jpg' --out scores.parquet     object storage
tfship score train.parquet --image-column image --out s.parquet  encoded images in Parquet files
tfship score photos/ --engine ray --workers 8 --out s.parquet    worker processes, or a cluster by --ray-address
"""

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from tfship.client.cli import arguments as flags
from tfship.client.score import inputs
from tfship.client.score.job import LOCAL, RAY, JobSettings, run
from tfship.client.score.parts import folder_of
from tfship.export.storage.filesystems import is_url
from tfship.train.common import cli
from tfship.train.common.errors import DataError, UsageError

__all__ = ["main"]

_KINDS = ("tflite", "savedmodel")
# The flags of `client.cli.arguments` that only servers have.
_FLAGS_OF_SERVERS = ("server", "tls", "ca", "cert", "key", "header", "timeout", "retries", "gzip")


def main(argv: Sequence[str] | None = None) -> int:
    """Score the images, write the file, and return the exit code: 3 if no image could be scored."""
    arguments = _parser().parse_args(argv)
    out = arguments.out
    if is_url(str(out)) or out.is_dir():
        raise UsageError(f"--out {out}: expected a file on this machine, such as scores.parquet")
    if arguments.ray_address and arguments.engine != RAY:
        raise UsageError("--ray-address without --engine ray: add it, or omit the address")
    if arguments.engine == RAY and importlib.util.find_spec("ray") is None:
        raise cli.missing("--engine ray", "ray", "ray")
    choice = flags.choice(arguments)
    if choice.kind.name not in _KINDS:
        raise UsageError(
            f"--target {arguments.target}: expected {' or '.join(_KINDS)}, a model in this process"
        )
    own = [out.resolve(), folder_of(out).resolve()]
    found = inputs.find(
        arguments.images, arguments.batch, arguments.image_column, arguments.name_column, without=own
    )
    settings = JobSettings(
        arguments.top,
        arguments.part_rows,
        arguments.engine,
        arguments.workers,
        arguments.ray_address,
        arguments.restart,
    )
    summary = run(found, choice, out, settings)
    if arguments.json:
        print(json.dumps(summary.describe()), flush=True)
    else:
        new = summary.images - summary.resumed
        rate = f"{new:,} of them scored in {summary.seconds:.1f} s ({new / summary.seconds:,.0f}/s)"
        cli.say(f"{out}: {summary.images:,} images, {rate}")
    if summary.errors:
        cli.say(
            f"{summary.errors:,} of {summary.images:,} images have no prediction; the column error says why"
        )
    return DataError.exit_code if summary.errors == summary.images else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship score",
        "Write the predictions for many images to a Parquet file. An image that can't be read is a row with an error. "
        "An interrupted job goes on from its finished parts when the same command is run again.",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES",
        help="image files, Parquet files with encoded images, folders of both with all folders in them, patterns "
        "('scans/**/*.png'), and URLs of these: s3://, gs://, az://, file://",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the Parquet file to write")
    parser.add_argument("--top", type=cli.count, default=5, metavar="K", help="classes to list, best first")
    parser.add_argument("--json", action="store_true", help="print the summary as a JSON object")
    group = flags.add_model(parser)
    group.add_argument(
        "--target", default="tflite", metavar="KIND[:PATH]",
        help="tflite, tflite:FORMAT, tflite:PATH, savedmodel or savedmodel:PATH, as for tfship predict",
    )  # fmt: skip
    group = parser.add_argument_group("Parquet files with images")
    group.add_argument(
        "--image-column",
        default="image",
        metavar="NAME",
        help="column of bytes, or of structs with bytes and path",
    )
    group.add_argument("--name-column", metavar="NAME", help=(
        "column with the images' names (default: path, file_name, filename, image_id or id, else the struct's path, "
        "else FILE#ROW)"
    ))  # fmt: skip
    group = parser.add_argument_group("the job")
    group.add_argument("--part-rows", type=cli.count, default=10_000, metavar="N", help=(
        "images per part; a killed job repeats the unfinished parts, which lie in FILE.parts until the end"
    ))  # fmt: skip
    group.add_argument("--restart", action="store_true", help="discard the finished parts, and begin again")
    group.add_argument(
        "--batch",
        type=cli.count,
        default=inputs.BATCH,
        metavar="N",
        help="images that a worker takes at a time",
    )
    group.add_argument(
        "--workers", type=cli.count, metavar="N", help="threads or actors (default: one per processor)"
    )
    group.add_argument("--engine", choices=(LOCAL, RAY), default=LOCAL, help=(
        "local: threads of this process. ray: actors of Ray Data, in processes on this machine or on a cluster"
    ))  # fmt: skip
    group.add_argument("--ray-address", metavar="HOST:PORT", help=(
        "the cluster (default: one on this machine, for the duration of the job). Each of its machines needs tfship, "
        "and the model and the images under the same paths, except images in object storage"
    ))  # fmt: skip
    parser.set_defaults(**dict.fromkeys(_FLAGS_OF_SERVERS))
    return parser
