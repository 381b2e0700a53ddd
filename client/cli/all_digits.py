"""`--all-digits`: pictures with several digits, each of which is read."""

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
from tfship.client.images.preview import Kept
from tfship.client.images.segmentation import Box
from tfship.client.images.sources import PictureSource, expand
from tfship.client.targets.binding import ENCODED, images_of
from tfship.client.targets.interpretation import SCORES
from tfship.client.targets.registry import Opened, open_target
from tfship.train.common import cli
from tfship.train.common.errors import DataError, UsageError

__all__ = ["Read", "run"]

_SIDES = ("top", "bottom", "left", "right")


@dataclass(frozen=True)
class Read:
    """A digit that was read, and where it is: the line, from 1, and the box in pixels.

    `probability` is None where the model's `score` isn't one.
    """

    label: str
    probability: float | None
    score: float
    line: int
    box: Box


def run(arguments: argparse.Namespace) -> int:
    """Read all digits of the pictures, say where they are, return the exit code."""
    if not arguments.all_digits:
        raise UsageError("--boxed without --all-digits: expected both")
    if arguments.show or arguments.seen is not None:
        raise UsageError(
            "--show and --seen are for one digit a picture; with --all-digits, --boxed shows what was seen"
        )
    sources = expand(arguments.images)
    kept = None if arguments.boxed is None else Kept(Path(arguments.boxed), sources, "--boxed")
    write = _writer(arguments)
    bad, told = 0, False
    opened = open_target(flags.choice(arguments))
    with contextlib.closing(opened.target):
        _check(opened)
        for source in sources:
            try:
                data = source.read()
                read = _read(data, opened, source)
                if kept:
                    boxed = multi_digit.drawn(data, [(each.box, each.label) for each in read], source.name)
                    cli.say(
                        f"{visible(source.name)}: with boxes it is {visible(str(kept.write(source.name, boxed)))}"
                    )
            except DataError as error:
                bad += 1
                write.failed(source.name, cli.one_line(str(error)))
            else:
                if not told and opened.interpretation.note:
                    cli.say(opened.interpretation.note)
                    told = True
                write.answered(source.name, read)
    return DataError.exit_code if bad else 0


def _check(opened: Opened) -> None:
    if opened.contract.preparation != "digit":
        raise UsageError(
            f"--all-digits with {opened.where}: its pictures are prepared by {opened.contract.preparation!r}; "
            "expected a model of digits"
        )
    if opened.binding.dtype == ENCODED:
        raise UsageError(
            "--all-digits with a signature that takes whole pictures; expected one that takes images"
        )


def _read(data: bytes, opened: Opened, source: PictureSource) -> list[Read]:
    found = [
        (number, digit)
        for number, line in enumerate(multi_digit.find(data, opened.contract, source.name), 1)
        for digit in line
    ]
    answers = []
    for start in range(0, len(found), BATCH):
        pixels = np.stack([digit.pixels for _, digit in found[start : start + BATCH]])
        answers.append(opened.ask(images_of(pixels, opened.contract, opened.binding.dtype)))
    read = []
    for (line, digit), scores in zip(
        found, opened.interpretation.scores(np.concatenate(answers)), strict=True
    ):
        label, score = rank(scores, opened.contract.labels)[0]
        probability = None if opened.interpretation.meaning == SCORES else score
        read.append(Read(label, probability, score, line, digit.box))
    return read


class _Writer(Protocol):
    def answered(self, name: str, read: Sequence[Read]) -> None:
        """Say which digits are on a picture, and where."""

    def failed(self, name: str, problem: str) -> None:
        """Say why a picture has no answer."""


def _writer(arguments: argparse.Namespace) -> _Writer:
    if arguments.json:
        return _Json()
    return _Csv() if arguments.csv else _Lines()


class _Lines:
    """`<picture>: 75136`, or `<picture>:<line>: 75136` for each of several lines."""

    def answered(self, name: str, read: Sequence[Read]) -> None:
        lines = _texts(read)
        for number, text in enumerate(lines, 1):
            _print(f"{visible(name)}{f':{number}' if len(lines) > 1 else ''}: {visible(text)}")

    def failed(self, name: str, problem: str) -> None:  # noqa: ARG002 - which names it already
        cli.say(f"error: {problem}")


class _Json:
    """A JSON object a picture: image, lines (texts), digits (label, probability, line, box); or image and error."""

    def answered(self, name: str, read: Sequence[Read]) -> None:
        found = [
            {
                "label": each.label,
                "probability": each.probability,
                **({"score": each.score} if each.probability is None else {}),
                "line": each.line,
                "box": dict(zip(_SIDES, each.box, strict=True)),
            }
            for each in read
        ]
        _print(json.dumps({"image": name, "lines": _texts(read), "digits": found}))

    def failed(self, name: str, problem: str) -> None:
        _print(json.dumps({"image": name, "error": problem}))


class _Csv:
    """A row a digit, below a header."""

    def __init__(self) -> None:
        self._row: Callable[[Sequence[object]], object] = csv.writer(sys.stdout, lineterminator="\n").writerow
        self._row(("image", "line", "label", "probability", *_SIDES, "error"))

    def answered(self, name: str, read: Sequence[Read]) -> None:
        for each in read:
            self._row((name, each.line, each.label, each.probability, *each.box, ""))
        sys.stdout.flush()

    def failed(self, name: str, problem: str) -> None:
        self._row((name, "", "", "", *[""] * len(_SIDES), problem))
        sys.stdout.flush()


def _texts(read: Sequence[Read]) -> list[str]:
    texts = [""] * max((each.line for each in read), default=0)
    for each in read:
        texts[each.line - 1] += each.label
    return texts


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
