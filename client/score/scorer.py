"""Scoring of a chunk: reading, preparation and inference of its images, and the table of the results."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfship.client.api.inputs import Query
from tfship.client.images.batches import batches, predict
from tfship.client.images.sources import ImageSource
from tfship.client.score.chunks import Chunk
from tfship.client.targets.interpretation import SCORES
from tfship.client.targets.registry import Opened
from tfship.export.preprocessing.input_contract import INDEPENDENT, THRESHOLD
from tfship.train.common import cli, interruption
from tfship.train.common.errors import Refused

__all__ = ["Scored", "Scorer", "Seconds", "failed", "schema"]


class Seconds(NamedTuple):
    """The time that a chunk took, by phase. `prepare` contains decoding, and `table` the making of rows."""

    read: float = 0.0
    prepare: float = 0.0
    infer: float = 0.0
    table: float = 0.0


@dataclass(frozen=True)
class Scored:
    """The results of chunk `number`: a pyarrow table with a row per image, in order, and the time it took."""

    number: int
    table: Any
    seconds: Seconds


class Scorer:
    """A model in this process that scores chunks; for one thread.

    `top` is the number of classes listed per image. `kind` is the kind of the model's raw outputs
    (`export.preprocessing.outputs`), None until the first scores have shown it. All workers of a job use one kind,
    since it decides what the columns mean.
    """

    def __init__(self, opened: Opened, top: int, kind: str | None = None) -> None:
        self.opened, self._top, self.kind = opened, top, kind
        if kind is not None:
            opened.interpretation.expect(kind)

    @property
    def meaning(self) -> str:
        """What the scores are; see `Interpretation.meaning`."""
        return self.opened.interpretation.meaning

    @property
    def note(self) -> str:
        """A note for users on what the scores are; see `Interpretation.note`."""
        return self.opened.interpretation.note

    def score(self, number: int, chunk: Chunk) -> Scored:
        """Score a chunk. An invalid image becomes a row with an error.

        Raises Refused if the model refuses valid images, or if its outputs are of another kind than before, and
        Unreachable if the storage of the images is.
        """
        begin = time.perf_counter()
        reading = _Timer()
        inferring = _Timer()
        queries: list[Query] = []
        for batch in batches(_timed(chunk.sources(), reading), lambda: self.opened, pixels=False):
            interruption.check()
            with inferring:
                predict(batch, lambda: self.opened)
            queries += batch
        end = time.perf_counter()
        self._settle(queries)
        table = self._table(queries)
        prepare = end - begin - reading.seconds - inferring.seconds
        seconds = Seconds(reading.seconds, prepare, inferring.seconds, time.perf_counter() - end)
        return Scored(number, table, seconds)

    def _settle(self, queries: list[Query]) -> None:
        kind = self.opened.interpretation.kind
        if all(each.scores is None for each in queries):
            return
        if self.kind is None:
            self.kind = kind
        elif self.kind != kind:
            raise Refused(
                f"{self.opened.where}: returned {self.kind} before and {kind} now, so the rows so far may be wrong; "
                "give the model's contract.json by --contract, and --restart"
            )

    def _table(self, queries: list[Query]) -> Any:
        import pyarrow as pa

        rows = [_error(each) for each in queries]
        valid = [
            (row, each.scores) for row, each in zip(rows, queries, strict=True) if each.scores is not None
        ]
        if valid:
            scores = self.opened.interpretation.scores(np.stack([each for _, each in valid]))
            names = self._names(scores.shape[1])
            order = np.argsort(-scores, axis=1, kind="stable")
            for (row, _), values, ranked in zip(valid, scores, order, strict=True):
                row |= self._predicted(values, ranked, names)
        return pa.Table.from_pylist(rows, schema())

    def _predicted(self, scores: Any, ranked: Any, names: tuple[str, ...]) -> dict[str, Any]:
        best = scores[ranked[0]].item()
        chosen = ranked[: int((scores >= THRESHOLD).sum())]
        return {
            "label": names[ranked[0]],
            "probability": None if self.meaning == SCORES else best,
            "score": best,
            "top": [{"label": names[each], "score": scores[each].item()} for each in ranked[: self._top]],
            "labels": [names[each] for each in chosen] if self.meaning == INDEPENDENT else None,
        }

    def _names(self, columns: int) -> tuple[str, ...]:
        labels = self.opened.contract.labels
        return labels if len(labels) == columns else tuple(map(str, range(columns)))


def schema() -> Any:
    """Return the pyarrow schema of the results; `labels` is null unless they are independent."""
    import pyarrow as pa

    label = pa.field("label", pa.string())
    fields = [
        pa.field("path", pa.string(), nullable=False),
        label,
        pa.field("probability", pa.float32()),
        pa.field("score", pa.float32()),
        pa.field("top", pa.list_(pa.struct([label, pa.field("score", pa.float32())]))),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("error", pa.string()),
    ]
    return pa.schema(fields)


def failed(chunk: Chunk, problem: str) -> Any:
    """Return the table of a chunk whose images have no prediction because of `problem`."""
    import pyarrow as pa

    rows = [{"path": _text(each.name), "error": problem} for each in chunk.sources()]
    return pa.Table.from_pylist(rows, schema())


def _error(query: Query) -> dict[str, Any]:
    reason = None if query.error is None else str(query.error).removeprefix(f"{query.name}: ")
    return {"path": _text(query.name), "error": None if reason is None else cli.one_line(reason)}


def _text(name: str) -> str:
    """Return a name as valid Unicode: a path may hold bytes that aren't UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


class _Timer:
    """A context that adds up the time spent in it."""

    def __init__(self) -> None:
        self.seconds, self._begin = 0.0, 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begin


def _timed(sources: Iterator[ImageSource], timer: _Timer) -> Iterator[ImageSource]:
    """Yield sources whose reading is timed, in the listing and in `read`."""
    while True:
        with timer:
            source = next(sources, None)
        if source is None:
            return

        def read(source: ImageSource = source) -> bytes:
            with timer:
                return source.read()

        yield ImageSource(source.name, read, source.path)
