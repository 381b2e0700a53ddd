"""`tfship export`: write models as versioned SavedModels and TFLite files, verified before they appear.

tfship export                           both networks of `tfship train`, all formats
tfship export cnn --formats int8        one network, SavedModel and int8 only
tfship export --new                     a new version even if the latest is up to date
tfship export my.keras --eval photos/ --calibration photos/    your own model, verified on labelled images
tfship versions list | verify | rollback | restore | retire | c-source    manage versions (each with --help)
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tfship.export.conversion import formats
from tfship.export.preprocessing import outputs
from tfship.export.preprocessing.range_detection import NamedScaling
from tfship.export.publishing import cards, gate
from tfship.export.publishing.cards import ExportCard
from tfship.export.publishing.pipeline import ExportPlan, export
from tfship.export.sources import source, user_model
from tfship.train import cards as training_cards
from tfship.train.common import cli
from tfship.train.common.errors import UsageError
from tfship.train.data import datasets
from tfship.train.recipe import NETWORKS

# Subfolders of the models' folder that aren't servables, and the networks' names.
_RESERVED = (*NETWORKS, training_cards.RELEASED, "logs", "seeds", "teachers")


def main(argv: Sequence[str] | None = None) -> int:
    """Export the models that `argv` names, print a table for each, and return the exit code."""
    arguments = _parser().parse_args(argv)
    # Checked before anything is loaded, so that a wrong flag is reported at once.
    rows = formats.select(arguments.formats)
    required = [row.name for row in formats.select(arguments.require)] if arguments.require else []
    bounds = gate.Gate(arguments.min_accuracy, arguments.max_drop, arguments.min_agreement)
    plan = ExportPlan(
        rows,
        arguments.serve,
        required,
        bounds,
        force=arguments.force,
        selective_seconds=arguments.selective_seconds,
    )

    done: list[ExportCard] = []
    for name, request, load in _models(arguments):
        base = arguments.models / name
        version = cards.up_to_date(base, request, rows, plan.serves, asdict(bounds), force=arguments.force)
        if version and not arguments.new:
            cli.say(f"{name}: {version} is up to date (--new writes a new version)")
            card = cards.read(version)
        else:
            version, card = export(load(), arguments.models, plan, cli.say)
            cli.say(f"{name}: published {version} after {sum(card.seconds.values()):.0f} s")
        done.append(card)
        if not arguments.json:
            print(f"\n{name}: {version}, {_verified(card)}\n{_table(card)}", flush=True)
    if arguments.json:
        print(json.dumps([asdict(card) for card in done], indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "tfship export",
        "Write a SavedModel and TFLite files to <models>/<name>/<N>/, where N is the next version number. All files "
        "are verified on the evaluation images before the version is published. A format that can't be converted, or "
        "isn't good enough, is left out, and the reason is reported. To manage versions: tfship versions.",
    )
    parser.add_argument(
        "models_named",
        nargs="*",
        metavar="MODEL",
        help=f"{' or '.join(NETWORKS)} (both if none is given); or one Keras file or SavedModel folder",
    )
    parser.add_argument("--data", metavar="PATH", help="the data that the networks were trained on")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="the models' folder, to read and write"
    )
    parser.add_argument(
        "--formats",
        metavar="A,B",
        help=f"the TFLite formats to try: {', '.join(formats.FORMATS)} (all if not given)",
    )
    parser.add_argument(
        "--require",
        metavar="A,B",
        help="formats without which nothing is published (none if not given)",
    )
    parser.add_argument(
        "--serve",
        metavar="FORMAT",
        choices=formats.FORMATS,
        help="also write this format as model.tflite, for TensorFlow Serving's --prefer_tflite_model, and only those "
        "warm-up requests that it supports",
    )
    parser.add_argument(
        "--selective-seconds",
        type=float,
        default=ExportPlan.selective_seconds,
        metavar="S",
        help="time limit for choosing the layers that the format selective keeps in float32, in seconds",
    )
    parser.add_argument("--new", action="store_true", help="export even if the latest version is up to date")
    parser.add_argument("--json", action="store_true", help="print the export cards as JSON on stdout")
    judging = parser.add_argument_group("the gate")
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
    own = parser.add_argument_group("your own model")
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
    values = parser.add_argument_group(
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
    return parser


# Arguments that only apply to a user's own model.
_OWN = (
    "name",
    "eval",
    "calibration",
    "labels",
    "size",
    "outputs",
    "imports",
    "range",
    "mean",
    "std",
    "channel_order",
)


def _models(arguments: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], source.Source]]]:
    """Yield name, digest of the request and loader of each requested model."""
    requested: list[str] = list(dict.fromkeys(arguments.models_named)) or list(NETWORKS)
    own = [each for each in requested if each not in NETWORKS]
    flags = [
        f"--{flag.removesuffix('s') if flag == 'imports' else flag.replace('_', '-')}"
        for flag in _OWN
        if getattr(arguments, flag)
    ]
    if not own:
        if flags or arguments.unverified_accuracy:
            raise UsageError(
                f"{', '.join(flags or ['--unverified-accuracy'])}: only for your own model; give its Keras file or "
                "SavedModel folder"
            )
        yield from _trained(arguments, requested)
        return
    if len(requested) > 1:
        raise UsageError(f"{', '.join(requested)}: expected a single model if it is your own")
    yield _own(arguments, Path(own[0]))


def _trained(
    arguments: argparse.Namespace, names: list[str]
) -> Iterator[tuple[str, str, Callable[[], source.Source]]]:
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    for name in names:
        folder = training_cards.locate(arguments.models, name)
        card = training_cards.read(folder, name)
        if folder != arguments.models:
            cli.say(f"{name}: not trained here; exporting the released weights, {folder / name}.keras")
        training_cards.check_data(card, folder, digits)

        def load(name: str = name, folder: Path = folder) -> source.Source:
            return source.trained(name, folder, digits)

        yield name, source.request(card), load


def _own(arguments: argparse.Namespace, path: Path) -> tuple[str, str, Callable[[], source.Source]]:
    if not path.exists():
        raise UsageError(
            f"{path}: no such network or file; expected {', '.join(NETWORKS)}, a Keras file or a SavedModel folder"
        )
    name = arguments.name or path.resolve().stem
    if name in _RESERVED or not name.replace("_", "").replace("-", "").isalnum() or name.isdigit():
        raise UsageError(
            f"--name {name}: expected a name of letters, digits, - and _, none of {', '.join(_RESERVED)}"
        )
    order = arguments.channel_order
    model = user_model.UserModel(
        path,
        name,
        arguments.eval,
        arguments.calibration,
        arguments.labels,
        NamedScaling(
            arguments.range, arguments.mean, arguments.std, None if order is None else order == "BGR"
        ),
        arguments.preparation,
        arguments.outputs,
        arguments.size,
        tuple(arguments.imports or ()),
        arguments.unverified_accuracy,
    )
    request = model.digest()
    return name, request, lambda: user_model.source_of(model, request, cli.say)


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


def _verified(card: ExportCard) -> str:
    images = f"{card.data['test']:,} images ({card.data['label']})"
    return (
        f"verified on {images}"
        if card.verified
        else f"accuracy unverified; agreement on {images} without labels"
    )


def _table(card: ExportCard) -> str:
    several = "mean_average_precision" in card.keras_accuracy
    rows = [["original", "", "", *_accuracy(card.keras_accuracy, several=several), "", "", "", ""]]
    rows += [
        [
            each["format"],
            f"{each['bytes'] / 1024:,.0f} KiB",
            f"{each['disagreements']:,}",
            *_accuracy({**each, **(each["accuracy"] or {"value": None})}, several=several),
            "" if each["wins"] is None else f"{each['wins']}/{each['losses']}",
            "" if each["mcnemar_p"] is None else f"{each['mcnemar_p']:.2g}",
            f"{each['largest_difference']:.2g}",
            f"{arena / 1024:.1f} KiB" if (arena := each.get("micro", {}).get("arena_bytes")) else "",
        ]
        for each in card.artefacts
    ]
    headers = ["format", "size", "≠ original", "accuracy", *["mAP"] * several, "wins/losses", "p"]
    headers += ["largest difference", "micro arena"]
    reasons: dict[str, list[str]] = {}
    for name, reason in (card.unconverted | card.withheld).items():
        reasons.setdefault(reason, []).append(name)
    left_out = [f"  {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    table: str = tabulate(
        rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))
    )
    return "\n".join([table, *(["left out:", *left_out] if left_out else []), *_for_browsers(card)])


def _for_browsers(card: ExportCard) -> Iterator[str]:
    """Yield lines about the files for browsers."""
    made = [each for each in card.web if "file" in each]
    if made:
        where = " and ".join(sorted({each["browser"] or "LiteRT only, in no browser" for each in made}))
        images = min(each["images"] for each in made)
        agreement = min(each["agreement"] for each in made)
        yield (
            f"for browsers: {len(made)} files in {formats.WEB}/, verified in {where}, on {images:,} images; "
            f"agreement with the original {agreement:.3f} or more"
        )
    for each in card.web:
        if "left_out" in each:
            yield f"for browsers: {each['format']} left out: {each['left_out']}"


def _accuracy(figures: Mapping[str, Any], *, several: bool) -> list[str]:
    names = ["value", *["mean_average_precision"] * several]
    return ["" if figures[name] is None else f"{figures[name]:.4f}" for name in names]
