"""The entry of TFLite files from which TensorFlow Serving takes its signatures."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import BufferT, MetadataT, Model
from ai_edge_litert.tools import flatbuffer_utils

from conftest import ROOT
from serving_fixtures import to_tflite
from tfship.export.conversion import formats, signature_metadata
from tfship.export.publishing import store
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import PREDICT, Signature, TensorSpec
from tfship.train.common.errors import ArtifactError, ConversionError

ENTRY = "signature_defs_metadata"
# A file to which the entry was added, and which the real TensorFlow Serving served.
RECORDED = ROOT.parent / "shared" / "cases" / "tflite" / "sigdef" / "1" / "model.tflite"


def entries(data: bytes) -> list[bytes]:
    """Return the contents of all metadata entries of that name."""
    model = Model.GetRootAs(data)
    found = [model.Metadata(index) for index in range(model.MetadataLength())]
    return [
        model.Buffers(each.Buffer()).DataAsNumpy().tobytes()
        for each in found
        if each.Name() == ENTRY.encode()
    ]


def edited(data: bytes, content: bytes | None) -> bytes:
    """Return a file whose entry is `content`, or which has neither the entry nor a signature of its own."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    model.metadata = [each for each in model.metadata if each.name != ENTRY.encode()]
    if content is None:
        model.signatureDefs = None
    else:
        model.metadata.append(MetadataT(name=ENTRY, buffer=len(model.buffers)))
        model.buffers.append(BufferT(data=list(content)))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_entry_describes_the_file_s_own_signature() -> None:
    data = to_tflite(
        lambda image, by: {"probabilities": image * by, "sum": image + by}, image=[None, 2], by=[]
    )
    signature = signature_metadata.read(data)["serving_default"]
    assert signature.inputs == {
        "image": TensorSpec("serving_default_image:0", 1, (-1, 2)),
        "by": TensorSpec("serving_default_by:0", 1, ()),
    }
    assert {key: each.shape for key, each in signature.outputs.items()} == {
        "probabilities": (-1, 2),
        "sum": (-1, 2),
    }
    assert len({each.name for each in signature.outputs.values()}) == 2
    assert signature.method_name == PREDICT
    (entry,) = entries(data)
    assert signature_metadata.add(data) == data  # a second entry would never be read
    own = Interpreter(model_content=data)
    assert own.get_signature_list() == {
        "serving_default": {"inputs": ["by", "image"], "outputs": ["probabilities", "sum"]}
    }
    outputs = own.get_signature_runner()(image=np.ones((1, 2), np.float32), by=np.float32(3))
    assert outputs["sum"].tolist() == [[4, 4]]
    # TensorFlow Serving reads each definition as a C string: up to the first NUL.
    definition = entry[entry.index(b"\n") : entry.index(PREDICT.encode()) + len(PREDICT)]
    assert b"\0" not in definition


@pytest.mark.skipif(not RECORDED.is_file(), reason="no recorded files beside the repository")
def test_entry_is_the_one_that_tensorflow_serving_was_seen_to_take() -> None:
    data = RECORDED.read_bytes()
    assert entries(signature_metadata.add(edited(data, b""))) == entries(data)


def test_only_signatures_of_the_first_subgraph_are_described() -> None:
    """It is the one that TensorFlow Serving runs; a name that isn't in it would keep the file from loading."""
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None, 2], tf.float32, "x")
    module.double = tf.function(lambda x: {"y": 2.0 * x}, input_signature=[spec])
    module.triple = tf.function(lambda x: {"y": 3.0 * x}, input_signature=[spec])
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        tf.saved_model.save(module, folder, signatures={"double": module.double, "triple": module.triple})
        data: bytes = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["double", "triple"]
        ).convert()
    described = signature_metadata.read(signature_metadata.add(data))
    (first,) = (
        each.signatureKey.decode()
        for each in flatbuffer_utils.read_model_from_bytearray(bytearray(data)).signatureDefs
        if each.subgraphIndex == 0
    )
    assert list(described) == [first]


def test_what_cannot_be_described_is_refused() -> None:
    whole = to_tflite(lambda x: {"y": 2 * x}, x=[None, 2])
    with pytest.raises(ConversionError, match="no signature to describe"):
        signature_metadata.add(edited(whole, None))
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(whole))
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shapeSignature = [0, 2]
    with pytest.raises(ConversionError, match="dimension of 0"):
        signature_metadata.add(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))


@pytest.mark.parametrize(
    "change",
    [lambda entry: b"", lambda entry: b"not a FlexBuffer", lambda entry: entry[:-40] + bytes(40)],
    ids=["empty", "another", "overwritten"],
)
def test_damaged_entry_is_named(tmp_path: Path, change: Any) -> None:
    whole = to_tflite(lambda x: {"y": 2 * x}, x=[None, 2])
    file = tmp_path / "model.tflite"
    file.write_bytes(edited(whole, change(entries(whole)[0])))
    with pytest.raises(ValueError, match=rf"{ENTRY} is damaged"):
        signature_metadata.read(file.read_bytes())
    with pytest.raises(ArtifactError, match=rf"model\.tflite: LiteRT can't load it \(.*{ENTRY}"):
        LiteRT(file)


@pytest.mark.parametrize("name", ["nn", "cnn"])
def test_every_exported_file_has_the_entry(models: Path, name: str) -> None:
    version = store.latest(models / name)
    for row in formats.FORMATS.values():
        dtype = 4 if row.edge == "uint8" else 1
        found = signature_metadata.read((version / row.file).read_bytes())
        assert list(found) == ["serving_default"]
        signature = found["serving_default"]
        assert signature == Signature(
            {"image": TensorSpec("serving_default_image:0", dtype, (-1, 28, 28, 1))},
            {"probabilities": TensorSpec(signature.outputs["probabilities"].name, dtype, (-1, 10))},
            PREDICT,
        )
