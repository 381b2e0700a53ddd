"""`tfship export oci`: write a version as a container image, without a container engine.

tfship export oci cnn --out cnn.tar              the newest version; skopeo, crane and podman read the archive
tfship export oci cnn --base busybox.tar --out cnn.tar    with a shell, as KServe's modelcars need
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tfship.export.publishing import store
from tfship.export.storage import oci_image
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the image that `argv` requests, and return the exit code."""
    arguments = _parser().parse_args(argv)
    base = arguments.models / arguments.model
    if not store.versions(base):
        names = ", ".join(store.servables(arguments.models)) or "none"
        raise UsageError(f"{base}: holds no version; {arguments.models} has these models: {names}")
    version = store.version(base, arguments.version)
    out = arguments.out or Path(f"{arguments.model}.tar")
    digest = oci_image.write(version, arguments.model, out, arguments.base)
    print(f"{out}: {arguments.model} version {version.name} in /models/{version.name}, {digest}", flush=True)  # noqa: T201
    cli.say(f"push it with: skopeo copy oci-archive:{out} docker://REGISTRY/{arguments.model}:{version.name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship export oci",
        "Write a version as a container image (an OCI archive) that holds its files in /models/<N>/. Kubernetes mounts "
        "it as an image volume, and KServe as a modelcar. The same version always gives the same bytes.",
    )
    parser.add_argument("model", metavar="MODEL", help="the servable's name")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), metavar="FOLDER", help="folder of models"
    )
    parser.add_argument("--version", type=int, metavar="N", help="version number (default: the newest)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the archive (default: MODEL.tar)")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="ARCHIVE",
        help="an OCI archive with one image, to which the files are added; KServe's modelcars need one with a shell, "
        "such as busybox",
    )
    return parser
