"""Architectures of the networks, layer by layer. Loads TensorFlow."""

import keras
import numpy as np
from keras import layers

__all__ = ["MODELS", "build", "folded"]

_INPUT = (28, 28, 1)


def _nn(dropout: float) -> list[keras.Layer]:
    """Dense network, 91,860 parameters (91,500 trainable)."""
    return [
        layers.Flatten(),
        layers.Dense(100, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(dropout),
        layers.Dense(80, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(dropout),
        layers.Dense(50, activation="relu"),
        layers.Dense(10, activation="softmax", dtype="float32"),
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
        layers.Dense(10, activation="softmax", dtype="float32"),
    ]


def _cnn_in_training(dropout: float) -> list[keras.Layer]:
    """Convolutional network for training: with batch normalization, which `folded` removes.

    After the pooling it takes a ninth of the time. It has no scale there: dividing by a standard deviation doesn't
    change which value is the largest, so that it may as well be done before the pooling. A negative scale would.
    """
    return [
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(64, 3, use_bias=False),
        layers.MaxPooling2D(3),
        layers.BatchNormalization(scale=False),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(128, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(dropout),
        layers.Dense(10, activation="softmax", dtype="float32"),
    ]


def _teacher(dropout: float) -> list[keras.Layer]:
    """Convolutional network, 226,434 parameters: the teacher of both deployed ones, which is never deployed itself.

    Batch normalization and depth make it more accurate than the deployed networks. Its first layer halves the image,
    which makes it as fast to train as the cnn.
    """

    def convolution(filters: int, size: int = 3, strides: int = 1) -> list[keras.Layer]:
        return [
            layers.Conv2D(filters, size, strides, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]

    return [
        *convolution(24, size=5, strides=2),
        *convolution(48),
        *convolution(64),
        *convolution(96),
        *convolution(128),
        layers.Flatten(),
        layers.Dropout(dropout),
        layers.Dense(10, activation="softmax", dtype="float32"),
    ]


MODELS = {"nn": _nn, "cnn": _cnn, "teacher": _teacher}
_IN_TRAINING = {**MODELS, "cnn": _cnn_in_training}


def build(name: str, dropout: float, policy: str = "float32", *, training: bool = False) -> keras.Sequential:
    """Return an untrained network from float32 [N, 28, 28, 1] in 0…1 to probabilities float32 [N, 10].

    `name` is a key of `MODELS`; `dropout` is the share of activations dropped in training, 0 to 1. `policy` is
    Keras' dtype policy of the layers: with "mixed_bfloat16" all but the last compute in bfloat16. Weights and
    probabilities are float32 under any policy. With `training`, the cnn has batch normalization until it is `folded`.
    """
    architecture = (_IN_TRAINING if training else MODELS)[name]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return keras.Sequential(
            [keras.Input(_INPUT, dtype="float32", name="image"), *architecture(dropout)], name=name
        )
    finally:
        keras.config.set_dtype_policy(before)


def folded(model: keras.Sequential, dropout: float) -> keras.Sequential:
    """Return the deployed network, in float32, of a `model` that was built for training.

    It computes the same: each batch normalization becomes part of the weights of the layer before it, if the
    deployed network has none.
    """
    deployed = build(model.name, dropout)
    if MODELS[model.name] is _IN_TRAINING[model.name]:
        deployed.set_weights(model.get_weights())
        return deployed
    weights: list[np.ndarray] = []
    for layer in model.layers:
        if not isinstance(layer, layers.BatchNormalization):
            weights += layer.get_weights()
            continue
        factor = 1 / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
        if layer.scale:
            factor *= layer.gamma.numpy()
        weights[-1] = weights[-1] * factor
        weights.append(layer.beta.numpy() - layer.moving_mean.numpy() * factor)
    deployed.set_weights(weights)
    return deployed
