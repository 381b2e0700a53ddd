"""The input contract: what a model takes and answers, and how an image becomes its input; `<N>/contract.json`.

The graph of the signature `serving_bytes` (`export.preprocessing.graph`), the client (`client.images.preprocessing`)
and the calibration all follow it. An image first becomes 8-bit pixels uint8 [height, width, channels]. The method
`scale` turns pixels into the model's values.

An image is decoded, laid on paper where it is transparent, and turned upright by its EXIF orientation. Paper is white.
It is black if the image's ink would vanish on white: if no pixel on white is darker than white by `FAINTEST` or more.
Then one of two methods follows:

`resize`: stretched to height × width, each channel separately. Grey models get ITU-R 601 luma.

`digit`: brought into the form of MNIST's images (LeCun et al., "The MNIST database of handwritten digits"): bright ink
on black, the digit's longer side 20 of 28 pixels, its centre of mass in the middle. An image that has the model's size,
black paper and ink of MNIST's extent passes unchanged. All others:

1. Grey (ITU-R 601 luma), reduced by the whole number that brings the longer side to at most `WORKING` pixels, but by
   at most `REDUCTION`, which leaves a small digit on a large page visible. Each block becomes its mean; what is left
   over at the right and below is cut off. An image that isn't reduced gets a 3×3 median, if both sides have at least
   `SPECKLED` pixels.
2. Steps 3 and 4 are done for dark ink and, on the negative, for light ink. The digit that stands out more is taken.
3. Contrast: the closing (Serra, "Image Analysis and Mathematical Morphology", 1982) by a square, less the image. The
   square's side is the share `WINDOW` of the shorter side, `WIDEST` at most. The closing fills what is narrower and
   darker than the square, and leaves shadows and their edges as they are. Ink is where the contrast is at least
   `FAINTEST` and above the share `LOCAL` of the strongest contrast in the square around.
4. Components of the ink, on cells of `CELL` pixels. Those that touch the border (a table, a margin's line) are left
   out if there are others that aren't specks. The digit is the largest that is darker by `FAINTEST`, on average, than
   its closing and than the median of the cells around it. Parts that lie near and aren't much smaller belong to it.
5. A digit that is small on a reduced image is looked at again: the box around it, wider by `MARGIN` of its longer side
   on each side, is cut from the original if it then needs less reduction, and steps 1 to 4 are done on that. If nothing
   is found there, the first result stands.
6. The strokes: the contrast as a share of the strongest two cells around, so that ink in a shadow counts like other
   ink, from `PALE` (0) to `FULL` (255), within the digit and a pixel around it. A digit without any counts as not found
   in steps 4 and 5. Strokes thinner than the share `STROKE`
   of the digit's longer side, such as a ballpoint's, are thickened to it; their width is estimated from the ink's area
   and the length of its outline. The bounding box is scaled to `BOX` of `FIELD` of the model's size, keeping its
   proportions (Lanczos, three lobes), and placed by its centre of mass.
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
    "BATCHING", "BOX", "CANDIDATES", "CELL", "CLASSIFY", "CONTRACT", "EXAMPLE_FEATURE", "FAINTEST", "FIELD",
    "FULL", "INDEPENDENT", "LOCAL", "MARGIN", "MOST_PIXELS", "MOST_SIDE", "NEAR", "PALE", "PART",
    "PROBABILITIES_OF_CLASSES", "REDUCTION", "SCHEMA", "SERVING_BYTES", "SERVING_UINT8", "SLACK", "SPECK", "SPECKLED",
    "STROKE", "THRESHOLD", "WARMUP", "WIDEST", "WINDOW", "WORKING", "Contract", "Scaling", "digits", "is_current",
    "read",
]  # fmt: skip

CONTRACT = "contract.json"
# The requests that a server runs before a version counts as available, by TensorFlow Serving's name.
WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
# How a server batches the requests to this version; whoever runs the server may add it.
BATCHING = "batching_params.pbtxt"

SERVING_UINT8 = "serving_uint8"
SERVING_BYTES = "serving_bytes"
CLASSIFY = "classify"
# The feature of a tf.Example that holds an encoded picture, by TensorFlow's own convention.
EXAMPLE_FEATURE = "image/encoded"

# The digit's longer side and the field it is placed in, of MNIST's images.
BOX, FIELD = 20, 28
# A digit in a picture of the model's size may be this much larger or smaller than BOX and pass unchanged.
SLACK = 2
# The longer side of a reduced image in pixels: texture and noise are gone, and a pen's stroke is still visible.
WORKING = 160
# The largest reduction: a digit of 30 pixels, as on a page at 300 dpi, keeps four.
REDUCTION = 8
# Share of the shorter side: wider than a stroke of a digit that fills the image, narrower than a page that fills it.
WINDOW = 0.4
# The widest window in pixels, for images that are large in spite of the largest reduction.
WIDEST = 127
# Share of the strongest contrast around that ink has at least: more than the grey of an anti-aliased edge.
LOCAL = 0.4
PALE, FULL = 0.25, 0.75
# Of the digit's longer side: MNIST's pens, of which a network knows no thinner.
STROKE = 0.1
# From this size on, single pixels are no strokes but dirt or dithering, and would be taken for the digit's ends.
SPECKLED = 64
CELL = 4
# Contrasts below this (of 255) are an empty page.
FAINTEST = 24
# The number of components, the largest first, that are compared with their surroundings.
CANDIDATES = 4
# Of the area of what touches the border: smaller, the rest is specks.
SPECK = 1 / 200
# A part of the digit, such as the bar of a 5, has this share of its area, at a distance of this share of its size.
PART, NEAR = 0.04, 0.35
# Room around a digit that is looked at again, as a share of its longer side.
MARGIN = 1.0
# So many pixels are decoded in some seconds and 300 MB, and brought to another size in as much.
MOST_PIXELS, MOST_SIDE = 50_000_000, 32_767

# 3: scale and offset for each channel, their order, and what the outputs mean; `digit` looks at small digits again,
# and ink that would vanish on white gets black paper. 2: one range of values.
SCHEMA = 3
# A contract of 1 may have a preparation by `digit` that this one no longer does.
_READABLE = (2, SCHEMA)
_METHODS = ("digit", "resize")
PROBABILITIES_OF_CLASSES, INDEPENDENT = "probabilities", "independent"
_OUTPUTS = (PROBABILITIES_OF_CLASSES, INDEPENDENT)
# Independent scores from this one on mean that the image has the label.
THRESHOLD = 0.5
_WHITE = 255


@dataclass(frozen=True)
class Scaling:
    """The values that pixels become: `pixel × scale + offset` for each channel.

    `scale` and `offset` hold one number for each of the model's channels, in the model's order: RGB, or BGR where
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
        """Whether all channels are scaled alike and stay in their order."""
        return not self.bgr and len(set(self.scale)) == len(set(self.offset)) == 1

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value that any channel takes."""
        values = [
            value
            for scale, offset in zip(self.scale, self.offset, strict=True)
            for value in (offset, round(scale * _WHITE, 12) + offset)
        ]
        return min(values), max(values)

    def apply(self, pixels: Any) -> Any:
        """Return pixels float32 [..., channels] of 0…255, an array or a tensor, as values.

        The order of the operations gives 0…1 and 0…255 to the bit as `pixels / 255` does.
        """
        spans = np.array([scale * _WHITE for scale in self.scale], np.float32)
        ordered = pixels[..., ::-1] if self.bgr else pixels
        return ordered * spans / np.float32(_WHITE) + np.array(self.offset, np.float32)


@dataclass(frozen=True)
class Contract:
    """What one model takes and answers.

    An image is float32 [N, `height`, `width`, `channels`], channels 1 (grey) or 3, each value made of a pixel by
    `scaling`. `labels` name the scores [N, labels] in their order. `outputs` is "probabilities", which sum to 1
    over the classes, or "independent": each score is the probability of its own label, and an image has the labels
    whose scores reach `THRESHOLD`. `preparation` is the method, "digit" or "resize". `tflite_batch` is the number
    of images that the TFLite files take at a time, None for any.
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
        """Return pixels uint8 [N, H, W, C] (or, of a grey model, [N, H, W]) as the model's values, float32."""
        values: NDArray[np.float32] = self.scaling.apply(pixels.astype(np.float32).reshape(-1, *self.shape))
        return values

    def write(self, version: Path) -> None:
        """Write the contract into a version directory."""
        write_json(version / CONTRACT, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return the contract as it is written: for people and other programs, tensor by tensor."""
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
    """Return the contract of the digit networks: MNIST's form, 0.0 paper to 1.0 ink."""
    return Contract(model, CLASSES, FIELD, FIELD, 1, Scaling.of_range(0, 1, 1), preparation="digit")


def read(version: Path) -> Contract:
    """Read the contract of a version directory, or a file; ArtifactError if there is none or it is damaged."""
    path = version if version.is_file() else version / CONTRACT
    values = read_json(path)
    try:
        if values["schema"] not in _READABLE:
            raise ValueError(f"schema {values['schema']}")
        values = _upgraded(values) if values["schema"] < SCHEMA else values
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
    """Tell whether a version directory has a contract of today's schema."""
    try:
        read(version)
    except ArtifactError:
        return False
    return bool(read_json(version / CONTRACT)["schema"] == SCHEMA)


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Return a description of schema 2, which has one range for all channels, as one of today's."""
    image = dict(values["image"])
    low, high = map(float, image.pop("range"))
    scaling = Scaling.of_range(low, high, image["shape"][-1])
    image |= {"scale": list(scaling.scale), "offset": list(scaling.offset)}
    return {
        **values,
        "schema": SCHEMA,
        "image": image,
        "outputs": PROBABILITIES_OF_CLASSES,
        "tflite_batch": None,
    }


def _order(channels: int, *, bgr: bool) -> str:
    return {1: "grey", 3: "BGR" if bgr else "RGB"}[channels]


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(isinstance(each, int | float) for each in values):
        raise ValueError("scale and offset are no lists of numbers")
    return tuple(map(float, values))


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise ValueError("labels are no list of texts")
    return tuple(values)
