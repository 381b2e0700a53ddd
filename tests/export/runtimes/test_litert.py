"""LiteRT: the names and rows that it takes, and several threads that use it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from serving_fixtures import tflite_times, to_tflite
from tfship.export.conversion.formats import FORMATS
from tfship.export.publishing import verification
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import TensorSpec
from tfship.train.common.errors import ArtifactError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_times(3))
    return path


@pytest.mark.parametrize("at_once", [1, 3])
def test_every_thread_gets_the_answer_to_its_own_batch(file: Path, at_once: int) -> None:
    runtime = LiteRT(file, at_once=at_once)

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(50):
            x = random.random((int(random.integers(1, 5)), 2), np.float32)
            np.testing.assert_array_equal(runtime.run("serving_default", {"x": x})["y"], x * 3)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ask, seed) for seed in range(8)]:
            done.result()
    assert 1 <= len(runtime._idle) <= at_once
    runtime.close()


def test_batches_of_two_sizes_each_find_tensors_of_theirs(file: Path) -> None:
    runtime = LiteRT(file, at_once=2)
    sizes = (1, 4)
    both = threading.Barrier(2)

    def ask(size: int) -> None:
        both.wait()
        for _ in range(200):
            runtime.run("serving_default", {"x": np.ones((size, 2), np.float32)})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ask, sizes))
    # Whether they ever ran at the same time or not: what is asked for last is what is kept for.
    for size in sizes:
        runtime.run("serving_default", {"x": np.ones((size, 2), np.float32)})
    kept = {interpreter.shapes[0][0] for interpreter in runtime._idle}
    assert kept <= set(sizes)
    assert 4 in kept
    runtime.close()


def test_without_xnnpack_its_kernels_are_tflite_s_own_and_the_answers_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kernel = random.standard_normal((3, 3, 1, 4)).astype(np.float32)

    def network(image: Any) -> dict[str, Any]:
        import tensorflow as tf

        return {"y": tf.nn.softmax(tf.nn.relu(tf.nn.conv2d(image, kernel, 2, "SAME")))}

    file = tmp_path / FORMATS["float32"].file
    file.parent.mkdir()
    file.write_bytes(to_tflite(network, image=[None, 8, 8, 1]))
    images = random.random((3, 8, 8, 1), np.float32)
    answers, operators = {}, {}
    for xnnpack in (True, False):
        runtime = LiteRT(file, xnnpack=xnnpack)
        answers[xnnpack] = runtime.run("serving_default", {"image": images})["y"]
        operators[xnnpack] = {each["op_name"] for each in runtime._idle[0].interpreter._get_ops_details()}
        opened = verification.open_tflite(tmp_path, FORMATS["float32"], xnnpack=xnnpack)
        np.testing.assert_array_equal(opened.predict(images), answers[xnnpack])
    assert "DELEGATE" in operators[True]
    assert operators[False] == {"CONV_2D", "SOFTMAX"}
    np.testing.assert_allclose(answers[True], answers[False], atol=1e-6)


def edit(data: bytes) -> Any:
    return flatbuffer_utils.read_model_from_bytearray(bytearray(data))


def packed(model: Any) -> bytes:
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def without_metadata(data: bytes, *, signatures: bool = True) -> bytes:
    """Return a file as TensorFlow's converter writes it, or as old ones did, without signatures."""
    model = edit(data)
    model.metadata = [each for each in model.metadata if each.name != b"signature_defs_metadata"]
    if not signatures:
        model.signatureDefs = None
    return packed(model)


