"""A request that nobody waits for any more isn't run."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from serving_fixtures import (
    NEVER,
    POOL,
    ROW,
    TFLITE,
    Client,
    config_of,
    eventually,
    publish,
    serving,
    slow_steps,
    tiny_models,
)
from tfship.export.runtimes import litert
from tfship.export.runtimes.protocol import Signature, TensorSpec
from tfship.serving.inference.batch_splitting import SplitRuntime
from tfship.serving.inference.batching import BatchedRuntime
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import DEADLINE, deadline_of, run
from tfship.serving.inference.request_context import Call
from tfship.serving.inference.scheduler import BatchScheduler
from tfship.serving.metrics.metrics import DEFAULT_PATH
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.serving.protos.tensors import to_proto
from tfship.serving.server.model_server import Settings


def _runs(client: Client) -> int:
    """Return how often the model has been run."""
    page = client.rest(DEFAULT_PATH)[1]
    counts = [
        line for line in page.splitlines() if line.startswith(":tensorflow:serving:runtime_latency_count{")
    ]
    return sum(int(float(line.split()[-1])) for line in counts)


def test_over_grpc_within_the_clients_deadline() -> None:
    settings = Settings(grpc_threads=1, metrics_path=DEFAULT_PATH)
    with serving(config_of(m=tiny_models() / "slow"), settings) as client:
        long = np.array([slow_steps(client, 1.5)], np.int32)
        before = _runs(client)
        thread = threading.Thread(target=client.predict, args=("m",), kwargs={"n": long})
        thread.start()
        time.sleep(0.2)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["n"].CopyFrom(to_proto(np.array([1], np.int32)))
        with client.channel() as channel, pytest.raises(grpc.RpcError) as error:
            PredictionServiceStub(channel).Predict(request, timeout=0.3)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        thread.join()
        # The only thread is free again for this one, after the one that nobody waits for.
        client.predict("m", n=np.array([1], np.int32))
        assert _runs(client) - before == 2


def test_over_rest_within_the_servers_limit() -> None:
    settings = Settings(rest_threads=1, rest_timeout_seconds=0.3, metrics_path=DEFAULT_PATH)
    with serving(config_of(m=tiny_models() / "slow"), settings) as client:
        long = {"inputs": [slow_steps(client, 1.5)]}
        before = _runs(client)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.rest("/v1/models/m:predict", long)))
        thread.start()
        time.sleep(0.2)
        status, answer = client.rest("/v1/models/m:predict", {"inputs": [1]})
        assert (status, answer["error"]) == (504, "Deadline exceeded before the model was run")
        thread.join()
        # What has begun is finished.
        assert [status for status, _ in answers] == [200]
        assert _runs(client) - before == 1


class _Held:
    """A runtime that returns its rows; a batch that contains a 5 waits until `ends` is set."""

    def __init__(self) -> None:
        row = TensorSpec("x:0", 1, (-1, 2))
        self.signatures: Mapping[str, Signature] = {"f": Signature({"x": row}, {"y": row}, "predict")}
        self.running, self.ends = threading.Event(), threading.Event()

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if (inputs["x"] == 5).any():
            self.running.set()
            self.ends.wait()
        return {"y": inputs["x"]}

    def close(self) -> None:
        pass


def _refusal(call: Callable[[], Any], deadline: float) -> Code:
    with deadline_of(deadline), pytest.raises(StatusError) as error:
        call()
    return error.value.code


def test_one_request_s_deadline_is_not_that_of_its_batch() -> None:
    """The batch waits for the only slot of large batches until after the first deadline of its two requests."""
    inner = _Held()
    split = SplitRuntime(inner, rows=1)
    parameters = BatchingParameters(4, NEVER, num_batch_threads=2)
    batched = BatchedRuntime(split, parameters, BatchScheduler(POOL, 2))
    x = np.ones((2, 2), np.float32)

    def ask() -> NDArray[Any]:
        return batched.run("f", {"x": x})["y"]

    with ThreadPoolExecutor() as callers:
        holder = callers.submit(split.run, "f", {"x": x * 5})
        try:
            inner.running.wait()
            patient = callers.submit(ask)
            (queue,) = batched._queues.values()
            eventually(lambda: bool(queue._batches))
            # The request that completes the batch is the one that can't wait.
            hurried = callers.submit(_refusal, ask, time.monotonic() + 0.2)
            assert hurried.result(30) is Code.DEADLINE_EXCEEDED
        finally:
            inner.ends.set()
        np.testing.assert_array_equal(patient.result(30), x)
        holder.result(30)
    batched.close()


def test_waiting_for_an_interpreter_ends_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, 3)
    runtime = replace(TFLITE, interpreters=1).load(tmp_path / "3").runtime
    running, ends, real = threading.Event(), threading.Event(), litert._Interpreter.run

    def held(self: Any, *arguments: Any) -> Any:
        running.set()
        ends.wait()
        return real(self, *arguments)

    monkeypatch.setattr(litert._Interpreter, "run", held)

    def ask() -> NDArray[Any]:
        return runtime.run("serving_default", {"x": ROW})["y"]

    with ThreadPoolExecutor() as callers:
        first = callers.submit(ask)
        try:
            running.wait()
            hurried = callers.submit(_refusal, ask, time.monotonic() + 0.1)
            assert hurried.result(30) is Code.DEADLINE_EXCEEDED
        finally:
            ends.set()
        np.testing.assert_array_equal(first.result(30), ROW * 3)
    np.testing.assert_array_equal(ask(), ROW * 3)
    runtime.close()


def test_parts_of_a_large_batch_have_its_deadline() -> None:
    found = set()

    class Recording(_Held):
        def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            found.add((threading.get_ident(), DEADLINE.get()))
            together.wait()
            return {"y": inputs["x"]}

    runtime = SplitRuntime(Recording(), rows=1, threads=2)
    together = threading.Barrier(1)
    moment = time.monotonic() + 1000
    with deadline_of(moment):
        runtime.run("f", {"x": np.ones((2, 2), np.float32)})
        found.clear()
        together = threading.Barrier(2)  # both threads run a part
        runtime.run("f", {"x": np.ones((2, 2), np.float32)})
    assert len(found) == 2
    assert {deadline for _, deadline in found} == {moment}
    runtime.close()


def test_a_thread_keeps_no_deadline_of_an_earlier_request(tmp_path: Path) -> None:
    """Otherwise warm-up requests of a reload would run under it."""
    publish(tmp_path, 1)
    loaded = TFLITE.load(tmp_path / "1")
    call = Call("Predict", "GRPC", deadline=time.monotonic() + 100)
    run(loaded, "serving_default", {"x": ROW}, call)
    assert DEADLINE.get() is None
    loaded.runtime.close()
