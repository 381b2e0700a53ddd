"""Starting and ending worker processes."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tfship.serving.models.loader import Loader
from tfship.serving.server.settings import Settings
from tfship.serving.server.worker_process import WorkerProcess, spawn


@contextmanager
def _spawned(count: int, *, prefer_tflite: bool) -> Iterator[list[WorkerProcess]]:
    workers = spawn(range(count), Settings(loader=Loader(prefer_tflite=prefer_tflite)), object())
    try:
        yield workers
    finally:
        for worker in workers:
            worker.channel.close()
        assert [worker.wait_ended() for worker in workers] == ["exit code 0"] * count


def _shared_bytes(pid: int) -> int:
    """Return the bytes of written memory that a process shares with others."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(re.findall(r"^Shared_Dirty: +(\d+) kB$", text, re.MULTILINE)[0])


@pytest.mark.parametrize(("prefer_tflite", "shared"), [(True, 15e6), (False, 120e6)])
def test_workers_share_the_memory_of_their_imports(prefer_tflite: bool, shared: float) -> None:
    with _spawned(2, prefer_tflite=prefer_tflite) as workers:
        assert [worker.number for worker in workers] == [0, 1]
        for worker in workers:
            worker.channel.call("publish", {})  # it has started
            assert _shared_bytes(worker.pid) > shared
            maps = Path(f"/proc/{worker.pid}/maps").read_text()
            assert ("site-packages/tensorflow/" in maps) is not prefer_tflite


def test_how_a_worker_has_ended_is_known_however_often_it_is_asked() -> None:
    (worker,) = spawn([3], Settings(loader=Loader(prefer_tflite=True)), object())
    worker.kill()
    assert worker.wait_ended() == worker.wait_ended() == "signal 9"
    worker.kill()  # its process ID may be another process's by now


def test_a_start_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(
        OSError, match="a worker process ended during its start; see its output for the reason"
    ):
        spawn([0, 1], Settings(), object())
