"""Images become the same pixels by the preparation in JavaScript, in a browser, as by the Python client."""

import base64
import functools
import io
import json
import re
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from playwright.sync_api import Browser, Page

from client_fixtures import module_page
from photo_fixtures import photos
from tfship.benchmarks.studies.digits.photographs import photograph
from tfship.client.images import decoding, draw_samples, preprocessing
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common.errors import DataError
from tfship.train.data.datasets import CLASSES, Digits

Pixels = NDArray[np.uint8]
COUNT, BATCH = 1000, 100
DIGITS = input_contract.digits("cnn")
CONTRACTS = {
    each.model: each
    for each in (
        DIGITS,
        Contract("large", CLASSES, 56, 42, 1, Scaling.of_range(-1, 1, 1), "digit"),
        Contract("photos", ("a", "b"), 32, 48, 3, Scaling.of_range(-1, 1, 3), "resize"),
        Contract("grey", ("a", "b"), 20, 20, 1, Scaling.of_range(0, 255, 1), "resize"),
        Contract("enlarged", ("a",), 90, 71, 3, Scaling((0.0171, 0.0175, 0.0174), (-2.1, -2.0, -1.8)), "resize"),
        Contract("caffe", ("a",), 24, 40, 3, Scaling((1, 1, 1), (-103.939, -116.779, -123.68), True), "resize"),
    )
}  # fmt: skip
# Passes of interlaced PNG: first column, first row, and steps.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PNG_FORMS = {1: 0, 2: 4, 3: 2, 4: 6}
ORIENTATION_TAG = 0x0112
# The largest photographs, in pixels: larger ones take long to make.
MOST = 150_000

PAGE = """
<!doctype html><title>preparation</title>
<script type="module">
  import { parse, values } from "/preparation/contract.js"
  import { decode, fromImageData } from "/preparation/decoding.js"
  import { prepare } from "/preparation/preparation.js"

  const text = array => btoa(Array.from(new Uint8Array(array.buffer), each => String.fromCharCode(each)).join(""))
  const onCanvas = async blob => {
    const bitmap = await createImageBitmap(blob)
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d")
    context.drawImage(bitmap, 0, 0)
    return fromImageData(context.getImageData(0, 0, bitmap.width, bitmap.height))
  }
  const prepared = async (kind, data, contract) => {
    const blob = await (await fetch(`data:;base64,${data}`)).blob()
    const { pixels, digits } = prepare(await (kind === "canvas" ? onCanvas(blob) : decode(blob)), contract)
    return { pixels: text(pixels), values: text(values(pixels, contract)), digits }
  }
  window.preparedAll = async batch => {
    const results = []
    for (const [kind, data, contract] of batch) {
      results.push(await prepared(kind, data, parse(contract)).catch(error => ({ error: error.message })))
    }
    return results
  }
</script>
"""


@pytest.fixture(scope="module")
def page(chrome: Browser) -> Page:
    opened = module_page(chrome, PAGE)
    opened.wait_for_function("Boolean(window.preparedAll)")
    return opened


@dataclass(frozen=True)
class Case:
    """An encoded image for the model `model` of `CONTRACTS`."""

    kind: str
    data: bytes
    model: str = "cnn"


def in_browser(page: Page, cases: Sequence[Case]) -> list[dict[str, Any]]:
    contracts = {name: json.dumps(contract.describe()) for name, contract in CONTRACTS.items()}
    batch = [[case.kind, base64.b64encode(case.data).decode(), contracts[case.model]] for case in cases]
    results: list[dict[str, Any]] = page.evaluate("batch => preparedAll(batch)", batch)
    return results


def difference(case: Case, result: dict[str, Any]) -> int:
    """Return the largest difference of a pixel, 0 if both refuse the image for the same reason."""
    contract = CONTRACTS[case.model]
    if "error" in result:
        with pytest.raises(DataError, match=f"image: {re.escape(result['error'])}"):
            preprocessing.pixels(case.data, contract, "image")
        return 0
    expected = preprocessing.pixels(case.data, contract, "image")
    pixels = np.frombuffer(base64.b64decode(result["pixels"]), np.uint8).reshape(expected.shape)
    assert base64.b64decode(result["values"]) == contract.scale(pixels[np.newaxis]).tobytes()
    return int(np.abs(pixels.astype(int) - expected).max())


