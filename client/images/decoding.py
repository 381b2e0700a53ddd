"""From the bytes of a picture to its pixels, upright, in bounded memory and time whatever the bytes are.

A decoded picture takes four bytes a pixel in Pillow; all else is done in strips, so that a photograph of many
megapixels isn't held two and three times over.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tfship.export.preprocessing import input_contract as rules
from tfship.train.common.errors import DataError

__all__ = ["FORMATS", "DecodedPicture", "opened", "taken"]

_Value = TypeVar("_Value", bound=np.generic)

# Pillow's names. It reads others, too, some of them by starting other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
# How formats begin that aren't always read, and their names.
_HEIC = "a HEIC image"
_KINDS: dict[str, tuple[bytes, ...]] = {
    _HEIC: tuple(
        b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    ),
    "an AVIF image": (b"ftypavif", b"ftypavis"),
    "a JPEG 2000 image": (b"jP  ",),
    "a JPEG XL image": (b"JXL ",),
}
# A progressive JPEG may have thousands of scans, each of which costs as much as a picture; cameras make some ten.
_MOST_SCANS = 100
_SCAN = b"\xff\xda"
# A picture that needs more memory than this for its decoding is refused. Measured, in bytes a pixel: Pillow's own
# form and the grey picture; a progressive JPEG's coefficients, two for each sample; what other decoders keep.
_MOST_BYTES = 400_000_000
_BYTES, _BYTES_OF_A_COEFFICIENT = 5, 2
_BYTES_OF = {"WEBP": 24, "AVIF": 24, "HEIF": 24, "JPEG2000": 32}
_ORIENTATION_TAG = 0x0112
_STRIP_PIXELS = 1 << 20


class DecodedPicture:
    """A decoded image. Samples of more than 8 bits are scaled to 8.

    Transparent parts are white paper, or black if the ink would vanish on white.
    """

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        self._orientation = _orientation(picture)
        self._range = self._limits()
        self._paper = 255
        if picture.has_transparency_data and self._darkest() > 255 - rules.FAINTEST:
            self._paper = 0

    @property
    def turned(self) -> bool:
        """Whether width and height change places when `upright` is called."""
        return self._orientation in (5, 6, 7, 8)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self._picture.height, self._picture.width

    def strips(self, channels: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Yield the rows of a strip, as stored, and its pixels, uint8 [rows, width, channels], 1 (grey) or 3 (RGB)."""
        height, width = self.shape
        rows = max(1, _STRIP_PIXELS // width)
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            strip = self._coloured(self._picture.crop((0, top, width, bottom)))
            values = np.asarray(strip.convert("L" if channels == 1 else "RGB"))
            yield slice(top, bottom), values.reshape(bottom - top, width, channels)

    def grey(self) -> NDArray[np.uint8]:
        """Return the whole picture, upright, in grey (ITU-R 601 luma), uint8 [height, width]."""
        return self.pixels(1)[..., 0]

    def pixels(self, channels: int) -> NDArray[np.uint8]:
        """Return the whole picture, upright, uint8 [height, width, channels], 1 (grey) or 3 (RGB)."""
        values = np.empty((*self.shape, channels), np.uint8)
        for rows, strip in self.strips(channels):
            values[rows] = strip
        return self.upright(values)

    def upright(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """Return an array [height, width, …] of this picture, as stored, as people look at it (EXIF 2.32, 4.6.4)."""
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
        """Return which values are black and white, where samples have more than 8 bits."""
        mode = self._picture.mode
        if not mode.startswith(("I", "F")):
            return None
        # 16 bits have a known range; for 32 and for floats, the picture's own is all there is.
        if mode.startswith("I;16"):
            return 0.0, 65535.0
        low, high = self._picture.getextrema()
        return float(low), float(high)  # type: ignore[arg-type]

    def _coloured(self, strip: Image.Image) -> Image.Image:
        if strip.has_transparency_data:
            return _on_paper(strip.convert("RGBA"), self._paper)
        if self._range is None:
            return strip
        low, high = self._range
        with np.errstate(all="ignore"):  # infinities, and what isn't a number
            scaled = (np.asarray(strip, np.float64) - low) / max(high - low, 1e-9) * 255
            return Image.fromarray(np.rint(np.nan_to_num(scaled)).clip(0, 255).astype(np.uint8))


@contextlib.contextmanager
def opened(data: bytes, name: str) -> Iterator[DecodedPicture]:
    """Decode a picture for as long as the context lasts. Raises DataError, which names `name`, for what is none."""
    kind = _kind(data)
    if kind == _HEIC and not _reads_heic():
        raise DataError(f"{name}: {kind}; expected PNG, JPEG or the like: convert it, or install pillow-heif")
    try:
        formats = ("HEIF",) if kind == _HEIC else FORMATS
        with _UNWARNED, Image.open(io.BytesIO(data), formats=formats) as picture:
            _check_affordable(picture, data, name)
            try:
                picture.load()
                yield DecodedPicture(picture)
            finally:
                # Whoever still has it: its memory goes back now.
                picture.close()
    except (DataError, GeneratorExit):
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, rules.MOST_PIXELS) from None
    # Pillow's decoders raise these for damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        if not data:
            what = "an empty file"
        elif isinstance(error, UnidentifiedImageError):
            what = f"{kind} that can't be read here, convert it" if kind else "not a picture"
        else:
            what = f"a damaged picture ({error})"
        raise DataError(f"{name}: {what}; expected PNG, JPEG or the like") from error


@contextlib.contextmanager
def taken(picture: Image.Image, name: str) -> Iterator[DecodedPicture]:
    """Take a picture that Pillow has opened or made, which stays the caller's. Raises DataError as `opened` does."""
    if not picture.width or not picture.height:
        raise DataError(f"{name}: {picture.width} × {picture.height} pixels; expected a picture")
    _check_size(picture, rules.MOST_PIXELS, name)
    try:
        with _UNWARNED:
            picture.load()
            yield DecodedPicture(picture)
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(
            f"{name}: can't be used as a picture ({error}); expected one that can be read"
        ) from error


def _kind(data: bytes) -> str | None:
    """Return what the header, behind the length of the first box, says that data is (ISO/IEC 14496-12, 4.2)."""
    return next((kind for kind, beginnings in _KINDS.items() if data.startswith(beginnings, 4)), None)


def _reads_heic() -> bool:
    """Let Pillow read HEIC by the package pillow-heif, if it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


class _Unwarned:
    """Keeps Pillow from warning of what it then reads all the same, for as long as any thread is in this context.

    The filters of warnings are the process's: the last thread puts back what the first one found.
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


def _check_affordable(picture: Image.Image, data: bytes, name: str) -> None:
    cost = _BYTES_OF.get(picture.format or "", _BYTES)
    if picture.format == "JPEG" and picture.info.get("progressive"):
        cost += _BYTES_OF_A_COEFFICIENT * len(picture.getbands())
        if data.count(_SCAN) > _MOST_SCANS:
            raise DataError(
                f"{name}: a JPEG in more than {_MOST_SCANS} scans, which take minutes; save it anew"
            )
    _check_size(picture, min(rules.MOST_PIXELS, _MOST_BYTES // cost), name)


def _check_size(picture: Image.Image, most: int, name: str) -> None:
    if picture.width * picture.height > most:
        raise _too_large(name, most)
    if max(picture.size) > rules.MOST_SIDE:
        raise DataError(
            f"{name}: {picture.width:,} × {picture.height:,} pixels; expected {rules.MOST_SIDE:,} a side at most"
        )


def _too_large(name: str, most: int) -> DataError:
    return DataError(f"{name}: more than {most:,} pixels; expected a picture of one thing, scaled down")


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation; in PNG and JPEG by EXIF alone, as browsers do, and not by XMP or texts."""
    exif = picture.getexif()
    if picture.format in ("PNG", "JPEG"):
        exif = Image.Exif()
        exif.load(picture.info.get("exif", b""))
    return int(exif.get(_ORIENTATION_TAG, 1))


def _on_paper(picture: Image.Image, paper: int) -> Image.Image:
    """Lay an RGBA image on paper of a value; not by Pillow's blending, whose rounding differs from TensorFlow's."""
    values = np.asarray(picture, np.uint16)
    colour, opacity = values[..., :3], values[..., 3:]
    # At most 255 × 255 + 127, which 16 bits hold.
    mixed = colour * opacity + paper * (255 - opacity) + 127
    return Image.fromarray((mixed // 255).astype(np.uint8))
