"""Image decoding in a TensorFlow graph; `client.images.decoding` does the same with Pillow. Loads TensorFlow."""

import tensorflow as tf

from tfship.export.preprocessing import input_contract as rules

__all__ = ["decoded"]

_PNG = b"\x89PNG\r\n\x1a\n"
# In a JPEG, EXIF is in one of the first two segments, of at most 64 KiB each.
_EXIF_WITHIN, _EXIF_BYTES = 1 << 17, 1 << 16
# EXIF begins with the header of a TIFF file, little-endian or big-endian.
_LITTLE, _BIG = b"II*\0", b"MM\0*"
_ORIENTATION_TAG = 0x0112
# Larger images are converted in strips, which avoids copies of the whole image in wider dtypes.
_STRIP_PIXELS = 1 << 20


def decoded(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Return an encoded PNG or JPEG (a string) upright, on paper, uint8 [h, w, channels], 1 (grey) or 3 (RGB).

    The operations raise InvalidArgumentError for other formats and for damaged or too large images.
    """
    is_png = tf.strings.substr(data, 0, len(_PNG)) == _PNG
    is_jpeg = tf.io.is_jpeg(data)
    known = tf.debugging.Assert(is_png | is_jpeg, ["neither a PNG nor a JPEG image"])
    with tf.control_dependencies([known]):
        stored = tf.cond(is_jpeg, lambda: _jpeg(data), lambda: _png(data))
        head = tf.cond(is_jpeg, lambda: tf.strings.substr(data, 0, _EXIF_WITHIN), lambda: data)
        orientation = _orientation(head, tf.where(is_jpeg, b"Exif\0\0", b"eXIf"))
    pixels = _coloured(stored, channels, _paper(stored))
    return tf.cond(orientation > 1, lambda: _upright(pixels, orientation), lambda: pixels)


def _jpeg(data: tf.Tensor) -> tf.Tensor:
    size = tf.image.extract_jpeg_shape(data)
    with tf.control_dependencies([_affordable(size[0], size[1])]):
        # The transform of Pillow; TensorFlow's default is a faster, less accurate one.
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _png(data: tf.Tensor) -> tf.Tensor:
    """Return the stored pixels: grey, grey and opacity, RGB, or RGB and opacity.

    With channels=4, TensorFlow would make greys of fewer than 8 bits nearly transparent.
    """
    # The header: width and height in big-endian, the bits per sample, the colour type.
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 16, 10), tf.uint8, fixed_length=10), tf.int64)
    width, height = (tf.reduce_sum(header[at : at + 4] * [1 << 24, 1 << 16, 1 << 8, 1]) for at in (0, 4))
    clear = _transparent_sample(data, header[9])

    def wide() -> tf.Tensor:
        samples = tf.io.decode_png(data, dtype=tf.uint16)
        return _with_opacity(_narrowed(samples, grey=header[9] == 0), samples, clear)

    def narrow() -> tf.Tensor:
        samples = tf.io.decode_png(data)
        # Fewer than 8 bits are scaled to 0…255.
        most = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.clip_by_value(header[8], 1, 8)) - 1
        scale = 255 // most
        return _with_opacity(samples, samples, clear * tf.cast(scale, tf.int32))

    with tf.control_dependencies([_affordable(height, width)]):
        return tf.cond(header[8] == 16, wide, narrow)


def _transparent_sample(data: tf.Tensor, form: tf.Tensor) -> tf.Tensor:
    """Return the transparent grey int32 [1] or colour [3] of a PNG of colour type `form`, [0] if there is none.

    TensorFlow applies the chunk tRNS to palettes only (ISO/IEC 15948, 11.3.1.1).
    """
    head = tf.strings.split(data, b"IDAT")[0]
    # The chunk's length is in front of its name: two bytes a channel.
    mark = tf.where(form == 0, b"\0\0\0\2tRNS", b"\0\0\0\6tRNS")
    behind = tf.strings.split(head, mark)
    size = tf.where(form == 0, 2, 6)

    def sample() -> tf.Tensor:
        raw = tf.io.decode_raw(tf.strings.substr(behind[1], 0, size), tf.uint16, little_endian=False)
        return tf.cast(raw, tf.int32)

    there = (tf.size(behind) > 1) & ((form == 0) | (form == 2))
    return tf.cond(there, sample, lambda: tf.zeros([0], tf.int32))


def _with_opacity(stored: tf.Tensor, samples: tf.Tensor, clear: tf.Tensor) -> tf.Tensor:
    """Return pixels uint8 [h, w, 1 or 3] with an opacity of 0 where the `samples` are `clear`; unchanged without it."""

    def added() -> tf.Tensor:
        is_clear = tf.reduce_all(samples == tf.cast(clear, samples.dtype), 2, keepdims=True)
        return tf.concat(
            [stored, tf.where(is_clear, tf.constant(0, tf.uint8), tf.constant(255, tf.uint8))], 2
        )

    return tf.cond(tf.size(clear) > 0, added, lambda: stored)


def _narrowed(pixels: tf.Tensor, grey: tf.Tensor) -> tf.Tensor:
    """Convert 16-bit pixels to 8 bits like Pillow: grey is scaled, colours lose their lower bits."""
    wide = tf.cast(pixels, tf.int32)
    return tf.cast(tf.where(grey, (wide + 128) // 257, wide // 256), tf.uint8)


def _affordable(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return tf.debugging.Assert(
        (pixels <= rules.MOST_PIXELS) & (tf.maximum(height, width) <= rules.MOST_SIDE),
        [f"more than {rules.MOST_PIXELS:,} pixels, or {rules.MOST_SIDE:,} a side:", height, "×", width],
    )


def _paper(stored: tf.Tensor) -> tf.Tensor:
    """Return the background of transparent parts: white, or black if the ink would vanish on white."""

    def chosen() -> tf.Tensor:
        darkest = tf.reduce_min(_coloured(stored, 1, tf.constant(255.0)))
        return tf.where(darkest > 255 - rules.FAINTEST, 0.0, 255.0)

    return tf.cond(tf.shape(stored)[2] % 2 == 0, chosen, lambda: 255.0)


def _coloured(stored: tf.Tensor, channels: int, paper: tf.Tensor) -> tf.Tensor:
    """Return pixels uint8 [h, w, 1…4] as grey (ITU-R 601 luma) or RGB, on a background of value `paper`."""
    height, width, found = (tf.shape(stored)[axis] for axis in range(3))
    rows = tf.maximum(1, _STRIP_PIXELS // tf.maximum(width, 1))

    def on_paper(colour: tf.Tensor, opacity: tf.Tensor) -> tf.Tensor:
        return tf.floor((colour * opacity + paper * (255.0 - opacity) + 127.0) / 255.0)

    # Whole numbers below 2²⁴, which float32 represents exactly.
    def converted(strip: tf.Tensor) -> tf.Tensor:
        opaque = tf.cond(
            found % 2 == 0,
            lambda: on_paper(tf.cast(strip[..., :-1], tf.float32), tf.cast(strip[..., -1:], tf.float32)),
            lambda: tf.cast(strip, tf.float32),
        )
        if channels == 3:
            colour = tf.cond(found >= 3, lambda: opaque, lambda: tf.tile(opaque, [1, 1, 3]))
        else:
            colour = tf.cond(found >= 3, lambda: _luma(opaque), lambda: opaque)
        return tf.cast(colour, tf.uint8)

    def further(top: tf.Tensor, strips: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return top + rows, strips.write(top // rows, converted(stored[top : top + rows]))

    strips = tf.TensorArray(
        tf.uint8, size=-(-height // rows), infer_shape=False, element_shape=(None, None, channels)
    )
    _, strips = tf.while_loop(lambda top, _: top < height, further, (0, strips), parallel_iterations=1)
    return strips.concat()


def _luma(colour: tf.Tensor) -> tf.Tensor:
    """Return luma float32 [h, w, 1] of `colour` float32 [h, w, 3], with Pillow's 16-bit weights."""
    weights = tf.constant([[19595.0], [38470.0], [7471.0]])
    return tf.floor((tf.tensordot(colour, weights, 1) + 32768.0) / 65536.0)


def _orientation(data: tf.Tensor, mark: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation 1…8 after `mark`; 1 (upright) without one (EXIF 2.32, 4.6.4)."""
    behind = tf.strings.split(data, mark)[1:]
    heads = tf.strings.substr(behind, 0, len(_LITTLE))
    is_exif = (heads == _LITTLE) | (heads == _BIG)

    def first() -> tf.Tensor:
        place = tf.argmax(is_exif)
        return _oriented(tf.strings.substr(behind[place], 0, _EXIF_BYTES), heads[place] == _LITTLE)

    return tf.cond(tf.reduce_any(is_exif), first, lambda: 1)


def _oriented(exif: tf.Tensor, little: tf.Tensor) -> tf.Tensor:
    """Return the orientation in EXIF data, which is a TIFF file without an image."""
    found = tf.cast(tf.io.decode_raw(exif, tf.uint8), tf.int32)
    size = tf.size(found)
    padded = tf.pad(found, [[0, 2]])

    def short(at: tf.Tensor) -> tf.Tensor:
        at = tf.clip_by_value(at, 0, size)
        first, second = tf.gather(padded, at), tf.gather(padded, at + 1)
        return tf.where(little, second * 256 + first, first * 256 + second)

    first, second = short(4), short(6)
    directory = tf.where(little, second * 65536 + first, first * 65536 + second)
    entries = directory + 2 + 12 * tf.range(tf.minimum(short(directory), 256))
    value = tf.reduce_max(tf.where(short(entries) == _ORIENTATION_TAG, short(entries + 8), 0))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    for axis, values in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        turned = tf.reduce_any(orientation == tf.constant(values))
        pixels = tf.cond(
            turned, lambda pixels=pixels, axis=axis: tf.reverse(pixels, [axis]), lambda pixels=pixels: pixels
        )
    return pixels
