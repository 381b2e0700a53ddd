"""Versions that several threads load at once, and those whose load ends after the server has."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from serving_fixtures import POOL, TFLITE, config_of, publish
from tfship.serving.inference import scheduler
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import Loaded
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy, ModelManager
from tfship.serving.models.registry import Servables
from tfship.serving.models.snapshot import ModelView
from tfship.serving.protos.messages import model_pb2
from tfship.serving.protos.status import Code, StatusError


def test_threads_that_load_models_share_one_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread that enters the constructor waits for the other one; fails on Python 3.12 without a lock."""
    publish(tmp_path, 1)
    made: list[Any] = []
    both = threading.Barrier(2)

    class Counted(scheduler.BatchScheduler):
        def __init__(self, name: str, threads: int) -> None:
            made.append(self)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(1.0)
            super().__init__(name, threads)

    monkeypatch.setattr(scheduler, "BatchScheduler", Counted)
    loader = replace(TFLITE, batching=BatchingParameters(num_batch_threads=1, thread_pool_name=POOL))
    with ThreadPoolExecutor(2) as threads:
        runtimes = [each.runtime for each in threads.map(loader.load, [tmp_path / "1"] * 2)]
    for runtime in runtimes:
        runtime.close()
    assert len(made) == 1


@dataclass(frozen=True)
class _Slow(Loader):
    """Loads a version and then waits, the first one excepted."""

    prefer_tflite: bool = True
    loaded: list[Loaded] = field(default_factory=list)
    closed: list[Any] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    ends: threading.Event = field(default_factory=threading.Event)

    def load(self, path: Path) -> Loaded:
        found = super().load(path)
        real = found.runtime.close

        def close() -> None:
            self.closed.append(path.name)
            real()

        found.runtime.close = close  # type: ignore[method-assign]
        self.loaded.append(found)
        if len(self.loaded) > 1:
            self.begun.set()
            self.ends.wait()
        return found


@pytest.fixture
def slow() -> Iterator[_Slow]:
    loader = _Slow()
    yield loader
    loader.ends.set()


def test_a_load_that_ends_after_closing_is_closed_and_refused(tmp_path: Path, slow: _Slow) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    servables = Servables(slow)
    servables.load(1, tmp_path / "1")
    servables.publish({"m": ModelView(available={1: 1})})
    with ThreadPoolExecutor() as threads:
        late = threads.submit(servables.load, 2, tmp_path / "2")
        slow.begun.wait()
        servables.close()
        slow.ends.set()
        error = late.exception(30)
    assert isinstance(error, StatusError)
    assert (error.code, error.message) == (Code.UNAVAILABLE, "the server is stopping")
    assert sorted(slow.closed) == ["1", "2"]
    for key in (1, 2):
        servables.unload(key)  # neither is loaded any more
    with (
        pytest.raises(StatusError, match="the server is stopping"),
        servables.use(model_pb2.ModelSpec(name="m")),
    ):
        pass


def test_a_new_version_that_is_loaded_while_the_server_stops(
    tmp_path: Path, slow: _Slow, caplog: pytest.LogCaptureFixture
) -> None:
    """The version that it would have replaced is unloaded by then."""
    publish(tmp_path, 1)
    servables = Servables(slow)
    manager = ModelManager(config_of(m=tmp_path), servables, LoadPolicy(poll_seconds=0.01))
    manager.start()
    publish(tmp_path, 2)
    slow.begun.wait()
    manager.stop()
    servables.close()
    slow.ends.set()
    manager.join()
    assert sorted(slow.closed) == ["1", "2"]
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
