"""Time to accuracy: the `fast` recipe compared with plain training, in turn. Loads TensorFlow when it runs.

Plain training is that of a tutorial: the same network, Adam at its default rate, batches of 128, float32, all training
images, no schedule and no augmentation, until it first reaches the target accuracy. It is evaluated on the test images
after every epoch, without counting the time. Both favour plain training.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfship.benchmarks.studies.registry import Save
from tfship.benchmarks.studies.table_layout import table
from tfship.train.common import cli, tensorflow_loader
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits, to_input
from tfship.train.recipe import NETWORKS, RECIPES

__all__ = ["DESCRIPTION", "TARGETS", "add_arguments", "compare", "failures", "measure", "render"]

DESCRIPTION = "Compare the time of plain training with that of the fast recipe, in turn."

# Target test accuracies, set by the project's requirements.
TARGETS = {"nn": 0.9696, "cnn": 0.9922}

_PLAIN_BATCH = 128
_PLAIN_DROPOUT = {"nn": 0.1, "cnn": 0.5}
# Plain training that misses the target after this many epochs won't reach it.
_MOST_EPOCHS = 40
_FIRST_SEED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument(
        "--repeats", type=cli.count, default=3, metavar="N", help="pairs of runs, each with another seed"
    )


def measure(arguments: argparse.Namespace, _flags: Sequence[str], _save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    return compare(digits, arguments.repeats, say=cli.say)


def failures(results: dict[str, Any]) -> list[str]:  # noqa: ARG001
    """See `StudyTable.failures`: there are no requirements for the ratios."""
    return []


def compare(
    digits: Digits,
    repeats: int,
    targets: dict[str, float] = TARGETS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train each network plainly and by `fast`, `repeats` times in turn, each time with another seed.

    `targets` has the target accuracies. Returns, by network, its target and the runs: by recipe the seconds of
    training, the final accuracy, the epochs and whether the target was reached, and the ratio if both reached it.
    """
    tensorflow_loader.tensorflow()
    networks: dict[str, Any] = {}
    for name in NETWORKS:
        runs = []
        for seed in range(_FIRST_SEED, _FIRST_SEED + repeats):
            say(f"{name}: seed {seed}, plain")
            plain = _plain(name, digits, seed, targets[name])
            say(f"{name}: seed {seed}, fast")
            fast = _fast(name, digits, seed, targets[name])
            reached = plain["reached"] and fast["reached"]
            ratio = fast["seconds"] / plain["seconds"] if reached else None
            runs.append({"seed": seed, "plain": plain, "fast": fast, "ratio": ratio})
        networks[name] = {"asked": targets[name], "runs": runs}
    return {"data": digits.describe(), "networks": networks}


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`; Markdown has only the median ratio of each network."""
    if layout == "github":
        verdicts = [f"- `{name}`: {verdict}" for name, verdict in _verdicts(results).items()]
        return "\n".join([f"Time to the target accuracies, {_heading(results)}:", "", *verdicts])
    rows = []
    for name, network in results["networks"].items():
        for run in network["runs"]:
            for recipe in ("plain", "fast"):
                each = run[recipe]
                seconds = f"{each['seconds']:.1f}"
                rows.append(
                    [
                        name,
                        run["seed"],
                        recipe,
                        f"{each['accuracy']:.4f}",
                        each["epochs"],
                        seconds if each["reached"] else f"not in {seconds}",
                        f"{run['ratio']:.2f}" if run["ratio"] and recipe == "fast" else "",
                    ]
                )
    headers = ["network", "seed", "recipe", "accuracy", "epochs", "seconds", "× plain"]
    text = table(headers, rows, layout, ["left", "right", "left", *["right"] * 4])
    verdicts = [f"{name}: {verdict}" for name, verdict in _verdicts(results).items()]
    return "\n".join([_heading(results), "", text, "", *verdicts])


def _heading(results: dict[str, Any]) -> str:
    machine, data = results["environment"], results["data"]
    return f"{data['label']}, {data['test']:,} test images; {machine['cpu']}, {machine['cores']} cores"


def _verdicts(results: dict[str, Any]) -> dict[str, str]:
    verdicts = {}
    for name, network in results["networks"].items():
        runs = network["runs"]
        ratios = [run["ratio"] for run in runs if run["ratio"]]
        seconds = statistics.median(run["fast"]["seconds"] for run in runs)
        share = f", {statistics.median(ratios):.2f} of plain training's time" if ratios else ""
        missed = sum(not run["fast"]["reached"] for run in runs)
        verdicts[name] = (
            f"{network['asked']:.4f} by fast in {seconds:.1f} s{share} (medians of {len(runs)} runs; {missed} missed "
            "the target)"
        )
    return verdicts


def _plain(name: str, digits: Digits, seed: int, target: float) -> dict[str, Any]:
    """Train plainly until the target is reached. The seconds include only the training steps."""
    import keras

    from tfship.train.models import build

    start = time.perf_counter()
    keras.utils.set_random_seed(seed)
    model = build(name, _PLAIN_DROPOUT[name])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    images, test = to_input(digits.x_train), to_input(digits.x_test)
    seconds, epochs, accuracy = time.perf_counter() - start, 0, 0.0
    with Progress(f"{name}, plain", _MOST_EPOCHS, "epochs at most") as progress:
        while accuracy < target and epochs < _MOST_EPOCHS:
            start = time.perf_counter()
            model.fit(images, digits.y_train, batch_size=_PLAIN_BATCH, verbose=0)
            seconds += time.perf_counter() - start
            epochs += 1
            predicted = model.predict(test, batch_size=1000, verbose=0).argmax(1)
            accuracy = float(np.mean(predicted == digits.y_test))
            progress.advance(note=f"accuracy {accuracy:.4f}")
    return {"seconds": seconds, "epochs": epochs, "accuracy": accuracy, "reached": accuracy >= target}


def _fast(name: str, digits: Digits, seed: int, target: float) -> dict[str, Any]:
    """Train by the whole recipe. The seconds include its checkpoints and validation."""
    from tfship.train.trainer import fit

    with tempfile.TemporaryDirectory() as folder:
        card = fit(name, RECIPES["fast"][name], digits, seed, Path(folder))
    accuracy = card.accuracy["value"]
    return {
        "seconds": card.seconds,
        "epochs": card.epochs,
        "accuracy": accuracy,
        "reached": accuracy >= target,
    }
