"""Requests that are run together: each caller gets its own rows, and its own errors."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving_fixtures import NEVER, POOL, at_once, pool_threads, tflite_times, tiny_models
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Runtime, Signature, TensorSpec
from tfship.export.runtimes.saved_model import SavedModel
from tfship.serving.inference import batching
from tfship.serving.inference.batching import BatchedRuntime, BatchRun
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import DEADLINE, Tensors
from tfship.serving.inference.scheduler import BatchScheduler
from tfship.serving.protos.messages import example_pb2
from tfship.serving.protos.status import Code, StatusError

FLOAT, STRING = 1, 7  # TensorFlow's DataType numbers


class Double:
    """A runtime in numpy: `y` is twice `x`, `texts` are copied; `most` is what it takes at a time."""

    def __init__(self, shape: tuple[int, ...] | None = (-1, -1), most: int = 10**6) -> None:
        self.signatures: Mapping[str, Signature] = {
            "double": Signature(
                {"x": TensorSpec("x:0", FLOAT, shape)}, {"y": TensorSpec("y:0", FLOAT, shape)}, "m"
            ),
            "texts": Signature(
                {"s": TensorSpec("s:0", STRING, (-1,)), "x": TensorSpec("x:0", FLOAT, (-1, 3))},
                {"s": TensorSpec("t:0", STRING, (-1,)), "y": TensorSpec("y:0", FLOAT, (-1, 3))},
                "m",
            ),
        }
        self.most = most
        self.shapes: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        assert not self.closed
        self.shapes.append(inputs["x"].shape)
        if len(inputs["x"]) > self.most:
            raise ValueError(f"{len(inputs['x'])} rows are too many")
        outputs = {"y": inputs["x"] * 2}
        return outputs | {"s": inputs["s"]} if "s" in inputs else outputs

    def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def batched(runtime: Runtime, **parameters: Any) -> Iterator[tuple[BatchedRuntime, list[BatchRun]]]:
    """Yield the runtime, batched, and what is told of its runs."""
    found = replace(BatchingParameters(thread_pool_name=POOL, num_batch_threads=2), **parameters)
    runs: list[BatchRun] = []
    made = BatchedRuntime(
        runtime, found, BatchScheduler(found.thread_pool_name, found.num_batch_threads), runs.append
    )
    try:
        yield made, runs
    finally:
        made.close()
        assert not pool_threads()


def doubled(runtime: BatchedRuntime, *tensors: NDArray[Any]) -> list[Any]:
    return at_once(lambda x: runtime.run("double", {"x": x})["y"], tensors)


def numbered(*shape: int, first: int = 0) -> NDArray[np.float32]:
    return (np.arange(np.prod(shape)).reshape(shape) + first).astype(np.float32)


def test_requests_are_merged_and_padded_and_their_answers_taken_apart() -> None:
    inner = Double()
    with batched(inner, max_batch_size=8, allowed_batch_sizes=(4, 8), batch_timeout_micros=NEVER) as (
        made,
        runs,
    ):
        tensors = [numbered(3, 2), numbered(1, 2, first=100), numbered(4, 2, first=200)]
        for tensor, answer in zip(tensors, doubled(made, *tensors), strict=True):
            np.testing.assert_array_equal(answer, tensor * 2)
        assert [(each.rows, each.padding, len(each.queued_seconds)) for each in runs] == [(8, 0, 3)]
    with batched(inner := Double(), max_batch_size=8, allowed_batch_sizes=(4, 8)) as (made, runs):
        assert made.run("double", {"x": numbered(3, 2)})["y"].shape == (3, 2)
        assert inner.shapes == [(4, 2)]
        assert [(each.thread_pool_name, each.rows, each.padding) for each in runs] == [(POOL, 3, 1)]
        assert 0 <= runs[0].queued_seconds[0] < 60


def test_the_padding_repeats_the_last_request() -> None:
    first, last = {"x": numbered(2, 2)}, {"x": numbered(2, 2, first=10)}
    expected = [[0, 1], [2, 3], [10, 11], [12, 13], [10, 11], [10, 11]]
    assert batching._merged([first, last], 2)["x"].tolist() == expected
    texts = np.array([b"a\0", b""], object)
    assert batching._merged([{"s": texts}], 1)["s"].tolist() == [b"a\0", b"", b"a\0"]


def test_strings_stay_as_they_are() -> None:
    texts = [np.array([b"\0", b"a\0\0"], object), np.array([b""], object)]
    with batched(Double(), max_batch_size=3, batch_timeout_micros=NEVER) as (made, _):
        answers = at_once(lambda s: made.run("texts", {"s": s, "x": numbered(len(s), 3)}), texts)
        assert [answer["s"].tolist() for answer in answers] == [[b"\0", b"a\0\0"], [b""]]


@pytest.mark.parametrize("pad", [False, True])
def test_other_shapes_are_batches_of_their_own_or_padded(pad: bool) -> None:
    narrow, wide = numbered(1, 2), numbered(2, 3, first=10)
    parameters = {"max_batch_size": 3, "batch_timeout_micros": NEVER if pad else 1000}
    with batched(inner := Double(), pad_variable_length_inputs=pad, **parameters) as (made, _):
        answers = doubled(made, narrow, wide)
        if not pad:
            np.testing.assert_array_equal(answers[0], narrow * 2)
            assert sorted(inner.shapes) == [(1, 2), (2, 3)]
        else:
            # As there, what the padding makes of an answer stays in it.
            assert answers[0].tolist() == [[0, 2, 0]]
            assert inner.shapes == [(3, 3)]
        np.testing.assert_array_equal(answers[1], wide * 2)


def test_only_free_dimensions_are_padded() -> None:
    parameters = {"max_batch_size": 2, "batch_timeout_micros": 1000, "pad_variable_length_inputs": True}
    for shape, runs in (((-1, 2), [(1, 2), (1, 3)]), (None, [(2, 3)]), ((-1, -1, -1), [(1, 2), (1, 3)])):
        with batched(inner := Double(shape), **(parameters | {"batch_timeout_micros": 50_000})) as (made, _):
            doubled(made, numbered(1, 2), numbered(1, 3))
            assert sorted(inner.shapes) == runs
    # Nothing could fill the first one up.
    with batched(inner := Double(), **parameters) as (made, _):
        assert [answer.shape for answer in doubled(made, numbered(1, 0), numbered(1, 3))] == [(1, 0), (1, 3)]


def test_a_request_that_fails_fails_alone() -> None:
    with batched(inner := Double(most=1), max_batch_size=4, batch_timeout_micros=NEVER) as (made, runs):
        good, bad, other = doubled(made, numbered(1, 2), numbered(2, 2), numbered(1, 2, first=7))
        assert good.tolist() == [[0, 2]]
        assert other.tolist() == [[14, 16]]
        assert (type(bad), str(bad)) == (ValueError, "2 rows are too many")
        assert sorted(inner.shapes) == [(1, 2), (1, 2), (2, 2), (4, 2)]
        assert [len(each.queued_seconds) for each in runs] == [3, 0, 0, 0]


def test_a_bad_example_fails_alone() -> None:
    """In TensorFlow, whose error's code is kept."""
    right = example_pb2.Example()
    right.features.feature["x"].float_list.value.append(1.0)
    good = np.array([right.SerializeToString()], object)
    bad = np.array([b"no example"], object)
    model = SavedModel(tiny_models() / "examples" / "1")
    with batched(model, max_batch_size=3, batch_timeout_micros=NEVER) as (made, _):
        calls = (good, bad, good)
        first, error, last = at_once(lambda s: made.run("regress", {"inputs": s}), calls)
    assert first["outputs"].tolist() == last["outputs"].tolist() == [[2.5]]
    assert isinstance(error, ValueError)
    assert "Could not parse example input" in str(error)
    assert Code.of(error, Code.UNKNOWN) is Code.INVALID_ARGUMENT


