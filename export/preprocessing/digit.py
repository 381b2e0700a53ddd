"""The method `digit` of `export.preprocessing.input_contract` in a TensorFlow graph. Loads TensorFlow.

`client.images.preprocessing` and `client.images.segmentation` do the same with NumPy. An axis of two is for dark ink
and, on the negative, light ink. Large arrays of whole numbers below 2²⁴ are float32, which is fastest.
"""

from typing import NamedTuple

import tensorflow as tf

from tfship.export.preprocessing import input_contract as rules
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.preprocessing.morphology import SlidingWindow, highest, median
from tfship.export.preprocessing.resampling import NUDGE, lanczos, resampling, to_pixels

__all__ = ["prepared"]

_LEVELS = 256
_WHITE = 255
# The width in pixels of MNIST's pen on the largest image.
_PEN = int(rules.STROKE * rules.MOST_SIDE / rules.REDUCTION)
# The widest window around a digit on that image, in which there is no paper.
_PAPER = 2 * int(rules.PAPER * rules.MOST_SIDE / rules.REDUCTION) + 1


def prepared(pixels: tf.Tensor, contract: Contract) -> tf.Tensor:
    """Return `pixels` uint8 [h, w, 1] in MNIST's form, uint8 [height, width, 1] of the contract."""
    grey = pixels[..., 0]
    box = contract.height * rules.BOX // rules.FIELD
    return tf.cond(
        _is_prepared(grey, contract, box), lambda: pixels, lambda: _as_mnist(_strokes(grey), contract, box)
    )


