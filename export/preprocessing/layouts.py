"""How a model lays an image out: with channels last or first, without an axis for them, or as a flat row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt, prod
from pathlib import Path
from typing import Any

from tfship.train.common.errors import ArtifactError, UsageError
from tfship.train.common.tensorflow_loader import tensorflow

__all__ = ["Layout", "of"]

_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Layout:
    """`shape` is (height, width, channels) of an image; `arrange` makes images [N, H, W, C] what the model takes."""

    shape: tuple[int, int, int]
    arrange: Callable[[Any], Any]


def of(path: Path, sizes: Sequence[int | None], size: tuple[int, int] | None) -> Layout:
    """Return the layout of a model that takes [N, *sizes], with None for a free size.

    [H, W, 1 or 3] are images as they come, [1 or 3, H, W] those with channels first, [H, W] grey ones. Any other
    three sizes of which one of the first two is 1 are a grey image of the two others, as [32, 1, 40] of a spectrogram.
    [L] is a flat image, whose height and width are `size`, as are free ones. Raises ArtifactError or UsageError, with
    what to do, where that is no image, or not a certain one.
    """
    taken = list(sizes)
    resolved = _resolve(path, taken, size)
    match resolved:
        case [int(height), int(width), 1 | 3 as channels]:
            return Layout((height, width, channels), lambda images: images)
        case [1, int(height), int(width)] | [int(height), 1, int(width)]:
            return Layout((height, width, 1), _reshape(resolved))
        case [3, int(height), int(width)]:
            return Layout((height, width, 3), lambda images: tensorflow().transpose(images, (0, 3, 1, 2)))
        case [int(height), int(width)]:
            return Layout((height, width, 1), lambda images: images[..., 0])
        case [int(length)]:
            return Layout(_flat(path, length, size), _reshape(resolved))
    number = f"{resolved[-1]} channels" if len(resolved) == 3 else f"{len(resolved)} axes for an image"
    raise ArtifactError(
        f"{path}: takes {_text(taken)}, with {number}; expected [None, height, width, 1 or 3]; put the model behind a "
        "keras.layers.Reshape or Permute that makes its input of such images, and save it again"
    )


def _resolve(path: Path, taken: list[int | None], size: tuple[int, int] | None) -> list[int | None]:
    free = [axis for axis, each in enumerate(taken) if each is None]
    if size is None:
        if free:
            raise ArtifactError(
                f"{path}: takes {_text(taken)}, images of any size; give theirs, as in --size 224,224"
            )
        return taken
    if taken in ([None], [None, None, None]):
        raise ArtifactError(
            f"{path}: takes {_text(taken)}, of any number of channels; save it with an input [None, None, None, 1 or 3]"
        )
    first = 1 if len(taken) == 3 and taken[0] in _CHANNELS and taken[2] not in _CHANNELS else 0
    resolved = list(taken)
    for axis in free:
        if not 0 <= axis - first < 2:
            raise ArtifactError(f"{path}: takes {_text(taken)}; expected [None, height, width, 1 or 3]")
        resolved[axis] = size[axis - first]
    return resolved if len(resolved) == 1 else _checked(path, taken, resolved, size)


def _checked(
    path: Path, taken: list[int | None], resolved: list[int | None], size: tuple[int, int]
) -> list[int | None]:
    """Return `resolved` if an image of `size` is what it takes; else raise UsageError."""
    if [each for each in resolved if each not in _CHANNELS] != [
        each for each in size if each not in _CHANNELS
    ]:
        raise UsageError(
            f"{path}: takes {_text(taken)}, not images of {size[0]} × {size[1]}; leave --size out, or give what fits"
        )
    return resolved


def _flat(path: Path, length: int, size: tuple[int, int] | None) -> tuple[int, int, int]:
    if size is None:
        squares = [isqrt(length // each) for each in _CHANNELS if length == each * isqrt(length // each) ** 2]
        example = f"{squares[0]},{squares[0]}" if squares else "H,W"
        raise ArtifactError(
            f"{path}: takes flat rows {_text([length])}; give height and width of the images, as in --size {example}"
        )
    channels = length // prod(size)
    if channels not in _CHANNELS or channels * prod(size) != length:
        raise UsageError(
            f"{path}: takes flat rows of {length} values, which are no images of {size[0]} × {size[1]} with 1 or 3 "
            "channels; give the height and width that fit by --size"
        )
    return (*size, channels)


def _reshape(sizes: Sequence[int | None]) -> Callable[[Any], Any]:
    return lambda images: tensorflow().reshape(images, (-1, *sizes))


def _text(sizes: Sequence[int | None]) -> str:
    return f"[{', '.join(map(str, (None, *sizes)))}]"
