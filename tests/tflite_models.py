"""Small Keras models and the TFLite files made of them."""

from pathlib import Path
from typing import Any

import numpy as np

from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.export.runtimes.isolation import Isolation
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier


class Model:
    """Keras layers as a function of images float32, and how its files are made."""

    def __init__(self, folder: Path, layers: list[Any], scaling: Scaling, batch: int | None = None) -> None:
        import keras

        from tfship.export.conversion.converter import TFLite

        self.keras = keras.Sequential(layers)
        height, width, channels = self.keras.input_shape[1:]
        labels = tuple(map(str, range(self.keras.output_shape[-1])))
        self.contract = Contract("model", labels, height, width, channels, scaling, "resize")
        self.pixels = np.random.default_rng(0).integers(0, 256, (20, height, width, channels), np.uint8)
        self.pixels[0, 0, 0], self.pixels[0, -1, -1] = 0, 255
        np.save(folder / "calibration.npy", self.pixels)
        self.folder, self.log = folder, folder / "log"
        self.tflite = TFLite(
            lambda images: self.keras(images, training=False),
            [variable.value for variable in self.keras.variables],
            self.contract,
            folder / "calibration.npy",
            folder,
            Isolation(self.log),
            batch,
        )

    def write(self, name: str) -> Path:
        path = self.folder / f"{name}.tflite"
        self.calibrated = self.tflite.write(FORMATS[name], path)
        return path

    def largest_difference(self, path: Path) -> float:
        """Return how far the file's probabilities are from Keras' on the same images, asked one by one."""
        target = Classifier(LiteRT(path), str(path))
        values = self.contract.scale(self.pixels)
        images = self.pixels if target.takes_pixels else values
        found = np.concatenate([target.predict(image[np.newaxis]) for image in images])
        return float(np.abs(found - self.keras.predict(values, verbose=0)).max())


def small(*layers: Any, channels: int = 3) -> list[Any]:
    import keras

    return [
        keras.Input((8, 8, channels)),
        *layers,
        keras.layers.Flatten(),
        keras.layers.Dense(4, "softmax"),
    ]
