"""How well pictures as people take them are read: the test digits as photographs, and untouched.

Photographs (`benchmarks.studies.photographs`) go the way that the client's pictures go,
`client.images.preprocessing`, to a TFLite file in this process: what is measured is the preparation, by the accuracy
that is left. Untouched, as PNG of 28 × 28, the preparation must change nothing.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from tfship.benchmarks.studies.photographs import photograph
from tfship.benchmarks.studies.registry import Save
from tfship.client.images import preprocessing, preview
from tfship.client.targets.connection import Servable
from tfship.client.targets.registry import TARGETS, Choice, open_target
from tfship.export.preprocessing import input_contract
from tfship.train.common import cli, interruption, statistics
from tfship.train.common.errors import DataError, UsageError
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits, to_input
from tfship.train.recipe import NETWORKS

__all__ = ["BARS", "DESCRIPTION", "add_arguments", "failures", "measure", "render", "run"]

DESCRIPTION = (
    "Turn test digits into photographs (paper, ink, shadow, noise, tilt, a table around, JPEG), prepare them as the "
    "client does, and report how many are still read rightly; and whether untouched images stay what they are."
)
# What was asked for: of the photographs, at least this share is read rightly by the cnn; of 10,000 untouched images,
# at most so many predictions change.
BARS = {"cnn": 0.98}
_MOST_CHANGED = 2

# Photographs are told apart by these, each a name and what makes a picture one.
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
# Another sequence of photographs for every seed, whatever their number.
_SEED = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument("--model", action="append", choices=NETWORKS, help="only this one (may be repeated)")
    parser.add_argument("--count", type=cli.count, default=2000, metavar="N", help="number of photographs")
    parser.add_argument("--seed", type=cli.count, default=1, metavar="N", help="seed of the photographs")


def measure(arguments: argparse.Namespace, _flags: Sequence[str], _save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    if arguments.count > len(digits.x_test):
        raise UsageError(f"--count {arguments.count}: there are {len(digits.x_test)} test images")
    names = arguments.model or list(NETWORKS)
    return run(arguments.models, names, digits, arguments.count, arguments.seed)


def run(models: Path, names: list[str], digits: Digits, count: int, seed: int) -> dict[str, Any]:
    """Measure each network and return the results.

    `count` of the test images, evenly spread, become a photograph each, the i-th by `seed` × 1,000,000 + i.
    Raises UsageError if there are fewer.
    """
    chosen = np.linspace(0, len(digits.x_test) - 1, count).astype(int)
    seeds = range(seed * _SEED, seed * _SEED + count)
    made, pixels = [], np.zeros((count, *_DIGITS.shape), np.uint8)
    with Progress("photographs", count, "pictures") as progress:
        for place, (description, prepared) in enumerate(_all_prepared(digits.x_test[chosen], seeds)):
            made.append(description)
            if prepared is not None:
                pixels[place] = prepared
            progress.advance()
    untouched = np.stack(
        [preprocessing.pixels(preview.png(each[..., np.newaxis]), _DIGITS) for each in digits.x_test]
    )
    results = {}
    for name in names:
        opened = open_target(Choice(TARGETS["tflite"], Servable(name), models))
        try:
            photographs = _classes(opened.predict, pixels)
            plain = _classes(opened.predict, digits.x_test[..., np.newaxis])
            changed = int(np.sum(_classes(opened.predict, untouched) != plain))
        finally:
            opened.target.close()
        truth = digits.y_test[chosen]
        results[name] = {
            "source": opened.where,
            "photographs": statistics.accuracy(photographs, truth),
            "same_digits_untouched": statistics.accuracy(plain[chosen], truth),
            "untouched": {"images": len(plain), "changed": changed},
            "kinds": {
                kind: statistics.accuracy(photographs[found], truth[found])
                for kind, belongs in _KINDS.items()
                if (found := np.array([belongs(each) for each in made])).any()
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
            found.append(f"{name}: {accuracy:.4f} of the photographs; expected {BARS[name]} or more")
        if untouched["changed"] > _MOST_CHANGED * untouched["images"] / 10_000:
            found.append(f"{name}: {untouched['changed']} of {untouched['images']:,} predictions changed")
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
        ["as MNIST has them", *(_shown(each["same_digits_untouched"]) for each in networks.values())],
        ["as photographs", *(_shown(each["photographs"]) for each in networks.values())],
    ]
    for kind in _KINDS:
        found = [each["kinds"].get(kind) for each in networks.values()]
        if all(found):
            rows.append([f"… {kind} ({found[0]['images']:,})", *map(_shown, found)])
    align = ("left", *["right"] * len(networks))
    table: str = tabulate(rows, ["digits", *networks], tablefmt=layout, disable_numparse=True, colalign=align)
    return table


def _shown(accuracy: Any) -> str:
    low, high = accuracy["interval95"]
    return f"{accuracy['value']:.4f} ({low:.4f}–{high:.4f})"


def _remarks(results: dict[str, Any]) -> list[str]:
    took = results["milliseconds"]
    lines = [
        f"- {name}: {network['source']}; of {network['untouched']['images']:,} untouched test images the preparation "
        f"changes {network['untouched']['changed']} predictions."
        for name, network in results["networks"].items()
    ]
    lines.append(
        f"- Nothing was found on {results['nothing_found']} photographs, which count as wrong. Preparing one, its "
        f"decoding included, took {took['median']:.0f} ms (median; {took['most']:.0f} at most)."
    )
    return lines + [f"- missed: {each}" for each in failures(results)]


def _all_prepared(
    images: NDArray[np.uint8], seeds: range
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8] | None]]:
    # Not forked: TensorFlow or gRPC, loaded here by whoever calls this, wouldn't survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context) as workers:
        with interruption.held_back():
            prepared = workers.map(_prepared, images, seeds, chunksize=4)
        yield from prepared


def _prepared(digit: NDArray[np.uint8], seed: int) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Return what a photograph is like, and its pixels as prepared, None if nothing was found on it."""
    made = photograph(digit, seed)
    description = {key: value for key, value in asdict(made).items() if key != "data"}
    start, problem, pixels = time.perf_counter(), None, None
    try:
        pixels = preprocessing.pixels(made.data, _DIGITS)
    except DataError as error:
        problem = str(error)
    milliseconds = (time.perf_counter() - start) * 1e3
    return {**description, "problem": problem, "milliseconds": milliseconds}, pixels


def _classes(
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]], pixels: NDArray[np.uint8]
) -> NDArray[np.int64]:
    values = to_input(pixels[..., 0])
    return np.concatenate(
        [predict(values[start : start + 500]).argmax(1) for start in range(0, len(values), 500)]
    )
