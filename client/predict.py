"""Predict which digit, or which class of a model, an image shows.

tfship predict digit.png                   over REST, by a server on this machine
tfship predict --target grpc a.png scans/  several images and folders, over gRPC
tfship predict --target tflite digit.png   without a server, by a TFLite file in this process
tfship predict --json digit.png            JSON, one line per image
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    # Python searches a script's folder first, and modules in this one must not hide packages.
    sys.path = [each for each in sys.path if each != str(Path(__file__).parent)]
    from tfship.train.common import interruption

    interruption.catch(at_once=True)

import argparse
import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tfship.client import COMMAND
from tfship.client.api.inputs import Query
from tfship.client.cli import arguments as flags
from tfship.client.cli.output import Csv, JsonLines, Lines, Writer, rank, visible
from tfship.client.images.batches import BATCH, batches, predict
from tfship.client.images.sources import ImageSource, expand
from tfship.client.targets.interpretation import Interpretation
from tfship.client.targets.registry import Opened, open_target
from tfship.export.preprocessing.input_contract import PROBABILITIES_OF_CLASSES
from tfship.train.common import cli
from tfship.train.common.errors import DataError, Refused

if TYPE_CHECKING:
    from tfship.train.common.progress import Progress

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Predict the images, print the results, and return the exit code."""
    arguments = _parser().parse_args(_with_compare_value(sys.argv[1:] if argv is None else argv))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Don't fail for names that the terminal's encoding can't represent.
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.compare is not None:
        from tfship.client.compare import command

        return command.run(arguments)
    if arguments.all_digits or arguments.boxed is not None:
        from tfship.client.cli import all_digits

        return all_digits.run(arguments)
    choice = flags.choice(arguments)
    sources = expand(arguments.images)
    show = _preview(arguments, sources)
    with contextlib.ExitStack() as stack, _progress(len(sources)) as progress:

        @functools.cache
        def opened() -> Opened:
            """Open the target, once the first image was read."""
            target = open_target(choice)
            stack.callback(target.target.close)
            return target

        say = progress.say if progress else cli.say
        report = _Report(opened, functools.partial(_writer, arguments, say), show, say)
        try:
            for batch in batches(sources, opened, pixels=show is not None):
                predict(batch, opened)
                report.add(batch)
                if progress:
                    progress.advance(len(batch))
        finally:
            report.write()
    if report.failures and (arguments.json or arguments.csv):
        cli.say(f"error: {report.failures} of {len(sources)} images failed; their lines give the reason")
    return DataError.exit_code if report.failures else 0


