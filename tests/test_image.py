import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from client import draw_samples, image
from export import contract
from train.data import Digits, to_input
from train.errors import DataError

DIGITS = contract.digits("cnn")
PICTURES = {each.name: draw_samples.draw(each) for each in draw_samples.SAMPLES}


def from_bytes(data: bytes, name: str = "picture") -> NDArray[np.float32]:
    return image.from_bytes(data, DIGITS, name)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def nearly(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return float(np.abs(one - other).mean()) < 0.02


def test_mnist_images_pass_unchanged(sample: Digits) -> None:
    for pixels in sample.x_test:
        np.testing.assert_array_equal(
            from_bytes(encoded(Image.fromarray(pixels))), to_input(pixels[np.newaxis])[0]
        )


@pytest.mark.parametrize("name", PICTURES)
def test_committed_samples_are_what_the_script_draws(name: str) -> None:
    committed = Image.open(draw_samples.FOLDER / f"{name}.png")
    assert committed.size != (28, 28)
    # Not to the bit: another Pillow may round otherwise.
    drawn = np.asarray(PICTURES[name], np.int16)
    assert np.abs(np.asarray(committed, np.int16) - drawn).max() <= 3


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_becomes_what_mnist_looks_like(name: str) -> None:
    tensor = from_bytes(encoded(PICTURES[name]))
    assert tensor.shape == (28, 28, 1)
    assert tensor.dtype == np.float32
    assert tensor.min() == 0
    assert 0.9 < tensor.max() <= 1
    rows, columns = np.nonzero(tensor[..., 0])
    assert max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
    weights = tensor[..., 0] / tensor.sum()
    centre = (weights.sum(1) @ np.arange(28), weights.sum(0) @ np.arange(28))
    np.testing.assert_allclose(centre, 13.5, atol=0.75)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_mode_gives_the_same_digit(mode: str) -> None:
    picture = PICTURES["three"]
    expected = from_bytes(encoded(picture))
    if mode == "I;16":
        changed = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257)
    else:
        changed = picture.convert("L").convert(mode) if mode == "LA" else picture.convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = from_bytes(encoded(changed, kind))
    # Palettes and single bits are dithered: dots on the paper, and ragged edges.
    dithered = mode in ("P", "1")
    assert float(np.abs(found - expected).mean()) < (0.06 if dithered else 0.02)


def test_light_ink_on_dark_paper_and_transparent_paper_are_the_same_digit() -> None:
    picture = PICTURES["seven"].convert("L")
    expected = from_bytes(encoded(picture))
    inverted = picture.point([255 - value for value in range(256)])
    assert nearly(from_bytes(encoded(inverted)), expected)
    ink = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    ink.putalpha(inverted)
    assert nearly(from_bytes(encoded(ink)), expected)


def test_size_and_place_do_not_matter() -> None:
    picture = PICTURES["five"]
    expected = from_bytes(encoded(picture))
    larger = picture.resize((1600, 1200), Image.Resampling.BICUBIC)
    assert nearly(from_bytes(encoded(larger)), expected)
    moved = Image.new("RGB", (900, 700), "white")
    moved.paste(picture, (450, 30))
    assert nearly(from_bytes(encoded(moved)), expected)


def test_a_turned_photo_is_set_upright() -> None:
    picture = PICTURES["seven"]
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn 90° clockwise to view
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif, quality=95)
    assert nearly(from_bytes(buffer.getvalue()), from_bytes(encoded(picture)))


@pytest.mark.parametrize("colour", ["white", "black", "grey"])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (1, 500), (300, 200)])
def test_an_empty_page_is_refused(colour: str, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="page: nothing to see on it"):
        from_bytes(encoded(Image.new("L", size, colour)), "page")


def test_a_bomb_is_refused() -> None:
    # 30,000 x 30,000 black pixels are about 110 KB as PNG, and 900 MB unpacked.
    header = Image.new("1", (30_000, 30_000))
    with pytest.raises(DataError, match=r"bomb: more than 50,000,000 pixels"):
        from_bytes(encoded(header), "bomb")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_data_error(content: bytes) -> None:
    with pytest.raises(DataError, match="expected"):
        from_bytes(content)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    share=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), max_size=3),
)
def test_damaged_pictures_give_a_tensor_or_a_data_error(
    kind: str, share: float, flips: list[tuple[float, int]]
) -> None:
    content = bytearray(encoded(PICTURES["two"], kind))
    content = content[: int(len(content) * share)]
    for where, value in flips:
        if content:
            content[int(len(content) * where)] = value
    try:
        tensor = from_bytes(bytes(content))
    except DataError:
        return
    assert tensor.shape == (28, 28, 1)
    assert 0 <= tensor.min() <= tensor.max() <= 1


def test_files_that_are_not_there_or_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        image.from_file(tmp_path / "a.png", DIGITS)
    with pytest.raises(DataError, match="can't be read"):
        image.from_file(tmp_path, DIGITS)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png: an empty file; expected PNG"):
        image.from_file(tmp_path / "empty.png", DIGITS)
