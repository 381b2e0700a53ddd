"""What every stage of a benchmark needs to know of the model that is measured."""

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
from tfship.benchmarks.suite.system_under_test import OpenSubject, Subject
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.publishing import cards
from tfship.export.sources.evaluation_data import Images

__all__ = ["Bench", "Classes", "Options"]

# The class of every image by every row.
Classes = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Options:
    """What the command line chose besides the mode.

    `bound_ms` is that of the Server scenario; with `loadgen`, MLPerf's own load generator drives the rows, too.
    """

    bound_ms: float = BOUND_MS
    loadgen: bool = False


@dataclass(frozen=True)
class Bench:
    """One exported version, in the directory `version`, with the rows that are measured and the servers that run.

    `keras` is the .keras file that it was exported from, if that is there. `images` are what accuracy is taken of.
    `told` hears of each figure: the stage and the row.
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
    told: Callable[[str, str], None]

    @property
    def name(self) -> str:
        """The model's."""
        return self.contract.model

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The images that the clocks go through, over and over."""
        return self.images.pixels[: timer.WINDOW]

    def batch(self, size: int, number: int) -> NDArray[np.uint8]:
        """Return the `number`-th `size` images, from the start again where they end."""
        places = np.arange(number * size, (number + 1) * size)
        batch: NDArray[np.uint8] = self.images.pixels.take(places, axis=0, mode="wrap")
        return batch

    def queries(self, size: int, count: int) -> list[NDArray[np.uint8]]:
        """Return the first `count` batches of `size` images."""
        return [self.batch(size, number) for number in range(count)]

    def kept(self, stage: str) -> MutableMapping[str, Any]:
        """Return what a stage has measured so far, by its rows' names, or by windows and slices."""
        return self.journal.part(f"{self.name}: {stage}")

    def each(self, stage: str, rows: Sequence[Subject], figure: Callable[[Subject], Any]) -> dict[str, Any]:
        """Return the `figure` of each of the rows, taken now unless it was before."""
        kept = self.kept(stage)
        for row in rows:
            if row.name not in kept:
                kept[row.name] = figure(row)
            self.told(stage, row.name)
        return {row.name: kept[row.name] for row in rows}

    @contextlib.contextmanager
    def opened(self) -> Iterator[dict[str, OpenSubject]]:
        """Yield all rows, opened for one caller each."""
        with contextlib.ExitStack() as stack:
            asked = {}
            for row in self.rows:
                asked[row.name] = row.open(1)
                stack.callback(asked[row.name].close)
            yield asked
