"""Arguments of `tfship export`."""

import argparse
import math
from pathlib import Path

from tfship.export.conversion import formats
from tfship.export.preprocessing import outputs
from tfship.export.publishing import gate
from tfship.export.publishing.pipeline import ExportPlan
from tfship.train.common import cli
from tfship.train.recipe import NETWORKS

__all__ = ["parser"]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    found = cli.parser(
        "tfship export",
        "Write a SavedModel and TFLite files to <models>/<name>/<N>/, where N is the next version number. All files "
        "are verified on the evaluation images before the version is published. A format that can't be converted, or "
        "isn't good enough, is left out, and the reason is reported. To manage versions: tfship versions. To write one "
        "as a container image: tfship export oci.",
    )
    found.add_argument(
        "models_named",
        nargs="*",
        metavar="MODEL",
        help=f"{' or '.join(NETWORKS)} (both if none is given); or one Keras file or SavedModel folder",
    )
    found.add_argument("--data", metavar="PATH", help="the data that the networks were trained on")
    found.add_argument(
        "--models", type=Path, default=Path("models"), help="the models' folder, to read and write"
    )
    found.add_argument(
        "--formats",
        metavar="A,B",
        help=f"the TFLite formats to try: {', '.join(formats.FORMATS)} (all if not given)",
    )
    found.add_argument(
        "--require",
        metavar="A,B",
        help="formats without which nothing is published (none if not given)",
    )
    found.add_argument(
        "--serve",
        metavar="FORMAT",
        choices=formats.FORMATS,
        help="also write this format as model.tflite, for TensorFlow Serving's --prefer_tflite_model, and only those "
        "warm-up requests that it supports",
    )
    found.add_argument(
        "--selective-seconds",
        type=float,
        default=ExportPlan.selective_seconds,
        metavar="S",
        help="time limit for choosing the layers that the format selective keeps in float32, in seconds",
    )
    found.add_argument(
        "--publish",
        metavar="URL",
        help="also upload the version to the folder of models at this URL (s3://, gs://, az://, file://), from which "
        "servers load it; one that is there already isn't uploaded again",
    )
    found.add_argument("--new", action="store_true", help="export even if the latest version is up to date")
    found.add_argument("--json", action="store_true", help="print the export cards as JSON on stdout")
    judging = found.add_argument_group("the gate")
    judging.add_argument(
        "--min-accuracy",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="accuracy that the model and every format must reach, 0 to 1",
    )
    judging.add_argument(
        "--max-drop",
        type=float,
        default=gate.MAX_DROP,
        metavar="SHARE",
        help="largest loss of accuracy relative to the model and to the last blessed version; a larger one blocks a "
        "format if an exact test is significant",
    )
    judging.add_argument(
        "--min-agreement",
        type=float,
        default=gate.MIN_AGREEMENT,
        metavar="SHARE",
        help="share of images on which a quantized format must agree with the model",
    )
    judging.add_argument(
        "--force",
        action="store_true",
        help="publish even if the gate doesn't bless the version; the card records it",
    )
    own = found.add_argument_group("your own model")
    own.add_argument("--name", help="the servable's name (default: from the file name)")
    own.add_argument(
        "--eval",
        type=Path,
        metavar="PATH",
        help="labelled images for verification: a folder with a folder of PNG and JPEG images per class, or an .npz "
        "with x [N, H, W, C] and y: class numbers, or rows of 0 and 1",
    )
    own.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="calibration images for integer formats: a folder, or an .npz; labels aren't needed",
    )
    own.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="text file with a class name on each line (default: the folders' names, or numbers)",
    )
    own.add_argument(
        "--size",
        type=_size,
        metavar="H,W",
        help="height and width, for a model whose input has free sizes or is a flat row",
    )
    own.add_argument(
        "--outputs",
        choices=outputs.KINDS,
        help="kind of the model's outputs (default: detected by activation and values)",
    )
    own.add_argument(
        "--import",
        dest="imports",
        type=Path,
        action="append",
        metavar="FILE",
        help="a Python file that registers the model's own layers and functions; may be given several times",
    )
    own.add_argument(
        "--preparation",
        choices=("resize", "digit"),
        default="resize",
        help="how an image is brought to the model's size: stretched, or like MNIST's digits",
    )
    own.add_argument(
        "--unverified-accuracy",
        action="store_true",
        help="export without labels: verify only the agreement of the formats with the model, on --eval, --calibration "
        "or noise, and mark the version as unverified; needs --range",
    )
    values = found.add_argument_group(
        "the range of values", "Detected with the labelled images if none of these is given."
    )
    values.add_argument(
        "--range", type=_range, metavar="LOW,HIGH", help="values of pixels 0 and 255, such as --range=-1,1"
    )
    values.add_argument(
        "--mean",
        type=_numbers,
        metavar="M,M,M",
        help="mean to subtract from these values; one number, or one per channel",
    )
    values.add_argument(
        "--std",
        type=_deviations,
        metavar="S,S,S",
        help="divisor of the difference; one number, or one per channel",
    )
    values.add_argument(
        "--channel-order",
        choices=("RGB", "BGR"),
        help="order of the model's channels, also for --mean and --std",
    )
    return found


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers, such as --range=-1,1") from None
    if not low < high:
        raise argparse.ArgumentTypeError(f"{text!r}: expected the lower one first, such as --range=-1,1")
    return low, high


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers, such as --mean=0.485,0.456,0.406")
    return numbers


def _deviations(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if not all(each > 0 for each in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers above 0")
    return numbers


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (cli.count(each.strip()) for each in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected height and width, such as --size=224,224"
        ) from None
    return height, width
