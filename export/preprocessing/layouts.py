"""Layouts of a model's input: channels last, channels first, no axis for channels, or a flat row."""

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
    """A layout: `shape` (height, width, channels), and `arrange`, from images [N, H, W, C] to the model's input."""

    shape: tuple[int, int, int]
    arrange: Callable[[Any], Any]


def of(path: Path, sizes: Sequence[int | None], size: tuple[int, int] | None) -> Layout:
    """Return the layout of the model at `path`, whose input is [N, *sizes], with None for a free size.

    [H, W, 1 or 3] has the channels last, [1 or 3, H, W] first, and [H, W] is grey. Any other three sizes of which one
    of the first two is 1 are a grey image with the other two, such as the spectrogram [32, 1, 40]. [L] is a flat
    image. `size` gives height and width of flat images and of free sizes. Raises ArtifactError or UsageError, with a
    remedy, if the input is no image or is ambiguous.
    """
    wanted = list(sizes)
    resolved = _resolve(path, wanted, size)
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
        f"{path}: its input is {_text(wanted)}, with {number}; expected [None, height, width, 1 or 3]; put a "
        "keras.layers.Reshape or Permute in front of the model that makes its input from such images, and save it again"
    )


def _resolve(path: Path, wanted: list[int | None], size: tuple[int, int] | None) -> list[int | None]:
    free = [axis for axis, each in enumerate(wanted) if each is None]
    if size is None:
        if free:
            raise ArtifactError(
                f"{path}: its input {_text(wanted)} has free sizes; give height and width, such as --size 224,224"
            )
        return wanted
    if wanted in ([None], [None, None, None]):
        raise ArtifactError(
            f"{path}: its input {_text(wanted)} has no fixed channels; save it with an input [None, None, None, 1 or 3]"
        )
    first = 1 if len(wanted) == 3 and wanted[0] in _CHANNELS and wanted[2] not in _CHANNELS else 0
    resolved = list(wanted)
    for axis in free:
        if not 0 <= axis - first < 2:
            raise ArtifactError(
                f"{path}: its input is {_text(wanted)}; expected [None, height, width, 1 or 3]"
            )
        resolved[axis] = size[axis - first]
    return resolved if len(resolved) == 1 else _checked(path, wanted, resolved, size)


def _checked(
    path: Path, wanted: list[int | None], resolved: list[int | None], size: tuple[int, int]
) -> list[int | None]:
    """Return `resolved` if it fits images of `size`; else raise UsageError."""
    if [each for each in resolved if each not in _CHANNELS] != [
        each for each in size if each not in _CHANNELS
    ]:
        raise UsageError(
            f"{path}: its input is {_text(wanted)}, not images of {size[0]} × {size[1]}; omit --size, or give "
            "one that fits"
        )
    return resolved


def _flat(path: Path, length: int, size: tuple[int, int] | None) -> tuple[int, int, int]:
    if size is None:
        squares = [isqrt(length // each) for each in _CHANNELS if length == each * isqrt(length // each) ** 2]
        example = f"{squares[0]},{squares[0]}" if squares else "H,W"
        raise ArtifactError(
            f"{path}: its input is flat rows {_text([length])}; give height and width of the images, such as "
            f"--size {example}"
        )
    channels = length // prod(size)
    if channels not in _CHANNELS or channels * prod(size) != length:
        raise UsageError(
            f"{path}: its input is flat rows of {length} values, not images of {size[0]} × {size[1]} with 1 or 3 "
            "channels; give the height and width that fit with --size"
        )
    return (*size, channels)


def _reshape(sizes: Sequence[int | None]) -> Callable[[Any], Any]:
    return lambda images: tensorflow().reshape(images, (-1, *sizes))


def _text(sizes: Sequence[int | None]) -> str:
    return f"[{', '.join(map(str, (None, *sizes)))}]"
