"""Properties of a Keras model from its graph of layers: last activation, range of input values, precision.

Works for models of Keras 3 and of Keras 2 (`tf_keras`), whose classes and graphs have the same names.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["activation", "is_stateful", "layer_names", "precision", "value_range"]

# Layers and operations that don't change the kind of a score.
_KEEPS_KIND = {
    "ActivityRegularization",
    "AlphaDropout",
    "Cast",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "Identity",
    "Permute",
    "Reshape",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "Squeeze",
    "Transpose",
}
# Layers and operations that don't change the range of an image's values.
_KEEPS_RANGE = _KEEPS_KIND | {
    "CenterCrop",
    "Concatenate",
    "Cropping2D",
    "ExpandDims",
    "Flip",
    "GetItem",
    "InputLayer",
    "Resizing",
    "SlicingOpLambda",
    "Stack",
    "ZeroPadding2D",
}
# TensorFlow functions in Keras 2 graphs that change neither.
_KEEPS_BOTH = {
    "cast",
    "compat.v1.transpose",
    "identity",
    "image.resize",
    "reshape",
    "squeeze",
    "stack",
    "unstack",
}
# Names of the activations that operations of `keras.ops` compute.
_ACTIVATIONS = {
    "Elu": "elu",
    "Gelu": "gelu",
    "HardSigmoid": "hard_sigmoid",
    "LeakyReLU": "leaky_relu",
    "LeakyRelu": "leaky_relu",
    "LogSigmoid": "log_sigmoid",
    "LogSoftmax": "log_softmax",
    "ReLU": "relu",
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Tanh": "tanh",
}
# Names of arithmetic operators on tensors, in Keras 3 and in Keras 2.
_ARITHMETIC = {
    "Add": "add",
    "Divide": "divide",
    "Multiply": "multiply",
    "Subtract": "subtract",
    "TrueDivide": "divide",
    "__operators__.add": "add",
    "math.add": "add",
    "math.divide": "divide",
    "math.multiply": "multiply",
    "math.subtract": "subtract",
    "math.truediv": "divide",
    "nn.bias_add": "add",
}


def layer_names(model: Any) -> tuple[str, ...]:
    """Return the names of all layers in order, including those of nested models."""
    return tuple(each.name for each in _layers(model) if type(each).__name__ != "InputLayer")


def is_stateful(model: Any) -> bool:
    """Return whether a layer keeps state between batches."""
    return any(getattr(each, "stateful", False) is True for each in _layers(model))


def precision(model: Any) -> str:
    """Return the lowest precision in which a layer computes: int8, bfloat16, float16 or float32."""
    found = {str(getattr(each, "compute_dtype", "")) for each in _layers(model)}
    if any(getattr(each, "quantization_mode", None) for each in _layers(model)):
        found.add("int8")
    # Ordered by significant bits: 7, 8 and 11.
    return next((each for each in ("int8", "bfloat16", "float16") if each in found), "float32")


def activation(model: Any) -> str | None:
    """Return the name of the last activation ("softmax", "linear" …), or None if it isn't known."""
    tensors = _outputs(model)
    while len(tensors) == 1:
        operation, inputs, _ = _producer(tensors[0])
        name = type(operation).__name__
        if inner := _outputs(operation):
            tensors = inner
            continue
        if name == "TimeDistributed":
            operation = operation.layer
            name = type(operation).__name__
        found = _activation(operation, name)
        # A linear activation may follow another one.
        passes = name in _KEEPS_KIND or _function(operation) in _KEEPS_BOTH
        if not passes and not (name == "Activation" and found == "linear"):
            return found
        tensors = inputs
    return None


def value_range(model: Any) -> tuple[float, float] | None:
    """Return the values of pixels 0 and 255 that the scaling in the first layers suggests; None without scaling."""
    scale, offset = 1.0, 0.0
    for operation, node in _first_operations(model):
        step = _affine(operation, node)
        if step is None:
            if _keeps_scale(operation):
                continue
            break
        scale, offset = scale * step[0], offset * step[0] + step[1]
    if (scale, offset) == (1, 0) or scale <= 0:
        return None
    # The input that becomes 0, and the increase that makes it 1: both show the unit of the input.
    zero, one = -offset / scale, 1 / scale
    if max(zero, one) > 2:
        return 0.0, 255.0
    return (0.0, 1.0) if zero >= 0 else (-1.0, 1.0)


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=False))


