"""From an encoded picture to pixels, inside a TensorFlow graph, by the input contract. Loads TensorFlow.

`client.image` does the same with Pillow and NumPy. Both do their arithmetic in integers or float64 and round
halves away from where the two could differ, so that they give the same pixels.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export import contract as rules
from export.contract import Contract

__all__ = ["png", "preparation", "prepared"]

_PNG = b"\x89PNG\r\n\x1a\n"
# EXIF stands at a JPEG's beginning, in one segment of at most 64 KiB behind perhaps another.
_EXIF_WITHIN = 1 << 17
_ORIENTATION_TAG = 0x0112
# Halves that come out exactly in one implementation may miss by 1e-13 in the other: none is left exactly half.
_NUDGE = 0.5 + 1e-6


def preparation(contract: Contract) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from one encoded PNG or JPEG (a string) to pixels uint8 [height, width, channels].

    What is neither, is damaged, too large or (`digit`) empty is an InvalidArgumentError that says so.
    """
    method = {"digit": _digit, "resize": _resized}[contract.preparation]

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def prepare(data: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(method(_decoded(data), contract), contract.shape)

    function: Callable[[tf.Tensor], tf.Tensor] = prepare
    return function


def prepared(contract: Contract, pictures: Iterable[bytes]) -> NDArray[np.uint8]:
    """Return encoded pictures as pixels uint8 [N, height, width, channels]; InvalidArgumentError as above."""
    function = _traced(contract)
    return np.stack([function(tf.constant(picture)).numpy() for picture in pictures])


@functools.cache
def _traced(contract: Contract) -> Any:
    return tf.function(preparation(contract), input_signature=[tf.TensorSpec((), tf.string)])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels uint8 [H, W, C] as a PNG picture."""
    encoded: bytes = tf.io.encode_png(pixels).numpy()
    return encoded


def _decoded(data: tf.Tensor) -> tf.Tensor:
    """Return the picture upright, on white paper, int32 [h, w, 3] of 0…255."""
    is_png = tf.strings.substr(data, 0, len(_PNG)) == _PNG
    is_jpeg = tf.io.is_jpeg(data)
    known = tf.debugging.Assert(is_png | is_jpeg, ["neither a PNG nor a JPEG picture"])
    with tf.control_dependencies([known]):
        return tf.cond(is_jpeg, lambda: _jpeg(data), lambda: _png(data))


def _jpeg(data: tf.Tensor) -> tf.Tensor:
    size = tf.image.extract_jpeg_shape(data)
    with tf.control_dependencies([_affordable(size[0], size[1])]):
        # As Pillow decodes; TensorFlow's default is the faster, coarser transform.
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    orientation = _orientation(data)
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    for axis, values in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        turned = tf.reduce_any(orientation == tf.constant(values))
        pixels = tf.cond(
            turned, lambda pixels=pixels, axis=axis: tf.reverse(pixels, [axis]), lambda pixels=pixels: pixels
        )
    return tf.cast(pixels, tf.int32)


def _png(data: tf.Tensor) -> tf.Tensor:
    # The header: width and height in big-endian, the bits of a sample, what a pixel is made of.
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 16, 10), tf.uint8, fixed_length=10), tf.int64)
    width, height = (tf.reduce_sum(header[at : at + 4] * [1 << 24, 1 << 16, 1 << 8, 1]) for at in (0, 4))
    with tf.control_dependencies([_affordable(height, width)]):
        pixels = tf.cond(
            header[8] == 16,
            lambda: _narrowed(tf.io.decode_png(data, dtype=tf.uint16), grey=header[9] == 0),
            lambda: tf.cast(tf.io.decode_png(data), tf.int32),
        )
    # Grey, grey and opacity, RGB, or RGB and opacity. Asked for four channels, TensorFlow makes greys of fewer
    # than 8 bits nearly transparent.
    found = tf.shape(pixels)[2]
    opacity = tf.cond(
        found % 2 == 0, lambda: pixels[..., -1:], lambda: tf.fill(tf.shape(pixels[..., :1]), 255)
    )
    colour = tf.cond(found >= 3, lambda: pixels[..., :3], lambda: tf.tile(pixels[..., :1], [1, 1, 3]))
    return (colour * opacity + 255 * (255 - opacity) + 127) // 255


def _narrowed(pixels: tf.Tensor, grey: tf.Tensor) -> tf.Tensor:
    """Return pixels of 16 bits in 8, as Pillow does: grey is scaled; of colours the lower half is dropped."""
    wide = tf.cast(pixels, tf.int32)
    return tf.where(grey, (wide + 128) // 257, wide // 256)


def _affordable(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        pixels <= rules.MOST_PIXELS, [f"more than {rules.MOST_PIXELS:,} pixels:", height, "×", width]
    )


def _orientation(jpeg: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation, 1…8; 1, upright, where a JPEG says nothing (EXIF 2.32, 4.6.4)."""
    found = tf.cast(tf.io.decode_raw(tf.strings.substr(jpeg, 0, _EXIF_WITHIN), tf.uint8), tf.int32)
    data = tf.pad(found, [[0, 16]])
    size = tf.size(found)

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.gather(data, tf.clip_by_value(at, 0, size))

    # An APP1 segment: marker, two bytes of length, "Exif", two zeros; then a TIFF header.
    starts = tf.range(size)
    segment = (byte(starts) == 0xFF) & (byte(starts + 1) == 0xE1)
    for offset, value in enumerate(b"Exif\0\0", 4):
        segment &= byte(starts + offset) == value
    tiff = tf.cast(tf.argmax(segment), tf.int32) + 10
    little = byte(tiff) == ord("I")

    def short(at: tf.Tensor) -> tf.Tensor:
        first, second = byte(at), byte(at + 1)
        return tf.where(little, second * 256 + first, first * 256 + second)

    first, second = short(tiff + 4), short(tiff + 6)
    directory = tiff + tf.where(little, second * 65536 + first, first * 65536 + second)
    entries = directory + 2 + 12 * tf.range(tf.minimum(short(directory), 256))
    value = tf.reduce_max(tf.where(short(entries) == _ORIENTATION_TAG, short(entries + 8), 0))
    there = tf.reduce_any(segment) & (value >= 1) & (value <= 8)
    return tf.where(there, value, 1)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    """Return luma int32 [h, w] of int32 [h, w, 3], with Pillow's weights of 16 bits."""
    return (tf.tensordot(pixels, [19595, 38470, 7471], 1) + 32768) // 65536


def _resized(pixels: tf.Tensor, contract: Contract) -> tf.Tensor:
    if contract.channels == 1:
        pixels = _grey(pixels)[..., tf.newaxis]
    values = tf.cast(pixels, tf.float64)
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    rows = _resampling(height, 0, height, contract.height, _triangle)
    columns = _resampling(width, 0, width, contract.width, _triangle)
    return _to_pixels(tf.einsum("ih,hwc,jw->ijc", rows, values, columns))


def _digit(pixels: tf.Tensor, contract: Contract) -> tf.Tensor:
    grey = _grey(pixels)
    size = tf.shape(grey)
    grey = tf.cond(tf.reduce_min(size) >= rules.SPECKLED, lambda: _median(grey), lambda: grey)
    border = tf.sort(tf.concat([grey[0], grey[-1], grey[:, 0], grey[:, -1]], 0))
    count = tf.size(border)
    paper = tf.cast(border[(count - 1) // 2] + border[count // 2], tf.float64) / 2
    fits = (paper == 0) & tf.reduce_all(size == [contract.height, contract.width])
    box = contract.height * rules.BOX // rules.FIELD

    def unchanged() -> tf.Tensor:
        top, bottom, left, right = _extent(grey > 0)
        longer = tf.maximum(bottom - top, right - left)
        return (longer >= box - rules.SLACK) & (longer <= box + rules.SLACK)

    fits &= tf.cond(fits & tf.reduce_any(grey > 0), unchanged, lambda: False)
    return tf.cond(
        fits,
        lambda: tf.cast(grey, tf.uint8)[..., tf.newaxis],
        lambda: _normalised(grey, paper, box, contract),
    )


def _normalised(grey: tf.Tensor, paper: tf.Tensor, box: int, contract: Contract) -> tf.Tensor:
    ink = tf.abs(tf.cast(grey, tf.float64) - paper)
    strongest = tf.reduce_max(ink)
    seen = tf.debugging.Assert(
        strongest >= rules.FAINTEST, ["nothing to see on the picture; expected ink on plain paper"]
    )
    with tf.control_dependencies([seen]):
        ink = tf.where(ink < rules.INK * strongest, tf.zeros_like(ink), ink / strongest * 255)
    top, bottom, left, right = _extent(ink > 0)
    longer = tf.maximum(bottom - top, right - left)
    # Halves up, in integers.
    height, width = (
        tf.maximum(1, (2 * side * box + longer) // (2 * longer)) for side in (bottom - top, right - left)
    )
    rows = _resampling(tf.shape(grey)[0], top, bottom, height, _lanczos)
    columns = _resampling(tf.shape(grey)[1], left, right, width, _lanczos)
    small = _to_pixels(rows @ ink @ tf.transpose(columns))
    weights = tf.cast(small, tf.float64)
    total = tf.reduce_sum(weights)
    left_over = tf.debugging.Assert(total > 0, ["only scattered dots on the picture; expected one digit"])
    with tf.control_dependencies([left_over]):
        top = _place(tf.reduce_sum(weights, 1), total, contract.height)
    left = _place(tf.reduce_sum(weights, 0), total, contract.width)
    padding = [[top, contract.height - height - top], [left, contract.width - width - left]]
    return tf.pad(small, padding)[..., tf.newaxis]


def _place(profile: tf.Tensor, total: tf.Tensor, field: int) -> tf.Tensor:
    """Return where a digit with this profile begins, so that its centre of mass is in the middle of the field."""
    size = tf.size(profile)
    centre = tf.reduce_sum(profile * tf.cast(tf.range(size), tf.float64)) / total
    start = tf.cast(tf.floor((field - 1) / 2 - centre + _NUDGE), tf.int32)
    # A very lopsided digit stays inside the field rather than in the exact middle.
    return tf.clip_by_value(start, 0, field - size)


def _extent(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return top, bottom, left and right (bottom and right exclusive) of the true values, int32."""
    sides = []
    for axis in (1, 0):
        found = tf.cast(tf.where(tf.reduce_any(mask, axis))[:, 0], tf.int32)
        sides += [found[0], found[-1] + 1]
    return sides[0], sides[1], sides[2], sides[3]


def _median(grey: tf.Tensor) -> tf.Tensor:
    """Return the 3×3 median, borders repeated outwards: nine shifted copies through a network of comparisons."""
    wide = tf.concat([grey[:1], grey, grey[-1:]], 0)
    wide = tf.cast(tf.concat([wide[:, :1], wide, wide[:, -1:]], 1), tf.uint8)
    height, width = tf.shape(grey)[0], tf.shape(grey)[1]
    p = [wide[row : row + height, column : column + width] for row in range(3) for column in range(3)]
    # Smith's 19 exchanges: the median of nine without sorting all of them.
    for a, b in ((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7),
                 (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)):  # fmt: skip
        p[a], p[b] = tf.minimum(p[a], p[b]), tf.maximum(p[a], p[b])
    return tf.cast(p[4], tf.int32)


def _resampling(
    length: tf.Tensor,
    start: tf.Tensor,
    stop: tf.Tensor,
    size: tf.Tensor,
    kernel: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Return the matrix float64 [size, length] that resamples pixels start…stop of `length` to `size`."""
    length, start, stop, size = (tf.cast(each, tf.float64) for each in (length, start, stop, size))
    scale = (stop - start) / size
    centres = start + (tf.range(size, dtype=tf.float64) + 0.5) * scale
    pixels = tf.range(length, dtype=tf.float64) + 0.5
    weights = kernel((pixels[tf.newaxis] - centres[:, tf.newaxis]) / tf.maximum(scale, 1.0))
    weights = tf.where((pixels > start) & (pixels < stop), weights, 0.0)
    return weights / tf.reduce_sum(weights, 1, keepdims=True)


def _triangle(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(1.0 - tf.abs(x))


def _lanczos(x: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.abs(x) < 3.0, _sinc(x) * _sinc(x / 3.0), 0.0)


def _sinc(x: tf.Tensor) -> tf.Tensor:
    turns = tf.where(x == 0.0, tf.ones_like(x), x) * 3.141592653589793
    return tf.where(x == 0.0, tf.ones_like(x), tf.sin(turns) / turns)


def _to_pixels(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.floor(tf.clip_by_value(values, 0.0, 255.0) + _NUDGE), tf.uint8)
