"""`python -m tfship.client.images.draw_samples`: draw the sample images, similar to those of users.

The digits are drawn with a pen on light paper, in other sizes than MNIST's, from the points below. They aren't taken
from any data set.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tfship.train.common import cli
from tfship.train.common.files import staged

FOLDER = Path(__file__).parent.parent / "samples"

# The image is drawn this many times larger and then scaled down, for smooth edges.
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Sample:
    """One image: strokes are curves through points (x, y) of the unit square, y downwards."""

    name: str
    size: tuple[int, int]
    paper: tuple[int, int, int]
    ink: tuple[int, int, int]
    pen: float  # width relative to the image's shorter side
    tilt: float  # degrees, anticlockwise
    strokes: tuple[tuple[tuple[float, float], ...], ...]


SAMPLES = (
    Sample(
        "two", (96, 120), (255, 255, 255), (20, 20, 20), 0.09, 3,
        (((0.28, 0.30), (0.38, 0.20), (0.55, 0.18), (0.68, 0.28), (0.66, 0.42), (0.52, 0.58), (0.36, 0.72),
          (0.26, 0.80)), ((0.26, 0.80), (0.45, 0.79), (0.74, 0.80))),
    ),
    Sample(
        "three", (240, 320), (250, 247, 238), (60, 60, 70), 0.07, -4,
        (((0.30, 0.24), (0.42, 0.17), (0.60, 0.19), (0.67, 0.30), (0.58, 0.42), (0.44, 0.47)),
         ((0.44, 0.47), (0.62, 0.50), (0.72, 0.63), (0.64, 0.78), (0.46, 0.83), (0.28, 0.76))),
    ),
    Sample(
        "five", (400, 300), (255, 255, 255), (15, 25, 120), 0.06, 2,
        (((0.62, 0.18), (0.50, 0.18), (0.42, 0.19)), ((0.42, 0.19), (0.41, 0.32), (0.40, 0.44)),
         ((0.40, 0.44), (0.50, 0.41), (0.60, 0.47), (0.63, 0.60), (0.57, 0.74), (0.46, 0.79), (0.37, 0.74))),
    ),
    Sample(
        "seven", (640, 480), (244, 244, 240), (30, 30, 30), 0.05, -2,
        (((0.34, 0.22), (0.48, 0.21), (0.63, 0.22)), ((0.63, 0.22), (0.56, 0.42), (0.50, 0.60), (0.45, 0.82))),
    ),
)  # fmt: skip


def draw(sample: Sample) -> Image.Image:
    """Return the image, RGB, at the sample's size."""
    from scipy.interpolate import make_interp_spline

    width, height = (side * _OVERSAMPLING for side in sample.size)
    shorter = min(width, height)
    image = Image.new("RGB", (width, height), sample.paper)
    pencil = ImageDraw.Draw(image)
    radius = sample.pen * shorter / 2
    for stroke in sample.strokes:
        points = np.array(stroke)
        curve = make_interp_spline(np.arange(len(points)), points, k=min(3, len(points) - 1))
        for x, y in curve(np.linspace(0, len(points) - 1, 400)):
            # Keeps the digit's proportions for any proportions of the image.
            column, row = width / 2 + (x - 0.5) * shorter, height / 2 + (y - 0.5) * shorter
            pencil.ellipse((column - radius, row - radius, column + radius, row + radius), sample.ink)
    image = image.rotate(sample.tilt, Image.Resampling.BICUBIC, fillcolor=sample.paper)
    return image.filter(ImageFilter.GaussianBlur(_OVERSAMPLING / 2)).resize(sample.size, Image.Resampling.BOX)


def main(argv: Sequence[str] | None = None) -> int:
    """Write all sample images and print their paths."""
    parser = cli.parser("python -m tfship.client.images.draw_samples", "Draw the sample images again.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder to write them to")
    folder: Path = parser.parse_args(argv).folder
    for sample in SAMPLES:
        path = folder / f"{sample.name}.png"
        with staged(path) as temporary:
            draw(sample).save(temporary)
        print(path)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
