"""The graph of `serving_bytes` and the client prepare the same picture the same way."""

import functools
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from conftest import ROOT
from tfship.benchmarks.studies.digits.photographs import photograph
from tfship.client.api import inputs
from tfship.client.images import draw_samples
from tfship.client.images import preprocessing as image
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.train.common.errors import ArtifactError, DataError
from tfship.train.common.files import write_json
from tfship.train.common.tensorflow_loader import quiet
from tfship.train.data.datasets import Digits

DIGITS = input_contract.digits("cnn")
PHOTOS = Contract("photos", ("a", "b"), 32, 48, 3, Scaling.of_range(-1, 1, 3), "resize")
GREY = Contract("grey", ("a", "b"), 20, 20, 1, Scaling.of_range(0, 255, 1), "resize")


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def in_graph(rules: Contract, data: bytes) -> NDArray[np.uint8]:
    from tfship.export.preprocessing.graph import prepared

    found: NDArray[np.uint8] = prepared(rules, [data])[0]
    return found


def refusal(kind: type[Exception], function: Callable[[], object]) -> str:
    """Return what it says when it refuses, or nothing."""
    try:
        function()
    except kind as error:
        return str(error)
    return ""


def assert_same(rules: Contract, data: bytes) -> None:
    client, graph = image.pixels(data, rules), in_graph(rules, data)
    assert client.shape == graph.shape == rules.shape
    # The bound that users were promised is one step of 255 for each value.
    assert int(np.abs(client.astype(int) - graph).max()) <= 1
    scaled = np.abs(rules.scale(client[np.newaxis]) - rules.scale(graph[np.newaxis])).max()
    assert scaled <= (rules.high - rules.low) / 255 + 1e-6


@functools.cache
def drawn() -> list[Image.Image]:
    return [draw_samples.draw(each) for each in draw_samples.SAMPLES]


@functools.cache
def photo() -> Image.Image:
    """A real photograph, that matplotlib ships."""
    import matplotlib

    return Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")).convert("RGB")


@pytest.mark.parametrize("rules", [DIGITS, PHOTOS, GREY], ids=lambda each: each.model)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "LA", "1", "I;16", "transparent P"])
def test_png_of_every_mode(rules: Contract, mode: str) -> None:
    for picture in drawn():
        if mode == "I;16":
            changed = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 250 + 77)
        elif mode == "transparent P":
            changed = picture.convert("P")
            changed.info["transparency"] = 0
        elif mode in ("LA", "RGBA"):
            changed = picture.convert(mode)
            # Half transparent in a gradient, so that laying it on paper shows every rounding.
            changed.putalpha(Image.linear_gradient("L").resize(picture.size))
        else:
            changed = picture.convert(mode)
        assert_same(rules, encoded(changed))


