"""Cross-layer equalization: rescales a network, without changing its outputs, to lose less in int8. Loads TensorFlow.

Converters fold a batch normalization behind a ReLU into the layer after it: they divide the layer's weights for each
unit by that unit's standard deviation. A unit that rarely fires then has weights many times larger than the others.
int8 has one scale for all weights of an output, so the other weights lose their precision.
ReLU(s·x) = s·ReLU(x) for s > 0, so the division can move to the weights that lead to the unit, which have a separate
scale. The method is that of Nagel et al. 2019 ("Data-Free Quantization Through Weight Equalization and Bias
Correction"), with batch normalization statistics in place of weight ranges.
"""

from typing import Any

import keras
import numpy as np

__all__ = ["equalize"]

# Layers that commute with a positive factor per channel, so that they may lie between.
_PASSED = (
    keras.layers.AveragePooling2D,
    keras.layers.Dropout,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.SpatialDropout2D,
)


def equalize(model: keras.Model) -> list[str]:
    """Move batch normalization scales of `model` before the ReLUs, in place; return the rescaled layers' names."""
    done = []
    layers = list(model._flatten_layers(include_self=False))
    exposed = _outputs([model, *layers])
    for layer in layers:
        if type(layer) is not keras.layers.BatchNormalization or not layer.built:
            continue
        if (source := _source(layer, exposed)) is not None:
            _move(source, layer)
            done.append(source.name)
    return done


def _outputs(layers: list[Any]) -> set[Any]:
    """Return the operations that produce an output of a model among `layers`, so that other code may use it."""
    models = [each for each in layers if isinstance(each, (keras.models.Sequential, keras.models.Model))]
    tensors = [tensor for each in models for tensor in getattr(each, "outputs", None) or []]
    return {tensor._keras_history.operation for tensor in tensors}


def _source(normalization: keras.layers.BatchNormalization, exposed: set[Any]) -> Any:
    """Return the layer whose units only `normalization` uses, behind a ReLU, or None.

    `exposed` are the operations that produce outputs of models.
    """
    layer, rectified = normalization, False
    while True:
        # The input must come from one layer, which feeds no other: the factor must not reach another consumer.
        # Layers are counted, not nodes: a Sequential model has one node for each time that it was extended.
        before = {parent.operation for node in layer._inbound_nodes for parent in node.parent_nodes}
        if len(before) != 1:
            return None
        (layer,) = before
        if layer in exposed or len({node.operation for node in layer._outbound_nodes}) != 1:
            return None
        # Subclasses are excluded: they may compute anything.
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
    """Return whether a layer's only weights are `kernel` and `bias`, with units in the last axis."""
    changed = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return not changed and getattr(layer, "data_format", None) != "channels_first"


def _by_channel(normalization: Any, layer: Any) -> bool:
    """Return whether the axis of `normalization` is the axis of the units of `layer`."""
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
    # sqrt(variance + epsilon) is then 1.
    normalization.moving_variance.assign(np.full_like(variance, 1 - normalization.epsilon))
