"""Where an inference's time goes, on real files: order, names, who runs what, and the sum."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from conftest import ROOT
from serving_fixtures import to_tflite
from tfship.benchmarks.suite import operator_profile
from tfship.export.conversion.formats import FORMATS
from tfship.export.publishing import store
from tfship.train.common.errors import ArtifactError

RELEASED = [ROOT / "models" / "released" / f"{name}.int8.tflite" for name in ("nn", "cnn")]
# Shapes being computed: XNNPACK has no kernels for any of it.
SHAPES = {"SHAPE", "STRIDED_SLICE", "PACK"}


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, 28, 28, 1), np.float32)


def in_the_file(path: Path) -> list[tuple[str, list[int]]]:
    """Return every operator with its outputs, as LiteRT has them without a delegate."""
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=path.read_bytes(), experimental_op_resolver_type=plain)
    return [(each["op_name"], list(each["outputs"])) for each in interpreter._get_ops_details()]


def delegated_outputs(path: Path) -> set[int]:
    """Return what XNNPACK hands back when it runs the whole file."""
    interpreter = Interpreter(model_content=path.read_bytes())
    interpreter.allocate_tensors()
    nodes = [each for each in interpreter._get_ops_details() if each["op_name"] == "DELEGATE"]
    return {int(output) for each in nodes for output in each["outputs"]}


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.name)
def test_operators_come_in_the_file_s_order_and_add_up_to_the_whole(
    path: Path, image: NDArray[np.float32]
) -> None:
    found = operator_profile.profile(path, image)
    plain = in_the_file(path)
    assert [each.operator for each in found] == [operator for operator, _ in plain]
    assert all(each.us >= 0 for each in found)
    assert sum(each.us for each in found) > 0
    handed_back = delegated_outputs(path)
    for operator, (_, outputs) in zip(found, plain, strict=True):
        assert operator.delegated or not handed_back.intersection(outputs)
    by_xnnpack = {each.operator for each in found if each.delegated}
    assert {"QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"} <= by_xnnpack
    assert not by_xnnpack & {*SHAPES, "SOFTMAX"}


def test_an_operator_takes_what_its_cut_takes_longer(
    image: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def times(interpreters: Sequence[Interpreter], seconds: float) -> NDArray[np.float64]:
        # The third cut seemed to take longer than the fourth, which contains it.
        found = np.arange(1.0, len(interpreters) + 1) * 1e-5
        found[2] = 7e-5
        return found

    monkeypatch.setattr(operator_profile, "_shortest", times)
    found = operator_profile.profile(RELEASED[1], image)
    expected = [10.0] * len(found)
    expected[2:4] = [20.0, 0.0]
    assert [each.us for each in found] == pytest.approx(expected)


def test_layers_have_their_names(image: NDArray[np.float32]) -> None:
    tensors = [each.name for each in operator_profile.profile(RELEASED[1], image, seconds=0)]
    known = ["conv2d_33", "conv2d_34", "dense_21"]
    named = operator_profile.profile(RELEASED[1], image, known=known, seconds=0)
    assert [each.name for each in named if each.name in known] == known
    assert [each.name for each in named if each.name not in known] == [
        tensor for tensor in tensors if not any(f"/{layer}_1/" in tensor for layer in known)
    ]
    described = named[1].describe()
    assert list(described) == ["operator", "name", "us", "delegated"]
    assert (described["operator"], described["name"], described["delegated"]) == (
        "CONV_2D", "conv2d_33", True
    )  # fmt: skip


@pytest.mark.parametrize("format_name", FORMATS)
def test_xnnpack_runs_what_it_has_kernels_for(
    models: Path, format_name: str, image: NDArray[np.float32]
) -> None:
    path = store.latest(models / "cnn") / FORMATS[format_name].file
    found = operator_profile.profile(path, image, seconds=0)
    constants = len(in_the_file(path)) - len(found)
    # The weights, as float16, are made float32 once.
    assert constants == (8 if format_name == "float16" else 0)
    handed_back = delegated_outputs(path)
    for operator, (name, outputs) in zip(found, in_the_file(path)[constants:], strict=True):
        assert operator.operator == name
        assert operator.delegated or not handed_back.intersection(outputs)
    layers = {each.operator: each.delegated for each in found if each.operator not in {*SHAPES, "RESHAPE"}}
    computing = {"CONV_2D", "MAX_POOL_2D", "FULLY_CONNECTED"}
    if FORMATS[format_name].activations == "float32":
        assert layers == dict.fromkeys([*computing, "SOFTMAX"], True)
    elif format_name == "int16x8":
        assert layers == dict.fromkeys([*computing, "QUANTIZE", "SOFTMAX", "DEQUANTIZE"], False)
    else:
        assert all(layers[each] for each in computing)
    (shown,) = {each.delegated for each in found if each.operator in SHAPES}
    assert not shown


def test_branches_are_counted_once(tmp_path: Path) -> None:
    """A cut within one branch keeps what the other has made."""
    random = np.random.default_rng(0)
    kernels = [random.standard_normal((3, 3, 4, 4)).astype(np.float32) for _ in range(3)]

    def network(image: Any) -> dict[str, Any]:
        import tensorflow as tf

        def convolved(x: Any, number: int) -> Any:
            return tf.nn.conv2d(x, kernels[number], 1, "SAME")

        stem = convolved(image, 0)
        return {"y": tf.nn.relu(convolved(stem, 1)) + convolved(stem, 2) * stem}

    path = tmp_path / "branches.tflite"
    path.write_bytes(to_tflite(network, image=[1, 32, 32, 4]))
    found = operator_profile.profile(path, random.random((1, 32, 32, 4), np.float32))
    assert [each.operator for each in found] == [operator for operator, _ in in_the_file(path)]
    assert sorted(each.operator for each in found) == ["ADD", "CONV_2D", "CONV_2D", "CONV_2D", "MUL"]
    assert all(each.delegated for each in found)


def test_what_can_t_be_cut_is_refused(tmp_path: Path, image: NDArray[np.float32]) -> None:
    with pytest.raises(ArtifactError, match="no such TFLite file"):
        operator_profile.profile(tmp_path / "none.tflite", image)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model")
    with pytest.raises(ArtifactError, match="broken.tflite: LiteRT can't load it"):
        operator_profile.profile(broken, image)
    with pytest.raises(ArtifactError, match=r"each of its operators with an image \[1, 9, 9, 3\]"):
        operator_profile.profile(RELEASED[1], np.zeros((1, 9, 9, 3), np.float32))
