"""Images of three classes, cut out of photographs that packages ship."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = ["portrait", "temple", "flower"]
SIZE = 32


def photos() -> list[NDArray[np.uint8]]:
    """Real photographs that come with matplotlib and scikit-learn, one for each class."""
    import matplotlib
    import sklearn.datasets

    pictures = Path(sklearn.datasets.__file__).parent / "images"
    paths = [
        Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"),
        pictures / "china.jpg",
        pictures / "flower.jpg",
    ]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def patches(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cut squares out of the photographs, some 100 pixels wide, and scale them down: [N, 32, 32, 3] and classes."""
    generator = np.random.default_rng(seed)
    images, classes = [], generator.integers(0, len(NAMES), count)
    pictures = photos()
    for number in classes:
        picture = pictures[number]
        top, left = (int(generator.integers(0, side - 120)) for side in picture.shape[:2])
        square = Image.fromarray(picture[top : top + 120, left : left + 120])
        images.append(np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    return np.stack(images), classes
