"""The image sets of `tfship benchmark digits`: one for each row of its table."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.studies.digits import client_preparation, mnist_c, uci_digits
from tfship.benchmarks.studies.digits.mnist_c import MNIST_C
from tfship.benchmarks.studies.digits.photographs_study import prepared_photographs
from tfship.client.images import preview
from tfship.train.data.corruptions import CORRUPTIONS
from tfship.train.data.datasets import Digits

__all__ = ["BOX", "CLIENT", "CORRUPTED", "GROUPS", "NONE", "PUBLISHED", "ImageSet"]

CLEAN, CORRUPTED, PUBLISHED, PHOTOGRAPHS, UCI = "clean", "corruptions", "mnist-c", "photographs", "uci"
# Ways in which images are prepared. Images of MNIST's form need none.
NONE, CLIENT, BOX = "none", "client", "box"
# Photographs take long to make: half a minute for 1,000 on two cores.
_MOST_PHOTOGRAPHS = 1000

_Image = NDArray[np.uint8]  # one or several, 0 (paper) to 255 (ink)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one kind, which are made when needed.

    `make` returns N prepared images, uint8 [28, 28] with 0 (paper) to 255 (ink), None for those on which no digit is
    found. `labels` are [N]. `strength` is empty for kinds without strengths. `preparation` is "none", "client" or
    "box" (`benchmarks.studies.digits.uci_digits.boxed`).
    """

    group: str
    kind: str
    description: str
    labels: NDArray[np.integer]
    make: Callable[[], Iterable[_Image | None]]
    preparation: str = NONE
    strength: str = ""


def _clean(digits: Digits, count: int, _: int) -> Iterator[ImageSet]:
    images, labels = _some(count, digits.x_test, digits.y_test)
    yield ImageSet(CLEAN, "MNIST", "test images, unchanged", labels, lambda: images)


def _corrupted(digits: Digits, count: int, _: int) -> Iterator[ImageSet]:
    images, labels = _some(count, digits.x_test, digits.y_test)
    for kind, corruption in CORRUPTIONS.items():
        for strength in corruption.strengths:
            make: Callable[[], Iterable[_Image | None]] = partial(corruption.apply, images, strength)
            preparation = NONE
            if kind == "inverted":  # The networks read light ink only: dark ink is the client's business.
                make, preparation = partial(_by_client, _png, corruption.apply(images, strength)), CLIENT
            description = corruption.describe(strength)
            yield ImageSet(CORRUPTED, kind, description, labels, make, preparation, strength)


def _published(digits: Digits, count: int, seed: int) -> Iterator[ImageSet]:
    images, labels = _some(count, digits.x_test, digits.y_test)
    for kind, (_, description) in MNIST_C.items():
        yield ImageSet(PUBLISHED, kind, description, labels, partial(mnist_c.corrupted, kind, images, seed))


def _photographs(digits: Digits, count: int, seed: int) -> Iterator[ImageSet]:
    images, labels = _some(min(count, _MOST_PHOTOGRAPHS), digits.x_test, digits.y_test)

    def make() -> Iterator[_Image | None]:
        return (prepared for _, prepared in prepared_photographs(images, seed))

    yield ImageSet(PHOTOGRAPHS, "photographs", "test images in ink on paper", labels, make, CLIENT)


def _uci(_: Digits, count: int, __: int) -> Iterator[ImageSet]:
    images, labels = _some(count, *uci_digits.load())
    for light_ink, description in ((False, "enlarged, dark on light"), (True, "enlarged, light on dark")):
        make = partial(_by_client, partial(uci_digits.page, light_ink=light_ink), images)
        yield ImageSet(UCI, "UCI digits", description, labels, make, CLIENT)
    yield ImageSet(UCI, "UCI digits", "8 × 8 pixels", labels, partial(map, uci_digits.boxed, images), BOX)


def _by_client(encode: Callable[[_Image], bytes], images: _Image) -> Iterator[_Image | None]:
    """Yield the images as the client prepares what `encode` makes of them."""
    return client_preparation.in_processes(partial(_encoded_and_prepared, encode), images)


def _encoded_and_prepared(encode: Callable[[_Image], bytes], image: _Image) -> _Image | None:
    return client_preparation.prepared(encode(image))


def _png(image: _Image) -> bytes:
    return preview.png(image[..., np.newaxis])


def _some(count: int, images: _Image, labels: NDArray[np.integer]) -> tuple[_Image, NDArray[np.integer]]:
    """Return at most `count` images, evenly spread, and their labels."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    return images[chosen], labels[chosen]


# By name: the image sets of digits, a maximum number of images for each, and a seed.
GROUPS: dict[str, Callable[[Digits, int, int], Iterator[ImageSet]]] = {
    CLEAN: _clean,
    CORRUPTED: _corrupted,
    PUBLISHED: _published,
    PHOTOGRAPHS: _photographs,
    UCI: _uci,
}
