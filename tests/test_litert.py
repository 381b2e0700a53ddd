"""LiteRT as several threads use it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import verify
from export.formats import FORMATS
from export.litert import LiteRT
from serving_fixtures import tflite_times, to_tflite


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
    kept = {interpreter.shapes[1][0] for interpreter in runtime._idle}
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
        (runner,) = runtime._idle[0].runners.values()
        operators[xnnpack] = {each["op_name"] for each in runner._interpreter._get_ops_details()}
        opened = verify.open_tflite(tmp_path, FORMATS["float32"], xnnpack=xnnpack)
        np.testing.assert_array_equal(opened.predict(images), answers[xnnpack])
    assert "DELEGATE" in operators[True]
    assert operators[False] == {"CONV_2D", "SOFTMAX"}
    np.testing.assert_allclose(answers[True], answers[False], atol=1e-6)
