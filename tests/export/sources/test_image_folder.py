"""Evaluation images in folders: what is read and in which order, and what is refused."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export_fixtures import GREY, RGB, saved, some
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.sources import evaluation_data, image_folder
from tfship.train.common.errors import DataError


def picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)


def folder_of(path: Path, names: dict[str, int]) -> Path:
    for name, count in names.items():
        for number, pixels in enumerate(some(count)):
            picture(path / name / f"{number}.png", pixels)
    return path


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
    with pytest.raises(DataError, match="the folder eel isn't a label"):
        numbers("dog", "cat", "Eel")
    with pytest.raises(DataError, match="contains 3 folders, and there are 2 labels with other names"):
        numbers("Katze", "Hund")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "contains no PNG or JPEG images; expected a folder with a folder"),
        ({"": 3}, "contains images, but no folders of them; expected"),
        ({"cat": 2}, "contains a single folder, cat; expected"),
        ({"test/cat": 2, "test/dog": 2}, "give one of these folders, such as"),
        ({"test/cat": 2, "train/cat": 2}, "its folders (test, train) contain folders of images"),
        ({"cat": 2, "dog": 0}, "add images of this class, or remove the folder"),
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
        ("dog/broken.jpg", b"\xff\xd8\xff\xe0" + bytes(40), "Invalid JPEG data, size 44; replace or remove the image"),
        ("dog/text.png", b"no image", "text.png: neither a PNG nor a JPEG image; replace"),
        ("dog/large.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**5).to_bytes(4, "big") * 2 + bytes(20), "more than "),
        ("dog/nothing.png", b"", "an empty file"),
        ("dog/a.webp", b"RIFF", "a WEBP image; expected PNG or JPEG; convert it, for example with Pillow's "
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
