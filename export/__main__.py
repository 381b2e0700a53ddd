"""`python -m export`: write trained networks as versioned SavedModels and TFLite files.

python -m export                           both networks, all formats
python -m export cnn --formats int8        one of them, SavedModel and int8 only
python -m export --force                   a new version even where the latest is up to date
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from export import cards, formats
from export.cards import ExportCard
from train import cards as training_cards
from train import cli, data
from train.errors import DataError, UsageError
from train.recipe import NETWORKS


def main(argv: Sequence[str] | None = None) -> int:
    """Export, print a table per network, return the exit code."""
    parser = cli.parser(
        "python -m export",
        "Write <models>/<name>/<N>/ with a SavedModel and TFLite files, N one above the last version.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which of {', '.join(NETWORKS)} (both if none)"
    )
    parser.add_argument("--data", metavar="PATH", help="the data that the networks were trained on")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder to read and write")
    parser.add_argument(
        "--formats", metavar="A,B", help=f"some of {', '.join(formats.FORMATS)} (all if not given)"
    )
    parser.add_argument(
        "--force", action="store_true", help="export even if the latest version is up to date"
    )
    parser.add_argument("--json", action="store_true", help="print the export cards as JSON on stdout")
    arguments = parser.parse_args(argv)
    names = list(dict.fromkeys(arguments.names)) or list(NETWORKS)
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise UsageError(f"no network is called {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    rows = formats.select(arguments.formats)

    digits = data.load(data.find(arguments.data, say=cli.say))
    done: list[ExportCard] = []
    for name in names:
        trained = training_cards.locate(arguments.models, name)
        training = training_cards.read(trained, name)
        if trained != arguments.models:
            cli.say(f"{name}: not trained here, so the released weights are exported, {trained / name}.keras")
        if training.data["sha256"] != digits.sha256:
            # Other images may be among those that it was trained on, and flatter it.
            raise DataError(
                f"{trained / name}.keras was trained on {training.data['label']} "
                f"(sha256 {training.data['sha256'][:12]}…), but the data found is {digits.source.label} "
                f"({digits.sha256[:12]}…); pass the same --data or MNIST_NPZ, or run `make train` again"
            )
        version = cards.up_to_date(arguments.models / name, training.keras_sha256, rows)
        if version and not arguments.force:
            cli.say(
                f"{name}: {version} is up to date (--force, or `make export FORCE=1`, writes a new version)"
            )
            card = cards.read(version)
        else:
            from export.publish import export

            version, card = export(name, trained, arguments.models, digits, rows, cli.say)
            cli.say(f"{name}: published {version}")
        done.append(card)
        if not arguments.json:
            print(
                f"\n{name}: {version}, checked on {card.keras_accuracy['images']:,} test images ({card.data['label']})"
            )
            print(_table(card), flush=True)
    if arguments.json:
        print(json.dumps([asdict(card) for card in done], indent=2))
    return 0


def _table(card: ExportCard) -> str:
    rows = [["keras", "", "", f"{card.keras_accuracy['value']:.4f}", "", ""]]
    rows += [
        [
            each["format"],
            f"{each['bytes'] / 1024:,.0f} KiB",
            f"{each['agreement']:.2%}",
            f"{each['accuracy']['value']:.4f}",
            f"{each['wins']}/{each['losses']}",
            f"{each['largest_difference']:.2g}",
        ]
        for each in card.artefacts
    ]
    headers = ["format", "size", "agrees with Keras", "accuracy", "wins/losses", "largest difference"]
    table: str = tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 5))
    return table


if __name__ == "__main__":
    sys.exit(cli.run(main))
