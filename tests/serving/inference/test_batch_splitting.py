"""Large batches in parts: the same answers, by one and by several threads, and only where rows are independent."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving_fixtures import TFLITE, tflite_times, tiny_models
from tfship.export.publishing.cards import CARD
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Signature, TensorSpec
from tfship.export.runtimes.saved_model import SavedModel
from tfship.serving.inference.batch_splitting import SplitRuntime
from tfship.serving.inference.execution import DEADLINE
from tfship.serving.models.loader import Loader
from tfship.serving.protos.status import Code, StatusError

ROW = TensorSpec("x:0", 1, (-1, 2))


class Recorder:
    """A runtime that computes y from x by a function and keeps the sizes of its batches."""

    def __init__(
        self, function: Callable[[NDArray[Any]], NDArray[Any]], x: TensorSpec = ROW, y: TensorSpec = ROW
    ) -> None:
        self._function = function
        self.signatures: Mapping[str, Signature] = {"f": Signature({"x": x}, {"y": y}, "predict")}
        self.sizes: list[int] = []
        self.closed = False

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert signature == "f"
        self.sizes.append(len(inputs["x"]))
        return {"y": self._function(inputs["x"])}

    def close(self) -> None:
        self.closed = True

    def large_batches(self) -> list[int]:
        """The sizes but for the three random rows that a first batch is preceded by."""
        assert self.sizes[:3] == [3, 1, 2]
        return self.sizes[3:]


def double(x: NDArray[Any]) -> NDArray[Any]:
    return x * 2


@given(
    rows=st.integers(0, 200), limit=st.integers(1, 50), at_once=st.integers(1, 3), threads=st.integers(1, 4)
)
def test_parts_make_up_the_whole(rows: int, limit: int, at_once: int, threads: int) -> None:
    inner = Recorder(double)
    runtime = SplitRuntime(inner, limit, at_once, threads)
    x = np.random.default_rng(rows).random((rows, 2), np.float32)
    np.testing.assert_array_equal(runtime.run("f", {"x": x})["y"], x * 2)
    sizes = inner.sizes if rows <= limit else inner.large_batches()
    assert sum(sizes) == rows
    assert max(sizes) <= limit
    # Evenly: a small rest would take another set of tensors, and leave a thread idle.
    assert max(sizes) - min(sizes) <= 1
    runtime.close()
    assert inner.closed


@pytest.mark.parametrize(
    ("inner", "x"),
    [
        (Recorder(lambda x: x - x.mean(axis=0)), np.ones((9, 2), np.float32)),
        (Recorder(lambda x: np.cumsum(x, axis=0)), np.zeros((9, 2), np.float32)),
        (Recorder(lambda x: x.sum(axis=0, keepdims=True)), np.zeros((9, 2), np.float32)),
        (Recorder(double, y=TensorSpec("y:0", 1, (9, 2))), np.zeros((9, 2), np.float32)),
        (Recorder(double, y=TensorSpec("y:0", 1, None)), np.zeros((9, 2), np.float32)),
        (Recorder(lambda x: x, TensorSpec("x:0", 7, (-1,))), np.array([b"a"] * 9, object)),
    ],
    ids=["mean", "running sum", "total", "fixed output", "unknown output", "strings"],
)
def test_a_batch_whose_rows_know_each_other_is_left_whole(inner: Recorder, x: NDArray[Any]) -> None:
    # Rows that are all the same wouldn't show it.
    runtime = SplitRuntime(inner, rows=2, threads=2)
    runtime.run("f", {"x": x})
    assert inner.sizes[-1] == 9
    assert inner.sizes.count(9) == 1


def test_rows_are_tried_once() -> None:
    inner = Recorder(double)
    runtime = SplitRuntime(inner, rows=2)
    for _ in range(2):
        runtime.run("f", {"x": np.ones((4, 2), np.float32)})
    assert inner.large_batches() == [2, 2, 2, 2]


def test_a_model_that_refuses_random_rows_is_left_whole() -> None:
    def picky(x: NDArray[Any]) -> NDArray[Any]:
        if (x != 1).any():
            raise ValueError("expected ones")
        return x

    inner = Recorder(picky)
    runtime = SplitRuntime(inner, rows=2)
    runtime.run("f", {"x": np.ones((4, 2), np.float32)})
    assert inner.sizes[-1] == 4
    with pytest.raises(ValueError, match="expected ones"):
        runtime.run("f", {"x": np.zeros((4, 2), np.float32)})


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_any_part_is_the_batch_s(threads: int) -> None:
    def refuse_sevens(x: NDArray[Any]) -> NDArray[Any]:
        if (x == 7).any():
            raise ValueError("a seven")
        return x

    runtime = SplitRuntime(Recorder(refuse_sevens), rows=2, threads=threads)
    for place in (0, 10, 29):
        x = np.ones((30, 2), np.float32)
        x[place] = 7
        with pytest.raises(ValueError, match="a seven"):
            runtime.run("f", {"x": x})
    np.testing.assert_array_equal(runtime.run("f", {"x": x * 0})["y"], x * 0)


def test_idle_cores_help_one_large_batch_and_no_more_run_than_may() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def slow(x: NDArray[Any]) -> NDArray[Any]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return x

    runtime = SplitRuntime(Recorder(slow), rows=1, at_once=1, threads=2)
    x = np.ones((8, 2), np.float32)
    runtime.run("f", {"x": x})
    assert most == [2]
    most[0] = 0
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(runtime.run, "f", {"x": x}) for _ in range(4)]:
            np.testing.assert_array_equal(done.result()["y"], x)
    assert most[0] <= 2


def test_a_batch_whose_deadline_passes_before_its_turn_is_not_run() -> None:
    running, ends = threading.Event(), threading.Event()

    def held(x: NDArray[Any]) -> NDArray[Any]:
        if x[0, 0] == 5:
            running.set()
            ends.wait()
        return x

    inner = Recorder(held)
    runtime = SplitRuntime(inner, rows=2)
    x = np.full((4, 2), 5, np.float32)

    def hurried() -> None:
        DEADLINE.set(time.monotonic() + 0.1)
        with pytest.raises(StatusError) as error:
            runtime.run("f", {"x": x * 0})
        assert error.value.code is Code.DEADLINE_EXCEEDED

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(runtime.run, "f", {"x": x})
        running.wait()
        try:
            pool.submit(hurried).result()
        finally:
            ends.set()
        np.testing.assert_array_equal(first.result()["y"], x)
    assert inner.large_batches() == [2, 2]
    # Whoever gave up is not counted any more.
    np.testing.assert_array_equal(runtime.run("f", {"x": x * 0})["y"], x * 0)


def test_without_a_limit_the_duration_of_a_row_decides() -> None:
    def slow(x: NDArray[Any]) -> NDArray[Any]:
        time.sleep(len(x) * 1e-3)
        return x * 2

    inner = Recorder(slow)
    runtime = SplitRuntime(inner, None, threads=2)
    x = np.random.default_rng(0).random((50, 2), np.float32)
    np.testing.assert_array_equal(runtime.run("f", {"x": x[:16]})["y"], x[:16] * 2)
    assert inner.sizes == [16]
    inner.sizes.clear()
    np.testing.assert_array_equal(runtime.run("f", {"x": x})["y"], x * 2)
    measured, parts = inner.large_batches()[:3], inner.large_batches()[3:]
    assert measured == [16, 16, 16]
    assert (sum(parts), max(parts) <= 4) == (50, True)

    # 17 rows would be split if 16 took more than 3.7 ms, three times.
    quick = Recorder(double)
    np.testing.assert_array_equal(SplitRuntime(quick, None).run("f", {"x": x[:17]})["y"], x[:17] * 2)
    assert quick.large_batches() == [16, 16, 16, 17]


def test_only_exported_saved_models_are_split(tmp_path: Path) -> None:
    version = tmp_path / "1"
    shutil.copytree(tiny_models() / "double" / "1", version)
    loader = Loader(saved_model_only=True)
    with contextlib.closing(loader.load(version).runtime) as runtime:
        assert isinstance(runtime, SavedModel)
    (version / CARD).write_text("{}")
    with contextlib.closing(loader.load(version).runtime) as runtime:
        assert isinstance(runtime, SplitRuntime)
        x = np.random.default_rng(0).random((100, 2), np.float32)
        np.testing.assert_array_equal(runtime.run("serving_default", {"x": x})["y"], x * 2)


def test_litert_knows_what_a_row_takes_and_splits_to_the_same_answer(tmp_path: Path) -> None:
    file = tmp_path / "1" / "model.tflite"
    file.parent.mkdir()
    file.write_bytes(tflite_times(3))
    litert = LiteRT(file)
    assert litert.row_bytes == 8
    x = np.random.default_rng(0).random((1001, 2), np.float32)
    split = SplitRuntime(litert, rows=10, threads=2)
    np.testing.assert_array_equal(split.run("serving_default", {"x": x})["y"], x * 3)
    assert {interpreter.shapes[0][0] for interpreter in litert._idle} <= {9, 10}
    split.close()
    loaded = TFLITE.load(file.parent)
    assert isinstance(loaded.runtime, SplitRuntime)
    loaded.runtime.close()
