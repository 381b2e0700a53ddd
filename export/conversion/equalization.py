"""Rescale a network, without changing what it computes, so that its int8 forms lose less. Loads TensorFlow.

A batch normalization behind a ReLU is folded by converters into the layer after it, whose weights for each
unit are then divided by that unit's standard deviation. A unit that rarely fires gets weights that are many
times all others', and as int8 has one scale for all weights that lead to an output, nothing is left for these.
Since ReLU(s·x) = s·ReLU(x) for s > 0, the division can be done before: in the weights that lead to the unit,
which have a scale of their own. This is the cross-layer equalization of Nagel et al. 2019 ("Data-Free
Quantization Through Weight Equalization and Bias Correction"), with the statistics that the batch normalization
has collected in the place of weight ranges.
"""

from typing import Any

import keras
import numpy as np

__all__ = ["equalize"]

# What commutes with a positive factor for each channel, and so may stand between.
_PASSED = (
    keras.layers.AveragePooling2D,
    keras.layers.Dropout,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.SpatialDropout2D,
)


def equalize(model: keras.Model) -> list[str]:
    """Move the batch normalizations' scales before the ReLUs, in place; return the names of the layers rescaled."""
    done = []
    layers = list(model._flatten_layers(include_self=False))
    shown = _outputs([model, *layers])
    for layer in layers:
        if type(layer) is not keras.layers.BatchNormalization or not layer.built:
            continue
        if (source := _source(layer, shown)) is not None:
            _move(source, layer)
            done.append(source.name)
    return done


def _outputs(layers: list[Any]) -> set[Any]:
    """Return the operations whose answer leaves a model among these layers, so that others may see it."""
    models = [each for each in layers if isinstance(each, (keras.models.Sequential, keras.models.Model))]
    tensors = [tensor for each in models for tensor in getattr(each, "outputs", None) or []]
    return {tensor._keras_history.operation for tensor in tensors}


def _source(normalization: keras.layers.BatchNormalization, shown: set[Any]) -> Any:
    """Return the layer whose units `normalization` normalizes behind a ReLU and nothing else sees, or None.

    `shown` are the operations that are the outputs of models.
    """
    layer, rectified = normalization, False
    while True:
        # Fed by one layer, which feeds no other: else the factor would reach where nothing divides by it again.
        # By layers and not by nodes: a Sequential model has a node for each time that it was extended.
        before = {parent.operation for node in layer._inbound_nodes for parent in node.parent_nodes}
        if len(before) != 1:
            return None
        (layer,) = before
        if layer in shown or len({node.operation for node in layer._outbound_nodes}) != 1:
            return None
        # Not their subclasses, which may compute anything.
        if type(layer) in (keras.layers.Dense, keras.layers.Conv2D):
            relu = layer.activation is keras.activations.relu
            linear = layer.activation is keras.activations.linear
            plain = _is_plain(layer) and _by_channel(normalization, layer)
            return layer if plain and (relu or (linear and rectified)) else None
        if _is_relu(layer):
            rectified = True
        elif not isinstance(layer, _PASSED):
            return None


def _is_plain(layer: Any) -> bool:
    """Tell whether a layer's weights are `kernel` and `bias` and nothing else, with units in the last axis."""
    changed = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return not changed and getattr(layer, "data_format", None) != "channels_first"


def _by_channel(normalization: Any, layer: Any) -> bool:
    """Tell whether a normalization's axis, counted from its own input, is that of the layer's units."""
    inputs = [node.input_tensors[0] for node in normalization._inbound_nodes]
    last = all(normalization.axis in (-1, len(each.shape) - 1) for each in inputs)
    return bool(last and layer.kernel.shape[-1] == normalization.moving_variance.shape[0])


def _is_relu(layer: Any) -> bool:
    if isinstance(layer, keras.layers.ReLU):
        return layer.max_value is None and not layer.threshold and not layer.negative_slope
    return isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.relu


def _move(source: Any, normalization: keras.layers.BatchNormalization) -> None:
    variance = np.asarray(normalization.moving_variance, np.float64)
    scale = np.sqrt(variance + normalization.epsilon)
    source.kernel.assign(np.asarray(source.kernel, np.float64) / scale)
    if source.bias is not None:
        source.bias.assign(np.asarray(source.bias, np.float64) / scale)
    normalization.moving_mean.assign(np.asarray(normalization.moving_mean, np.float64) / scale)
    # So that its square root, with epsilon, is one.
    normalization.moving_variance.assign(np.full_like(variance, 1 - normalization.epsilon))