def _outputs(layer: Any) -> list[Any]:
    """Return the output tensors of a model with a graph of layers, else an empty list."""
    if not hasattr(layer, "layers"):
        return []
    try:
        return list(layer.outputs or [])
    except (AttributeError, ValueError):
        return []


def _producer(tensor: Any) -> tuple[Any, list[Any], Any]:
    """Return the operation that produced `tensor`, its input tensors, and the node of that call."""
    operation, index, _ = tensor._keras_history
    node = operation._inbound_nodes[index]
    inputs = node.input_tensors if hasattr(node, "arguments") else getattr(node, "keras_inputs", [])
    return operation, [] if getattr(node, "is_input", False) else list(inputs), node


def _activation(operation: Any, name: str) -> str | None:
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name]
    if function := _function(operation).rpartition(".")[2]:
        return function if function in _ACTIVATIONS.values() else None
    function_used = getattr(operation, "activation", None)
    if function_used is None:
        return None
    found = getattr(function_used, "__name__", type(function_used).__name__)
    found = re.sub(r"_v\d$", "", found)
    return found if found.isidentifier() else None


def _function(operation: Any) -> str:
    """Return the name of the TensorFlow function that a Keras 2 layer calls, or an empty text."""
    if type(operation).__name__ != "TFOpLambda":
        return ""
    return str(operation.get_config()["function"])


def _first_operations(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each operation on the image with its node, up to the first branch; nested models are entered."""
    outputs = _outputs(model)
    if not outputs:
        return
    users: dict[int, list[tuple[Any, Any]]] = {}
    after: dict[int, list[Any]] = {}
    waiting, seen = list(outputs), set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, inputs, node = _producer(tensor)
        for each in inputs:
            pairs = users.setdefault(id(each), [])
            if all(known is not node for _, known in pairs):
                pairs.append((operation, node))
        after.setdefault(id(node), []).append(tensor)
        waiting += inputs
    tensors = list(model.inputs)
    while tensors:
        found = {
            id(node): (operation, node) for each in tensors for operation, node in users.get(id(each), [])
        }
        # Branches that only reorder channels are allowed.
        if len(found) != 1 and not all(_keeps_scale(operation) for operation, _ in found.values()):
            return
        for operation, node in found.values():
            if _outputs(operation):
                yield from _first_operations(operation)
            else:
                yield operation, node
        tensors = [tensor for node in found for tensor in after[node]]


def _keeps_scale(operation: Any) -> bool:
    name = type(operation).__name__
    return _function(operation) in _KEEPS_BOTH or name in _KEEPS_RANGE or name.startswith("Random")


def _affine(operation: Any, node: Any) -> tuple[float, float] | None:
    """Return scale and offset, averaged over channels, of a layer or operation that only scales, else None."""
    name = type(operation).__name__
    if name == "Rescaling":
        return _mean(operation.scale), _mean(operation.offset)
    if name == "Normalization":
        mean, deviation = _mean(operation.mean), np.sqrt(_mean(operation.variance))
        return (
            (deviation, mean)
            if operation.invert
            else (1 / max(deviation, 1e-7), -mean / max(deviation, 1e-7))
        )
    kind = _ARITHMETIC.get(_function(operation) or name)
    constants = _constants(node)
    if kind is None or len(constants) != 1:
        return None
    value = _mean(constants[0])
    if kind == "divide":
        return (1 / value, 0.0) if value else None
    if kind == "multiply":
        return value, 0.0
    return 1.0, value if kind == "add" else -value


def _constants(node: Any) -> list[Any]:
    """Return the numeric constants among the arguments of an operation's call."""
    if hasattr(node, "arguments"):
        given = [*node.arguments.args, *node.arguments.kwargs.values()]
    else:
        given = [*node.call_args, *node.call_kwargs.values()]
    found = []
    for each in given:
        if isinstance(each, (int, float, list, tuple, np.ndarray)) and not isinstance(each, bool):
            found.append(each)
        elif hasattr(each, "numpy"):
            found.append(each.numpy())
    return found


def _mean(value: Any) -> float:
    return float(np.mean(np.asarray(value, np.float64)))
