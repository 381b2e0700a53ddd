"""A server that batches: requests of both APIs together, full queues, and versions with parameters of their own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving_fixtures import (
    NEVER,
    POOL,
    ROW,
    Client,
    at_once,
    config_of,
    eventually,
    pool_threads,
    publish,
    serving,
    tiny_models,
    withdraw,
)
from tfship.serving.inference.batching import BatchRun
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.models.loader import Loader
from tfship.serving.server.model_server import Settings
from tfship.train.common.errors import ArtifactError


def served(tflite: bool = False, **parameters: Any) -> Settings:
    found = replace(BatchingParameters(thread_pool_name=POOL, num_batch_threads=1), **parameters)
    return Settings(loader=Loader(prefer_tflite=tflite, batching=found), grpc_threads=8, rest_threads=8)


def ask_at_once(client: Client, model: str, count: int) -> list[Any]:
    """Ask for n times ROW, half by REST and half by gRPC, and return the answers."""

    def ask(n: int) -> Any:
        if n % 2:
            return client.predict(model, x=ROW * n)["y"].tolist()
        return client.rest(f"/v1/models/{model}:predict", {"inputs": (ROW * n).tolist()})[1]["outputs"]

    return at_once(ask, range(count))


@pytest.mark.parametrize("tflite", [False, True])
def test_a_server_runs_requests_of_both_apis_together(tmp_path: Path, tflite: bool) -> None:
    publish(tmp_path / "m", 2)
    path = tmp_path / "m" if tflite else tiny_models() / "double"
    runs: list[BatchRun] = []
    settings = served(tflite, max_batch_size=8, batch_timeout_micros=NEVER)
    settings = replace(settings, loader=replace(settings.loader, on_batch=runs.append))
    with serving(config_of(m=path), settings) as client:
        assert ask_at_once(client, "m", 8) == [(ROW * n * 2).tolist() for n in range(8)]
    assert [(each.rows, len(each.queued_seconds)) for each in runs] == [(8, 8)]
    assert not pool_threads()


def test_what_tensorflow_serving_hangs_on_is_answered(tmp_path: Path) -> None:
    publish(tmp_path / "m", 2)
    with serving(config_of(m=tmp_path / "m"), served(True)) as client:
        assert client.rest("/v1/models/m:predict", {"instances": []})[0] == 400
        np.testing.assert_array_equal(client.predict("m", x=ROW[:0])["y"], ROW[:0])


def test_a_full_queue_is_unavailable(tmp_path: Path) -> None:
    settings = served(max_batch_size=1, max_enqueued_batches=1)
    with serving(config_of(m=tiny_models() / "double"), settings) as client, ThreadPoolExecutor() as callers:
        # Rather than a model that takes its time: the server's only batch thread is kept.
        scheduler = settings.loader._scheduler
        with scheduler._lock:
            scheduler._running += 1
        waiting = callers.submit(client.predict, "m", x=ROW)
        eventually(lambda: bool(scheduler._waiting))
        status, answer = client.rest("/v1/models/m:predict", {"instances": [[1, 2]]})
        assert status == 503
        assert answer["error"].startswith(
            "The batch scheduling queue to which this task was submitted is full;"
        )
        with pytest.raises(grpc.RpcError) as refused:
            client.predict("m", x=ROW)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        with scheduler._lock:
            scheduler._running -= 1
            scheduler._wake()
        np.testing.assert_array_equal(waiting.result()["y"], ROW * 2)


def test_versions_bring_their_own_parameters(tmp_path: Path) -> None:
    publish(tmp_path / "own", 1)
    publish(tmp_path / "none", 1)
    (tmp_path / "own" / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 1 }")
    settings = served(True, max_batch_size=3)
    loader = replace(settings.loader, per_model_batching=True)
    with serving(
        config_of(own=tmp_path / "own", none=tmp_path / "none"), replace(settings, loader=loader)
    ) as client:
        rows = {"instances": [[1, 2], [3, 4], [5, 6], [7, 8]]}
        assert client.rest("/v1/models/none:predict", rows)[0] == 200
        status, answer = client.rest("/v1/models/own:predict", rows)
        assert (status, answer["error"]) == (400, "Task size 4 is larger than maximum input batch size 1")


def test_a_version_whose_parameters_are_wrong_is_not_served(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    path = tmp_path / "1" / "batching_params.pbtxt"
    path.write_text("max_batch_size { value: 0 }")
    loader = Loader(prefer_tflite=True, batching=BatchingParameters(), per_model_batching=True)
    with pytest.raises(ArtifactError, match=f"{path}: max_batch_size is 0; expected 1 or more"):
        loader.load(tmp_path / "1")


def test_unloading_a_version_ends_its_threads_and_no_request(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    publish(tmp_path / "m", 2)
    stop = threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        while not stop.is_set():
            answers.append(client.rest("/v1/models/m:predict", {"instances": [[1, 0]]}))

    with serving(config_of(m=tmp_path / "m"), served(True, batch_timeout_micros=2000)) as client:
        callers = [threading.Thread(target=ask) for _ in range(4)]
        for each in callers:
            each.start()
        eventually(lambda: len(answers) > 20)
        withdraw(tmp_path / "m", 2)
        eventually(lambda: client.states("m") == {"2": "END", "1": "AVAILABLE"})
        seen = len(answers)
        eventually(lambda: len(answers) > seen + 20)
        stop.set()
        for each in callers:
            each.join()
        assert pool_threads()
    assert not pool_threads()
    assert {status for status, _ in answers} == {200}
    assert {answer["predictions"][0][0] for _, answer in answers} == {1.0, 2.0}
