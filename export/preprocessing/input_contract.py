"""The input contract: a model's inputs and outputs, and the preparation of images; `<N>/contract.json`.

The graph of the signature `serving_bytes` (`export.preprocessing.graph`), the client (`client.images.preprocessing`)
and the calibration all follow it. An image first becomes 8-bit pixels uint8 [height, width, channels]. The method
`Contract.scale` converts pixels to the model's values.

An image is decoded, put on paper if it is transparent, and turned upright by its EXIF orientation. The paper is white,
or black if the image's ink would vanish on white: if no pixel on white is darker than white by `FAINTEST` or more.
Then one of two methods follows:

`resize`: stretches the image to height × width, each channel separately. Grey models get ITU-R 601 luma.

`digit`: converts the image to MNIST's form (LeCun et al., "The MNIST database of handwritten digits"). There, bright
ink is on black paper, the digit's longer side is 20 of 28 pixels, and its centre of mass is in the middle. An image of
the model's size with black paper and a digit of MNIST's size passes unchanged. All others go through these steps:

1. The image becomes grey (ITU-R 601 luma). It is reduced by the whole number that brings the longer side to at most
   `WORKING` pixels, but by at most `REDUCTION`, which keeps a small digit on a large page visible. Each block becomes
   its mean; incomplete blocks at the right and the bottom are cut off. An image that isn't reduced gets a 3×3 median,
   if both sides have at least `SPECKLED` pixels.
2. Steps 3 and 4 run for dark ink and, on the negative, for light ink. The digit that stands out more is chosen.
3. Contrast: the closing (Serra, "Image Analysis and Mathematical Morphology", 1982) by a square, minus the image. The
   square's side is the share `WINDOW` of the shorter side, at most `WIDEST`. The closing fills dark areas narrower than
   the square, and leaves shadows and their edges unchanged. Pixels are ink if their contrast is at least `FAINTEST` and
   above the share `LOCAL` of the strongest contrast in the square around them.
4. Components of the ink, on cells of `CELL` pixels. Components that touch the border (a table, a margin's line) are
   ignored if there are others that aren't specks. The digit is the largest component that is darker by `FAINTEST`, on
   average, than its closing and than the median of the cells around it. Near parts that aren't much smaller belong to
   it.
5. A digit that is small on a reduced image is cut from the original, if that part needs less reduction. The margin on
   each side is `MARGIN` times the digit's longer side. Steps 1 to 4 are repeated on that part. If they find nothing,
   the first result is kept.
6. The strokes: the contrast within the digit's box and the share `EDGE` of its longer side around it, relative to full
   contrast. Full is the contrast that the share `FULL` of the digit's ink doesn't exceed. A stroke's pale parts, which
   aren't ink by step 3, are kept: they are a large part of a digit that was enlarged from few pixels. These become 0:
   other components with a pixel around them, contrasts below `PALEST`, and the noise of the paper, up to the share
   `LOCAL` of full contrast. Noise is the contrast that the share `NOISE` of the paper doesn't exceed. The paper is all
   pixels that aren't ink, up to the digit's longer side around its box, but at least `PAPER` of that side away from the
   digit. Strokes thinner than the share `STROKE` of the digit's longer side, such as a ballpoint's, are thickened to
   it. Their width is estimated from the ink's area and the length of its outline. The bounding box is scaled to `BOX`
   of `FIELD` of the model's size, keeping its proportions (Lanczos, three lobes), and placed by its centre of mass.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import read_json, write_json
from tfship.train.data.datasets import CLASSES

__all__ = [
    "BATCHING", "BOX", "CANDIDATES", "CELL", "CLASSIFY", "CONTRACT", "EDGE", "EXAMPLE_FEATURE", "FAINTEST", "FIELD",
    "FULL", "INDEPENDENT", "LOCAL", "MARGIN", "MOST_PIXELS", "MOST_SIDE", "NEAR", "NOISE", "PALEST", "PAPER", "PART",
    "PROBABILITIES_OF_CLASSES", "REDUCTION", "SCHEMA", "SERVING_BYTES", "SERVING_UINT8", "SLACK", "SPECK", "SPECKLED",
    "STROKE", "THRESHOLD", "WARMUP", "WIDEST", "WINDOW", "WORKING", "Contract", "Scaling", "digits", "is_current",
    "read",
]  # fmt: skip

CONTRACT = "contract.json"
# The file of requests that a server runs before a version becomes available; the name is TensorFlow Serving's.
WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
# Batching parameters of this version, an optional file that the server's operator may add.
BATCHING = "batching_params.pbtxt"

SERVING_UINT8 = "serving_uint8"
SERVING_BYTES = "serving_bytes"
CLASSIFY = "classify"
# The feature of a tf.Example with an encoded image, by TensorFlow's convention.
EXAMPLE_FEATURE = "image/encoded"

# The digit's longer side and the side of the image in MNIST, in pixels.
BOX, FIELD = 20, 28
# In an image of the model's size, a digit may differ from BOX by this number of pixels and pass unchanged.
SLACK = 2
# The longer side of a reduced image in pixels: it removes texture and noise, and keeps a pen's strokes.
WORKING = 160
# The largest reduction: a digit of 30 pixels, common on a page at 300 dpi, keeps four.
REDUCTION = 8
# A share of the shorter side: wider than the strokes of a digit that fills the image, narrower than a page.
WINDOW = 0.4
# The widest window in pixels, for images that are large even after the largest reduction.
WIDEST = 127
# Minimum contrast of ink, relative to the strongest around it: above the grey of an anti-aliased edge.
LOCAL = 0.4
# Width of a stroke's edge, which may lie outside the ink's box, as a share of the digit's longer side: the edges of
# enlarged images are wide.
EDGE = 0.08
# Share of a digit's ink that doesn't exceed the contrast of full strokes: not all, since some spots are darker.
FULL = 0.75
# Paper is at least this distance from a digit, as a share of its longer side, since strokes of few pixels are wide.
PAPER = 0.16
# Share of the paper that doesn't exceed its noise: not all, because of single specks.
NOISE = 0.998
# The least contrast of strokes, even on clean paper: JPEG leaves less around them.
PALEST = 12
# Width of MNIST's pens as a share of the digit's longer side; networks haven't seen thinner ones.
STROKE = 0.1
# From this size on, single pixels are dirt or dithering, which could be mistaken for ends of strokes.
SPECKLED = 64
CELL = 4
# Lower contrasts (of 255) count as an empty page.
FAINTEST = 24
# The number of components, largest first, that are compared with their surroundings.
CANDIDATES = 4
# Smaller components are specks: a share of the area of the largest component that touches the border.
SPECK = 1 / 200
# A part of the digit, such as the bar of a 5: its minimum area and maximum distance, as shares of area and size.
PART, NEAR = 0.04, 0.35
# The margin around a digit that is cut out in step 5, as a share of its longer side.
MARGIN = 1.0
# Decoding this number of pixels takes some seconds and 300 MB; so does resizing.
MOST_PIXELS, MOST_SIDE = 50_000_000, 32_767

# 4: `digit` keeps the pale parts of strokes (step 6). 3: scale and offset for each channel, the channel order, the kind
# of outputs; `digit` cuts out small digits (step 5), and ink that would vanish on white gets black paper. 2: one range
# of values.
SCHEMA = 4
# The first schema with a scale and an offset for each channel.
_CHANNELS = 3
# Schema 1 isn't readable: its method `digit` was another one.
_READABLE = (2, _CHANNELS, SCHEMA)
_METHODS = ("digit", "resize")
PROBABILITIES_OF_CLASSES, INDEPENDENT = "probabilities", "independent"
_OUTPUTS = (PROBABILITIES_OF_CLASSES, INDEPENDENT)
# The image has the labels whose independent scores reach this value.
THRESHOLD = 0.5
_WHITE = 255


@dataclass(frozen=True)
class Scaling:
    """The values that pixels become: `pixel × scale + offset` for each channel.

    `scale` and `offset` contain one number for each of the model's channels, in the model's order: RGB, or BGR if
    `bgr` is true.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    bgr: bool = False

    @classmethod
    def of_range(cls, low: float, high: float, channels: int) -> "Scaling":
        """Return the scaling of pixels 0…255 to `low`…`high` in every channel."""
        return cls(((high - low) / _WHITE,) * channels, (float(low),) * channels)

    @property
    def uniform(self) -> bool:
        """Whether all channels have the same scaling and keep their order."""
        return not self.bgr and len(set(self.scale)) == len(set(self.offset)) == 1

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value of any channel."""
        values = [
            value
            for scale, offset in zip(self.scale, self.offset, strict=True)
            for value in (offset, round(scale * _WHITE, 12) + offset)
        ]
        return min(values), max(values)

    def apply(self, pixels: Any) -> Any:
        """Return the values of pixels float32 [..., channels] of 0…255, an array or a tensor.

        The order of the operations makes results for 0…1 and 0…255 bit-identical to `pixels / 255` and `pixels`.
        """
        spans = np.array([scale * _WHITE for scale in self.scale], np.float32)
        ordered = pixels[..., ::-1] if self.bgr else pixels
        return ordered * spans / np.float32(_WHITE) + np.array(self.offset, np.float32)


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of one model.

    Images are float32 [N, `height`, `width`, `channels`], with 1 channel (grey) or 3, whose values are pixels scaled
    by `scaling`. `labels` name the scores [N, labels] in order. `outputs` is "probabilities", which sum to 1 over the
    classes, or "independent". Each independent score is the probability of one label; an image has the labels whose
    scores reach `THRESHOLD`. `preparation` is the method, "digit" or "resize". `tflite_batch` is the fixed number of
    images per call of the TFLite files, None for any number.
    """

    model: str
    labels: tuple[str, ...]
    height: int
    width: int
    channels: int
    scaling: Scaling
    preparation: str
    outputs: str = PROBABILITIES_OF_CLASSES
    tflite_batch: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels

    @property
    def low(self) -> float:
        """The lowest value of an image."""
        return self.scaling.ends[0]

    @property
    def high(self) -> float:
        """The highest value of an image."""
        return self.scaling.ends[1]

    def scale(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the model's values, float32, for pixels uint8 [N, H, W, C] (or [N, H, W] for a grey model)."""
        values: NDArray[np.float32] = self.scaling.apply(pixels.astype(np.float32).reshape(-1, *self.shape))
        return values

    def write(self, version: Path) -> None:
        """Write the contract into a version directory."""
        write_json(version / CONTRACT, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return the contents of `contract.json`, with a description of each tensor."""
        image = {"dtype": "float32", "shape": [None, *self.shape]}
        probabilities = {"dtype": "float32", "shape": [None, len(self.labels)]}
        texts, scores = {"dtype": "string", "shape": [None]}, {"dtype": "float32", "shape": [None]}
        return {
            "schema": SCHEMA,
            "model": self.model,
            "labels": list(self.labels),
            "image": {
                **image,
                "layout": "NHWC",
                "channels": _order(self.channels, bgr=self.scaling.bgr),
                "scale": list(self.scaling.scale),
                "offset": list(self.scaling.offset),
            },
            "preparation": self.preparation,
            "outputs": self.outputs,
            "tflite_batch": self.tflite_batch,
            "signatures": {
                DEFAULT_SIGNATURE: {"inputs": {IMAGE: image}, "outputs": {PROBABILITIES: probabilities}},
                SERVING_UINT8: {
                    "inputs": {IMAGE: {**image, "dtype": "uint8"}},
                    "outputs": {PROBABILITIES: probabilities},
                },
                SERVING_BYTES: {
                    "inputs": {"image_bytes": texts},
                    "outputs": {PROBABILITIES: probabilities, "label": texts, "score": scores},
                },
                CLASSIFY: {
                    "inputs": {"inputs": texts},
                    "outputs": {
                        "classes": {"dtype": "string", "shape": [None, len(self.labels)]},
                        "scores": probabilities,
                    },
                },
            },
        }


def digits(model: str) -> Contract:
    """Return the contract of the digit network `model`: MNIST's form, 0.0 paper to 1.0 ink."""
    return Contract(model, CLASSES, FIELD, FIELD, 1, Scaling.of_range(0, 1, 1), preparation="digit")


def read(version: Path) -> Contract:
    """Read the contract of a version directory, or a contract file; ArtifactError if it is missing or damaged."""
    path = version if version.is_file() else version / CONTRACT
    values = read_json(path)
    try:
        if values["schema"] not in _READABLE:
            raise ValueError(f"schema {values['schema']}")
        values = _with_channels(values) if values["schema"] < _CHANNELS else values
        values = {**values, "schema": SCHEMA}
        image = values["image"]
        _, height, width, channels = image["shape"]
        contract = Contract(
            str(values["model"]),
            _texts(values["labels"]),
            height,
            width,
            channels,
            Scaling(_numbers(image["scale"]), _numbers(image["offset"]), image["channels"] == "BGR"),
            values["preparation"],
            values["outputs"],
            values["tflite_batch"],
        )
        if (
            contract.preparation not in _METHODS
            or contract.outputs not in _OUTPUTS
            or not len(contract.scaling.scale) == len(contract.scaling.offset) == channels
            or contract.describe() != values
        ):
            raise ValueError("its parts don't agree")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not an input contract of this version ({error}); export the model again"
        ) from error
    return contract


def is_current(version: Path) -> bool:
    """Return whether a version directory has a contract of the current schema."""
    try:
        read(version)
    except ArtifactError:
        return False
    return bool(read_json(version / CONTRACT)["schema"] == SCHEMA)


def _with_channels(values: dict[str, Any]) -> dict[str, Any]:
    """Convert a description of schema 2, which has one range for all channels, to that of the next one."""
    image = dict(values["image"])
    low, high = map(float, image.pop("range"))
    scaling = Scaling.of_range(low, high, image["shape"][-1])
    image |= {"scale": list(scaling.scale), "offset": list(scaling.offset)}
    return {
        **values,
        "image": image,
        "outputs": PROBABILITIES_OF_CLASSES,
        "tflite_batch": None,
    }


def _order(channels: int, *, bgr: bool) -> str:
    return {1: "grey", 3: "BGR" if bgr else "RGB"}[channels]


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(isinstance(each, int | float) for each in values):
        raise ValueError("scale and offset aren't lists of numbers")
    return tuple(map(float, values))


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise ValueError("labels aren't a list of texts")
    return tuple(values)
