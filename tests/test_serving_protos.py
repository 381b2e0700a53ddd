"""The protocol messages come without TensorFlow, and get along with it."""

import subprocess
import sys

import pytest

ALONE = """
import sys
import serving.protos, serving.tensors, serving.server, serving.flags
loaded = [name for name in sys.modules if name == "tensorflow" or name.startswith("tensorflow.python")]
assert not loaded, loaded
"""
FIRST = """
import serving.protos
import tensorflow as tf
"""
SECOND = """
import tensorflow as tf
import serving.protos
"""
TOGETHER = """
from tensorflow.core.framework import tensor_pb2
from serving.tensors import from_proto, to_proto
assert serving.protos.tensor_pb2.TensorProto is tensor_pb2.TensorProto
proto = tf.make_tensor_proto([1.0, 2.0])
assert isinstance(proto, serving.protos.tensor_pb2.TensorProto)
assert tf.make_ndarray(to_proto(from_proto(proto))).tolist() == [1.0, 2.0]
assert tf.reduce_sum(tf.constant([1.0, 2.0])).numpy() == 3.0
assert tf.nn.relu and tf.keras.layers.Dense and tf.saved_model.load
"""


@pytest.mark.parametrize(
    "script", [ALONE, FIRST + TOGETHER, SECOND + TOGETHER], ids=["alone", "protos first", "tensorflow first"]
)
def test_import_order(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
