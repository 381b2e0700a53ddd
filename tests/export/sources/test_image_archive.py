"""Evaluation images in .npz archives: labels, pixels and names that people use, and what is refused."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from export_fixtures import GREY, RGB, relaxed, saved, some
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.sources import evaluation_data, image_archive
from tfship.train.common.errors import DataError


def read_or_refused(path: Path) -> evaluation_data.Images | str:
    """Return what is read, or the reason why it is refused."""
    try:
        return evaluation_data.read(path, RGB)
    except DataError as error:
        return str(error)


# Labels in archives


@pytest.mark.parametrize(
    ("y", "truth"),
    [
        (np.array([0, 2, 1, 1]), [0, 2, 1, 1]),
        (np.array([[0], [2], [1], [1]], np.uint8), [0, 2, 1, 1]),
        (np.array([0.0, 2.0, 1.0, 1.0], np.float32), [0, 2, 1, 1]),
        (np.array([True, False, True, True]), [1, 0, 1, 1]),
        (np.eye(3)[[0, 2, 1, 1]], [0, 2, 1, 1]),
        (np.eye(3, dtype=bool)[[0, 2, 1, 1]], [0, 2, 1, 1]),
        (np.array([[1, 1], [0, 0], [0, 1], [1, 0]]), [[1, 1], [0, 0], [0, 1], [1, 0]]),
        (np.array([[1, 1], [0, 0], [0, 1], [1, 0]], np.float16), [[1, 1], [0, 0], [0, 1], [1, 0]]),
    ],
)
def test_labels_become_class_numbers_or_rows(tmp_path: Path, y: NDArray[Any], truth: list[Any]) -> None:
    found = evaluation_data.read(saved(tmp_path, x=some(), y=y), RGB)
    assert found.truth.dtype == np.int64
    assert found.truth.tolist() == truth
    assert found.labelled
    assert found.class_names is None
    np.testing.assert_array_equal(found.pixels, some())
    assert {key: found.data[key] for key in ("label", "files", "test", "values")} == {
        "label": "eval.npz", "files": ["eval.npz"], "test": 4, "values": "uint8 0…255",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0.5, 1.25, 3, 2]), "contains regression targets, 0.5 to 3; expected 4 class numbers"),
        (np.full((4, 2), -1.5), "contains regression targets"),
        (np.full((4, 2), 0.5), "contains probabilities; expected class numbers; use y.argmax(1)"),
        (np.array([0, -1, 1, 2]), "contains -1 to 2; expected class numbers from 0 on"),
        (np.array([0, 1, 1, 2**63], np.uint64), "expected class numbers from 0 on"),
        (np.array([0, np.nan, 1, 2]), "contains NaN or infinite values"),
        (np.array([0, 1, 2]), "y is int64 [3] for 4 images; expected 4 class numbers"),
        (np.array([[0, 3]] * 4), "contains rows of 2 numbers up to 3; expected 4 class numbers, or 4 rows"),
        (np.zeros((4, 6, 5), int), "y is int64 [4, 6, 5]; expected 4 class numbers"),
        (np.zeros((4, 0)), "y is float64 [4, 0]; expected"),
        (np.array(3), "y is int64 [] for 4 images"),
        (np.array(["cat", "dog", "cat", "dog"]), "y contains names; expected class numbers"),
        (np.array([1, "a", None, 2], object), "y contains Python objects, which only pickle can read"),
        (np.zeros(4, np.complex64), "y is complex64 [4]; expected"),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, y: NDArray[Any], message: str) -> None:
    path = saved(tmp_path, x=some(), y=y)
    with pytest.raises(DataError) as error:
        evaluation_data.read(path, RGB)
    assert str(error.value).startswith(f"{path}: y ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # Without labels, they aren't looked at.
    assert not evaluation_data.read(path, RGB, labelled=False).labelled


# Pixels in archives


@pytest.mark.parametrize(
    ("convert", "values"),
    [
        (lambda x: x, "uint8 0…255"),
        (lambda x: x.astype(np.int32), "int32 0…255"),
        (lambda x: x.astype(np.float64), "float64 0…255"),
        (lambda x: x.astype(np.float32) / 255, "float32 0…1"),
        (lambda x: (x / 255).astype(np.float16), "float16 0…1"),
        (lambda x: x / 255 * 1.001 - 0.0005, "float64 0…1"),
        (np.asfortranarray, "uint8 0…255"),
        (lambda x: np.asfortranarray(x / 255), "float64 0…1"),
        (lambda x: x.astype(">u2"), ">u2 0…255"),
    ],
)
def test_pixels_are_taken_in_every_scale_that_is_certain(tmp_path: Path, convert: Any, values: str) -> None:
    x = some(7)
    x[0, 0, 0], x[1, 0, 0] = 0, 255
    found = evaluation_data.read(saved(tmp_path, x=convert(x), y=np.arange(7)), RGB)
    np.testing.assert_array_equal(found.pixels, x)
    assert found.data["values"] == values
    plain = evaluation_data.read(saved(tmp_path, x=x, y=np.arange(7)), RGB)
    assert found.data["sha256"] == plain.data["sha256"]


def test_booleans_are_black_and_white(tmp_path: Path) -> None:
    ink = some(channels=1) > 127
    for x in (ink, ink[..., 0], ink.astype(np.float32)):
        found = evaluation_data.read(saved(tmp_path, x=x, y=np.arange(4)), GREY)
        np.testing.assert_array_equal(found.pixels, np.where(ink, 255, 0))


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1), (4, 1, 6, 5)])
def test_grey_images_need_no_channel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = some(channels=1)
    found = evaluation_data.read(saved(tmp_path, x=x.reshape(shape), y=np.arange(4)), GREY)
    np.testing.assert_array_equal(found.pixels, x)


@pytest.mark.parametrize(
    ("rules", "x", "message"),
    [
        (RGB, some().transpose(0, 3, 1, 2), "put the channels last: x.transpose(0, 2, 3, 1)"),
        (RGB, some()[..., 0], "np.repeat(x[..., np.newaxis], 3, -1)"),
        (RGB, some(channels=1), "the images are grey, and the model takes RGB: np.repeat(x, 3, -1)"),
        (RGB, some(channels=4), "the model takes RGB images; remove the fourth channel, opacity: x[..., :3]"),
        (RGB, some()[:, :5], "x is uint8 [4, 5, 5, 3]; expected pixels uint8 [N, 6, 5, 3]; resize them"),
        (RGB, some()[:, :5], "if it takes any size, give --size 5,5"),
        (RGB, some().reshape(4, -1), "x.reshape(-1, 6, 5, 3)"),
        (RGB, some()[0], "for a single image: x[np.newaxis]"),
        (RGB, np.zeros((4, 3, 9, 9), np.uint8), "put the channels last, x.transpose(0, 2, 3, 1), and change"),
        (RGB, some()[:0], "x is uint8 [0, 6, 5, 3]; expected one image or more"),
        (RGB, np.array(1), "x is int64 []; expected one image or more"),
        (RGB, np.zeros((4, 2, 6, 5, 3), np.uint8), "np.savez('eval.npz', x=images, y=class_numbers)"),
        (GREY, some(), "the images are RGB, and the model takes grey ones"),
        (GREY, some()[:, :4, :, :1], "resize them"),
        (RGB, some() / 127.5 - 1, "of -1 to 1: ((x + 1) * 127.5).round().astype('uint8')"),
        (RGB, some() * 0.7, "not all whole; expected pixels uint8 of 0 to 255, or floats of 0 to 1; round them"),
        (RGB, some().astype(np.uint16) * 257, "convert the 16-bit values: (x // 257).astype('uint8')"),
        (RGB, some() - 120.5, "save the images before they are scaled"),
        (RGB, some() / 255 * 1.5, "save the images before they are scaled"),
        (RGB, np.where(some() == some()[0, 0, 0, 0], np.nan, some()), "contains NaN or infinite values"),
        (RGB, some() / 255 + np.inf, "contains NaN or infinite values"),
        (RGB, some() // 128, "contains no value above 1; expected pixels of 0 to 255; multiply it by 255"),
        (RGB, some().astype(object), "x contains Python objects"),
        (RGB, some().astype(str), "expected numbers"),
    ],
)  # fmt: skip
def test_other_pixels_are_refused_with_the_remedy(
    tmp_path: Path, rules: Contract, x: NDArray[Any], message: str
) -> None:
    path = saved(tmp_path, x=x, y=np.arange(len(x) if x.ndim else 1))
    with pytest.raises(DataError) as error:
        evaluation_data.read(path, rules)
    assert str(error.value).startswith(f"{path}: x ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@relaxed
@given(
    x=arrays.arrays(
        st.sampled_from([np.uint8, np.int16, np.float32, np.float64, np.bool_]),
        st.sampled_from([(3, 6, 5, 3), (3, 3, 6, 5), (3, 6, 5), (0, 6, 5, 3), (3, 90)]),
    ),
    y=arrays.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.bool_]),
        st.sampled_from([(3,), (3, 1), (3, 4), (2,), ()]),
    ),
)
def test_arrays_are_pixels_with_classes_or_refused_in_a_line(
    tmp_path: Path, x: NDArray[Any], y: NDArray[Any]
) -> None:
    path = saved(tmp_path, x=x, y=y)
    found = read_or_refused(path)
    if isinstance(found, str):
        assert found.startswith(f"{path}: ")
        return
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape == x.shape == (3, 6, 5, 3)
    scale = 255 if found.data["values"].endswith("0…1") else 1
    difference = found.pixels - x.astype(np.float64) * scale
    assert np.abs(difference).max() <= (0.5 if scale == 1 else 1)
    rows = (
        np.eye(y.shape[1])[found.truth] if y.ndim == 2 and found.truth.ndim == 1 and y.shape[1] > 1 else None
    )
    np.testing.assert_array_equal(found.truth.reshape(y.shape) if rows is None else rows, y)


# Archives


@pytest.mark.parametrize(
    ("x", "y"),
    [("x_test", "y_test"), ("X_val", "Y_val"), ("X", "y"), ("images", "labels"), ("test_images", "test_labels")],
)  # fmt: skip
def test_names_that_people_use_are_found(tmp_path: Path, x: str, y: str) -> None:
    other = {"x_train": some(9), "y_train": np.arange(9), "note": np.array("a text")}
    found = evaluation_data.read(saved(tmp_path, **other, **{x: some(), y: np.arange(4)}), RGB)
    np.testing.assert_array_equal(found.pixels, some())
    assert found.truth.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), "contains a, b; expected arrays x_test and y_test or "),
        (("x_train", "y_train"), "save images that the model wasn't trained on under these names"),
        (("x",), "contains x; expected arrays"),
        ((), "contains nothing; expected arrays"),
        (tuple("abcdefg"), "contains a, b, c, d, e …; expected"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    path = saved(tmp_path, **dict.fromkeys(names, some()))
    with pytest.raises(DataError, match="expected arrays") as error:
        evaluation_data.read(path, RGB)
    assert message in str(error.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, x=some(), y=np.arange(4))
    whole = path.read_bytes()
    np.save(tmp_path / "x.npy", some())
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("cat/1.png", b"")
    for name, message in [
        ("none.npz", "no such file or folder; expected labelled images"),
        ("x.npy", "a .npy file, which contains one array and no labels"),
        ("text.npz", "not a readable .npz file"),
        ("empty.npz", "not a readable .npz file"),
        ("pictures.zip", "an archive of cat/1.png and other files"),
    ]:
        with pytest.raises(DataError) as error:
            evaluation_data.read(tmp_path / name, RGB)
        assert str(error.value).startswith(f"{tmp_path / name}: {message}")
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole[: generator.integers(len(whole)) if generator.random() < 0.3 else None])
        for at in generator.integers(0, max(1, len(damaged)), 3):
            damaged[at : at + 1] = generator.bytes(1)
        path.write_bytes(damaged)
        found = read_or_refused(path)
        if isinstance(found, str):
            refused += 1
            assert "\n" not in found
    assert refused > 150


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 6, 5, 3)}
    )
    with zipfile.ZipFile(tmp_path / "eval.npz", "w") as archive:
        archive.writestr("x.npy", file.getvalue())
        archive.writestr("y.npy", b"")
    with pytest.raises(DataError, match="x is truncated|not a readable"):
        evaluation_data.read(tmp_path / "eval.npz", RGB, labelled=False)


def test_many_images_lie_in_a_file_that_nobody_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_data, "_IN_MEMORY", 100)
    monkeypatch.setattr(image_archive, "_BLOCK_BYTES", 200)
    path = saved(tmp_path, x=some(9), y=np.arange(9))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(DataError, match="9 images need 0.0 GB in .*TMPDIR"):
        evaluation_data.read(path, RGB)
    (tmp_path / "missing").mkdir()
    found = evaluation_data.read(path, RGB)
    assert isinstance(found.pixels, np.memmap)
    assert list((tmp_path / "missing").iterdir()) == []
    np.testing.assert_array_equal(found.pixels, some(9))
    monkeypatch.undo()
    assert evaluation_data.read(path, RGB).data == found.data
