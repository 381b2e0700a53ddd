"""The metadata entry of a TFLite file from which TensorFlow Serving reads the signatures.

TensorFlow Serving ignores TFLite's signatures. It reads the entry `signature_defs_metadata`: a FlexBuffer map
from a signature's key to a serialized tensorflow.SignatureDef, as TensorFlow's `SetSignatureDefMap` writes it
(tensorflow/lite/tools/signature/signature_def_util). TensorFlow isn't needed here, and never loaded.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from ai_edge_litert.schema_py_generated import BufferT, MetadataT, Model, TensorType
from ai_edge_litert.tools import flatbuffer_utils
from flatbuffers import flexbuffers

from tfship.export import descriptors
from tfship.export.runtimes.protocol import PREDICT, Signature, TensorSpec
from tfship.train.common.errors import ConversionError

__all__ = ["add", "read"]

_ENTRY = "signature_defs_metadata"
_SignatureDef = descriptors.messages("tensorflow/core/protobuf/meta_graph.proto").SignatureDef
# TFLite's tensor types as TensorFlow's DataType numbers (tensorflow/core/framework/types.proto).
_DATA_TYPES = {
    TensorType.FLOAT32: 1, TensorType.FLOAT64: 2, TensorType.INT32: 3, TensorType.UINT8: 4, TensorType.INT16: 5,
    TensorType.INT8: 6, TensorType.STRING: 7, TensorType.COMPLEX64: 8, TensorType.INT64: 9, TensorType.BOOL: 10,
    TensorType.UINT16: 17, TensorType.COMPLEX128: 18, TensorType.FLOAT16: 19, TensorType.UINT32: 22,
    TensorType.UINT64: 23,
}  # fmt: skip


def read(data: bytes) -> dict[str, Signature]:
    """Return the signatures in the entry of the TFLite file `data`, by key; empty if there is no entry.

    The file must be a valid FlatBuffer. Raises ValueError if the entry is damaged.
    """
    model = Model.GetRootAs(data)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == _ENTRY.encode():
            try:
                return dict(_signatures(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()))
            except Exception as error:  # FlexBuffers and protobuf raise many kinds for invalid bytes
                raise ValueError(f"its metadata entry {_ENTRY} is damaged: {error}") from error
    return {}


def add(data: bytes) -> bytes:
    """Return the TFLite file `data` with the entry, made from TFLite's signatures; it replaces an existing entry.

    Only signatures of the first subgraph are described, because TensorFlow Serving runs no other. Raises
    ConversionError if there are none, or if a tensor can't be described.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    found = {each.signatureKey.decode(): each for each in model.signatureDefs or () if not each.subgraphIndex}
    if not found:
        raise ConversionError(
            "the TFLite file has no signature to describe for TensorFlow Serving; expected serving_default"
        )
    builder = flexbuffers.Builder()
    with builder.Map():
        for key in sorted(found):  # FlexBuffers requires sorted keys
            builder.String(key, _Serialized(_definition(found[key], model.subgraphs[0].tensors)))
    content = list(builder.Finish())
    entry = next((each for each in model.metadata or () if each.name == _ENTRY.encode()), None)
    if entry is None:
        entry = MetadataT(name=_ENTRY, buffer=len(model.buffers))
        model.buffers.append(BufferT())
        model.metadata = [*(model.metadata or ()), entry]
    model.buffers[entry.buffer].data = content
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


class _Serialized(bytes):
    """Serialized message that FlexBuffers' builder accepts as a string: it only calls `encode`."""

    def encode(self, _encoding: str) -> bytes:
        return bytes(self)


def _definition(found: Any, tensors: Any) -> bytes:
    """Return the serialized SignatureDef for TFLite's signature `found` (`SignatureDefT`)."""
    definition = _SignatureDef(method_name=PREDICT)
    for maps, infos in ((found.inputs, definition.inputs), (found.outputs, definition.outputs)):
        for each in maps:
            tensor, info = tensors[each.tensorIndex], infos[each.name.decode()]
            if tensor.type not in _DATA_TYPES:
                kind = flatbuffer_utils.type_to_name(tensor.type)
                raise ConversionError(
                    f"the tensor {each.name.decode()} has the type {kind}, which TensorFlow Serving can't serve"
                )
            info.name = tensor.name.decode()
            info.dtype = _DATA_TYPES[tensor.type]
            shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
            for size in () if shape is None else shape:
                info.tensor_shape.dim.add(size=int(size))
    serialized: bytes = definition.SerializeToString(deterministic=True)
    # TensorFlow reads it as a C string. The loop above leaves out a scalar's shape: an empty message has length 0.
    if b"\0" in serialized:
        raise ConversionError("a tensor with a dimension of 0 can't be described for TensorFlow Serving")
    return serialized


def _signatures(content: bytes) -> Iterator[tuple[str, Signature]]:
    entries = flexbuffers.GetRoot(content).AsMap
    for key, value in zip(entries.Keys, entries.Values, strict=True):
        definition = _SignatureDef.FromString(value.AsStringBytes)
        inputs, outputs = (dict(_specs(infos.items())) for infos in (definition.inputs, definition.outputs))
        yield key.AsKey, Signature(inputs, outputs, definition.method_name)


def _specs(infos: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, TensorSpec]]:
    for key, info in infos:
        shape = info.tensor_shape
        sizes = None if shape.unknown_rank else tuple(each.size for each in shape.dim)
        yield key, TensorSpec(info.name, info.dtype, sizes)