class _Report:
    """The output, in the order of the images, held back until the meaning of the scores is settled.

    `writer` returns the writer for scores of a meaning. `failures` counts images without a prediction.
    """

    def __init__(
        self,
        opened: Callable[[], Opened],
        writer: Callable[[str], Writer],
        show: Callable[[str, NDArray[np.uint8]], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self._opened, self._new_writer, self._show, self._say = opened, writer, show, say
        self._held: list[Query] = []
        self._interpretation: Interpretation | None = None
        self._writer: Writer | None = None
        self._kind = ""
        self.failures = 0

    def add(self, batch: Sequence[Query]) -> None:
        """Add the images of a batch, and write all held images if their meaning is settled."""
        self._held += batch
        if any(each.scores is not None for each in batch):
            self._interpretation = self._opened().interpretation
        if self._interpretation and self._interpretation.settled:
            self.write()

    def write(self) -> None:
        """Write all held images. Raises Refused if the kind of scores has changed since the first write."""
        if not self._held:
            return
        found = self._interpretation
        if self._writer is None:
            self._writer = self._new_writer(found.meaning if found else PROBABILITIES_OF_CLASSES)
            self._kind = found.kind if found else ""
            if found and found.note:
                self._say(found.note)
        held, self._held = self._held, []
        for each in held:
            if each.scores is None or found is None:
                self.failures += 1
                self._writer.error(each.name, str(each.error))
                continue
            if found.kind != self._kind:
                raise Refused(
                    f"{visible(each.name)}: the model returned {self._kind} before and {found.kind} now, so the output "
                    "so far may be wrong; give its contract.json by --contract, or predict fewer images at a time"
                )
            if self._show and each.pixels is not None:
                self._show(each.name, each.pixels)
            scores = found.scores(each.scores[np.newaxis])[0]
            self._writer.prediction(each.name, rank(scores, self._opened().contract.labels))
            if each.digits > 1:
                self._say(f"{visible(each.name)}: more than one digit found; --all-digits predicts each")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(COMMAND, "Predict which digit, or which class of your model, each image shows.")
    flags.add_images(parser)
    group = parser.add_argument_group("the output")
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=(
        "one JSON object per image, with image, label, probability, runner_up, top and probabilities, and labels if an "
        "image may have several; or image and error. Scores that are no probabilities are called score and scores"
    ))  # fmt: skip
    form.add_argument(
        "--csv", action="store_true",
        help="a header, and one row per image: image, label, probability, label_2, probability_2 …, error; and labels "
        "or score as in JSON",
    )  # fmt: skip
    group.add_argument("--top", type=cli.count, default=2, metavar="K", help="classes to print, best first")
    group.add_argument("--show", action="store_true", help=(
        "draw the prepared image, the model's input, and write it as PNG, <image>.seen.png, here or to --seen"
    ))  # fmt: skip
    group.add_argument("--seen", metavar="PATH", help=(
        "write prepared images as PNG: to a file, or several images to a folder, as <image>.seen.png"
    ))  # fmt: skip
    group.add_argument("--all-digits", action="store_true", help=(
        "predict every digit of each image, line by line; --json and --csv include their places"
    ))  # fmt: skip
    group.add_argument("--boxed", metavar="PATH", help=(
        "with --all-digits: write each image with a box around each digit, as --seen does: <image>.boxed.png"
    ))  # fmt: skip
    parser.add_argument(
        "--compare", metavar="TARGETS",
        help="compare targets and explain divergences: all targets, or with --compare=… a list such as "
        "rest,grpc@host:8500,tflite:int8,savedmodel,keras",
    )  # fmt: skip
    flags.add_target(parser)
    flags.add_connection(parser)
    return parser


def _with_compare_value(argv: Sequence[str]) -> list[str]:
    """Return the arguments, with an empty value for a lone --compare: argparse would take an image as its value."""
    before, after = cli.split(argv)
    return [
        *("--compare=" if each == "--compare" else each for each in before),
        *(["--", *after] if len(before) < len(argv) else []),
    ]


def _writer(arguments: argparse.Namespace, say: Callable[[str], None], meaning: str) -> Writer:
    if arguments.json:
        return JsonLines(arguments.top, meaning)
    return Csv(arguments.top, meaning) if arguments.csv else Lines(arguments.top, meaning, say)


def _preview(
    arguments: argparse.Namespace, sources: Sequence[ImageSource]
) -> Callable[[str, NDArray[np.uint8]], None] | None:
    """Return a function that draws and writes the pixels of an image, None if that wasn't requested."""
    if not arguments.show and arguments.seen is None:
        return None
    from pathlib import Path

    from tfship.client.images import preview

    files = preview.PngWriter(Path(arguments.seen or "."), sources)
    # Drawings must not mix with JSON or CSV.
    stream = sys.stderr if arguments.json or arguments.csv else sys.stdout

    def show(name: str, pixels: NDArray[np.uint8]) -> None:
        if arguments.show:
            preview.draw(pixels, stream)
        file = files.write(name, preview.png(pixels))
        cli.say(f"{visible(name)}: wrote the prepared image to {visible(str(file))}")

    return show


@contextlib.contextmanager
def _progress(total: int) -> "Iterator[Progress | None]":
    """Yield a progress bar for many images, None if the output on the terminal shows the progress."""
    if total <= BATCH or sys.stdout.isatty():
        yield None
        return
    from tfship.train.common.progress import Progress

    with Progress("predict", total, "images") as progress:
        yield progress


if __name__ == "__main__":
    sys.exit(cli.run(main))
