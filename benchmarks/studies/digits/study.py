"""Accuracy on digits as other people write them: corrupted, photographed, and those of another data set.

Every image set (`benchmarks.studies.digits.image_sets`) is predicted by two TFLite files of the same exported version
of each digit network, float32 and int8. Images in MNIST's form go to the network as they are. The others, and inverted
ones, are prepared like the client's first.
"""

import argparse
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfship.benchmarks.studies.digits import client_preparation
from tfship.benchmarks.studies.digits.image_sets import GROUPS, ImageSet
from tfship.benchmarks.studies.digits.photographs_study import NO_CLASS, classes
from tfship.benchmarks.studies.registry import Save
from tfship.client.targets.connection import Servable
from tfship.client.targets.registry import TARGETS, Choice, Opened, open_target
from tfship.train.common import cli, statistics
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.recipe import NETWORKS

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = (
    "Measure the accuracy of the digit networks on corrupted test images (the project's and MNIST-C's corruptions), "
    "photographs, and UCI's digits, with the float32 and the int8 file of an exported version."
)
_FORMATS = ("float32", "int8")

_Files = Mapping[str, Mapping[str, Opened]]  # by network and format


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument(
        "--model", action="append", choices=NETWORKS, help="only this model (may be repeated)"
    )
    parser.add_argument(
        "--only", action="append", choices=GROUPS, help="only this group of rows (may be repeated)"
    )
    parser.add_argument(
        "--count", type=cli.count, default=10_000, metavar="N",
        help="images in each row at most, evenly spread; there are at most 1,000 photographs",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=cli.count, default=1, metavar="N", help="seed of photographs and MNIST-C's corruptions"
    )


def measure(arguments: argparse.Namespace, _flags: Sequence[str], save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    image_sets = [
        each
        for group in GROUPS
        if group in (arguments.only or GROUPS)
        for each in GROUPS[group](digits, arguments.count, arguments.seed)
    ]
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        opened = {
            name: {each: _opened(stack, name, each, arguments.models) for each in _FORMATS}
            for name in arguments.model or NETWORKS
        }
        results = {
            "data": digits.describe(),
            "seed": arguments.seed,
            "sources": _for_each(opened, lambda file: file.where),
            "rows": rows,
        }
        progress = stack.enter_context(Progress("digits", len(image_sets), "image sets"))
        for each in image_sets:
            rows.append(_row(each, opened, progress))
            progress.advance()
            save(results)
    return results


def _opened(stack: contextlib.ExitStack, name: str, format_name: str, models: Path) -> Opened:
    opened = open_target(Choice(TARGETS["tflite"], Servable(name), models, format_name))
    stack.callback(opened.target.close)
    return opened


def _for_each(opened: _Files, value: Callable[[Opened], Any]) -> dict[str, dict[str, Any]]:
    """Return a value for each file, by network and format."""
    return {
        name: {format_name: value(file) for format_name, file in files.items()}
        for name, files in opened.items()
    }


def _row(image_set: ImageSet, opened: _Files, progress: Progress) -> dict[str, Any]:
    """Make the images and return the accuracy of each file."""
    label, made = f"{image_set.kind} {image_set.strength}".strip(), []
    for image in image_set.make():
        made.append(image)
        progress.advance(0, note=f"{label}: {len(made):,} of {len(image_set.labels):,} images")
    images, found = client_preparation.stacked(made)
    return {
        "group": image_set.group,
        "kind": image_set.kind,
        "strength": image_set.strength,
        "description": image_set.description,
        "preparation": image_set.preparation,
        "nothing_found": int(np.sum(~found)),
        "accuracy": _for_each(
            opened,
            lambda file: statistics.accuracy(
                np.where(found, classes(file.predict, images), NO_CLASS), image_set.labels
            ),
        ),
    }
