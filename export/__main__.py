"""`python -m export`: write models as versioned SavedModels and TFLite files, verified before they appear.

python -m export                           both networks that `make train` makes, all formats
python -m export cnn --formats int8        one of them, SavedModel and int8 only
python -m export --new                     a new version even where the latest is up to date
python -m export my.keras --name flowers --labels labels.txt --calibration images/ --eval eval.npz
python -m export list | verify | rollback | restore | retire | c-source    look after versions (each with --help)
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from export import cards, formats, gate, manage, source
from export.cards import ExportCard
from export.publish import Plan, export
from train import cards as training_cards
from train import cli, data
from train.errors import ConversionError, UsageError
from train.recipe import NETWORKS

# Below the folder of models, these aren't servables.
_TAKEN = (*NETWORKS, training_cards.RELEASED, "logs", "seeds", "teachers", *manage.COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, print a table per model, return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in manage.COMMANDS:
        return manage.main(argv)
    arguments = _parser().parse_args(argv)
    # Checked before anything is loaded: a wrong flag shouldn't take seconds to be told.
    rows = formats.select(arguments.formats)
    bounds = gate.Gate(arguments.min_accuracy, arguments.max_drop)
    names = [row.name for row in rows]
    serves = arguments.serve or (formats.REFERENCE if formats.REFERENCE in names else names[0])
    plan = Plan(rows, serves, bounds, force=arguments.force)

    done: list[ExportCard] = []
    missing: list[str] = []
    for name, request, load in _models(arguments):
        base = arguments.models / name
        version = cards.up_to_date(base, request, rows, serves, asdict(bounds), force=arguments.force)
        if version and not arguments.new:
            cli.say(
                f"{name}: {version} is up to date (--new, or `make export FORCE=1`, writes a new version)"
            )
            card = cards.read(version)
        else:
            version, card = export(load(), arguments.models, plan, cli.say)
            cli.say(f"{name}: published {version} after {sum(card.seconds.values()):.0f} s")
        done.append(card)
        missing += [f"{name} {reason}" for key, reason in card.unconverted.items() if arguments.formats]
        if not arguments.json:
            print(
                f"\n{name}: {version}, verified on {card.keras_accuracy['images']:,} images ({card.data['label']})"
            )
            print(_table(card), flush=True)
    if arguments.json:
        print(json.dumps([asdict(card) for card in done], indent=2))
    for reason in missing:
        cli.say(f"error: {reason}")
    return ConversionError.exit_code if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "python -m export",
        "Write <models>/<name>/<N>/ with a SavedModel and TFLite files, N one above the last version. All of it is "
        "verified on the evaluation images before it appears, and what isn't blessed is not published. Versions are "
        f"looked after by python -m export {' | '.join(manage.COMMANDS)}.",
    )
    parser.add_argument(
        "models_named",
        nargs="*",
        metavar="MODEL",
        help=f"which of {', '.join(NETWORKS)} (both if none); or one .keras file or SavedModel folder",
    )
    parser.add_argument("--data", metavar="PATH", help="the data that the networks were trained on")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder to read and write")
    parser.add_argument(
        "--formats", metavar="A,B", help=f"some of {', '.join(formats.FORMATS)} (all if not given)"
    )
    parser.add_argument(
        "--serve",
        metavar="FORMAT",
        choices=formats.FORMATS,
        help=f"what model.tflite is, for servers that prefer it (default: {formats.REFERENCE}, or the first)",
    )
    parser.add_argument("--new", action="store_true", help="export even if the latest version is up to date")
    parser.add_argument("--json", action="store_true", help="print the export cards as JSON on stdout")
    judging = parser.add_argument_group("the gate")
    judging.add_argument(
        "--min-accuracy",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="what every artefact must reach, 0 to 1",
    )
    judging.add_argument(
        "--max-drop",
        type=float,
        default=gate.MAX_DROP,
        metavar="SHARE",
        help="how much less accurate than float32, and than the last blessed version, an artefact may be",
    )
    judging.add_argument(
        "--force", action="store_true", help="publish what isn't blessed; its card records it"
    )
    own = parser.add_argument_group("your own model")
    own.add_argument("--name", help="the servable's name (default: the file's)")
    own.add_argument(
        "--eval",
        type=Path,
        metavar="FILE",
        help="labelled images to verify on: .npz with x uint8 [N, H, W, C], y",
    )
    own.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="images for the ranges of int8 formats: a folder of PNG and JPEG, or such an .npz",
    )
    own.add_argument(
        "--labels", type=Path, metavar="FILE", help="the classes' names, a line each (default: numbers)"
    )
    own.add_argument(
        "--range",
        type=_range,
        metavar="LOW,HIGH",
        help="the values that pixels 0 and 255 become, as in --range=-1,1 (default: 0,255 where the model rescales, "
        "else 0,1)",
    )
    own.add_argument(
        "--preparation",
        choices=("resize", "digit"),
        default="resize",
        help="how a picture becomes an image: stretched, or as MNIST's were made",
    )
    return parser


def _models(arguments: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], source.Source]]]:
    """Yield name, digest of the request and loader of each model that was asked for."""
    asked: list[str] = list(dict.fromkeys(arguments.models_named)) or list(NETWORKS)
    own = [each for each in asked if each not in NETWORKS]
    flags = [
        f"--{flag}" for flag in ("name", "eval", "calibration", "labels", "range") if getattr(arguments, flag)
    ]
    if not own:
        if flags:
            raise UsageError(
                f"{', '.join(flags)}: for a model of your own; name its .keras file or SavedModel folder"
            )
        yield from _trained(arguments, asked)
        return
    if len(asked) > 1:
        raise UsageError(f"{', '.join(asked)}: a model of your own is exported by itself")
    yield _brought(arguments, Path(own[0]))


def _trained(
    arguments: argparse.Namespace, names: list[str]
) -> Iterator[tuple[str, str, Callable[[], source.Source]]]:
    digits = data.load(data.find(arguments.data, say=cli.say))
    for name in names:
        folder = training_cards.locate(arguments.models, name)
        card = training_cards.read(folder, name)
        if folder != arguments.models:
            cli.say(f"{name}: not trained here, so the released weights are exported, {folder / name}.keras")
        training_cards.check_data(card, folder, digits)

        def load(name: str = name, folder: Path = folder) -> source.Source:
            return source.trained(name, folder, digits)

        yield name, source.request(card), load


def _brought(arguments: argparse.Namespace, path: Path) -> tuple[str, str, Callable[[], source.Source]]:
    if not path.exists():
        raise UsageError(
            f"{path}: no network is called that ({', '.join(NETWORKS)}), and there is no such file; expected a .keras "
            "file or a SavedModel folder"
        )
    if arguments.eval is None:
        raise UsageError(f"{path}: --eval is missing: an .npz of labelled images to verify every format on")
    name = arguments.name or path.stem
    if name in _TAKEN or not name.replace("_", "").replace("-", "").isalnum() or name.isdigit():
        raise UsageError(
            f"--name {name}: expected a name of letters, digits, - and _, none of {', '.join(_TAKEN)}"
        )
    asked = source.Brought(
        path,
        name,
        arguments.eval,
        arguments.calibration,
        arguments.labels,
        arguments.range,
        arguments.preparation,
    )
    request = asked.digest()
    return name, request, lambda: source.brought(asked, request, cli.say)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers, as in --range=-1,1") from None
    if not low < high:
        raise argparse.ArgumentTypeError(f"{text!r}: expected the lower one first, as in --range=-1,1")
    return low, high


def _table(card: ExportCard) -> str:
    rows = [["keras", "", "", f"{card.keras_accuracy['value']:.4f}", "", "", "", ""]]
    rows += [
        [
            each["format"],
            f"{each['bytes'] / 1024:,.0f} KiB",
            f"{each['disagreements']:,}",
            f"{each['accuracy']['value']:.4f}",
            f"{each['wins']}/{each['losses']}",
            f"{each['mcnemar_p']:.2g}",
            f"{each['largest_difference']:.2g}",
            f"{arena / 1024:.1f} KiB" if (arena := each.get("micro", {}).get("arena_bytes")) else "",
        ]
        for each in card.artefacts
    ]
    headers = [
        "format",
        "size",
        "≠ Keras",
        "accuracy",
        "wins/losses",
        "p",
        "largest difference",
        "micro arena",
    ]
    table: str = tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 7))
    return table


if __name__ == "__main__":
    sys.exit(cli.run(main))
