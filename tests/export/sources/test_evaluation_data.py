"""Evaluation images and class names in every form that people have them, and what is refused."""

import io
import os
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from conftest import ROOT
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.export.sources import evaluation_data, image_archive, image_folder
from tfship.train.common.errors import DataError, TfshipError, UsageError

CASES = ROOT.parent / "shared" / "cases" / "labels"
RGB = Contract("rgb", (), 6, 5, 3, Scaling.of_range(0, 1, 3), "resize")
GREY = Contract("grey", (), 6, 5, 1, Scaling.of_range(0, 1, 1), "resize")
# Files made anew for every example: that they share a folder does no harm.
relaxed = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def some(count: int = 4, channels: int = 3) -> NDArray[np.uint8]:
    generator = np.random.default_rng(count)
    return generator.integers(0, 256, (count, 6, 5, channels), np.uint8)


def saved(folder: Path, **values: Any) -> Path:
    path = folder / "eval.npz"
    np.savez(path, **values)
    return path


def picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)


def folder_of(path: Path, names: dict[str, int]) -> Path:
    for name, count in names.items():
        for number, pixels in enumerate(some(count)):
            picture(path / name / f"{number}.png", pixels)
    return path


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
        (np.array([0.5, 1.25, 3, 2]), "holds regression targets, 0.5 to 3; expected 4 class numbers"),
        (np.full((4, 2), -1.5), "holds regression targets"),
        (np.full((4, 2), 0.5), "holds probabilities; expected class numbers: y.argmax(1)"),
        (np.array([0, -1, 1, 2]), "holds -1 to 2; expected class numbers from 0 on"),
        (np.array([0, 1, 1, 2**63], np.uint64), "expected class numbers from 0 on"),
        (np.array([0, np.nan, 1, 2]), "holds values that are no numbers"),
        (np.array([0, 1, 2]), "y is int64 [3] for 4 images; expected 4 class numbers"),
        (np.array([[0, 3]] * 4), "holds rows of 2 numbers up to 3; expected 4 class numbers, or 4 rows"),
        (np.zeros((4, 6, 5), int), "y is int64 [4, 6, 5]; expected 4 class numbers"),
        (np.zeros((4, 0)), "y is float64 [4, 0]; expected"),
        (np.array(3), "y is int64 [] for 4 images"),
        (np.array(["cat", "dog", "cat", "dog"]), "y holds names; expected class numbers"),
        (np.array([1, "a", None, 2], object), "y holds Python objects, which only pickle reads"),
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
        (RGB, some(channels=4), "the model takes RGB images; leave the fourth channel, opacity, out: x[..., :3]"),
        (RGB, some()[:, :5], "x is uint8 [4, 5, 5, 3]; expected pixels uint8 [N, 6, 5, 3]: resize them"),
        (RGB, some()[:, :5], "one that takes any size: --size 5,5"),
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
        (RGB, some().astype(np.uint16) * 257, "of 16 bits: (x // 257).astype('uint8')"),
        (RGB, some() - 120.5, "save the images as they are before they are scaled"),
        (RGB, some() / 255 * 1.5, "save the images as they are before they are scaled"),
        (RGB, np.where(some() == some()[0, 0, 0, 0], np.nan, some()), "holds values that are no numbers"),
        (RGB, some() / 255 + np.inf, "holds values that are no numbers, or infinite"),
        (RGB, some() // 128, "holds no value above 1; expected pixels of 0 to 255: multiply it by 255"),
        (RGB, some().astype(object), "x holds Python objects"),
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
        (("a", "b"), "holds a, b; expected arrays x_test and y_test or "),
        (("x_train", "y_train"), "save images that the model wasn't trained on under these names"),
        (("x",), "holds x; expected arrays"),
        ((), "holds nothing; expected arrays"),
        (tuple("abcdefg"), "holds a, b, c, d, e …; expected"),
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
        ("x.npy", "a .npy file holds one array and no labels"),
        ("text.npz", "no .npz file that can be read"),
        ("empty.npz", "no .npz file that can be read"),
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
    with pytest.raises(DataError, match="x ends early|can be read"):
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


# Folders


def test_a_folder_of_folders_is_read_as_keras_reads_it(tmp_path: Path) -> None:
    from tfship.train.common.tensorflow_loader import tensorflow

    tensorflow()
    import keras

    path = folder_of(tmp_path, {"rose": 3, "Daisy": 2, "aster/day1": 1, "aster/day2": 1, "10": 2, "9": 1})
    picture(path / "aster" / "whole.PNG", some(1)[0])
    expected = keras.utils.image_dataset_from_directory(
        path, image_size=(6, 5), batch_size=None, shuffle=False, verbose=False
    )
    for name in (".DS_Store", "Thumbs.db", "labels.csv", "rose/.hidden.png", "__MACOSX/rose/._1.png",
                 ".ipynb_checkpoints/1.png", "rose/README"):  # fmt: skip
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"no image")
    found = evaluation_data.read(path, RGB)
    assert list(found.class_names or ()) == expected.class_names == ["10", "9", "Daisy", "aster", "rose"]
    images, labels = zip(*expected.as_numpy_iterator(), strict=True)
    assert found.truth.tolist() == list(labels)
    by_class = [
        sorted(image.tobytes() for image, label in zip(all_images, numbers, strict=True) if label == 3)
        for all_images, numbers in (
            (np.stack(images).astype(np.uint8), labels),
            (found.pixels, found.truth.tolist()),
        )
    ]
    assert by_class[0] == by_class[1]
    assert found.data["label"] == tmp_path.name
    assert found.data["test"] == len(labels)


