"""TFLite files for browsers: one image per call, no free dimensions.

LiteRT.js refuses a file with a free dimension: it compares the shape of an input with the declared one, which is -1
there. The weights and operators are those of the original file. TensorFlow isn't needed here, and never loaded.
"""

from pathlib import Path

from ai_edge_litert.tools import flatbuffer_utils

from tfship.export.conversion import signature_metadata

__all__ = ["fixed_batch"]


def fixed_batch(path: Path) -> bytes:
    """Return the TFLite file `path` for a batch of 1. Raises ConversionError if it has no signature."""
    model = flatbuffer_utils.read_model(str(path))
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            # `shape` has 1 where `shapeSignature` has -1.
            tensor.shapeSignature = None
    # The shapes in TensorFlow Serving's entry change, too.
    return signature_metadata.add(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
