"""Ask a model which digit a picture shows.

tfship predict digit.png                  over REST, from a server on this machine
tfship predict --target grpc a.png scans/ several pictures and folders, over gRPC
tfship predict --target tflite digit.png  no server: a TFLite file in this process
tfship predict --json digit.png           JSON, a line for each picture
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    # Python looks for modules beside a script first, and this folder has a grpc.py.
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
from tfship.client.cli import arguments as flags
from tfship.client.cli.output import Csv, JsonLines, Lines, Writer, rank, visible
from tfship.client.images.batches import BATCH, Picture, answered, batches
from tfship.client.images.sources import PictureSource, expand
from tfship.client.targets.interpretation import Interpretation
from tfship.client.targets.registry import Opened, open_target
from tfship.export.preprocessing.input_contract import PROBABILITIES_OF_CLASSES
from tfship.train.common import cli
from tfship.train.common.errors import DataError, Refused

if TYPE_CHECKING:
    from tfship.train.common.progress import Progress

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the pictures, say what each shows, return the exit code."""
    arguments = _parser().parse_args(_spelled_out(sys.argv[1:] if argv is None else argv))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding lacks is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.compare is not None:
        from tfship.client.compare import command

        return command.run(arguments)
    if arguments.all_digits or arguments.boxed is not None:
        from tfship.client.cli import all_digits

        return all_digits.run(arguments)
    choice = flags.choice(arguments)
    sources = expand(arguments.images)
    show = _show(arguments, sources)
    with contextlib.ExitStack() as stack, _progress(len(sources)) as progress:

        @functools.cache
        def opened() -> Opened:
            """Open the target for the first picture that is there: without one, it isn't needed."""
            found = open_target(choice)
            stack.callback(found.target.close)
            return found

        say = progress.say if progress else cli.say
        report = _Report(opened, functools.partial(_writer, arguments, say), show, say)
        try:
            for batch in batches(sources, opened, decoded=show is not None):
                report.add(answered(batch, opened))
                if progress:
                    progress.advance(len(batch))
        finally:
            report.write()
    if report.bad and (arguments.json or arguments.csv):
        cli.say(f"error: {report.bad} of {len(sources)} pictures have no answer; their lines say why")
    return DataError.exit_code if report.bad else 0


