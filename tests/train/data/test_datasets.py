import gzip
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfship.train.common.errors import DataError
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits

Arrays = dict[str, Any]


@pytest.fixture
def arrays() -> Arrays:
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, (20, 28, 28), np.uint8),
        "y_train": generator.integers(0, 10, 20, np.uint8),
        "x_test": generator.integers(0, 256, (5, 28, 28), np.uint8),
        "y_test": generator.integers(0, 10, 5, np.uint8),
    }


def idx(array: NDArray[np.generic]) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def same(digits: Digits, arrays: Arrays) -> None:
    for name, expected in arrays.items():
        found = getattr(digits, name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_npz(tmp_path: Path, arrays: Arrays) -> None:
    path = tmp_path / "mnist.npz"
    np.savez_compressed(path, **arrays)
    source = datasets.find(str(path))
    assert (source.kind, source.label, source.files) == ("npz", "MNIST", (path,))
    same(datasets.load(source), arrays)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", [False, True])
def test_idx_folder(tmp_path: Path, arrays: Arrays, zipped: bool, dot: bool) -> None:
    names = {
        "x_train": "train-images-idx3-ubyte",
        "y_train": "train-labels-idx1-ubyte",
        "x_test": "t10k-images-idx3-ubyte",
        "y_test": "t10k-labels-idx1-ubyte",
    }
    for key, name in names.items():
        content = idx(arrays[key])
        name = name.replace("-idx", ".idx") if dot else name
        if zipped:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    same(datasets.load(datasets.find(str(tmp_path))), arrays)


def test_the_digest_is_of_the_images_whatever_file_they_came_in(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    arrays["y_test"][0] ^= 1
    np.savez(tmp_path / "other.npz", **arrays)
    plain, packed, other = (
        datasets.load(datasets.find(str(tmp_path / f"{name}.npz"))).sha256
        for name in ("plain", "packed", "other")
    )
    assert plain == packed != other


def test_environment_comes_after_the_argument(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    np.savez(first, **arrays)
    np.savez(second, **arrays)
    monkeypatch.setenv("MNIST_NPZ", str(second))
    assert datasets.find(str(first)).files == (first,)
    assert datasets.find().files == (second,)


def test_keras_cache_comes_before_the_network(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "datasets").mkdir()
    cached = tmp_path / "datasets" / "mnist.npz"
    np.savez(cached, **arrays)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert datasets.find().files == (cached,)


def test_sample_where_there_is_no_network(sample: Digits) -> None:
    said: list[str] = []
    source = datasets.find(say=said.append)
    assert source.label == "sample: 5,000 digits of MNIST's training set"
    assert source.label in said[0]
    assert sample.describe() == {
        "label": source.label,
        "files": ["mnist_5k.csv.gz"],
        "sha256": sample.sha256,
        "train": 4000,
        "test": 1000,
    }
    assert np.bincount(sample.y_train).tolist() == [400] * 10
    assert np.bincount(sample.y_test).tolist() == [100] * 10
    assert sample.x_train.max() == 255
    # No image may be on both sides of the split.
    train = {image.tobytes() for image in sample.x_train}
    assert not train & {image.tobytes() for image in sample.x_test}


@pytest.mark.parametrize(("status", "reason"), [(200, None), (403, "HTTP 403"), (503, "HTTP 503")])
def test_a_network_that_refuses_is_no_network(status: int, reason: str | None) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}/mnist.npz"
        assert datasets._unreachable(url) == reason
        thread.join()
    assert datasets._unreachable(url) == "ConnectionError"


def test_to_input_scales_to_one() -> None:
    tensor = datasets.to_input(np.array([[[0, 51, 255]]], np.uint8))
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, np.array([[[[0], [0.2], [1]]]], np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((20, 28, 27), np.uint8)}, r"x_train is uint8 \[20, 28, 27\]; expected uint8"),
        ({"x_test": np.zeros((5, 28, 28), np.float32)}, r"x_test is float32 \[5, 28, 28\]; expected uint8"),
        ({"y_train": np.zeros((20, 1), np.uint8)}, r"y_train is uint8 \[20, 1\]; expected integers"),
        ({"y_train": np.zeros(20, np.float64)}, r"y_train is float64 \[20\]; expected integers"),
        ({"y_train": np.zeros(19, np.uint8)}, "20 images and 19 labels"),
        ({"y_test": np.full(5, 10, np.uint8)}, "labels from 10 to 10; expected 0 to 9"),
        ({"y_test": np.full(5, -1, np.int8)}, "labels from -1 to -1; expected 0 to 9"),
        (
            {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)},
            "0 images and 0 labels",
        ),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: Arrays, change: Arrays, message: str) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **{**arrays, **change})
    with pytest.raises(DataError, match=message) as caught:
        datasets.load(datasets.find(str(path)))
    assert str(path) in str(caught.value)


def test_missing_arrays_are_named(tmp_path: Path, arrays: Arrays) -> None:
    path = tmp_path / "mnist.npz"
    del arrays["y_test"]
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="expected also y_test"):
        datasets.load(datasets.find(str(path)))


def test_pickles_are_not_loaded(tmp_path: Path, arrays: Arrays) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **{**arrays, "x_test": np.array([{"a": 1}], object)})
    with pytest.raises(DataError, match="not an .npz file"):
        datasets.load(datasets.find(str(path)))


@settings(max_examples=60)
@given(share=st.floats(0, 0.999), junk=st.binary(max_size=8))
def test_truncated_npz_is_refused(tmp_path: Path, arrays: Arrays, share: float, junk: bytes) -> None:
    whole, path = tmp_path / "whole.npz", tmp_path / "mnist.npz"
    np.savez_compressed(whole, **arrays)
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)] + junk)
    with pytest.raises(DataError, match=r"mnist\.npz"):
        datasets.load(datasets.find(str(path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "two zero bytes"),
        (b"\x1f\x8b\x08\x00", "two zero bytes"),
        (struct.pack(">HBBI", 0, 0x0D, 1, 3) + bytes(12), "0x0d"),
        (struct.pack(">HBB", 0, 8, 3), "in its header"),
        (struct.pack(">HBBI", 0, 8, 1, 3) + b"ab", "found 2"),
        (struct.pack(">HBB4I", 0, 8, 4, 2**16, 2**16, 2**16, 2**16), "found 0"),
    ],
)
def test_damaged_idx_is_refused(tmp_path: Path, arrays: Arrays, content: bytes, message: str) -> None:
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(idx(arrays["x_train"]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        datasets.load(datasets.find(str(tmp_path)))
    assert "t10k-labels" in str(caught.value)


@settings(max_examples=60)
@given(st.binary(max_size=64))
def test_any_bytes_as_idx_give_a_data_error(tmp_path: Path, content: bytes) -> None:
    for name in (
        "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz",
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        datasets.load(datasets.find(str(tmp_path)))


def test_incomplete_folder_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no train-images-idx3-ubyte"):
        datasets.find(str(tmp_path))


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data: .*nowhere: no such file or folder"):
        datasets.find(str(tmp_path / "nowhere"))