def test_images_become_the_same_pixels(page: Page, sample: Digits) -> None:
    differences: dict[str, Counter[int]] = defaultdict(Counter)
    images = every_case(sample.x_test)
    for start in range(0, COUNT, BATCH):
        batch = images[start : start + BATCH]
        for case, result in zip(batch, in_browser(page, batch), strict=True):
            differences[case.kind][difference(case, result)] += 1
    print("".join(f"\n{kind}: {dict(counts)}" for kind, counts in differences.items()))
    assert sum(counts.total() for counts in differences.values()) == COUNT
    assert max(max(counts) for counts in differences.values()) <= 1, differences
    # Sums in another order rarely round to another pixel value.
    assert sum(counts[1] for counts in differences.values()) <= COUNT // 100, differences


def test_cmyk_differs_by_one_step(page: Page) -> None:
    """Browsers round CMYK otherwise than Pillow, which may change the ink that the method `digit` finds."""
    dice = np.random.default_rng(10)
    images = [Image.fromarray(dice.integers(0, 256, (40, 60, 4), np.uint8), "CMYK"), *drawn()]
    batch = [Case("CMYK", encoded(each.convert("CMYK"), "JPEG"), "photos") for each in images]
    assert max(map(difference, batch, in_browser(page, batch))) <= 1


def test_digits_are_counted_alike(page: Page, sample: Digits) -> None:
    line = np.hstack([np.pad(each, ((12, 12), (10, 10))) for each in sample.x_test[:400:100]])
    batch = [Case("digits", encoded(Image.fromarray(255 - line[:, : 48 * count]))) for count in range(1, 5)]
    counts = [preprocessing.prepared(decoding.decoded(case.data, "image"), DIGITS)[1] for case in batch]
    assert [result["digits"] for result in in_browser(page, batch)] == counts
    assert len(set(counts)) > 2


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"compress_level": 1} if kind == "PNG" else {}) | options)
    return buffer.getvalue()


