"""Pictures on their way to a target: read, prepared in the form that it takes, asked for in batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tfship.client.api.inputs import encoded
from tfship.client.images import decoding, preprocessing
from tfship.client.images.sources import PictureSource
from tfship.client.targets.binding import ENCODED, images_of
from tfship.client.targets.registry import Opened
from tfship.train.common.errors import DataError, Refused

__all__ = ["BATCH", "Picture", "answered", "batched", "batches", "stacked"]

# Few enough that answers keep coming, and enough that a folder doesn't wait on round trips.
BATCH = 64
# Below what a gRPC server takes that was told nothing else, 4 MiB.
_BATCH_BYTES = 3 << 20


class _HasRow(Protocol):
    row: Any


_Asked = TypeVar("_Asked", bound=_HasRow)


@dataclass
class Picture:
    """A picture on its way: `row` is what the target takes, `problem` why there is no answer.

    `pixels` are uint8 [height, width, channels], `scores` raw ones float32 [K], for the target's interpretation;
    `digits` is how many were found.
    """

    name: str
    row: Any = None
    pixels: NDArray[np.uint8] | None = None
    scores: NDArray[np.float32] | None = None
    problem: str = ""
    digits: int = 1


def batches(
    sources: Iterable[PictureSource], opened: Callable[[], Opened], *, decoded: bool
) -> Iterator[list[Picture]]:
    """Read and prepare the pictures, so many at a time as go into one request."""
    return batched(_prepared(source, opened, decoded=decoded) for source in sources)


def batched(pictures: Iterable[_Asked]) -> Iterator[list[_Asked]]:
    """Yield so many pictures at a time as go into one request, by the size of what each has as its `row`."""
    batch: list[_Asked] = []
    size = 0
    for each in pictures:
        bytes_ = len(each.row) if isinstance(each.row, bytes) else getattr(each.row, "nbytes", 0)
        if batch and (len(batch) == BATCH or size + bytes_ > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += bytes_
    if batch:
        yield batch


def stacked(rows: Sequence[Any]) -> NDArray[Any]:
    """Return rows as one tensor; encoded pictures, bytes, as dtype object [N]."""
    return np.array(rows, object) if isinstance(rows[0], bytes) else np.stack(rows)


def _prepared(source: PictureSource, opened: Callable[[], Opened], *, decoded: bool) -> Picture:
    """Return a picture in the form that the target takes; with its pixels if `decoded`, also where it takes bytes."""
    picture = Picture(source.name)
    try:
        data = source.read()
        if not data:
            raise DataError(f"{source.name}: an empty file; expected PNG, JPEG or the like")
        contract, dtype = opened().contract, opened().binding.dtype
        if dtype != ENCODED or decoded:
            opened_image = decoding.opened(data, source.name)
            picture.pixels, picture.digits = preprocessing.examined(opened_image, contract, source.name)
        if dtype == ENCODED:
            picture.row = encoded(data, contract, source.name)
    except DataError as error:
        # One bad picture must not cost the others their answer.
        picture.problem = str(error)
        return picture
    if picture.pixels is not None and dtype != ENCODED:
        picture.row = images_of(picture.pixels[np.newaxis], contract, dtype)[0]
    return picture


def answered(batch: list[Picture], opened: Callable[[], Opened]) -> list[Picture]:
    """Ask for those of the pictures that can be asked for, and return all."""
    asked = [each for each in batch if not each.problem]
    if not asked:
        return batch
    try:
        for each, scores in zip(asked, opened().ask(stacked([each.row for each in asked])), strict=True):
            each.scores = scores
    except Refused:
        # A model that decodes the pictures itself refuses all for one that it can't read: find that one.
        if opened().binding.dtype != ENCODED or len(asked) == 1:
            raise
        for each in asked:
            try:
                each.scores = opened().ask(stacked([each.row]))[0]
            except Refused as error:
                each.problem = f"{each.name}: {error}"
        if all(each.problem for each in asked):
            raise
    return batch