@pytest.mark.parametrize("rules", [PHOTOS, GREY], ids=lambda each: each.model)
@pytest.mark.parametrize(("depth", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_png_with_a_transparent_sample(rules: Contract, depth: int, channels: int) -> None:
    samples = np.random.default_rng(depth).integers(0, 2**depth, (40, 40, channels), np.uint16)
    # Half of the image is transparent.
    samples[:, :20] = samples[0, 0]
    assert_same(rules, png_of(samples, depth, samples[0, 0]))


def png_of(samples: NDArray[np.uint16], depth: int, transparent: NDArray[np.uint16]) -> bytes:
    """Encode samples [h, w, 1 or 3] of 1 to 16 bits, most of which Pillow can't write."""
    height, width, channels = samples.shape
    bits = np.unpackbits(samples.astype(">u2")[..., np.newaxis].view(np.uint8), axis=-1)[..., 16 - depth :]
    lines = np.packbits(bits.reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, depth, 2 if channels == 3 else 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    parts = (
        (b"IHDR", header),
        (b"tRNS", transparent.astype(">u2").tobytes()),
        (b"IDAT", content),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(each)) + name + each + struct.pack(">I", zlib.crc32(name + each))
        for name, each in parts
    )


@pytest.mark.parametrize("rules", [DIGITS, PHOTOS], ids=lambda each: each.model)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg(rules: Contract, subsampling: int) -> None:
    for picture in [*drawn(), photo()]:
        assert_same(rules, encoded(picture, "JPEG", quality=60, subsampling=subsampling))
        assert_same(rules, encoded(picture.convert("L"), "JPEG", progressive=True))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_jpeg_is_turned_upright(orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker's name"
    exif[0x0112] = orientation
    picture = drawn()[-1]
    data = encoded(picture, "JPEG", exif=exif.tobytes())
    assert_same(DIGITS, data)
    upright = in_graph(PHOTOS, encoded(picture, "JPEG"))
    assert (in_graph(PHOTOS, data) == upright).all() == (orientation in (0, 1, 9))


@pytest.mark.parametrize("seed", range(16, 40, 4))
def test_photographs(sample: Digits, seed: int) -> None:
    for place in range(seed, seed + 4):
        assert_same(DIGITS, photograph(sample.x_test[place], place).data)


def test_mnist_images_pass_unchanged(sample: Digits) -> None:
    for pixels in sample.x_test[:100]:
        data = encoded(Image.fromarray(pixels))
        np.testing.assert_array_equal(in_graph(DIGITS, data), image.pixels(data, DIGITS))


@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    paper=st.integers(0, 255),
    strokes=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40), st.integers(0, 255)), max_size=4
    ),
    noise=st.integers(0, 40),
)
# Ink that is found, and too pale beside other ink for any stroke.
@example(size=(27, 8), paper=14, strokes=[(0.0, 0.875, 15, 97)], noise=30)
@settings(max_examples=60)
def test_any_picture(
    size: tuple[int, int], paper: int, strokes: list[tuple[float, float, int, int]], noise: int
) -> None:
    """Noise, blots, symmetric shapes, single pixels: both say the same, or both refuse."""
    width, height = size
    page = np.full((height, width), paper, np.float64)
    for x, y, side, ink in strokes:
        row, column = int(y * height), int(x * width)
        page[row : row + side, column : column + side] = ink
    page += np.random.default_rng(0).uniform(-noise, noise, page.shape)
    data = encoded(Image.fromarray(page.clip(0, 255).astype(np.uint8)))
    assert_same(GREY, data)
    client = refusal(DataError, lambda: image.pixels(data, DIGITS))
    import tensorflow as tf

    graph = refusal(tf.errors.InvalidArgumentError, lambda: in_graph(DIGITS, data))
    for reason in ("nothing to see", "only scattered dots"):
        assert (reason in client) == (reason in graph)
    assert bool(client) == bool(graph)
    if not client:
        assert_same(DIGITS, data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither a PNG nor a JPEG"),
        (b"no picture", "neither a PNG nor a JPEG"),
        (encoded(Image.new("L", (30, 30)), "GIF"), "neither a PNG nor a JPEG"),
        (encoded(Image.new("L", (30, 30), 9))[:-30], "PNG"),
        (encoded(Image.new("L", (90, 90), 9), "JPEG")[:150], "JPEG"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\0\0\0\0", "50,000,000 pixels"),
        (encoded(Image.new("L", (30, 30), 200)), "nothing to see"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(data: bytes, reason: str) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        in_graph(DIGITS, data)


@pytest.mark.parametrize("rules", [DIGITS, PHOTOS, GREY], ids=lambda each: each.model)
def test_contract_survives_its_file(tmp_path: Path, rules: Contract) -> None:
    rules.write(tmp_path)
    assert input_contract.read(tmp_path) == rules
    path = tmp_path / input_contract.CONTRACT
    path.write_text(path.read_text().replace('"resize"', '"crop"').replace('"digit"', '"crop"'))
    with pytest.raises(ArtifactError, match="not an input contract"):
        input_contract.read(tmp_path)


def test_pixels_become_the_models_values() -> None:
    pixels = np.array([[0], [51], [255]], np.float32)
    for rules, expected in ((DIGITS, [0, 0.2, 1]), (PHOTOS, [-1, -0.6, 1]), (GREY, [0, 51, 255])):
        values = rules.scaling.apply(np.tile(pixels, rules.channels))
        np.testing.assert_allclose(values, np.tile(np.array(expected)[:, None], rules.channels), rtol=1e-6)
        assert (rules.low, rules.high) == (expected[0], expected[2])
    every = np.arange(256, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(DIGITS.scaling.apply(every), every / 255)
    np.testing.assert_array_equal(GREY.scaling.apply(every), every)


def test_channels_are_scaled_and_ordered_each_by_itself() -> None:
    caffe = Scaling((1, 1, 1), (-103.939, -116.779, -123.68), bgr=True)
    assert not caffe.uniform
    pixels, values = np.array([10, 20, 30], np.float32), np.array([-73.939, -96.779, -113.68])
    np.testing.assert_allclose(caffe.apply(pixels), values, rtol=1e-6)
    assert caffe.ends == (-123.68, 255 - 103.939)


def test_contracts_of_earlier_schemas_are_read(tmp_path: Path) -> None:
    described = {**PHOTOS.describe(), "schema": 3}
    write_json(tmp_path / input_contract.CONTRACT, described)
    assert input_contract.read(tmp_path) == PHOTOS
    image = {key: value for key, value in described["image"].items() if key not in ("scale", "offset")}
    older = {key: value for key, value in described.items() if key not in ("outputs", "tflite_batch")}
    write_json(
        tmp_path / input_contract.CONTRACT, {**older, "schema": 2, "image": {**image, "range": [-1.0, 1.0]}}
    )
    assert input_contract.read(tmp_path) == PHOTOS
    assert not input_contract.is_current(tmp_path)


def on_a_page(
    digit: NDArray[np.uint8], height: int, seed: int, *, inverted: bool = False, noise: float = 0.0
) -> bytes:
    """Return an A4 page at 300 dpi with a digit of a height somewhere on it, as PNG."""
    dice = np.random.default_rng(seed)
    ink = digit[digit.any(1)][:, digit.any(0)]
    width = max(3, round(ink.shape[1] * height / ink.shape[0]))
    large = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC), float)
    page = np.full((3508, 2480), 235.0, np.float32)
    top, left = int(dice.integers(100, 3300)), int(dice.integers(100, 2300))
    page[top : top + height, left : left + width] *= 1 - 0.85 * large / 255
    page += noise * dice.standard_normal(page.shape, np.float32)
    pixels = (255 - page if inverted else page).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels), compress_level=1)