def png(samples: NDArray[Any], depth: int, *chunks: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """Encode samples [h, w, channels] of 1 to 16 bits, some of which Pillow can't write."""
    height, width, channels = samples.shape
    lines = b""
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        for row in samples[top::down, left::across] if width > left else ():
            bits = np.unpackbits(row.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 16 - depth :]
            lines += b"\0" + np.packbits(bits).tobytes()
    header = struct.pack(">IIBBBBB", width, height, depth, PNG_FORMS[channels], 0, 0, interlaced)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


@functools.cache
def drawn() -> list[Image.Image]:
    smaller = (replace(each, size=(each.size[0] // 2, each.size[1] // 2)) for each in draw_samples.SAMPLES)
    return [draw_samples.draw(each) for each in (*draw_samples.SAMPLES[:2], *smaller)]


def every_case(digits: Pixels) -> list[Case]:
    makers = (unchanged, photographs, notes, pages, shadows, translucent, palettes, depths, compressed)
    cases = [case for make in makers for case in make(digits)]
    cases += [*drawings(), *turned(), *resized(), *other_formats()]
    return [*cases, *blots(COUNT - len(cases))]


def note(digit: Pixels, dice: np.random.Generator, size: tuple[int, int], height: int = 0) -> Pixels:
    """Return a digit, in grey, somewhere on paper with noise."""
    cut = Image.fromarray(digit[digit.any(1)][:, digit.any(0)])
    tall = height or max(8, int(min(size) * dice.uniform(0.3, 0.8)))
    wide = max(3, min(size[0] - 2, round(cut.width * tall / cut.height)))
    ink = np.asarray(cut.resize((wide, tall), Image.Resampling.BICUBIC), np.float64)
    paper = np.full(size[::-1], dice.uniform(200, 250))
    left, top = (int(dice.integers(1, side - each)) for side, each in zip(size, (wide, tall), strict=True))
    paper[top : top + tall, left : left + wide] *= 1 - 0.85 * ink / 255
    paper += dice.uniform(0, 12) * dice.standard_normal(paper.shape)
    grey: Pixels = paper.clip(0, 255).astype(np.uint8)
    return 255 - grey if dice.random() < 0.25 else grey


def any_note(digits: Pixels, dice: np.random.Generator, most: int = 200) -> Pixels:
    width, height = (int(dice.integers(30, most)) for _ in range(2))
    return note(digits[dice.integers(len(digits))], dice, (width, height))


def tinted(grey: Pixels, dice: np.random.Generator) -> Image.Image:
    return Image.fromarray((grey[..., np.newaxis] * dice.uniform(0.7, 1, 3)).astype(np.uint8))


def unchanged(digits: Pixels) -> Iterator[Case]:
    for digit in digits[:50]:
        yield Case("MNIST", encoded(Image.fromarray(digit)))


def photographs(digits: Pixels) -> Iterator[Case]:
    sizes = ((seed, 200 * 10.0 ** np.random.default_rng(seed).uniform(size=2)) for seed in range(1000))
    for seed in [seed for seed, size in sizes if np.prod(size) < MOST][:50]:
        yield Case("photograph", photograph(digits[seed], seed).data)


def notes(digits: Pixels) -> Iterator[Case]:
    dice = np.random.default_rng(1)
    for number in range(120):
        image = tinted(any_note(digits, dice), dice)
        data = encoded(image if number % 3 else image.convert("L"))
        yield Case("canvas" if number % 4 == 1 else "note", data, "large" if number % 8 == 0 else "cnn")


def pages(digits: Pixels) -> Iterator[Case]:
    """Small digits on large pages, which are cut out in the second step."""
    dice = np.random.default_rng(2)
    for number in range(30):
        size = (int(dice.integers(500, 1300)), int(dice.integers(500, 1000)))
        image = Image.fromarray(note(digits[number], dice, size, height=int(dice.integers(30, 90))))
        yield Case("page", encoded(image, "JPEG" if number % 2 else "PNG"))


def shadows(digits: Pixels) -> Iterator[Case]:
    """A shadow's hard edge, a margin's line, dirt, another digit, and a table."""
    dice = np.random.default_rng(3)
    for number in range(50):
        paper = note(digits[number], dice, (400, 300), height=100).astype(np.float64)
        paper[20:48, 40:68] = np.minimum(paper[20:48, 40:68], 255.0 - digits[number + 50])
        paper[:, 100:103] = 150
        paper[200:203, 300:303] = 20
        paper[:, int(dice.integers(150, 350)) :] *= 0.5
        if number % 2:
            paper[:12] = paper[-12:] = paper[:, :12] = paper[:, -12:] = 40
        yield Case(
            "shadow", encoded(Image.fromarray(paper.astype(np.uint8)), "JPEG" if number % 3 else "PNG")
        )


def drawings() -> Iterator[Case]:
    for sample in draw_samples.SAMPLES:
        for pen in (0.008, 0.02, 0.05, 0.2):
            image = draw_samples.draw(replace(sample, pen=pen, size=(175, 150)))
            yield Case("drawing", encoded(image))
            yield Case("drawing", encoded(image.convert("L"), "JPEG"), "large")
    for image in drawn():
        yield Case("canvas", encoded(image))


def translucent(digits: Pixels) -> Iterator[Case]:
    dice = np.random.default_rng(4)
    for number in range(70):
        image = tinted(any_note(digits, dice, 120), dice).convert(("RGBA", "LA")[number % 2])
        opacity = Image.linear_gradient("L").resize(image.size)
        if number % 3 == 0:
            # Ink of one colour, whose opacity is the digit; light ink gets black paper.
            opacity = image.convert("L").point([255 - value for value in range(256)])
            ink = (0, 128, 225, 231, 232, 240, 255)[number // 3 % 7]
            image = Image.new("L", image.size, ink).convert(image.mode)
        image.putalpha(opacity)
        yield Case("opacity", encoded(image), ("cnn", "cnn", "photos", "grey")[number % 4])
    # A transparent grey of 2 to 16 bits, and a transparent colour.
    for number in range(10):
        samples = np.stack([any_note(digits, dice, 90)] * (1, 3)[number % 2], 2).astype(np.uint16)
        depth = 8 if number % 2 else (2, 4, 8, 8, 16)[number // 2]
        samples = samples * np.uint16(257) >> np.uint16(16 - depth)
        yield Case("opacity", png(samples, depth, (b"tRNS", samples[0, 0].astype(">u2").tobytes())))


def palettes(digits: Pixels) -> Iterator[Case]:
    dice = np.random.default_rng(5)
    for number in range(60):
        bits = (8, 4, 2, 8, 1)[number % 5]
        image = tinted(any_note(digits, dice, 120), dice).quantize(1 << bits, dither=Image.Dither.NONE)
        if number % 3 == 1:
            image.info["transparency"] = 0
        elif number % 3 == 2:
            image.info["transparency"] = dice.integers(0, 256, 1 << bits, np.uint8).tobytes()
        yield Case("palette", encoded(image, bits=bits), ("cnn", "photos")[number % 2])


def depths(digits: Pixels) -> Iterator[Case]:
    """Grey and colours, with and without opacity, some of them interlaced, with chunks that change colours."""
    dice = np.random.default_rng(6)
    chunks = ((b"gAMA", struct.pack(">I", 100_000)), (b"cHRM", struct.pack(">8I", *range(1, 9))))
    for number in range(110):
        depth = (16, 8, 16, 4, 2, 1)[number % 6]
        channels = 1 + number // 2 % 4 if depth >= 8 else 1
        samples = np.stack([any_note(digits, dice, 90)] * channels, 2).astype(np.int64)
        samples = samples * 257 if depth == 16 else samples >> (8 - depth)
        if depth >= 8:
            samples = (samples + dice.integers(0, 1 << (depth - 3), samples.shape)).clip(0, (1 << depth) - 1)
        data = png(samples, depth, *chunks[number % 3 : number % 3 + 1], interlaced=number % 5 == 0)
        yield Case(f"{depth} bits", data, ("cnn", "cnn", "photos")[number // 6 % 3])


def turned() -> Iterator[Case]:
    for orientation in range(10):
        for number, kind in enumerate(("PNG", "JPEG", "PNG", "JPEG", "WEBP", "WEBP")):
            exif = Image.Exif()
            exif.endian = "<>"[number // 2 % 2]
            exif[0x010F] = "a maker's name"
            exif[ORIENTATION_TAG] = orientation
            data = encoded(drawn()[orientation % 4].resize((90, 70 + number)), kind, exif=exif.tobytes())
            yield Case("orientation", data, ("cnn", "photos", "grey")[(number + orientation) % 3])


def compressed(digits: Pixels) -> Iterator[Case]:
    """JPEG of every subsampling, in grey, progressive, and with a profile, which is ignored."""
    dice = np.random.default_rng(7)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Programs that apply it swap red and blue.
    profile = profile.replace(b"rXYZ", b"XYZr").replace(b"bXYZ", b"rXYZ").replace(b"XYZr", b"bXYZ")
    for number in range(90):
        image = tinted(any_note(digits, dice), dice).convert(("RGB", "L")[number % 2])
        options: dict[str, object] = {"subsampling": number // 2 % 3, "progressive": number % 4 > 1}
        if number % 6 == 0:
            options["icc_profile"] = profile
        data = encoded(image, "JPEG", quality=int(dice.integers(30, 96)), **options)
        yield Case("JPEG", data, "photos" if number % 7 == 0 else "cnn")


def resized() -> Iterator[Case]:
    dice = np.random.default_rng(8)
    models = [name for name, each in CONTRACTS.items() if each.preparation == "resize"]
    photographed = photos()
    for number in range(100):
        photo = photographed[number % len(photographed)]
        height, width = (int(10 ** dice.uniform(0, 2.3)) for _ in range(2))
        top, left = (int(dice.integers(0, side - 200)) for side in photo.shape[:2])
        image = Image.fromarray(photo[top : top + height, left : left + width])
        yield Case("resize", encoded(image, "JPEG" if number % 3 else "PNG"), models[number % len(models)])


def other_formats() -> Iterator[Case]:
    """No AVIF with opacity: Chromium 156 reads other opacities than Pillow."""
    for image in drawn():
        small = image.resize((80, 60))
        faded = small.convert("RGBA")
        faded.putalpha(Image.linear_gradient("L").resize(small.size))
        for model in ("cnn", "photos"):
            for kind in ("WEBP", "GIF", "BMP", "AVIF"):
                yield Case(kind, encoded(small, kind), model)
            yield Case("WEBP", encoded(faded, "WEBP", lossless=True), model)
            yield Case("WEBP", encoded(faded, "WEBP", quality=70), model)


def blots(count: int) -> Iterator[Case]:
    """Noise, blots, symmetric shapes and single pixels; on some of them nothing is found."""
    dice = np.random.default_rng(9)
    for number in range(count):
        paper = np.full(dice.integers(1, 150, 2), dice.integers(256), np.float64)
        for _ in range(number % 5):
            row, column = (dice.random(2) * paper.shape).astype(int)
            side = int(dice.integers(1, 40))
            paper[row : row + side, column : column + side] = dice.integers(256)
        paper += dice.uniform(-1, 1, paper.shape) * dice.integers(0, 40)
        yield Case("blots", encoded(Image.fromarray(paper.clip(0, 255).astype(np.uint8))))
