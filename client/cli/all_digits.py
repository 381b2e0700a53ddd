"""`--all-digits`: predictions for each digit of images with several digits."""

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tfship.client.cli import arguments as flags
from tfship.client.cli.output import rank, visible
from tfship.client.images import multi_digit
from tfship.client.images.batches import BATCH
from tfship.client.images.preview import PngWriter
from tfship.client.images.segmentation import Box
from tfship.client.images.sources import ImageSource, expand
from tfship.client.targets.binding import ENCODED, images_of
from tfship.client.targets.interpretation import SCORES
from tfship.client.targets.registry import Opened, open_target
from tfship.train.common import cli
from tfship.train.common.errors import DataError, UsageError

__all__ = ["DigitPrediction", "run"]

_SIDES = ("top", "bottom", "left", "right")


@dataclass(frozen=True)
class DigitPrediction:
    """A digit's prediction and place: its line, from 1, and its box in pixels.

    `probability` is None if the model's `score` isn't one.
    """

    label: str
    probability: float | None
    score: float
    line: int
    box: Box


def run(arguments: argparse.Namespace) -> int:
    """Predict all digits of the images, print them with their places, and return the exit code."""
    if not arguments.all_digits:
        raise UsageError("--boxed without --all-digits: expected both")
    if arguments.show or arguments.seen is not None:
        raise UsageError("--show and --seen are for images of one digit; use --boxed with --all-digits")
    sources = expand(arguments.images)
    files = None if arguments.boxed is None else PngWriter(Path(arguments.boxed), sources, "--boxed")
    writer = _writer(arguments)
    failures, noted = 0, False
    opened = open_target(flags.choice(arguments))
    with contextlib.closing(opened.target):
        _check(opened)
        for source in sources:
            try:
                data = source.read()
                digits = _predict(data, opened, source)
                if files:
                    boxed = multi_digit.drawn(data, [(each.box, each.label) for each in digits], source.name)
                    file = files.write(source.name, boxed)
                    cli.say(f"{visible(source.name)}: wrote the image with boxes to {visible(str(file))}")
            except DataError as error:
                failures += 1
                writer.error(source.name, cli.one_line(str(error)))
            else:
                if not noted and opened.interpretation.note:
                    cli.say(opened.interpretation.note)
                    noted = True
                writer.prediction(source.name, digits)
    return DataError.exit_code if failures else 0


def _check(opened: Opened) -> None:
    if opened.contract.preparation != "digit":
        raise UsageError(
            f"--all-digits with {opened.where}: its images are prepared by {opened.contract.preparation!r}; "
            "expected a model for digits"
        )
    if opened.binding.dtype == ENCODED:
        raise UsageError(
            "--all-digits with a signature for encoded images; expected one for pixels or values"
        )


def _predict(data: bytes, opened: Opened, source: ImageSource) -> list[DigitPrediction]:
    found = [
        (number, digit)
        for number, line in enumerate(multi_digit.find(data, opened.contract, source.name), 1)
        for digit in line
    ]
    raw = []
    for start in range(0, len(found), BATCH):
        pixels = np.stack([digit.pixels for _, digit in found[start : start + BATCH]])
        raw.append(opened.raw_scores(images_of(pixels, opened.contract, opened.binding.dtype)))
    digits = []
    for (line, digit), scores in zip(found, opened.interpretation.scores(np.concatenate(raw)), strict=True):
        label, score = rank(scores, opened.contract.labels)[0]
        probability = None if opened.interpretation.meaning == SCORES else score
        digits.append(DigitPrediction(label, probability, score, line, digit.box))
    return digits


class _Writer(Protocol):
    def prediction(self, name: str, digits: Sequence[DigitPrediction]) -> None:
        """Write the digits of an image."""

    def error(self, name: str, problem: str) -> None:
        """Write why an image has no prediction."""


def _writer(arguments: argparse.Namespace) -> _Writer:
    if arguments.json:
        return _Json()
    return _Csv() if arguments.csv else _Lines()


class _Lines:
    """`<image>: 75136`, or `<image>:<line>: 75136` for each of several lines."""

    def prediction(self, name: str, digits: Sequence[DigitPrediction]) -> None:
        lines = _texts(digits)
        for number, text in enumerate(lines, 1):
            _print(f"{visible(name)}{f':{number}' if len(lines) > 1 else ''}: {visible(text)}")

    def error(self, name: str, problem: str) -> None:  # noqa: ARG002 - `problem` begins with it
        cli.say(f"error: {problem}")


class _Json:
    """One JSON object per image: image, lines (texts), digits (label, probability, line, box); or image and error."""

    def prediction(self, name: str, digits: Sequence[DigitPrediction]) -> None:
        found = [
            {
                "label": each.label,
                "probability": each.probability,
                **({"score": each.score} if each.probability is None else {}),
                "line": each.line,
                "box": dict(zip(_SIDES, each.box, strict=True)),
            }
            for each in digits
        ]
        _print(json.dumps({"image": name, "lines": _texts(digits), "digits": found}))

    def error(self, name: str, problem: str) -> None:
        _print(json.dumps({"image": name, "error": problem}))


class _Csv:
    """A header, and one row per digit."""

    def __init__(self) -> None:
        self._row: Callable[[Sequence[object]], object] = csv.writer(sys.stdout, lineterminator="\n").writerow
        self._row(("image", "line", "label", "probability", *_SIDES, "error"))

    def prediction(self, name: str, digits: Sequence[DigitPrediction]) -> None:
        for each in digits:
            self._row((name, each.line, each.label, each.probability, *each.box, ""))
        sys.stdout.flush()

    def error(self, name: str, problem: str) -> None:
        self._row((name, "", "", "", *[""] * len(_SIDES), problem))
        sys.stdout.flush()


def _texts(digits: Sequence[DigitPrediction]) -> list[str]:
    texts = [""] * max((each.line for each in digits), default=0)
    for each in digits:
        texts[each.line - 1] += each.label
    return texts


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
