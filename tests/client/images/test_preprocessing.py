import functools
import io
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from conftest import ROOT
from tfship.benchmarks.studies.digits import uci_digits
from tfship.benchmarks.studies.digits.photographs import photograph
from tfship.client.images import draw_samples
from tfship.client.images import preprocessing as image
from tfship.export.preprocessing import input_contract
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.train.common.errors import DataError
from tfship.train.common.tensorflow_loader import quiet
from tfship.train.data.datasets import Digits, to_input

DIGITS = input_contract.digits("cnn")
NAMES = [each.name for each in draw_samples.SAMPLES]


@functools.cache
def picture_of(name: str) -> Image.Image:
    return draw_samples.draw(next(each for each in draw_samples.SAMPLES if each.name == name))


def from_bytes(data: bytes, name: str = "picture") -> NDArray[np.float32]:
    return image.from_bytes(data, DIGITS, name)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the mean difference; a centre of mass between two pixels may be rounded to either."""
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return min(float(np.abs(np.roll(one, shift, (0, 1)) - other).mean()) for shift in shifts)


def nearly(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return difference(one, other) < 0.04


def test_mnist_images_pass_unchanged(sample: Digits) -> None:
    for pixels in sample.x_test:
        np.testing.assert_array_equal(
            from_bytes(encoded(Image.fromarray(pixels))), to_input(pixels[np.newaxis])[0]
        )


@pytest.mark.parametrize("name", NAMES)
def test_committed_samples_are_what_the_script_draws(name: str) -> None:
    committed = Image.open(draw_samples.FOLDER / f"{name}.png")
    assert committed.size != (28, 28)
    # Not to the bit: another Pillow may round otherwise, and on another processor a stroke may touch another pixel.
    drawn = np.asarray(picture_of(name), np.int16)
    assert np.mean(np.abs(np.asarray(committed, np.int16) - drawn) > 3) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_becomes_what_mnist_looks_like(name: str) -> None:
    tensor = from_bytes(encoded(picture_of(name)))
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
    picture = picture_of("three")
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
    picture = picture_of("seven").convert("L")
    expected = from_bytes(encoded(picture))
    inverted = picture.point([255 - value for value in range(256)])
    assert nearly(from_bytes(encoded(inverted)), expected)
    ink = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    ink.putalpha(inverted)
    assert nearly(from_bytes(encoded(ink)), expected)


def test_size_and_place_do_not_matter() -> None:
    picture = picture_of("five")
    expected = from_bytes(encoded(picture))
    larger = picture.resize((1600, 1200), Image.Resampling.BICUBIC)
    assert nearly(from_bytes(encoded(larger)), expected)
    moved = Image.new("RGB", (900, 700), "white")
    moved.paste(picture, (450, 30))
    assert nearly(from_bytes(encoded(moved)), expected)


def test_a_turned_photo_is_set_upright() -> None:
    picture = picture_of("seven")
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn 90° clockwise to view
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif, quality=95)
    assert nearly(from_bytes(buffer.getvalue()), from_bytes(encoded(picture)))


@pytest.mark.parametrize("pen", [0.008, 0.02])
def test_a_thin_pen_is_as_good(pen: float) -> None:
    for sample in draw_samples.SAMPLES:
        tensor = from_bytes(encoded(draw_samples.draw(replace(sample, pen=pen, size=(350, 300)))))
        assert tensor.max() > 0.9
        # As much ink as MNIST's thinner digits have.
        assert 40 < tensor.sum() < 150


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_shadow_a_table_a_line_and_specks_are_not_the_digit(inverted: bool, upside_down: bool) -> None:
    """Each of them alone misleads a threshold: the shadow is darker than pencil in the light."""
    page = np.full((600, 800), 235.0)
    digit = Image.new("L", (800, 600), 255)
    three = picture_of("three").convert("L").resize((180, 240))
    digit.paste(three, (420, 170))
    page *= np.asarray(digit, np.float64) / 255
    page[:, 100:104] = 150  # a margin's line
    page[40:43, 300:303] = 20
    page[:, 500:] *= 0.5  # a shadow's hard edge, through the digit
    page[:18] = page[-18:] = 40  # the table
    page[:, :18] = page[:, -18:] = 40
    if inverted:
        page = 255 - page
    picture = Image.fromarray(page.astype(np.uint8))
    expected = encoded(picture_of("three"))
    if upside_down:
        picture = picture.rotate(180)
        expected = encoded(picture_of("three").rotate(180))
    # Paler in two places, where the shadow's edge crosses it; any of the rest would be ten times more.
    assert difference(from_bytes(encoded(picture)), from_bytes(expected)) < 0.06


def errors(pixels: Iterable[NDArray[np.uint8]], truth: NDArray[np.uint8]) -> int:
    """Return the number of prepared digits, uint8 [28, 28, 1], that the released network reads wrong."""
    with quiet():
        target = Classifier(LiteRT(ROOT / "models" / "released" / "cnn.int8.tflite"), "cnn")
    found = target.predict(DIGITS.scale(np.stack(list(pixels)))).argmax(1)
    target.close()
    return int(np.sum(found != truth))


def test_photographs_are_read(sample: Digits) -> None:
    """The whole of this is `tfship benchmark pictures`: 2,000 of them."""
    images, truth = sample.x_test[::50], sample.y_test[::50]
    photographs = [photograph(each, seed).data for seed, each in enumerate(images)]
    assert errors((image.pixels(each, DIGITS) for each in photographs), truth) <= len(truth) // 20


@pytest.mark.parametrize(
    "how", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]
)
def test_digits_of_few_pixels_are_read_as_well_as_without_a_page(
    sample: Digits, how: Image.Resampling
) -> None:
    """Most pixels of a stroke that is enlarged from 8 × 8 pixels are pale."""
    truth = sample.y_test[::3]
    few = [few_pixels(each) for each in sample.x_test[::3]]
    large = [Image.fromarray(each).resize((240, 240), how) for each in few]
    pages = [ImageOps.invert(ImageOps.expand(each, 40)) for each in large]
    found = [image.pixels(encoded(each), DIGITS) for each in pages]
    boxed = [uci_digits.boxed(np.asarray(each))[..., np.newaxis] for each in large]
    assert errors(found, truth) <= errors(boxed, truth) + len(truth) // 100


def few_pixels(digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an MNIST digit without its margins, as 8 × 8 pixels."""
    box = Image.fromarray(digit)
    box = box.crop(box.getbbox())
    return np.asarray(ImageOps.pad(box, (max(box.size),) * 2).resize((8, 8), Image.Resampling.BOX))