def _is_prepared(grey: tf.Tensor, contract: Contract, box: int) -> tf.Tensor:
    """Return whether an image has the model's size, black paper and a digit of nearly the box's size."""

    def fits() -> tf.Tensor:
        border = tf.sort(tf.cast(tf.concat([grey[0], grey[-1], grey[:, 0], grey[:, -1]], 0), tf.int32))
        # The median of an even number of values is the mean of the middle two: 0 only if both are 0.
        on_black = (border[tf.size(border) // 2] == 0) & tf.reduce_any(grey > 0)
        return tf.cond(on_black, as_large, lambda: False)

    def as_large() -> tf.Tensor:
        top, bottom, left, right = _extent(grey > 0)
        return tf.abs(tf.maximum(bottom - top, right - left) - box) <= rules.SLACK

    return tf.cond(tf.reduce_all(tf.shape(grey) == contract.shape[:2]), fits, lambda: False)


class _Written(NamedTuple):
    """A digit: whether it was found, its strokes float32 [h, w] of 0…255, and its bounding box int32 [4]."""

    found: tf.Tensor
    strokes: tf.Tensor
    box: tf.Tensor


def _strokes(grey: tf.Tensor) -> tf.Tensor:
    """Return the strokes of the digit, float32 [h, w] of 0…255."""
    factor = _reduction(grey)
    first = _located(_reduced(grey, factor))
    with tf.control_dependencies([_require(first.found)]):
        top, bottom, left, right = tf.unstack(first.box * factor)
    margin = tf.cast(rules.MARGIN * tf.cast(tf.maximum(bottom - top, right - left), tf.float64), tf.int32)
    near = grey[tf.maximum(0, top - margin) : bottom + margin, tf.maximum(0, left - margin) : right + margin]
    closer = _reduction(near)

    def again() -> tf.Tensor:
        second = _located(_reduced(near, closer))
        return tf.cond(second.found, lambda: second.strokes, lambda: first.strokes)

    return tf.cond(closer < factor, again, lambda: first.strokes)


def _require(found: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(
        found, ["nothing to see on the image; expected a digit in one ink on plain paper"]
    )


def _reduction(grey: tf.Tensor) -> tf.Tensor:
    """Return the whole number by which an image's sides are divided."""
    return tf.minimum(-(-tf.reduce_max(tf.shape(grey)) // rules.WORKING), rules.REDUCTION)


def _reduced(grey: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return the means of blocks, float32 [h, w]; with a `factor` of 1, only single-pixel noise is removed."""
    return tf.cond(factor == 1, lambda: _unspeckled(tf.cast(grey, tf.float32)), lambda: _means(grey, factor))


def _means(grey: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    height, width = tf.shape(grey)[0] // factor, tf.shape(grey)[1] // factor
    kept = tf.cast(grey[: height * factor, : width * factor], tf.float32)
    rows = tf.reduce_sum(tf.reshape(kept, [height, factor, width * factor]), 1)
    sums = tf.reduce_sum(tf.reshape(rows, [height, width, factor]), 2)
    area = tf.cast(factor * factor, tf.float32)
    return tf.floor((2.0 * sums + area) / (2.0 * area))


def _unspeckled(grey: tf.Tensor) -> tf.Tensor:
    return tf.cond(_is_large(grey), lambda: median(grey), lambda: grey)


def _is_large(grey: tf.Tensor) -> tf.Tensor:
    return tf.reduce_min(tf.shape(grey)) >= rules.SPECKLED


@tf.function(  # type: ignore[untyped-decorator]
    input_signature=[tf.TensorSpec((None, None), tf.float32)],
    autograph=False,
    # Traced once for both calls, and not inlined, since TensorFlow optimises every copy when it loads a SavedModel.
    experimental_attributes={"_noinline": True},
)
def _located(small: tf.Tensor) -> _Written:
    """Return the digit in an image float32 [h, w] of whole numbers 0…255."""

    def nothing() -> _Written:
        return _Written(tf.constant(False), small, tf.zeros(4, tf.int32))

    written: _Written = tf.cond(tf.size(small) > 0, lambda: _written(small), nothing)
    return written


def _written(small: tf.Tensor) -> _Written:
    height, width = tf.shape(small)[0], tf.shape(small)[1]
    cell = tf.where(_is_large(small), rules.CELL, 1)
    shortest = tf.cast(tf.minimum(height, width), tf.float64)
    size = tf.bitwise.bitwise_or(tf.cast(rules.WINDOW * shortest, tf.int32), 1)
    size = tf.clip_by_value(size, 3, rules.WIDEST)
    both = tf.stack([small, 255.0 - small])
    window = SlidingWindow(size, rules.WIDEST, tf.shape(both))
    contrast = window.lowest(window.highest(both)) - both
    ink = (contrast >= rules.FAINTEST) & (contrast > rules.LOCAL * window.highest(contrast))
    found = _components(ink, both, contrast, cell)
    # Candidates, largest first; ties keep their order.
    chosen = tf.where(tf.reduce_any(found.inner, 1, keepdims=True), found.inner, found.outer)
    weights = tf.pad(tf.where(chosen, found.weights, 0), [[0, 0], [0, rules.CANDIDATES]])
    weights, labels = tf.math.top_k(weights, rules.CANDIDATES)
    distinct = tf.where(weights > 0, _distinct(found, labels, size // 2, cell), 0.0)
    stands_out = distinct >= rules.FAINTEST
    exists = tf.reduce_any(stands_out, 1)
    place = tf.argmax(stands_out, 1)
    best = tf.where(exists, tf.gather(distinct, place, batch_dims=1), -1.0)
    # For a tie the first, which is dark ink.
    kind = tf.argmax(best)
    parts = _parts(found, kind, labels[kind, place[kind]]) & chosen[kind]
    digit = tf.gather(tf.pad(parts, [[1, 0]]), found.cells[kind])
    return _cut(tf.reduce_any(exists), digit, ink[kind], contrast[kind], cell)


def _cut(
    exists: tf.Tensor, digit: tf.Tensor, ink: tf.Tensor, contrast: tf.Tensor, cell: tf.Tensor
) -> _Written:
    """Return the digit with its strokes, from its cells `digit`, bool [rows, columns], and the pixels around."""
    height, width = tf.shape(ink)[0], tf.shape(ink)[1]
    # Without a digit, any extent will do.
    top, bottom, left, right = _extent(digit | ~exists)
    box = top * cell, tf.minimum(bottom * cell, height), left * cell, tf.minimum(right * cell, width)
    longer = tf.cast(tf.maximum(box[1] - box[0], box[3] - box[2]), tf.float64)

    def around(share: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return contrast, ink, and the digit's cells, in the box with a margin."""
        part = _around(box, tf.cast(share * longer, tf.int32))
        rows, columns = (
            tf.range(side.start, tf.minimum(side.stop, length)) // cell
            for side, length in zip(part, (height, width), strict=True)
        )
        return contrast[part], ink[part], tf.gather(tf.gather(digit, rows), columns, axis=1)

    wide, inked, these = around(1.0)
    reach = 2 * tf.cast(rules.PAPER * longer, tf.int32) + 1
    near = highest(tf.cast(these, tf.float32), reach, _PAPER) > 0
    noise = _quantile(wide, ~(near | inked), rules.NOISE)
    close, inked, these = around(rules.EDGE)
    full = _quantile(close, inked & these, rules.FULL)
    palest = tf.minimum(tf.cast(noise + 1, tf.float64), rules.LOCAL * tf.cast(full, tf.float64))
    pale = tf.cast(close, tf.float64) < tf.maximum(tf.constant(rules.PALEST, tf.float64), palest)
    others = highest(tf.cast(inked & ~these, tf.float32), 3, 3) > 0
    kept = tf.where(pale | others, 0, tf.cast(close, tf.int32))
    # Rounds halves up. Without a digit, full contrast is 0.
    strokes = (2 * _WHITE * kept + full) // tf.maximum(2 * full, 1)
    return _Written(exists, tf.cast(tf.minimum(strokes, _WHITE), tf.float32), tf.stack(box))


def _quantile(values: tf.Tensor, chosen: tf.Tensor, share: float) -> tf.Tensor:
    """Return the lowest of 0…255 that at least this share of the chosen values doesn't exceed; 0 without values."""
    counts = tf.math.unsorted_segment_sum(tf.cast(chosen, tf.int32), tf.cast(values, tf.int32), _LEVELS)
    below = tf.cast(tf.cumsum(counts), tf.float64)
    return tf.math.count_nonzero(below < share * below[-1], dtype=tf.int32)


def _around(box: tuple[tf.Tensor, ...], margin: tf.Tensor | int) -> tuple[slice, slice]:
    """Return the rows and columns of a box with a margin."""
    top, bottom, left, right = box
    return slice(tf.maximum(0, top - margin), bottom + margin), slice(
        tf.maximum(0, left - margin), right + margin
    )


class _Components(NamedTuple):
    """The components of dark and light ink, [2, …], like `client.images.segmentation.Components`.

    `cells` [2, rows, columns] are labels, from 1 for each ink; `means` are the mean grey values of the cells. All other
    fields are [2, rows × columns], by label, from label 1.
    """

    cells: tf.Tensor
    means: tf.Tensor
    areas: tf.Tensor
    weights: tf.Tensor
    greys: tf.Tensor
    inner: tf.Tensor
    outer: tf.Tensor
    boxes: tf.Tensor


def _components(ink: tf.Tensor, grey: tf.Tensor, contrast: tf.Tensor, cell: tf.Tensor) -> _Components:
    inked = tf.cast(ink, tf.float32)
    height, width = tf.shape(ink)[1], tf.shape(ink)[2]
    rows, columns = tf.range(height)[:, tf.newaxis], tf.range(width)
    rim = (rows == 0) | (rows == height - 1) | (columns == 0) | (columns == width - 1)
    rim = tf.cast(rim, tf.float32) * inked
    sums = _by_cell([inked, contrast * inked, grey * inked, rim, grey, tf.ones_like(grey)], cell)
    rows, columns = tf.shape(sums)[2], tf.shape(sums)[3]
    count = rows * columns
    cells = _labelled(sums[0] > 0)
    labels = tf.reshape(cells, [-1])
    by_cell = tf.stack([tf.reshape(sums[each], [-1]) for each in range(4)], 1)
    totals = tf.math.unsorted_segment_sum(by_cell, labels, 2 * count + 1)[1:]
    areas, weights, greys, edges = (tf.reshape(totals[:, each], [2, count]) for each in range(4))
    places = tf.range(2 * count) % count
    row, column = cell * (places // columns), cell * (places % columns)
    ends = tf.stack([-row, row + cell, -column, column + cell], 1)
    boxes = tf.reshape(tf.math.unsorted_segment_max(ends, labels, 2 * count + 1)[1:], [2, count, 4])
    # Zeros for missing components, since the operation's fill value would overflow in differences.
    boxes = tf.where((areas > 0)[..., tf.newaxis], boxes * [-1, 1, -1, 1], 0)
    outer = (areas > 0) & (edges > 0)
    largest = tf.cast(tf.reduce_max(tf.where(outer, areas, 0), 1, keepdims=True), tf.float64)
    inner = (areas > 0) & (edges == 0) & (tf.cast(areas, tf.float64) > rules.SPECK * largest)
    # From labels for both kinds of ink to labels for each.
    cells = tf.maximum(cells - tf.stack([0, count])[:, tf.newaxis, tf.newaxis], 0)
    return _Components(cells, sums[4] // sums[5], areas, weights, greys, inner, outer, boxes)


def _by_cell(values: list[tf.Tensor], cell: tf.Tensor) -> tf.Tensor:
    """Return the sums of each of the `values` [2, h, w] in each cell, int32 [values, 2, rows, columns]."""
    joined = tf.concat(values, 0)
    padded = tf.pad(joined, [[0, 0], [0, -tf.shape(joined)[1] % cell], [0, -tf.shape(joined)[2] % cell]])
    height, width = tf.shape(padded)[1], tf.shape(padded)[2]
    sums = tf.reduce_sum(tf.reshape(padded, [-1, cell, width]), 1)
    sums = tf.reduce_sum(tf.reshape(sums, [-1, cell]), 1)
    return tf.cast(tf.reshape(sums, [len(values), 2, height // cell, width // cell]), tf.int32)


def _labelled(cells: tf.Tensor) -> tf.Tensor:
    """Return each cell's label: the highest cell number, from 1, in its 8-connected component; 0 without ink."""
    inked = tf.cast(cells, tf.int32)
    numbers = tf.reshape(tf.range(1, tf.size(cells) + 1), tf.shape(cells))

    def grow(labels: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        wide = tf.pad(labels, [[0, 0], [1, 1], [1, 1]])
        high = tf.maximum(tf.maximum(wide[:, :-2], wide[:, 2:]), wide[:, 1:-1])
        grown = tf.maximum(tf.maximum(high[..., :-2], high[..., 2:]), high[..., 1:-1]) * inked
        # A label is the number of a cell in the same component, whose label may be higher: jump to that one.
        grown = tf.gather(tf.pad(tf.reshape(grown, [-1]), [[1, 0]]), grown)
        return grown, tf.reduce_any(grown != labels)

    labels, _ = tf.while_loop(lambda _, grows: grows, grow, (numbers * inked, tf.constant(True)))
    return labels


def _distinct(found: _Components, labels: tf.Tensor, least: tf.Tensor, cell: tf.Tensor) -> tf.Tensor:
    """Return by how much components [2, n] are darker than paper: the lower of contrast and difference to paper.

    Paper is the median of the cells' means in the surroundings, the upper one of an even number. The surroundings reach
    as far as the component's size, but at least `least` pixels.
    """
    areas, weights, greys = (
        tf.gather(tf.pad(each, [[0, 0], [0, rules.CANDIDATES]]), labels, batch_dims=1)
        for each in (found.areas, found.weights, found.greys)
    )
    boxes = tf.gather(tf.pad(found.boxes, [[0, 0], [0, rules.CANDIDATES], [0, 0]]), labels, batch_dims=1)
    top, bottom, left, right = tf.unstack(boxes[..., tf.newaxis], axis=2)
    margin = tf.maximum(tf.maximum(bottom - top, right - left), least) // cell
    rows, columns = tf.range(tf.shape(found.means)[1]), tf.range(tf.shape(found.means)[2])
    within_rows = (rows >= top // cell - margin) & (rows < bottom // cell + margin)
    within_columns = (columns >= left // cell - margin) & (columns < right // cell + margin)
    within = within_rows[..., tf.newaxis] & within_columns[:, :, tf.newaxis]
    kinds = tf.reshape(tf.range(2 * rules.CANDIDATES), [2, rules.CANDIDATES, 1, 1])
    levels = found.means[:, tf.newaxis] + _LEVELS * kinds
    counts = tf.math.unsorted_segment_sum(tf.cast(within, tf.int32), levels, 2 * rules.CANDIDATES * _LEVELS)
    sums = tf.cumsum(tf.reshape(counts, [2, rules.CANDIDATES, _LEVELS]), 2)
    middle = tf.reduce_sum(tf.cast(sums <= sums[..., -1:] // 2, tf.int32), 2)
    darker = tf.minimum(middle * areas - greys, weights)
    return tf.cast(darker, tf.float64) / tf.cast(tf.maximum(areas, 1), tf.float64)


def _parts(found: _Components, kind: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Return which labels, bool [rows × columns], belong to the digit whose largest component is `label`."""
    # If nothing was found, `label` may be beyond the last label.
    label = tf.minimum(label, tf.shape(found.areas)[1] - 1)
    tops, bottoms, lefts, rights = tf.unstack(found.boxes[kind], axis=1)
    top, bottom, left, right = (each[label] for each in (tops, bottoms, lefts, rights))
    gaps = [tops - bottom, top - bottoms, lefts - right, left - rights]
    size = tf.cast(tf.maximum(bottom - top, right - left), tf.float64)
    near = tf.cast(tf.reduce_max(gaps, 0), tf.float64) <= rules.NEAR * size
    areas = found.areas[kind]
    large = tf.cast(areas, tf.float64) >= rules.PART * tf.cast(areas[label], tf.float64)
    return near & large & (areas > 0)


def _as_mnist(strokes: tf.Tensor, contract: Contract, box: int) -> tf.Tensor:
    """Return strokes float32 [h, w] of 0…255 in MNIST's form, uint8 [height, width, 1] of the contract."""
    top, bottom, left, right = _extent(strokes > 0)
    growth = _pen_growth(strokes > 127, tf.maximum(bottom - top, right - left))
    padding = [[growth // 2] * 2] * 2
    thick = tf.cond(growth > 1, lambda: highest(tf.pad(strokes, padding), growth, _PEN), lambda: strokes)
    return _normalised(thick, contract, box)


def _pen_growth(written: tf.Tensor, longer: tf.Tensor) -> tf.Tensor:
    """Return the odd size of the window that thickens strokes to MNIST's pen, as in `client.images.preprocessing`."""
    padded = tf.pad(written, [[1, 1], [1, 1]])
    rows = tf.math.count_nonzero(padded[1:] != padded[:-1])
    columns = tf.math.count_nonzero(padded[:, 1:] != padded[:, :-1])
    outline = tf.cast(tf.maximum(rows + columns, 1), tf.float64)
    area = tf.cast(tf.math.count_nonzero(written), tf.float64)
    lacking = rules.STROKE * tf.cast(longer, tf.float64) - 2.5 * area / outline
    return 2 * tf.maximum(tf.cast(lacking / 2, tf.int32), 0) + 1


def _normalised(strokes: tf.Tensor, contract: Contract, box: int) -> tf.Tensor:
    """Return strokes scaled to the box's size, with the centre of mass in the middle of the field."""
    top, bottom, left, right = _extent(strokes > 0)
    longer = tf.maximum(bottom - top, right - left)
    # Rounds halves up, in integers.
    height, width = (
        tf.maximum(1, (2 * side * box + longer) // (2 * longer)) for side in (bottom - top, right - left)
    )
    rows = resampling(bottom - top, 0, bottom - top, height, lanczos)
    columns = resampling(right - left, 0, right - left, width, lanczos)
    cropped = tf.cast(strokes[top:bottom, left:right], tf.float64)
    small = to_pixels(rows @ cropped @ tf.transpose(columns))
    weights = tf.cast(small, tf.float64)
    total = tf.reduce_sum(weights)
    top = _place(tf.reduce_sum(weights, 1), total, contract.height)
    left = _place(tf.reduce_sum(weights, 0), total, contract.width)
    padding = [[top, contract.height - height - top], [left, contract.width - width - left]]
    return tf.pad(small, padding)[..., tf.newaxis]


def _place(profile: tf.Tensor, total: tf.Tensor, field: int) -> tf.Tensor:
    """Return the start of a digit with this `profile` that puts its centre of mass in the middle of the field."""
    size = tf.size(profile)
    centre = tf.reduce_sum(profile * tf.cast(tf.range(size), tf.float64)) / total
    start = tf.cast(tf.floor((field - 1) / 2 - centre + NUDGE), tf.int32)
    # A very asymmetric digit stays inside the field instead of the exact middle.
    return tf.clip_by_value(start, 0, field - size)


def _extent(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return top, bottom, left and right (bottom and right exclusive) of the true values in `mask`, int32."""
    sides = []
    for axis in (1, 0):
        found = tf.cast(tf.where(tf.reduce_any(mask, axis))[:, 0], tf.int32)
        sides += [found[0], found[-1] + 1]
    return sides[0], sides[1], sides[2], sides[3]
