"""The protocol messages come without TensorFlow's packages, are theirs to the byte, and get along with them."""

import importlib.metadata
import os
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2

from tfship.export import derive_descriptors, descriptors
from tfship.serving.protos import messages
from tfship.train.common.tensorflow_loader import WITHOUT_KERAS

ALONE = """
import sys
import tfship.client.targets.grpc
from tfship.serving.server import flags
from tfship.serving.grpc import server as grpc_server
from tfship.serving.protos import messages as protos
from tfship.serving.server import model_server as server
from tfship.serving.protos import tensors
loaded = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "tensorflow_serving")]
assert not loaded, loaded
"""
OURS = """
from tfship.serving.protos import messages as protos
"""
THEIRS = """
import tensorflow as tf
import tensorflow_serving.apis.prediction_log_pb2
"""
TOGETHER = """
import importlib
import numpy as np
from tfship.serving.protos.tensors import from_proto, to_proto
from tensorflow_serving.apis import predict_pb2

ours, theirs = protos.predict_pb2.PredictRequest, predict_pb2.PredictRequest
assert ours is not theirs
request = theirs()
request.model_spec.version.value = 7
request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.5, 2.0]]))
read = ours.FromString(request.SerializeToString())
assert read.model_spec.version.value == 7
assert from_proto(read.inputs["x"]).tolist() == [[1.5, 2.0]]
read.inputs["y"].CopyFrom(to_proto(np.array([b"text"], object)))
back = theirs.FromString(read.SerializeToString())
assert tf.make_ndarray(back.inputs["y"]).tolist() == [b"text"]
assert tf.reduce_sum(tf.constant([1.0, 2.0])).numpy() == 3.0

for name in protos.__all__:
    if name.endswith("_pb2"):
        mine = getattr(protos, name)
        generated = importlib.import_module(mine.DESCRIPTOR.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        for each, value in vars(generated).items():
            if not each.startswith("_") and not hasattr(value, "__path__") and "_dot_" not in each:
                if hasattr(value, "DESCRIPTOR") and hasattr(value.DESCRIPTOR, "full_name"):
                    assert getattr(mine, each).DESCRIPTOR.full_name == value.DESCRIPTOR.full_name, (name, each)
                elif isinstance(value, int):
                    assert getattr(mine, each) == value, (name, each)
        assert generated.DESCRIPTOR.serialized_pb == mine.DESCRIPTOR.serialized_pb, name
"""


@pytest.mark.parametrize(
    "script", [ALONE + THEIRS + TOGETHER, THEIRS + OURS + TOGETHER], ids=["ours first", "theirs first"]
)
def test_import_order(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **WITHOUT_KERAS}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_file_is_what_the_locked_packages_have() -> None:
    """After a change of the lock: `make protos`."""
    kept = descriptor_pb2.FileDescriptorSet.FromString(derive_descriptors.FILE.read_bytes())
    found = {each.name: each for each in derive_descriptors.derived().file}
    assert {each.name: each for each in kept.file} == found
    assert importlib.metadata.version("tensorflow-serving-api") == descriptors.VERSION


def test_every_file_has_what_it_imports_before_it() -> None:
    seen: set[str] = set()
    for file in descriptor_pb2.FileDescriptorSet.FromString(derive_descriptors.FILE.read_bytes()).file:
        assert seen.issuperset(file.dependency), file.name
        seen.add(file.name)


def test_well_known_messages_work_in_the_pool() -> None:
    answer = messages.get_model_metadata_pb2.GetModelMetadataResponse()
    answer.metadata["signature_def"].Pack(messages.get_model_metadata_pb2.SignatureDefMap())
    assert answer.metadata["signature_def"].Is(messages.get_model_metadata_pb2.SignatureDefMap.DESCRIPTOR)
    assert answer.metadata["signature_def"].Unpack(messages.get_model_metadata_pb2.SignatureDefMap())