def test_photographs_are_prepared_by_the_contract(tmp_path: Path) -> None:
    from tfship.client.images import preprocessing as image

    large = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for number, name in enumerate(("a/1.jpg", "a/2.JPEG", "b/3.png")):
        picture(tmp_path / name, np.roll(large, number * 5, 0))
    for rules in (RGB, GREY):
        found = evaluation_data.read(tmp_path, rules)
        paths = [tmp_path / "a/1.jpg", tmp_path / "a/2.JPEG", tmp_path / "b/3.png"]
        expected = [image.pixels(each.read_bytes(), rules) for each in paths]
        np.testing.assert_array_equal(found.pixels, np.stack(expected))
        assert found.truth.tolist() == [0, 0, 1]


def test_folders_are_numbered_by_the_labels_that_name_them(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {"cat": 1, "dog": 2, "eel": 1})

    def numbers(*labels: str) -> list[int]:
        rules = Contract("m", labels, 6, 5, 3, RGB.scaling, "resize")
        return [int(number) for number in evaluation_data.read(path, rules).truth]

    assert numbers() == [0, 1, 1, 2]
    assert numbers("eel", "dog", "cat") == [2, 1, 1, 0]
    assert numbers("ant", "eel", "bee", "dog", "cat") == [4, 3, 3, 1]
    assert numbers("Katze", "Hund", "Aal") == [0, 1, 1, 2]
    (path / "eel").rename(path / unicodedata.normalize("NFD", "Jürgen"))
    assert numbers("dog", "cat", "Jürgen") == [2, 1, 0, 0]
    (path / unicodedata.normalize("NFD", "Jürgen")).rename(path / "eel")
    with pytest.raises(DataError, match="the folder eel is none of the labels"):
        numbers("dog", "cat", "Eel")
    with pytest.raises(DataError, match="holds 3 folders, and there are 2 labels of other names"):
        numbers("Katze", "Hund")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "holds no PNG or JPEG images; expected a folder with a folder"),
        ({"": 3}, "holds images, but no folders of them; expected"),
        ({"cat": 2}, "holds a single folder, cat; expected"),
        ({"test/cat": 2, "test/dog": 2}, "name one of its folders, such as"),
        ({"test/cat": 2, "train/cat": 2}, "its folders (test, train) hold folders of images"),
        ({"cat": 2, "dog": 0}, "add images of this class, or take the folder away"),
    ],
)
def test_other_structures_are_refused(tmp_path: Path, names: dict[str, int], message: str) -> None:
    for name in names:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError) as error:
        evaluation_data.read(
            folder_of(tmp_path, {name: count for name, count in names.items() if count}), RGB
        )
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("dog/broken.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "Invalid PNG"),
        ("dog/broken.jpg", b"\xff\xd8\xff\xe0" + bytes(40), "Invalid JPEG data, size 44; replace the image or"),
        ("dog/text.png", b"no image", "text.png: neither a PNG nor a JPEG image; replace"),
        ("dog/large.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**5).to_bytes(4, "big") * 2 + bytes(20), "more than "),
        ("dog/nothing.png", b"", "an empty file"),
        ("dog/a.webp", b"RIFF", "a WEBP image; expected PNG or JPEG: convert it, for example by Pillow's "
                                "Image.open('a.webp').save('a.png')"),
        ("dog/deep/a.HEIC", b"", "a HEIC image"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = folder_of(tmp_path, {"cat": 2, "dog": 2})
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        evaluation_data.read(path, RGB)
    assert str(error.value).startswith(f"{path / name}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {"cat": 1, os.fsdecode(b"d\xf6g"): 1})
    with pytest.raises(DataError, match="its name isn't UTF-8"):
        evaluation_data.read(path, RGB)


def test_large_photographs_are_decoded_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_of(tmp_path, {"cat": 5, "dog": 4})
    expected = evaluation_data.read(path, RGB)
    monkeypatch.setattr(image_folder, "_LARGE_BYTES", 10)
    np.testing.assert_array_equal(evaluation_data.read(path, RGB).pixels, expected.pixels)


def test_images_without_labels_lie_anywhere(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {"": 2, "more": 3})
    found = evaluation_data.read(path, RGB, labelled=False)
    assert not found.labelled
    assert len(found.pixels) == 5
    for arrays_ in ({"x": some()}, {"x_train": some(), "y_train": np.arange(4)}, {"arr_0": some()}):
        assert len(evaluation_data.read(saved(tmp_path, **arrays_), RGB, labelled=False).pixels) == 4


# Files of labels


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
def test_label_files_of_other_people() -> None:
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert evaluation_data.read_labels(CASES / "utf16.txt") == digits
    assert evaluation_data.read_labels(CASES / "teachable.txt") == digits
    names = evaluation_data.read_labels(CASES / "bom.txt")
    assert len(names) == 10
    assert names[:4] == ("zero", "one", "two, too", 'three "3"')


NAMES = ("zero", "Größe 1", "二")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["{name}", "{number} {name}", "  {number}\t{name} "])
def test_names_are_plain_in_every_encoding(tmp_path: Path, encoding: str, end: str, form: str) -> None:
    lines = [form.format(number=number, name=name) for number, name in enumerate(NAMES)]
    path = tmp_path / "labels.txt"
    path.write_bytes((end.join(lines) + end * 3).encode(encoding))
    assert evaluation_data.read_labels(path) == NAMES


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_of_either_order_is_read_by_its_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffa\nb\n".encode(encoding))
    assert evaluation_data.read_labels(path) == ("a", "b")


@pytest.mark.parametrize("lines", [["1 a", "2 b"], ["0 a", "b"], ["0 a", "1"], ["00 a", "01 b"], ["0", "1"]])
def test_numbers_that_are_not_all_indices_belong_to_the_names(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(lines))
    assert evaluation_data.read_labels(path) == tuple(lines)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"\n \r\n", "an empty file"),
        (b"a\nb\na\n", "names 'a' twice, as class 0 and as class 2"),
        (b"0 a\n1 a\n", "names 'a' twice"),
        ("Größe\n".encode("latin-1"), "can't be read"),
        ("a\nb\n".encode("utf-16-le"), "can't be read (it holds zero bytes)"),
        (b"\xff\xfea", "can't be read"),
        (b"PK\x03\x04\x00\x00", "can't be read"),
        (None, "can't be read (No such file or directory)"),
    ],
)
def test_other_label_files_are_refused(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError) as error:
        evaluation_data.read_labels(path)
    assert str(error.value).startswith(f"{path}: {message}")
    with pytest.raises(UsageError, match="can't be read"):
        evaluation_data.read_labels(tmp_path)


@relaxed
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_any_bytes_are_unique_names_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    try:
        names = evaluation_data.read_labels(path)
    except TfshipError:
        return
    assert names
    assert len(set(names)) == len(names)
    assert all(name and name == name.strip() and "\ufeff" not in name[:1] for name in names)
