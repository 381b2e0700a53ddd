"""Batches of images: prepared, sent together, and sent one by one if a batch is refused."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.client.api import inputs
from tfship.client.api.inputs import Query
from tfship.client.images.sources import ImageSource
from tfship.client.targets.binding import ENCODED, Binding, RawScores
from tfship.client.targets.registry import Opened
from tfship.train.common.errors import DataError, Refused

__all__ = ["BATCH", "Exchange", "batched", "batches", "complete", "exchange", "predict", "stacked"]

# Images per request: small enough for frequent output, large enough to make round trips irrelevant.
BATCH = 64
# Below gRPC's default limit for a request, 4 MiB.
_BATCH_BYTES = 3 << 20

# Yields tensors to send, and receives the model's scores.
Exchange = Generator[NDArray[Any], RawScores, None]


def batches(
    sources: Iterable[ImageSource], opened: Callable[[], Opened], *, pixels: bool
) -> Iterator[list[Query]]:
    """Read and prepare images, with their pixels if `pixels` is true, and yield them in batches, one per request."""
    return batched(_prepared(source, opened, pixels=pixels) for source in sources)


def batched(queries: Iterable[Query]) -> Iterator[list[Query]]:
    """Yield queries in batches, one per request, limited by number and by the size of their rows."""
    batch: list[Query] = []
    size = 0
    for each in queries:
        bytes_ = len(each.row) if isinstance(each.row, bytes) else getattr(each.row, "nbytes", 0)
        if batch and (len(batch) == BATCH or size + bytes_ > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += bytes_
    if batch:
        yield batch


def _prepared(source: ImageSource, opened: Callable[[], Opened], *, pixels: bool) -> Query:
    try:
        data = source.read()
        if not data:
            raise DataError(f"{source.name}: an empty file; expected PNG, JPEG or another image format")
        target = opened()
        return inputs.prepared(data, target.contract, target.binding.dtype, source.name, pixels=pixels)
    except DataError as error:
        # An invalid image must not affect the others.
        return Query(source.name, error=DataError(str(error)))


def predict(batch: list[Query], opened: Callable[[], Opened]) -> None:
    """Predict the images of a batch, except those with an error. Raises what `exchange` does."""
    if any(each.error is None for each in batch):
        target = opened()
        read = target.interpretation.read
        complete(exchange(batch, target.binding, lambda raw: read(raw.scores)), target.target.send)


def exchange(
    batch: Sequence[Query], binding: Binding, read: Callable[[RawScores], NDArray[np.float32]]
) -> Exchange:
    """Yield the tensors to send for a batch, except its images with an error, and set scores or errors of its images.

    The caller sends each tensor to the model, and the scores, or the Refused, into the generator. `read` returns scores
    [N, K] as real numbers. A model that decodes images itself refuses a whole batch because of one image that it can't
    decode. Each image is then sent alone, and may get an error. Raises the batch's Refused for other models, and if all
    images are refused.
    """

    def store(queries: Sequence[Query], raw: RawScores) -> None:
        scores = read(RawScores(raw.scores[: len(queries)], raw.version))
        for query, row in zip(queries, scores, strict=True):
            query.row, query.scores, query.version = None, row, raw.version

    valid = [each for each in batch if each.error is None]
    try:
        for part in binding.parts(len(valid)):
            store(valid[part], (yield stacked([each.row for each in valid[part]], binding)))
    except Refused:
        if binding.dtype != ENCODED or len(valid) == 1:
            raise
        for each in valid:
            if each.scores is None:
                try:
                    store([each], (yield stacked([each.row], binding)))
                except Refused as error:
                    each.row, each.error = None, Refused(f"{each.name}: {error}")
        if all(each.error for each in valid):
            raise


def complete(steps: Exchange, send: Callable[[NDArray[Any]], RawScores]) -> None:
    """Send the tensors of an exchange by `send`, a `Transport`'s method."""
    with contextlib.suppress(StopIteration):
        tensor = next(steps)
        while True:
            try:
                received = send(tensor)
            except Refused as error:
                tensor = steps.throw(error)
            else:
                tensor = steps.send(received)


def stacked(rows: Sequence[Any], binding: Binding) -> NDArray[Any]:
    """Return rows as the input's tensor; encoded images, bytes, as dtype object [N]."""
    return binding.rows(np.array(rows, object) if isinstance(rows[0], bytes) else np.stack(rows))