@pytest.mark.parametrize("inverted", [False, True])
def test_a_pale_digit_beside_something_dark_is_found_whole(inverted: bool) -> None:
    seven = np.asarray(picture_of("seven").convert("L").resize((200, 250)), np.float64)
    page = np.full((400, 500), 230.0)
    page[80:330, 60:260] -= (255 - seven) * 0.3
    expected = from_bytes(encoded(Image.fromarray(page.astype(np.uint8))))
    page[:, 330:400] = 0
    page[:, 322:330] = 180  # an edge that isn't ink, and has more contrast than half of the digit's
    pixels = (255 - page if inverted else page).astype(np.uint8)
    assert difference(from_bytes(encoded(Image.fromarray(pixels))), expected) < 0.02


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
def test_newer_formats_are_read(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    picture = picture_of("seven").resize((320, 240))
    assert nearly(from_bytes(encoded(picture, kind)), from_bytes(encoded(picture)))


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic", "a HEIC image"),
        (b"\0\0\0\x18ftypavif", "an AVIF image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    ],
)
def test_what_cannot_be_read_is_named(start: bytes, name: str) -> None:
    with pytest.raises(DataError, match=f"photo: {name}.*convert it"):
        from_bytes(start + bytes(500), "photo")


def test_other_notes_on_orientation_than_exif_are_ignored() -> None:
    """Neither browsers nor the graph heed them."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    buffer = io.BytesIO()
    picture_of("seven").save(buffer, "PNG", pnginfo=info)
    np.testing.assert_array_equal(from_bytes(buffer.getvalue()), from_bytes(encoded(picture_of("seven"))))


@pytest.mark.parametrize("colour", ["white", "black", "grey"])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (1, 500), (300, 200)])
def test_an_empty_page_is_refused(colour: str, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="page: nothing to see on the image"):
        from_bytes(encoded(Image.new("L", size, colour)), "page")


def test_a_bomb_is_refused() -> None:
    # A little more than is taken: a few KB as PNG, whatever it takes unpacked.
    with pytest.raises(DataError, match=r"bomb: more than 50,000,000 pixels"):
        from_bytes(encoded(Image.new("1", (7_072, 7_072))), "bomb")


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_data_error(content: bytes) -> None:
    with pytest.raises(DataError, match="expected"):
        from_bytes(content)


@settings(max_examples=100)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    share=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), max_size=3),
)
def test_damaged_pictures_give_a_tensor_or_a_data_error(
    kind: str, share: float, flips: list[tuple[float, int]]
) -> None:
    content = bytearray(encoded(picture_of("two"), kind))
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
