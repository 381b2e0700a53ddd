"""The model being measured, as every stage of a benchmark needs it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import timer
from tfship.benchmarks.harness.checkpoint import Journal
from tfship.benchmarks.suite.modes import BOUND_MS, Mode
from tfship.benchmarks.suite.serving_backends import Running
from tfship.benchmarks.suite.stages import ROWS
from tfship.benchmarks.suite.system_under_test import OpenSubject, Subject
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.publishing import cards
from tfship.export.sources.evaluation_data import Images

__all__ = ["Bench", "Classes", "Options"]

# The predicted class of every image, by row.
Classes = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Options:
    """Options from the command line besides the mode.

    `bound_ms` is the latency bound of the Server scenario. With `loadgen`, MLPerf's LoadGen also drives the rows.
    """

    bound_ms: float = BOUND_MS
    loadgen: bool = False


@dataclass(frozen=True)
class Bench:
    """One exported version, in the directory `version`, with the `rows` to measure and the running `servers`.

    `keras` is the .keras file that it was exported from, None if that is missing. `images` are the evaluation images.
    `count` receives the stage and the row of each measurement.
    """

    version: Path
    card: cards.ExportCard
    contract: Contract
    keras: Path | None
    rows: Sequence[Subject]
    servers: Mapping[str, Running]
    images: Images
    mode: Mode
    options: Options
    journal: Journal
    count: Callable[[str, str], None]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.contract.model

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The images that are used for timing, repeatedly."""
        return self.images.pixels[: timer.WINDOW]

    def batch(self, size: int, number: int) -> NDArray[np.uint8]:
        """Return batch `number` of `size` images; after the last image the first one follows."""
        places = np.arange(number * size, (number + 1) * size)
        batch: NDArray[np.uint8] = self.images.pixels.take(places, axis=0, mode="wrap")
        return batch

    def queries(self, size: int, count: int) -> list[NDArray[np.uint8]]:
        """Return the first `count` batches of `size` images."""
        return [self.batch(size, number) for number in range(count)]

    def kept(self, stage: str) -> MutableMapping[str, Any]:
        """Return what a stage has measured so far, by row, or by window and slice."""
        return self.journal.part(f"{self.name}: {stage}")

    def measured(self, stage: str) -> list[Subject]:
        """Return the rows that a stage measures."""
        return [row for row in self.rows if ROWS[stage](row)]

    def each(self, stage: str, measure: Callable[[Subject], Any]) -> dict[str, Any]:
        """Return the result of `measure` for each row of a stage; results in the journal aren't measured again."""
        kept, rows = self.kept(stage), self.measured(stage)
        for row in rows:
            if row.name not in kept:
                kept[row.name] = measure(row)
            self.count(stage, row.name)
        return {row.name: kept[row.name] for row in rows}

    @contextlib.contextmanager
    def opened(self) -> Iterator[dict[str, OpenSubject]]:
        """Yield all rows, each opened for one caller."""
        with contextlib.ExitStack() as stack:
            yield {row.name: stack.enter_context(contextlib.closing(row.open(1))) for row in self.rows}
