"""`tfship export`: write models as versioned SavedModels and TFLite files, verified before they appear.

tfship export                           both networks of `tfship train`, all formats
tfship export cnn --formats int8        one network, SavedModel and int8 only
tfship export --new                     a new version even if the latest is up to date
tfship export my.keras --eval photos/ --calibration photos/    your own model, verified on labelled images
tfship export cnn --publish s3://bucket/models    also upload the version, for servers that read from there
tfship export oci cnn --out cnn.tar     write a version as a container image, for Kubernetes
tfship versions list | verify | rollback | restore | retire | c-source    manage versions (each with --help)
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tfship.export.arguments import parser
from tfship.export.conversion import formats
from tfship.export.preprocessing.range_detection import NamedScaling
from tfship.export.publishing import cards, gate
from tfship.export.publishing.cards import ExportCard
from tfship.export.publishing.pipeline import ExportPlan, export
from tfship.export.sources import source, user_model
from tfship.export.storage import filesystems, image_command
from tfship.export.storage.remote_versions import RemoteServable
from tfship.train import cards as training_cards
from tfship.train.common import cli
from tfship.train.common.errors import UsageError
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.recipe import NETWORKS

IMAGE_COMMAND = "oci"
# Subfolders of the models' folder that aren't servables, and the networks' names.
_RESERVED = (*NETWORKS, IMAGE_COMMAND, training_cards.RELEASED, "logs", "seeds", "teachers")


def main(argv: Sequence[str] | None = None) -> int:
    """Export the models that `argv` names, print a table for each, and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [IMAGE_COMMAND]:
        return image_command.main(argv[1:])
    arguments = parser().parse_args(argv)
    # Checked before anything is loaded, so that a wrong flag is reported at once.
    if arguments.publish:
        filesystems.check(arguments.publish)
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
        if arguments.publish:
            _publish(version, name, arguments.publish)
        if not arguments.json:
            print(f"\n{name}: {version}, {_verified(card)}\n{_table(card)}", flush=True)
    if arguments.json:
        print(json.dumps([asdict(card) for card in done], indent=2))
    return 0


def _publish(version: Path, name: str, url: str) -> None:
    size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
    with Progress(f"{name}: upload", size // 1000, "kB") as progress:
        servable = RemoteServable(f"{url.rstrip('/')}/{name}")
        where, uploaded = servable.upload(version, lambda count: progress.advance(count // 1000))
    cli.say(f"{name}: published {where}" if uploaded else f"{name}: {where} is up to date")


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
