"""Labelled images in `.npz` files, as users of Keras and NumPy have them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract import Contract
from train.errors import DataError
from train.files import DAMAGED

__all__ = ["Images", "read", "read_labels"]

# What a file of images may call them and their labels, by the habits of Keras and of NumPy's users.
_NAMES = (("x_test", "y_test"), ("x", "y"), ("images", "labels"))


@dataclass(frozen=True)
class Images:
    """Labelled images: pixels uint8 [N, H, W, C] and class indices [N]; `data` is what cards say of them."""

    data: dict[str, Any]
    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]
    class_names: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether the labels are known."""
        return len(self.truth) == len(self.pixels)


def read(path: Path, rules: Contract, *, labelled: bool = True) -> Images:
    """Read pixels of the given height, width and channels, and their classes; DataError if it holds anything else."""
    shape = rules.shape
    arrays = _npz(path)
    for x, y in _NAMES:
        if x in arrays and y in arrays:
            break
    else:
        wanted = " or ".join(f"{x} and {y}" for x, y in _NAMES)
        raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}; expected arrays {wanted}")
    pixels, classes = arrays[x], arrays[y]
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or not len(pixels):
        wanted = ", ".join(map(str, shape))
        raise DataError(
            f"{path}: {x} is {pixels.dtype} {list(pixels.shape)}; expected pixels uint8 [N, {wanted}]"
        )
    if len(classes) != len(pixels) or classes.dtype.kind not in "iu" or classes.min() < 0:
        raise DataError(
            f"{path}: {y} is {classes.dtype} [{len(classes)}]; expected {len(pixels)} class numbers"
        )
    hasher = hashlib.sha256(pixels.tobytes())
    hasher.update(classes.astype("<i8").tobytes())
    data = {"label": path.name, "files": [path.name], "sha256": hasher.hexdigest(), "test": len(pixels)}
    return Images(data, pixels, classes.astype(np.int64) if labelled else np.empty(0, np.int64))


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected an .npz with images and labels") from None
    except (AttributeError, *DAMAGED) as error:  # AttributeError: a lone .npy has no names
        raise DataError(f"{path}: no .npz file that can be read ({error})") from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the names in a text file, one a line."""
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
