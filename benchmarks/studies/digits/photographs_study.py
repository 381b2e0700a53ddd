"""Accuracy on photographs of the test digits, and on the unchanged digits.

Photographs (`benchmarks.studies.digits.photographs`) are preprocessed like the client's images
(`client.images.preprocessing`) and predicted by a TFLite file in this process. Their accuracy measures the
preprocessing. It must not change predictions of unchanged digits, encoded as PNGs of 28 × 28 pixels.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.studies.digits import client_preparation
from tfship.benchmarks.studies.digits.photographs import photograph
from tfship.benchmarks.studies.registry import Save
from tfship.benchmarks.studies.table_layout import table
from tfship.client.images import preprocessing, preview
from tfship.client.targets.connection import Servable
from tfship.client.targets.registry import TARGETS, Choice, open_target
from tfship.export.preprocessing import input_contract
from tfship.train.common import cli, statistics
from tfship.train.common.errors import DataError, UsageError
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits, to_input
from tfship.train.recipe import NETWORKS

__all__ = [
    "BARS", "DESCRIPTION", "NO_CLASS", "add_arguments", "classes", "failures", "measure", "prepared_photographs",
    "render", "run",
]  # fmt: skip

DESCRIPTION = (
    "Turn test digits into photographs (paper, ink, shadow, noise, tilt, a table around, JPEG), preprocess them like "
    "the client, and report the accuracy, and the number of predictions that change for unchanged images."
)
# Requirements: minimum accuracy on photographs by network, and maximum number of changed predictions per 10,000
# unchanged images.
BARS = {"cnn": 0.98}
_MOST_CHANGED = 2

# Kinds of photographs by name, each with its condition.
_KINDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "dark ink": lambda made: not made["inverted"],
    "light ink": lambda made: made["inverted"],
    "a table around": lambda made: made["table"],
    "deep shadow": lambda made: made["shadow"] > 0.4,
    "much noise": lambda made: made["noise"] > 6,
    "below 500 pixels": lambda made: max(made["size"]) < 500,
    "above 1,000 pixels": lambda made: max(made["size"]) > 1000,
}
_DIGITS = input_contract.digits("digits")
# Counts as a wrong prediction for an image without a prediction.
NO_CLASS = -1
# Distance between the sequences of photographs of consecutive seeds.
_SEED = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument(
        "--model", action="append", choices=NETWORKS, help="only this model (may be repeated)"
    )
    parser.add_argument("--count", type=cli.count, default=2000, metavar="N", help="number of photographs")
    parser.add_argument("--seed", type=cli.count, default=1, metavar="N", help="seed of the photographs")


def measure(arguments: argparse.Namespace, _flags: Sequence[str], _save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    if arguments.count > len(digits.x_test):
        raise UsageError(f"--count {arguments.count}: expected at most {len(digits.x_test)}, the test images")
    names = arguments.model or list(NETWORKS)
    return run(arguments.models, names, digits, arguments.count, arguments.seed)


def run(models: Path, names: list[str], digits: Digits, count: int, seed: int) -> dict[str, Any]:
    """Measure each network and return the results.

    `count` test images, evenly spread, become photographs. `seed` is that of `prepared_photographs`.
    """
    chosen = np.linspace(0, len(digits.x_test) - 1, count).astype(int)
    made, prepared = [], []
    with Progress("photographs", count, "images") as progress:
        for description, pixels in prepared_photographs(digits.x_test[chosen], seed):
            made.append(description)
            prepared.append(pixels)
            progress.advance()
    images, found = client_preparation.stacked(prepared)
    untouched = np.stack(
        [preprocessing.pixels(preview.png(each[..., np.newaxis]), _DIGITS)[..., 0] for each in digits.x_test]
    )
    results = {}
    for name in names:
        opened = open_target(Choice(TARGETS["tflite"], Servable(name), models))
        try:
            photographs = np.where(found, classes(opened.predict, images), NO_CLASS)
            plain = classes(opened.predict, digits.x_test)
            changed = int(np.sum(classes(opened.predict, untouched) != plain))
        finally:
            opened.target.close()
        truth = digits.y_test[chosen]
        results[name] = {
            "source": opened.where,
            "photographs": statistics.accuracy(photographs, truth),
            "same_digits_untouched": statistics.accuracy(plain[chosen], truth),
            "untouched": {"images": len(plain), "changed": changed},
            "kinds": {
                kind: statistics.accuracy(photographs[of_kind], truth[of_kind])
                for kind, belongs in _KINDS.items()
                if (of_kind := np.array([belongs(each) for each in made])).any()
            },
        }
    return {
        "data": digits.describe(),
        "photographs": count,
        "seed": seed,
        "nothing_found": sum(each["problem"] is not None for each in made),
        "milliseconds": {
            "median": float(np.median([each["milliseconds"] for each in made])),
            "most": float(max(each["milliseconds"] for each in made)),
        },
        "networks": results,
    }


def failures(results: dict[str, Any]) -> list[str]:
    """See `StudyTable.failures`."""
    found = []
    for name, network in results["networks"].items():
        accuracy, untouched = network["photographs"]["value"], network["untouched"]
        if accuracy < BARS.get(name, 0.0):
            found.append(f"{name}: accuracy {accuracy:.4f} on photographs; expected {BARS[name]} or more")
        if untouched["changed"] > (most := _MOST_CHANGED * untouched["images"] / 10_000):
            found.append(
                f"{name}: {untouched['changed']} of {untouched['images']:,} predictions changed; expected at most "
                f"{most:g}"
            )
    return found


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    return "\n".join([_heading(results), "", _table(results, layout), "", *_remarks(results)])


def _heading(results: dict[str, Any]) -> str:
    data = results["data"]
    return (
        f"{data['label']}: {results['photographs']:,} of {data['test']:,} test images as photographs of 200 to 2,000 "
        f"pixels a side, seed {results['seed']}; accuracy with its 95 % interval."
    )


def _table(results: dict[str, Any], layout: str) -> str:
    networks = results["networks"]
    rows = [
        ["unchanged", *(_shown(each["same_digits_untouched"]) for each in networks.values())],
        ["as photographs", *(_shown(each["photographs"]) for each in networks.values())],
    ]
    for kind in _KINDS:
        found = [each["kinds"].get(kind) for each in networks.values()]
        if all(found):
            rows.append([f"… {kind} ({found[0]['images']:,})", *map(_shown, found)])
    return table(["digits", *networks], rows, layout)


def _shown(accuracy: Any) -> str:
    low, high = accuracy["interval95"]
    return f"{accuracy['value']:.4f} ({low:.4f}–{high:.4f})"


def _remarks(results: dict[str, Any]) -> list[str]:
    took = results["milliseconds"]
    lines = [
        f"- {name}: {network['source']}; preprocessing changes {network['untouched']['changed']} predictions of "
        f"{network['untouched']['images']:,} unchanged test images."
        for name, network in results["networks"].items()
    ]
    lines.append(
        f"- No digit was found on {results['nothing_found']} photographs, which count as wrong. Decoding and "
        f"preprocessing took {took['median']:.0f} ms (median; at most {took['most']:.0f})."
    )
    return lines + [f"- missed: {each}" for each in failures(results)]


def prepared_photographs(
    images: NDArray[np.uint8], seed: int
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8] | None]]:
    """Yield each photograph's properties, and its prepared pixels uint8 [28, 28], None if no digit was found.

    `images` are MNIST's, uint8 [N, 28, 28]. The seed of photograph i is `seed` × 1,000,000 + i.
    """
    seeds = range(seed * _SEED, seed * _SEED + len(images))
    yield from client_preparation.in_processes(_prepared, images, seeds)


def _prepared(digit: NDArray[np.uint8], seed: int) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Return a photograph's properties, and its preprocessed pixels, None if no digit was found."""
    made = photograph(digit, seed)
    description = {key: value for key, value in asdict(made).items() if key != "data"}
    start, problem, pixels = time.perf_counter(), None, None
    try:
        pixels = preprocessing.pixels(made.data, _DIGITS)[..., 0]
    except DataError as error:
        problem = str(error)
    milliseconds = (time.perf_counter() - start) * 1e3
    return {**description, "problem": problem, "milliseconds": milliseconds}, pixels


def classes(
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]], images: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return the predicted classes [N] of images uint8 [N, 28, 28], 0 (paper) to 255 (ink)."""
    values = to_input(images)
    return np.concatenate(
        [predict(values[start : start + 500]).argmax(1) for start in range(0, len(values), 500)]
    )
