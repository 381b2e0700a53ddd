"""Images prepared like the client's, in one process for each core."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tfship.client.images import preprocessing
from tfship.export.preprocessing import input_contract
from tfship.train.common import interruption
from tfship.train.common.errors import DataError

__all__ = ["in_processes", "prepared", "stacked"]

_DIGITS = input_contract.digits("digits")
_Result = TypeVar("_Result")


def in_processes(work: Callable[..., _Result], *arguments: Iterable[Any]) -> Iterator[_Result]:
    """Yield the results of `work`, a function of a module, in the order of its arguments."""
    # No fork: TensorFlow and gRPC, which the caller may have loaded, don't survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context) as workers:
        with interruption.held_back():
            results = workers.map(work, *arguments, chunksize=4)
        yield from results


def prepared(data: bytes) -> NDArray[np.uint8] | None:
    """Return an encoded image as the digit networks' pixels, uint8 [28, 28]; None if no digit is found on it."""
    try:
        return preprocessing.pixels(data, _DIGITS)[..., 0]
    except DataError:
        return None


def stacked(images: Sequence[NDArray[np.uint8] | None]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return N images as an array uint8 [N, 28, 28], with zeros for None, and which of them aren't None, bool [N]."""
    pixels = np.zeros((len(images), _DIGITS.height, _DIGITS.width), np.uint8)
    for place, image in enumerate(images):
        if image is not None:
            pixels[place] = image
    return pixels, np.array([image is not None for image in images])