def test_a_request_whose_deadline_passed_is_not_run() -> None:
    with batched(inner := Double(), batch_timeout_micros=NEVER) as (made, _):
        token = DEADLINE.set(time.monotonic() + 0.02)
        try:
            with pytest.raises(StatusError) as late:
                made.run("double", {"x": numbered(1, 2)})
        finally:
            DEADLINE.reset(token)
        assert late.value.code is Code.DEADLINE_EXCEEDED
    assert inner.shapes == []


def test_what_can_not_be_batched_is_run_as_it_comes() -> None:
    with batched(inner := Double((2, 2)), max_batch_size=1, batch_timeout_micros=NEVER) as (made, runs):
        made.run("double", {"x": numbered(2, 2)})
        assert (inner.shapes, runs) == ([(2, 2)], [])
    # An empty batch has nothing to share.
    with batched(Double(), max_batch_size=4, allowed_batch_sizes=(4,), batch_timeout_micros=NEVER) as (
        made,
        runs,
    ):
        assert made.run("double", {"x": numbered(0, 2)})["y"].shape == (0, 2)
        assert runs == []


@st.composite
def workloads(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[int, int, float]]]:
    """Parameters, and requests: rows, columns, and after how many seconds they are sent."""
    split = draw(st.booleans())
    most = draw(st.integers(1, 8))
    execution = draw(st.integers(1, most))
    largest = execution if split else most
    parameters = {
        "max_batch_size": most,
        "batch_timeout_micros": draw(st.sampled_from([0, 100, 2000])),
        "max_enqueued_batches": 1000,
        "num_batch_threads": draw(st.integers(1, 3)),
        "allowed_batch_sizes": draw(st.sampled_from([(), tuple(sorted({largest, most}))])),
        "pad_variable_length_inputs": draw(st.booleans()),
        "enable_large_batch_splitting": split,
        "max_execution_batch_size": execution,
    }
    requests = st.tuples(st.integers(0, most), st.integers(1, 3), st.sampled_from([0.0, 0.0005, 0.002]))
    return parameters, draw(st.lists(requests, min_size=1, max_size=12))