@pytest.mark.parametrize("signatures", [True, False])
def test_without_metadata_tensors_keep_the_names_that_tensorflow_serving_gives_them(
    tmp_path: Path, signatures: bool
) -> None:
    file = tmp_path / "model.tflite"
    whole = to_tflite(lambda a, b: {"sum": a + b, "product": a * b}, a=[None, 2], b=[None, 2])
    file.write_bytes(without_metadata(whole, signatures=signatures))
    runtime = LiteRT(file)
    assert list(runtime.signatures) == ["serving_default"]
    signature = runtime.signatures["serving_default"]
    assert sorted(signature.inputs) == ["serving_default_a", "serving_default_b"]
    assert sorted(signature.outputs) == ["PartitionedCall", "PartitionedCall:1"]
    assert signature.inputs["serving_default_a"] == TensorSpec(
        "serving_default_a:0", 1, (-1, 2), reported_shape=(1, 2)
    )
    a, b = np.full((3, 2), 5, np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    outputs = runtime.run("serving_default", {"serving_default_b": b, "serving_default_a": a})
    found = sorted((each.tolist() for each in outputs.values()), key=lambda rows: rows[0][0])
    assert found == [(a * b).tolist(), (a + b).tolist()]


def test_file_for_one_row_runs_any_number_of_them(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(to_tflite(lambda x, y: {"z": x * y}, x=[1, 2], y=[1, 2]))
    runtime = LiteRT(file)
    signature = runtime.signatures["serving_default"]
    assert {(each.shape, each.reported_shape) for each in signature.inputs.values()} == {((-1, 2), (1, 2))}
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    for rows in (1, 5):
        z = runtime.run("serving_default", {"x": x[:rows], "y": x[:rows]})["z"]
        np.testing.assert_array_equal(z, x[:rows] ** 2)
    for rows in (0, 2):
        with pytest.raises(ValueError, match="same number of rows, at least 1"):
            runtime.run("serving_default", {"x": x[:rows], "y": x[: rows // 2]})


def test_output_without_rows_keeps_the_batch_fixed(tmp_path: Path) -> None:
    import tensorflow as tf

    file = tmp_path / "model.tflite"
    file.write_bytes(to_tflite(lambda x: {"sum": tf.reduce_sum(x)}, x=[1, 2]))
    signature = LiteRT(file).signatures["serving_default"]
    assert signature.inputs["x"].shape == (1, 2)
    assert signature.outputs["sum"].shape == ()


def recurrent() -> bytes:
    """Return a file in which each step's output is its input and half the output of the step before."""
    tensors = {
        "x": [1, 3, 1],
        "kernel": [1, 1],
        "recurrent": [1, 1],
        "bias": [1],
        "state": [1, 1],
        "y": [1, 3, 1],
    }
    constants = {"kernel": 1.0, "recurrent": 0.5, "bias": 0.0}
    kind = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_RNN
    values = [np.array([each], np.float32).view(np.uint8) for each in constants.values()]
    graph = schema.SubGraphT(
        tensors=[
            schema.TensorT(
                name=name,
                shape=shape,
                type=schema.TensorType.FLOAT32,
                buffer=[*constants].index(name) + 1 if name in constants else 0,
                isVariable=name == "state",
            )
            for name, shape in tensors.items()
        ],
        inputs=[0],
        outputs=[5],
        operators=[
            schema.OperatorT(
                inputs=[0, 1, 2, 3, 4],
                outputs=[5],
                builtinOptionsType=schema.BuiltinOptions.SequenceRNNOptions,
                builtinOptions=schema.SequenceRNNOptionsT(),
            )
        ],
    )
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(builtinCode=kind, deprecatedBuiltinCode=kind, version=1)],
        subgraphs=[graph],
        buffers=[schema.BufferT(), *(schema.BufferT(data=each) for each in values)],
    )
    return packed(model)


def test_recurrent_state_ends_with_the_row(tmp_path: Path) -> None:
    """TFLite's fused operators keep it for the next inference, whose answer would be another's."""
    file = tmp_path / "model.tflite"
    file.write_bytes(recurrent())
    runtime = LiteRT(file)
    for rows in (2, 1):
        y = runtime.run("serving_default", {"x": np.ones((rows, 3, 1), np.float32)})["y"]
        assert y[..., 0].tolist() == [[1.0, 1.5, 1.75]] * rows


def test_tensors_that_names_do_not_tell_apart_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    whole = to_tflite(lambda a, b: {"sum": a + b}, a=[None, 2], b=[None, 2])

    def renamed(**names: str) -> None:
        model = edit(without_metadata(whole))
        tensors = model.subgraphs[0].tensors
        for index in model.subgraphs[0].inputs:
            old = tensors[index].name.decode().removeprefix("serving_default_").removesuffix(":0")
            tensors[index].name = names[old]
        file.write_bytes(packed(model))

    renamed(a="same", b="same")
    with pytest.raises(ArtifactError, match="two of its input tensors have the same name same"):
        LiteRT(file)
    renamed(a="a", b="")
    with pytest.raises(ArtifactError, match="one of its input tensors has no name"):
        LiteRT(file)


def test_metadata_and_tensors_must_fit_together(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    whole = to_tflite(lambda a, b: {"sum": a + b}, a=[None, 2], b=[None, 2])

    def changed(old: bytes, new: bytes) -> None:
        model = edit(whole)
        (index,) = (each.buffer for each in model.metadata if each.name == b"signature_defs_metadata")
        content = model.buffers[index].data.tobytes()
        assert old in content
        model.buffers[index].data = np.frombuffer(content.replace(old, new), np.uint8)
        file.write_bytes(packed(model))

    changed(b"serving_default_a:0", b"serving_default_c:0")
    with pytest.raises(ArtifactError, match=r"names tensors \['serving_default_c:0'\]"):
        LiteRT(file)
    changed(b"serving_default_a:0", b"serving_default_b:0")
    with pytest.raises(ArtifactError, match="expected one for each of"):
        LiteRT(file)
    # Converters used to leave the `:0` out, in the file only.
    model = edit(whole)
    for index in (*model.subgraphs[0].inputs, *model.subgraphs[0].outputs):
        tensor = model.subgraphs[0].tensors[index]
        tensor.name = tensor.name.decode().removesuffix(":0")
    file.write_bytes(packed(model))
    ones = np.ones((1, 2), np.float32)
    assert LiteRT(file).run("serving_default", {"a": ones, "b": ones})["sum"].tolist() == [[2, 2]]