@pytest.mark.parametrize(
    ("height", "inverted", "noise"), [(30, False, 0.0), (40, True, 4.0), (40, False, 16.0), (60, False, 8.0)]
)
def test_a_small_digit_on_a_page(sample: Digits, height: int, inverted: bool, noise: float) -> None:
    """Found small, cut from the original: as good as cropped by hand."""
    pixels = sample.x_test[height]
    data = on_a_page(pixels, height, height, inverted=inverted, noise=noise)
    assert_same(DIGITS, data)
    found = image.pixels(data, DIGITS)[..., 0].astype(float)
    expected = image.pixels(encoded(Image.fromarray(255 - pixels).resize((60, 60))), DIGITS)[..., 0].astype(
        float
    )
    shifts = [np.roll(found, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    assert min(np.abs(each - expected).mean() for each in shifts) < 12


CASES = ROOT.parent / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
def test_pages_and_images_of_other_people() -> None:
    released = ROOT / "models" / "released" / "cnn.int8.tflite"
    pages = sorted((CASES / "a4").glob("*.png"))
    for page in pages[::5]:
        assert_same(DIGITS, page.read_bytes())
    tensors = [image.from_bytes(page.read_bytes(), DIGITS) for page in pages]
    with quiet():
        target = Classifier(LiteRT(released), "cnn")
    assert target.predict(np.stack(tensors)).argmax(1).tolist() == [
        int(page.stem.split("-")[1][1]) for page in pages
    ]
    target.close()
    for name in ("exif6.png", "rgba-whiteink-transparent.png", "five.png"):
        assert_same(DIGITS, (CASES / "pictures" / name).read_bytes())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_png_is_turned_upright(orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker's name"
    exif[0x0112] = orientation
    picture = drawn()[-1]
    data = encoded(picture, exif=exif.tobytes())
    assert_same(DIGITS, data)
    upright = in_graph(PHOTOS, encoded(picture))
    assert (in_graph(PHOTOS, data) == upright).all() == (orientation in (0, 1, 9))


@pytest.mark.parametrize("rules", [DIGITS, PHOTOS, GREY], ids=lambda each: each.model)
@pytest.mark.parametrize("ink", [0, 128, 225, 240, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_ink_on_transparency(rules: Contract, ink: int, mode: str) -> None:
    """Ink that would vanish on white is laid on black."""
    opacity = drawn()[0].convert("L").point([255 - value for value in range(256)])
    picture = Image.new("L", opacity.size, ink).convert(mode)
    picture.putalpha(opacity)
    data = encoded(picture)
    assert_same(rules, data)
    if rules is PHOTOS:
        assert (image.pixels(data, rules)[0, 0] == (0 if ink > 255 - input_contract.FAINTEST else 255)).all()


def test_a_page_of_several_strips_in_colour() -> None:
    page = Image.new("RGB", (2480, 3508), (240, 235, 230))
    page.paste(drawn()[0].convert("RGB").resize((60, 60)), (700, 900))
    for data in (encoded(page), encoded(page, "JPEG"), encoded(page.convert("RGBA"))):
        assert_same(DIGITS, data)


@pytest.mark.parametrize("rules", [DIGITS, PHOTOS], ids=lambda each: each.model)
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "TIFF"])
def test_other_formats_are_sent_as_png(rules: Contract, kind: str) -> None:
    """The graph takes PNG and JPEG: the client converts the others, without a change of pixels."""
    data = encoded(drawn()[0], kind)
    sent = inputs.prepared(data, rules, "string", "image").row
    np.testing.assert_array_equal(image.pixels(sent, rules), image.pixels(data, rules))
    assert_same(rules, sent)
    for each in (sent, encoded(drawn()[0], "JPEG")):
        assert inputs.prepared(each, rules, "string", "image").row is each


def test_warm_up_takes_all_ways_of_the_preparation() -> None:
    """PNG and JPEG that pass unchanged, that are reduced, and that are looked at again."""
    from tfship.export.publishing import warmup_requests

    found = warmup_requests.images(DIGITS)
    assert [each[:4] for each in found] == [b"\x89PNG", b"\x89PNG", found[2][:4]] * 3
    sizes = [Image.open(io.BytesIO(each)).size for each in found]
    assert sizes[:3] == [(28, 28)] * 3
    assert max(sizes[-1]) >= input_contract.WORKING * input_contract.REDUCTION * 0.9
    for each in found:
        assert_same(DIGITS, each)
    for each in warmup_requests.images(PHOTOS):
        assert_same(PHOTOS, each)