@settings(max_examples=60)
@given(workload=workloads())
@example(workload=({"max_batch_size": 1}, [(1, 1, 0.0)] * 12))
# The pieces of the second request are padded to different lengths.
@example(
    workload=(
        {
            "max_batch_size": 4,
            "batch_timeout_micros": 20_000,
            "pad_variable_length_inputs": True,
            "enable_large_batch_splitting": True,
            "max_execution_batch_size": 2,
        },
        [(1, 3, 0.0), (3, 1, 0.005)],
    )
)
def test_every_caller_gets_exactly_its_own_rows(
    workload: tuple[dict[str, Any], list[tuple[int, int, float]]],
) -> None:
    parameters, requests = workload
    tensors = [numbered(rows, columns, first=1000 * n) for n, (rows, columns, _) in enumerate(requests)]

    def send(n: int) -> Any:
        time.sleep(requests[n][2])
        return made.run("double", {"x": tensors[n]})["y"]

    with batched(inner := Double(), **parameters) as (made, _):
        answers = at_once(send, range(len(requests)))
        for x, answer in zip(tensors, answers, strict=True):
            # Padding only ever adds columns.
            np.testing.assert_array_equal(answer[:, : x.shape[1]], x * 2)
            assert len(answer) == len(x)
        allowed = parameters.get("allowed_batch_sizes")
        assert not allowed or all(rows in (0, *allowed) for rows, _ in inner.shapes)
        assert all(rows <= parameters["max_batch_size"] for rows, _ in inner.shapes)


def test_many_threads_with_all_kinds_of_requests(tmp_path: Path) -> None:
    """Some too large, some that give up, on a real model: nobody hangs, and who is answered is answered right."""
    file = tmp_path / "model.tflite"
    file.write_bytes(tflite_times(3))
    outcomes: list[str] = []

    def caller(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(40):
            x = random.random((int(random.integers(1, 11)), 2), np.float32)
            patience = random.choice([0.0005, 0.005, 60])
            DEADLINE.set(time.monotonic() + patience)
            try:
                np.testing.assert_array_equal(made.run("serving_default", {"x": x})["y"], x * np.float32(3))
                outcomes.append("answered")
            except StatusError as error:
                outcomes.append(error.code.name)

    parameters = {"max_batch_size": 9, "max_enqueued_batches": 4, "batch_timeout_micros": 300}
    with batched(LiteRT(file), **parameters) as (made, runs):
        assert at_once(caller, range(24)) == [None] * 24
    assert len(outcomes) == 24 * 40
    assert {"answered", "INVALID_ARGUMENT"} <= set(outcomes)
    assert set(outcomes) <= {"answered", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
    assert max(len(each.queued_seconds) for each in runs) > 1
