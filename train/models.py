"""The two architectures, layer by layer. Importing this loads TensorFlow."""

import keras
from keras import layers

__all__ = ["MODELS", "build"]

_INPUT = (28, 28, 1)


def _nn(dropout: float) -> list[keras.Layer]:
    """Dense network, 91,860 parameters, of which 91,500 are trained."""
    return [
        layers.Flatten(),
        layers.Dense(100, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(dropout),
        layers.Dense(80, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(dropout),
        layers.Dense(50, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]


def _cnn(dropout: float) -> list[keras.Layer]:
    """Convolutional network, 544,522 parameters."""
    return [
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(3),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(dropout),
        layers.Dense(10, activation="softmax"),
    ]


MODELS = {"nn": _nn, "cnn": _cnn}


def build(name: str, dropout: float) -> keras.Sequential:
    """Return an untrained network, float32 [N, 28, 28, 1] in 0…1 to probabilities float32 [N, 10].

    `name` is a key of `MODELS`; `dropout` is the share of activations dropped in training, 0 to 1.
    """
    return keras.Sequential([keras.Input(_INPUT, name="image"), *MODELS[name](dropout)], name=name)