class _Report:
    """The answers, in the order of the images, held until it is settled what their scores mean.

    `writer` makes what writes scores of a meaning; `bad` counts images without an answer.
    """

    def __init__(
        self,
        opened: Callable[[], Opened],
        writer: Callable[[str], Writer],
        show: Callable[[str, NDArray[np.uint8]], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self._opened, self._make, self._show, self._say = opened, writer, show, say
        self._held: list[Picture] = []
        self._interpretation: Interpretation | None = None
        self._writer: Writer | None = None
        self._kind = ""
        self.bad = 0

    def add(self, pictures: Sequence[Picture]) -> None:
        """Take the images of a batch, and write what is held if its meaning is settled."""
        for each in pictures:
            each.row, each.pixels = None, each.pixels if self._show else None
        self._held += pictures
        if any(each.scores is not None for each in pictures):
            self._interpretation = self._opened().interpretation
        if self._interpretation and self._interpretation.settled:
            self.write()

    def write(self) -> None:
        """Write what is held. Raises Refused if it is of another kind than what was written before."""
        if not self._held:
            return
        read = self._interpretation
        if self._writer is None:
            self._writer = self._make(read.meaning if read else PROBABILITIES_OF_CLASSES)
            self._kind = read.kind if read else ""
            if read and read.note:
                self._say(read.note)
        held, self._held = self._held, []
        for each in held:
            if each.problem or each.scores is None or read is None:
                self.bad += 1
                self._writer.failed(each.name, each.problem)
                continue
            if read.kind != self._kind:
                raise Refused(
                    f"{visible(each.name)}: the model answered {self._kind} before and {read.kind} now, so what was "
                    "printed may be wrong; give its contract.json by --contract, or ask for fewer images at a time"
                )
            if self._show and each.pixels is not None:
                self._show(each.name, each.pixels)
            scores = read.scores(each.scores[np.newaxis])[0]
            self._writer.answered(each.name, rank(scores, self._opened().contract.labels))
            if each.digits > 1:
                self._say(f"{visible(each.name)}: more than one digit found; --all-digits reads each of them")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(COMMAND, "Tell which digit, or which class of your model, each picture shows.")
    flags.add_images(parser)
    group = parser.add_argument_group("what is printed")
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=(
        "a JSON object an image, with image, label, probability, runner_up, top and probabilities, and labels where an "
        "image may have several; or image and error. Scores that are no probabilities are called score and scores"
    ))  # fmt: skip
    form.add_argument(
        "--csv", action="store_true",
        help="a header, then a row an image: image, label, probability, label_2, probability_2 …, error; and labels or "
        "score as in JSON",
    )  # fmt: skip
    group.add_argument("--top", type=cli.count, default=2, metavar="K", help="how many classes, best first")
    group.add_argument("--show", action="store_true", help=(
        "draw what the model saw, and write it as PNG, <picture>.seen.png, here or where --seen says"
    ))  # fmt: skip
    group.add_argument("--seen", metavar="PATH", help=(
        "write what the model saw as PNG: to a file, or for several pictures into a folder, as <picture>.seen.png"
    ))  # fmt: skip
    group.add_argument("--all-digits", action="store_true", help=(
        "read every digit on each picture, line by line; --json and --csv tell where each is"
    ))  # fmt: skip
    group.add_argument("--boxed", metavar="PATH", help=(
        "with --all-digits: write the picture with a box around each digit, as --seen does: <picture>.boxed.png"
    ))  # fmt: skip
    parser.add_argument(
        "--compare", metavar="TARGETS",
        help="ask several targets the same and find out why they differ: all that there are, or with --compare=… a "
        "list such as rest,grpc@host:8500,tflite:int8,savedmodel,keras",
    )  # fmt: skip
    flags.add_target(parser)
    flags.add_connection(parser)
    return parser


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """Return the arguments, a lone --compare with its empty value: argparse would take a picture for it."""
    before, after = cli.split(argv)
    return [
        *("--compare=" if each == "--compare" else each for each in before),
        *(["--", *after] if len(before) < len(argv) else []),
    ]


def _writer(arguments: argparse.Namespace, say: Callable[[str], None], meaning: str) -> Writer:
    if arguments.json:
        return JsonLines(arguments.top, meaning)
    return Csv(arguments.top, meaning) if arguments.csv else Lines(arguments.top, meaning, say)


def _show(
    arguments: argparse.Namespace, sources: Sequence[PictureSource]
) -> Callable[[str, NDArray[np.uint8]], None] | None:
    """Return what is done with the pixels that the model saw, if anything."""
    if not arguments.show and arguments.seen is None:
        return None
    from pathlib import Path

    from tfship.client.images import preview

    kept = preview.Kept(Path(arguments.seen or "."), sources)
    # Among a machine's lines a drawing would be in the way.
    stream = sys.stderr if arguments.json or arguments.csv else sys.stdout

    def show(name: str, pixels: NDArray[np.uint8]) -> None:
        if arguments.show:
            preview.draw(pixels, stream)
        file = kept.write(name, preview.png(pixels))
        cli.say(f"{visible(name)}: what the model saw is {visible(str(file))}")

    return show


@contextlib.contextmanager
def _progress(total: int) -> "Iterator[Progress | None]":
    """Yield a bar for work that takes a while, unless the answers that run by show how it gets on."""
    if total <= BATCH or sys.stdout.isatty():
        yield None
        return
    from tfship.train.common.progress import Progress

    with Progress("predict", total, "pictures") as progress:
        yield progress


if __name__ == "__main__":
    sys.exit(cli.run(main))
