"""The command `tfship kubernetes`: manifests for one's own model.

tfship kubernetes render --overlay volume --model cnn                               the claim models, folder cnn
tfship kubernetes render --overlay oci --model cnn --location registry.example/cnn:3
tfship kubernetes render --overlay kserve-s3 --model cnn --location s3://bucket/models/cnn --out cnn.yaml
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tfship.export.publishing import store
from tfship.serving.kubernetes.manifests import OVERLAYS
from tfship.serving.kubernetes.render import MODEL, Rendering, render
from tfship.train.common import cli
from tfship.train.common.errors import UsageError
from tfship.train.common.files import write_bytes

__all__ = ["main", "memory_mib"]

_STDOUT = "-"
_MIB = 2**20
# Memory of the server's processes without models, the factor for a model's files (two workers, two versions during a
# switch, and twice a file's size once it is loaded), and the unit to which the sum is rounded up.
_BASE_MIB, _COPIES, _UNIT_MIB = 640, 8, 64
# The committed manifests request as much.
_LEAST_MIB = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.model is None and OVERLAYS[arguments.overlay].location:
        raise UsageError("--model is missing; expected the name of a model, such as cnn")
    choice = Rendering(
        overlay=arguments.overlay,
        model=arguments.model or MODEL,
        location=arguments.location,
        image=arguments.image,
        namespace=arguments.namespace,
        replicas=arguments.replicas,
        memory_mib=memory_mib(arguments.models / arguments.model) if arguments.model else None,
        monitoring=arguments.monitoring,
    )
    text = render(choice)
    if arguments.out == _STDOUT:
        sys.stdout.write(text)
    else:
        write_bytes(Path(arguments.out), text.encode())
        cli.say(f"written: {arguments.out}")
    return 0


def memory_mib(base: Path) -> int | None:
    """Return the MiB to request for the model in the folder `base`, None if there is none.

    An estimate from the files of the latest version that the server loads.
    """
    versions = store.versions(base)
    if not versions:
        return None
    latest = versions[max(versions)]
    loaded = [latest / "saved_model.pb", *(latest / "variables").glob("*"), *(latest / "assets").rglob("*")]
    files = [each for each in loaded if each.is_file()] or list(latest.rglob("*.tflite"))
    size = sum(each.stat().st_size for each in files) / _MIB
    units = -(-(_BASE_MIB + _COPIES * size) // _UNIT_MIB)
    return max(_LEAST_MIB, int(units) * _UNIT_MIB)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("tfship kubernetes", "Write Kubernetes manifests for a model.")
    commands = parser.add_subparsers(dest="command", required=True)
    text = "write the manifest of an overlay for a model, as YAML"
    width = max(map(len, OVERLAYS))
    listed = "\n".join(f"  {name:<{width}}  {each.purpose}" for name, each in OVERLAYS.items())
    found = commands.add_parser(
        "render",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.\n\noverlays:\n{listed}",
        epilog=cli.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    found.add_argument(
        "--overlay", required=True, choices=OVERLAYS, metavar="OVERLAY", help="one of the list above"
    )
    found.add_argument(
        "--model", metavar="NAME",
        help="name of the model, and of the objects; required, except for kserve-runtimes",
    )  # fmt: skip
    found.add_argument(
        "--location", metavar="WHERE",
        help="where the model's numbered versions are: CLAIM or CLAIM/PATH for a volume (default: models/NAME), the "
        "URL of the folder in object storage, or the image of `tfship export oci`",
    )  # fmt: skip
    found.add_argument("--image", help="image of the server (default: tfship:0.1.0)")
    found.add_argument(
        "--namespace", metavar="NAME", help="namespace of all objects (default: that of kubectl)"
    )
    found.add_argument(
        "--replicas", type=_replicas, metavar="MIN,MAX", help="bounds for the autoscaler (default: 2,10)"
    )
    found.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR",
        help="folder of exported models: if it has the model, the size of its files sets the memory (default: models)",
    )  # fmt: skip
    found.add_argument(
        "--no-monitoring", dest="monitoring", action="store_false",
        help="leave out ServiceMonitor, PrometheusRule and the dashboard, for clusters without Prometheus' operator",
    )  # fmt: skip
    found.add_argument(
        "--out", default=_STDOUT, metavar="FILE", help="file to write; -: the standard output (default: -)"
    )
    return parser


def _replicas(text: str) -> tuple[int, int]:
    numbers = text.split(",")
    if len(numbers) == 2 and all(each.isascii() and each.isdigit() for each in numbers):
        least, most = map(int, numbers)
        if 1 <= least <= most:
            return least, most
    raise argparse.ArgumentTypeError(f"{text!r}: expected MIN,MAX with 1 ≤ MIN ≤ MAX, such as 2,10")
