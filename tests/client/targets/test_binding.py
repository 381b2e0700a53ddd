"""The input and output of a signature that the client uses, and the numbers that it sends."""

import pytest

from tfship.client.targets.binding import Binding, by_contract, by_signature
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.export.runtimes.protocol import Quantization, Signature, TensorSpec
from tfship.train.common.errors import UsageError


def test_the_contract_knows_its_own_signatures() -> None:
    rules = input_contract.digits("cnn")
    assert by_contract(rules, "serving_default") == Binding()
    assert by_contract(rules, "serving_uint8") == Binding("image", "probabilities", "uint8")
    assert by_contract(rules, "serving_bytes") == Binding("image_bytes", "probabilities", "string")
    assert by_contract(rules, "mine") is None
    with pytest.raises(UsageError, match="signature classify takes tf.Examples"):
        by_contract(rules, "classify")


def test_signatures_for_examples_are_told_by_their_method() -> None:
    spec = TensorSpec("x", 7, (-1,))
    signature = Signature(
        {"inputs": spec}, {"scores": TensorSpec("y", 1, (-1, 2))}, "tensorflow/serving/classify"
    )
    with pytest.raises(UsageError, match="signature mine takes tf.Examples"):
        by_signature({"mine": signature}, "mine", input_contract.digits("cnn"), "here")


def test_a_uint8_input_takes_pixels_unless_its_quantization_says_otherwise() -> None:
    def bound(scale: float, zero: int, scaling: Scaling, dtype: int = 4) -> str:
        spec = TensorSpec("x", dtype, (-1, 28, 28, len(scaling.scale)), Quantization(scale, zero))
        signature = Signature({"x": spec}, {"y": TensorSpec("y", 4, (-1, 3), Quantization(1 / 256, 0))}, "")
        rules = Contract("m", ("a", "b", "c"), 28, 28, len(scaling.scale), scaling, "resize")
        binding = by_signature({"s": signature}, "s", rules, "here")
        assert (binding.integers, binding.step) == ("", 1 / 256)
        return binding.dtype

    caffe = Scaling((1.0, 1.0, 1.0), (-103.9, -116.8, -123.7), bgr=True)
    assert bound(1 / 255, 0, Scaling.of_range(0, 1, 1)) == "uint8"
    assert bound(2 / 255, 128, Scaling.of_range(-1, 1, 1)) == "uint8"
    assert bound(1.0, 0, Scaling.of_range(0, 1, 1)) == "uint8"
    assert bound(1.0, 0, caffe) == "uint8"
    assert bound(1.07, 115, caffe) == "float32"
    assert bound(2 / 255, 128, Scaling.of_range(0, 1, 1)) == "float32"
    assert bound(1 / 255, -128, Scaling.of_range(0, 1, 1), dtype=6) == "float32"
