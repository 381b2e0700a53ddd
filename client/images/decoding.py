"""Decoding of images to upright pixels, in bounded memory and time for any input.

A decoded image takes four bytes per pixel in Pillow. All further steps process strips, so that a photograph of many
megapixels isn't held several times in memory.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from tfship.export.preprocessing import input_contract as rules
from tfship.train.common.errors import DataError

__all__ = ["FORMATS", "DecodedImage", "decoded", "from_pillow"]

_Value = TypeVar("_Value", bound=np.generic)

# Pillow's names. Pillow reads further formats, some of them by starting other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
# First bytes, after the length of the first box, of formats that some installations can't read.
_HEIC = "a HEIC image"
_KINDS: dict[str, tuple[bytes, ...]] = {
    _HEIC: tuple(
        b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    ),
    "an AVIF image": (b"ftypavif", b"ftypavis"),
    "a JPEG 2000 image": (b"jP  ",),
    "a JPEG XL image": (b"JXL ",),
}
# A progressive JPEG may have thousands of scans, each as costly as an image; cameras write about ten.
_MOST_SCANS = 100
_SCAN = b"\xff\xda"
# Limit for the memory of decoding an image. Measured in bytes per pixel: Pillow's own form and the grey image; a
# progressive JPEG's coefficients, two bytes per sample; the memory of other decoders.
_MOST_BYTES = 400_000_000
_BYTES, _BYTES_OF_A_COEFFICIENT = 5, 2
_BYTES_OF = {"WEBP": 24, "AVIF": 24, "HEIF": 24, "JPEG2000": 32}
_ORIENTATION_TAG = 0x0112
_STRIP_PIXELS = 1 << 20
# Factors for grey samples of PNGs with 2 and 4 bits, by Pillow's name of their form.
_SCALES = {"L;2": 85, "L;4": 17}


class DecodedImage:
    """A decoded image. Samples of more than 8 bits are scaled to 8 bits.

    Transparent parts become white, or black if the ink would be invisible on white.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._orientation = _orientation(image)
        self._range = self._limits()
        self._paper = 255
        if image.has_transparency_data and self._darkest() > 255 - rules.FAINTEST:
            self._paper = 0

    @property
    def turned(self) -> bool:
        """Whether `upright` swaps width and height."""
        return self._orientation in (5, 6, 7, 8)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self._image.height, self._image.width

    def strips(self, channels: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Yield each strip's rows, as stored, and pixels uint8 [rows, width, channels], 1 (grey) or 3 (RGB)."""
        height, width = self.shape
        rows = max(1, _STRIP_PIXELS // width)
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            strip = self._coloured(self._image.crop((0, top, width, bottom)))
            values = np.asarray(strip.convert("L" if channels == 1 else "RGB"))
            yield slice(top, bottom), values.reshape(bottom - top, width, channels)

    def grey(self) -> NDArray[np.uint8]:
        """Return the image, upright, in grey (ITU-R 601 luma), uint8 [height, width]."""
        return self.pixels(1)[..., 0]

    def pixels(self, channels: int) -> NDArray[np.uint8]:
        """Return the image, upright, uint8 [height, width, channels]; channels: 1 (grey) or 3 (RGB)."""
        values = np.empty((*self.shape, channels), np.uint8)
        for rows, strip in self.strips(channels):
            values[rows] = strip
        return self.upright(values)

    def upright(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """Return an array [height, width, …] of this image, as stored, in its orientation (EXIF 2.32, 4.6.4)."""
        if self.turned:
            values = values.swapaxes(0, 1)
        if self._orientation in (3, 4, 7, 8):
            values = values[::-1]
        if self._orientation in (2, 3, 6, 7):
            values = values[:, ::-1]
        return values

    def _darkest(self) -> int:
        return min(int(strip.min()) for _, strip in self.strips(1))

    def _limits(self) -> tuple[float, float] | None:
        """Return the values of black and white if samples have more than 8 bits, else None."""
        mode = self._image.mode
        if not mode.startswith(("I", "F")):
            return None
        # 16 bits have a known range. For 32 bits and floats it is taken from the image.
        if mode.startswith("I;16"):
            return 0.0, 65535.0
        low, high = self._image.getextrema()
        return float(low), float(high)  # type: ignore[arg-type]

    def _coloured(self, strip: Image.Image) -> Image.Image:
        if self._range is None:
            return _on_paper(strip.convert("RGBA"), self._paper) if strip.has_transparency_data else strip
        low, high = self._range
        samples = np.asarray(strip)
        with np.errstate(all="ignore"):  # for infinities and NaN
            scaled = (samples.astype(np.float64) - low) / max(high - low, 1e-9) * 255
            grey = np.rint(np.nan_to_num(scaled)).clip(0, 255).astype(np.uint8)
        if not strip.has_transparency_data:
            return Image.fromarray(grey)
        # Pillow would cut the samples off at 255.
        opacity = np.where(samples == strip.info["transparency"], 0, 255).astype(np.uint8)
        return _on_paper(Image.fromarray(np.dstack([grey, grey, grey, opacity])), self._paper)


@contextlib.contextmanager
def decoded(data: bytes, name: str) -> Iterator[DecodedImage]:
    """Decode an image; the context frees it. Raises DataError, which begins with `name`, for an invalid image."""
    kind = _kind(data)
    if kind == _HEIC and not _reads_heic():
        raise DataError(f"{name}: {kind}; expected PNG or JPEG: convert it, or install pillow-heif")
    try:
        formats = ("HEIF",) if kind == _HEIC else FORMATS
        with _UNWARNED, Image.open(io.BytesIO(data), formats=formats) as image:
            _check_affordable(image, data, name)
            _scale_transparency(image)
            try:
                image.load()
                yield DecodedImage(image)
            finally:
                # Frees the memory even if there are further references.
                image.close()
    except (DataError, GeneratorExit):
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, rules.MOST_PIXELS) from None
    # Pillow's decoders raise various errors for damaged files, such as struct.error and SyntaxError.
    except Exception as error:
        if not data:
            problem = "an empty file"
        elif isinstance(error, UnidentifiedImageError):
            problem = f"{kind}, which this installation can't read: convert it" if kind else "not an image"
        else:
            problem = f"a damaged image ({error})"
        raise DataError(f"{name}: {problem}; expected PNG, JPEG or another image format") from error


@contextlib.contextmanager
def from_pillow(image: Image.Image, name: str) -> Iterator[DecodedImage]:
    """Use an image of Pillow's, which the caller keeps. Raises DataError as `decoded` does."""
    if not image.width or not image.height:
        raise DataError(f"{name}: {image.width} × {image.height} pixels; expected an image")
    _check_size(image, rules.MOST_PIXELS, name)
    try:
        with _UNWARNED:
            image.load()
            yield DecodedImage(image)
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(
            f"{name}: Pillow can't read the image ({error}); expected an undamaged one"
        ) from error


def _kind(data: bytes) -> str | None:
    """Return the format by the first box's type (ISO/IEC 14496-12, 4.2), None for other formats."""
    return next((kind for kind, beginnings in _KINDS.items() if data.startswith(beginnings, 4)), None)


def _reads_heic() -> bool:
    """Register HEIC with Pillow, by the package pillow-heif. Return whether that is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


class _Unwarned:
    """A context without Pillow's warnings, of which several threads may be inside.

    Warning filters are global: the first thread that enters saves them, and the last one that leaves restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._filters = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_UNWARNED = _Unwarned()


def _check_affordable(image: Image.Image, data: bytes, name: str) -> None:
    cost = _BYTES_OF.get(image.format or "", _BYTES)
    if image.format == "JPEG" and image.info.get("progressive"):
        cost += _BYTES_OF_A_COEFFICIENT * len(image.getbands())
        if data.count(_SCAN) > _MOST_SCANS:
            raise DataError(
                f"{name}: a JPEG with more than {_MOST_SCANS} scans, which takes minutes; expected fewer: save it again"
            )
    _check_size(image, min(rules.MOST_PIXELS, _MOST_BYTES // cost), name)


def _check_size(image: Image.Image, most: int, name: str) -> None:
    if image.width * image.height > most:
        raise _too_large(name, most)
    if max(image.size) > rules.MOST_SIDE:
        raise DataError(
            f"{name}: {image.width:,} × {image.height:,} pixels; expected {rules.MOST_SIDE:,} per side at most"
        )


def _too_large(name: str, most: int) -> DataError:
    return DataError(f"{name}: more than {most:,} pixels; expected fewer: scale the image down")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; for PNG and JPEG by EXIF alone, as in browsers, without XMP and text chunks."""
    exif = image.getexif()
    if image.format in ("PNG", "JPEG"):
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
    return int(exif.get(_ORIENTATION_TAG, 1))


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Convert a PNG's transparent sample to the scale of the pixels, with which Pillow compares it as it is.

    Pillow scales 2 and 4 bits of grey up, and drops the lower 8 bits of colours with 16.
    """
    found = image.info.get("transparency")
    if image.format != "PNG" or found is None or not image.tile:
        return
    stored = image.tile[0].args
    if stored in _SCALES:
        image.info["transparency"] = found * _SCALES[stored]
    elif stored == "RGB;16B":
        image.info["transparency"] = tuple(each >> 8 for each in found)


def _on_paper(image: Image.Image, paper: int) -> Image.Image:
    """Blend an RGBA image with a grey value `paper`. Pillow's own blending rounds differently from TensorFlow."""
    values = np.asarray(image, np.uint16)
    colour, opacity = values[..., :3], values[..., 3:]
    # At most 255 × 255 + 127, which 16 bits hold.
    mixed = colour * opacity + paper * (255 - opacity) + 127
    return Image.fromarray((mixed // 255).astype(np.uint8))
