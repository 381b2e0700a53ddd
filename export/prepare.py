"""From an encoded picture to pixels, inside a TensorFlow graph, by the input contract. Loads TensorFlow.

`client.image` does the same with Pillow and NumPy. Both do their arithmetic in integers or float64 and round
halves away from where the two could differ, so that they give the same pixels.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

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
_GREYS = tf.TensorSpec((None, None), tf.int32)
_NUMBER = tf.TensorSpec((), tf.int32)


@functools.cache
def preparation(contract: Contract) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from one encoded PNG or JPEG (a string) to pixels uint8 [height, width, channels].

    What is neither, is damaged, too large or (`digit`) empty is an InvalidArgumentError that says so.
    """
    method = {"digit": _digit, "resize": _resized}[contract.preparation]

    def prepare(data: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(method(_decoded(data), contract), contract.shape)

    function: Callable[[tf.Tensor], tf.Tensor] = tf.function(
        prepare, input_signature=[tf.TensorSpec((), tf.string)], autograph=False
    )
    return function


def prepared(contract: Contract, pictures: Iterable[bytes]) -> NDArray[np.uint8]:
    """Return encoded pictures as pixels uint8 [N, height, width, channels]; InvalidArgumentError as above."""
    function = preparation(contract)
    return np.stack([function(tf.constant(picture)).numpy() for picture in pictures])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels uint8 [H, W, C] as a PNG picture."""
    encoded: bytes = tf.io.encode_png(pixels).numpy()
    return encoded


def _shared(*inputs: tf.TensorSpec) -> Callable[[Callable[..., Any]], Any]:
    """Trace a function of such tensors once for all who call it, and have none of the calls inlined.

    With a copy at each call the graph is three times as large, and a SavedModel takes seconds more to load: TensorFlow
    optimises every copy.
    """
    shared: Callable[[Callable[..., Any]], Any] = tf.function(
        input_signature=inputs, autograph=False, experimental_attributes={"_noinline": True}
    )
    return shared


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
        (pixels <= rules.MOST_PIXELS) & (tf.maximum(height, width) <= rules.MOST_SIDE),
        [f"more than {rules.MOST_PIXELS:,} pixels, or {rules.MOST_SIDE:,} a side:", height, "×", width],
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
    box = contract.height * rules.BOX // rules.FIELD
    return tf.cond(
        _is_prepared(grey, contract, box),
        lambda: tf.cast(grey, tf.uint8)[..., tf.newaxis],
        lambda: _found(grey, contract, box),
    )


def _is_prepared(grey: tf.Tensor, contract: Contract, box: int) -> tf.Tensor:
    """Tell whether a picture of the model's size has black paper and a digit of the box's size, or nearly."""
    border = tf.sort(tf.concat([grey[0], grey[-1], grey[:, 0], grey[:, -1]], 0))
    # The median of an even number of values is the mean of two: 0 if both are.
    on_black = (border[tf.size(border) // 2] == 0) & tf.reduce_any(grey > 0)
    fits = tf.reduce_all(tf.shape(grey) == contract.shape[:2]) & on_black

    def as_large() -> tf.Tensor:
        top, bottom, left, right = _extent(grey > 0)
        return tf.abs(tf.maximum(bottom - top, right - left) - box) <= rules.SLACK

    return tf.cond(fits, as_large, lambda: False)


def _found(grey: tf.Tensor, contract: Contract, box: int) -> tf.Tensor:
    small = _reduced(grey)
    with tf.control_dependencies([_seen(tf.size(small) > 0)]):
        dark, light = _written(small), _written(255 - small)
    with tf.control_dependencies([_seen(dark.there | light.there)]):
        is_dark = dark.there & (~light.there | (dark.distinct >= light.distinct))
        strokes = tf.where(is_dark, dark.strokes, light.strokes)
    return _normalised(_thickened(strokes), contract, box)


def _seen(anything: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(
        anything, ["nothing to see on the picture; expected a digit in one ink on plain paper"]
    )


def _reduced(grey: tf.Tensor) -> tf.Tensor:
    """Return the picture at a size that it is looked at in, int32 of values 0…255."""
    shape = tf.shape(grey)
    factor = -(-tf.reduce_max(shape) // rules.WORKING)
    height, width = shape[0] // factor, shape[1] // factor
    blocks = tf.reshape(grey[: height * factor, : width * factor], [height, factor, width, factor])
    area = factor * factor
    small = (2 * tf.reduce_sum(blocks, [1, 3]) + area) // (2 * area)
    return tf.cond(_is_large(small), lambda: _median(small), lambda: small)


def _is_large(picture: tf.Tensor) -> tf.Tensor:
    return tf.reduce_min(tf.shape(picture)) >= rules.SPECKLED


class _Ink(NamedTuple):
    """A digit, if it is there: its strokes int32 [h, w] of 0…255, and by how much they stand out."""

    there: tf.Tensor
    strokes: tf.Tensor
    distinct: tf.Tensor


@_shared(_GREYS)
def _written(grey: tf.Tensor) -> _Ink:
    """Return the digit in dark ink."""
    window = _window_of(grey)
    contrast = -_largest(-_largest(grey, window), window) - grey
    first = _components(_is_ink(contrast, _largest(contrast, window), tf.reduce_max(contrast)))

    def without_the_border() -> _Components:
        outside = _largest(tf.cast(first.of(first.outer), tf.int32), 2 * rules.CELL + 1) > 0
        inside = tf.where(outside, 0, contrast)
        again = _components(_is_ink(contrast, _largest(inside, window), tf.reduce_max(inside)))
        usable = (tf.reduce_max(inside) >= rules.FAINTEST) & tf.reduce_any(again.inner)
        better: _Components = tf.cond(usable, lambda: again, lambda: first)
        return better

    ink = tf.cond(tf.reduce_any(first.inner) & tf.reduce_any(first.outer), without_the_border, lambda: first)
    chosen = tf.where(tf.reduce_any(ink.inner), ink.inner, ink.outer)
    weights = tf.where(chosen, ink.sums(contrast), 0)
    # The largest first; the first of equals.
    order = tf.argsort(-weights, stable=True)[: rules.CANDIDATES]

    def is_there(place: tf.Tensor) -> tf.Tensor:
        return weights[order[place]] > 0

    def further(place: tf.Tensor, distinct: tf.Tensor) -> tf.Tensor:
        return (distinct < rules.FAINTEST) & tf.cond(
            place < tf.size(order), lambda: is_there(place), lambda: False
        )

    def look(place: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return place + 1, tf.ensure_shape(_distinct(grey, contrast, ink, order[place]), [])

    place, distinct = tf.while_loop(further, look, (0, tf.constant(0.0, tf.float64)))
    label = order[tf.maximum(place - 1, 0)]
    digit = _largest(tf.cast(ink.of(ink.parts(label) & chosen), tf.int32), 3) > 0
    full = tf.maximum(_largest(contrast, 4 * _cell_of(grey) + 1), 1)
    share = tf.cast(contrast, tf.float64) / tf.cast(full, tf.float64)
    strokes = tf.round(tf.clip_by_value((share - rules.PALE) / (rules.FULL - rules.PALE), 0.0, 1.0) * 255)
    strokes = tf.where(digit, tf.cast(strokes, tf.int32), 0)
    return _Ink(distinct >= rules.FAINTEST, strokes, distinct)


def _window_of(grey: tf.Tensor) -> tf.Tensor:
    shortest = tf.cast(tf.reduce_min(tf.shape(grey)), tf.float64)
    return tf.maximum(3, tf.bitwise.bitwise_or(tf.cast(rules.WINDOW * shortest, tf.int32), 1))


def _cell_of(picture: tf.Tensor) -> tf.Tensor:
    return tf.where(_is_large(picture), rules.CELL, 1)


def _is_ink(contrast: tf.Tensor, local: tf.Tensor, strongest: tf.Tensor) -> tf.Tensor:
    values, around, most = (tf.cast(each, tf.float64) for each in (contrast, local, strongest))
    return (values > rules.INK * most) & (values > rules.LOCAL * around) & (contrast >= rules.FAINTEST)


class _Components(NamedTuple):
    """The components of ink, int32 [h, w] of labels, and by label what `client.image` says of them."""

    labels: tf.Tensor
    areas: tf.Tensor
    outer: tf.Tensor
    inner: tf.Tensor
    tops: tf.Tensor
    bottoms: tf.Tensor
    lefts: tf.Tensor
    rights: tf.Tensor

    def of(self, labels: tf.Tensor) -> tf.Tensor:
        """Return where the components of these labels are."""
        return tf.gather(labels, self.labels)

    def sums(self, values: tf.Tensor) -> tf.Tensor:
        """Return the sum of values [h, w] within each label."""
        return tf.math.unsorted_segment_sum(values, self.labels, tf.size(self.areas))

    def box(self, label: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Return top, bottom, left and right of a component."""
        return tuple(ends[label] for ends in (self.tops, self.bottoms, self.lefts, self.rights))

    def parts(self, label: tf.Tensor) -> tf.Tensor:
        """Return the labels of what belongs to the digit whose largest component is `label`."""
        top, bottom, left, right = self.box(label)
        gaps = [self.tops - bottom, top - self.bottoms, self.lefts - right, left - self.rights]
        size = tf.cast(tf.maximum(bottom - top, right - left), tf.float64)
        near = tf.cast(tf.reduce_max(gaps, 0), tf.float64) <= rules.NEAR * size
        areas = tf.cast(self.areas, tf.float64)
        return near & (areas >= rules.PART * areas[label]) & (self.areas > 0)


@_shared(tf.TensorSpec((None, None), tf.bool))
def _components(ink: tf.Tensor) -> _Components:
    height, width = tf.shape(ink)[0], tf.shape(ink)[1]
    cell = _cell_of(ink)
    padded = tf.pad(ink, [[0, -height % cell], [0, -width % cell]])
    rows, columns = tf.shape(padded)[0] // cell, tf.shape(padded)[1] // cell
    cells = tf.reduce_any(tf.reshape(padded, [rows, cell, columns, cell]), [1, 3])
    labels = tf.repeat(tf.repeat(_labelled(cells), cell, 0), cell, 1)[:height, :width]
    labels = tf.where(ink, labels, 0)
    count = rows * columns + 1
    areas = tf.math.unsorted_segment_sum(tf.cast(ink, tf.int32), labels, count)
    sides = tf.concat([labels[0], labels[-1], labels[:, 0], labels[:, -1]], 0)
    edge = tf.math.unsorted_segment_sum(tf.ones_like(sides), sides, count) > 0
    outer = (areas > 0) & edge
    largest = tf.cast(tf.reduce_max(tf.where(outer, areas, 0)), tf.float64)
    inner = (areas > 0) & ~edge & (tf.cast(areas, tf.float64) > rules.SPECK * largest)
    ends = []
    for places in (tf.range(height)[:, tf.newaxis], tf.range(width)[tf.newaxis]):
        place = tf.broadcast_to(places, [height, width])
        ends.append(tf.math.unsorted_segment_min(place, labels, count))
        ends.append(tf.math.unsorted_segment_max(place + 1, labels, count))
    # Far apart where there is no such component; the operations' own fillings would overflow in differences.
    there = areas > 0
    tops, bottoms, lefts, rights = (
        tf.where(there, end, filling) for end, filling in zip(ends, (height * width, 0) * 2, strict=True)
    )
    return _Components(labels, areas, outer, inner, tops, bottoms, lefts, rights)


def _labelled(cells: tf.Tensor) -> tf.Tensor:
    """Return each cell's component (with its eight neighbours): the highest number of a cell in it, from 1; or 0."""
    numbers = tf.reshape(tf.range(1, tf.size(cells) + 1), tf.shape(cells))

    def grow(labels: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        grown = tf.where(cells, _largest(labels, 3), 0)
        return grown, tf.reduce_any(grown != labels)

    labels, _ = tf.while_loop(lambda _, grows: grows, grow, (tf.where(cells, numbers, 0), True))
    return labels


def _distinct(grey: tf.Tensor, contrast: tf.Tensor, ink: _Components, label: tf.Tensor) -> tf.Tensor:
    """Return by how much a component is darker than paper: its contrast, or what lies around, if that is less."""
    top, bottom, left, right = ink.box(label)
    margin = tf.reduce_max([bottom - top, right - left, _window_of(grey) // 2])
    around = grey[
        tf.maximum(0, top - margin) : bottom + margin, tf.maximum(0, left - margin) : right + margin
    ]
    sorted_around = tf.sort(tf.reshape(around, [-1]))
    middle = sorted_around[tf.size(around) // 2]
    area = ink.areas[label]
    darker = tf.minimum(middle * area - ink.sums(grey)[label], ink.sums(contrast)[label])
    return tf.cast(darker, tf.float64) / tf.cast(area, tf.float64)


@_shared(_GREYS, _NUMBER)
def _largest(values: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Return the maximum of the square of `size` (odd) around each value, int32 [h, w], of what is inside."""
    for _ in range(2):
        # The rows and then, turned, the columns.
        padded = tf.pad(values, [[size // 2, size // 2], [0, 0]], constant_values=values.dtype.min)

        # Of windows of a length, two make one of up to twice that.
        def longer(reach: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            step = tf.minimum(reach, size - reach)
            return reach + step, tf.maximum(found[:-step], found[step:])

        _, found = tf.while_loop(
            lambda reach, _: reach < size,
            longer,
            (1, padded),
            (tf.TensorShape([]), tf.TensorShape([None, None])),
        )
        values = tf.transpose(found)
    return values


def _thickened(strokes: tf.Tensor) -> tf.Tensor:
    """Return strokes int32 [h, w] of 0…255 as a pen would have made them that is as thick as MNIST's."""
    top, bottom, left, right = _extent(strokes > 0)
    size = tf.cast(tf.maximum(bottom - top, right - left), tf.float64)
    wanted = tf.cast(rules.STROKE * size, tf.int32)
    ink = tf.cast(strokes > 127, tf.int32)

    def fits(width: tf.Tensor) -> tf.Tensor:
        opened = _largest(-_largest(-ink, width + 2), width + 2)
        return 2 * tf.reduce_sum(opened) >= tf.reduce_sum(ink)

    width = tf.while_loop(
        lambda width: tf.cond(width + 2 <= wanted, lambda: fits(width), lambda: False),
        lambda width: (width + 2,),
        (1,),
    )[0]
    return _largest(strokes, tf.bitwise.bitwise_or(tf.maximum(wanted - width, 0), 1))


def _normalised(strokes: tf.Tensor, contract: Contract, box: int) -> tf.Tensor:
    top, bottom, left, right = _extent(strokes > 0)
    longer = tf.maximum(bottom - top, right - left)
    # Halves up, in integers.
    height, width = (
        tf.maximum(1, (2 * side * box + longer) // (2 * longer)) for side in (bottom - top, right - left)
    )
    rows = _resampling(tf.shape(strokes)[0], top, bottom, height, _lanczos)
    columns = _resampling(tf.shape(strokes)[1], left, right, width, _lanczos)
    small = _to_pixels(rows @ tf.cast(strokes, tf.float64) @ tf.transpose(columns))
    weights = tf.cast(small, tf.float64)
    total = tf.reduce_sum(weights)
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


@_shared(_GREYS)
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
