"""Counts added up over processes that come and go, and what happens where they can't be written."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import ROOT
from serving_fixtures import COUNT, LATENCY, eventually, value
from tfship.serving.metrics.metrics import Metrics
from tfship.serving.metrics.shared_counters import Tally
from tfship.train.common.errors import UsageError


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"none: can't hold the workers' metrics \(No such file or directory\)"
    ):
        Metrics(folder=tmp_path / "none")


# Counts as many requests as it is told to on its standard input, -1 for ever, and answers with its page.
WORKER = """
import json, pathlib, sys
from tfship.serving.metrics.metrics import Metrics

metrics = Metrics(folder=pathlib.Path(sys.argv[1]))
metrics.versions("nn", {"AVAILABLE": 1})
in_flight = metrics.in_flight("GRPC")
in_flight.__enter__()
for line in sys.stdin:
    left = int(line)
    while left:
        metrics.request(model="nn", api="Predict", entrypoint="GRPC", status="OK", seconds=0.001)
        left -= 1
    print(json.dumps(metrics.page()[0].decode()), flush=True)
"""


class Worker:
    """A process that counts."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def tell(self, number: int) -> None:
        assert self.process.stdin
        print(number, file=self.process.stdin, flush=True)

    def count(self, number: int) -> str:
        """Count requests and return the page."""
        assert self.process.stdout
        self.tell(number)
        page: str = json.loads(self.process.stdout.readline())
        return page

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL


@contextmanager
def workers(folder: Path, number: int) -> Iterator[list[Worker]]:
    started = [Worker(folder) for _ in range(number)]
    try:
        yield started
    finally:
        for worker in started:
            with worker.process:
                worker.process.kill()


def test_any_worker_tells_the_sum_and_the_dead_stay_counted(tmp_path: Path) -> None:
    labels = {"model_name": "nn", "API": "Predict", "entrypoint": "GRPC"}

    def counts(page: str) -> dict[str, float | None]:
        return {
            "requests": value(page, COUNT, model_name="nn", status="OK"),
            "timed": value(page, f"{LATENCY}_bucket", **labels, le="1102"),
            "seconds": (value(page, f"{LATENCY}_sum", **labels) or 0) / 1e6,
            "in flight": value(page, ":tfship:requests_in_flight", entrypoint="GRPC"),
            "versions": value(page, ":tfship:model_versions", model_name="nn", state="AVAILABLE"),
            "workers": value(page, ":tfship:workers"),
        }

    def pids(page: str) -> set[str]:
        return set(re.findall(r'^process_resident_memory_bytes{pid="(\d+)"}', page, re.MULTILINE))

    with workers(tmp_path, 2) as (first, second):
        first.count(3)
        second.count(4)
        page = first.count(0)
        assert page.split("process_")[0] == second.count(0).split("process_")[0]
        both = {
            "requests": 7,
            "timed": 7,
            "seconds": pytest.approx(0.007),
            "in flight": 2,
            "versions": 2,
            "workers": 2,
        }
        assert counts(page) == both
        assert pids(page) == {str(first.process.pid), str(second.process.pid)}
        first.kill()
        page = second.count(1)
        assert counts(page) == {**both, "requests": 8, "timed": 8, "seconds": pytest.approx(0.008)} | {
            "in flight": 1, "versions": 1, "workers": 1,
        }  # fmt: skip
        assert pids(page) == {str(second.process.pid)}
        with workers(tmp_path, 1) as (third,):
            assert counts(third.count(2)) | {"seconds": None} == both | {
                "requests": 10,
                "timed": 10,
                "seconds": None,
            }


def test_a_worker_killed_while_it_counts_leaves_what_it_counted(tmp_path: Path) -> None:
    labels = {"model_name": "nn", "API": "Predict", "entrypoint": "GRPC"}
    with workers(tmp_path, 2) as (busy, other):
        busy.tell(-1)
        eventually(lambda: (value(other.count(0), COUNT, model_name="nn", status="OK") or 0) > 1000)
        busy.kill()
        page = other.count(0)
        requests = value(page, COUNT, model_name="nn", status="OK")
        timed = value(page, f"{LATENCY}_count", **labels)
        assert requests
        assert timed
        assert requests > 1000
        # It may have been in the middle of one.
        assert requests - timed in (0, 1)
        again = other.count(1)
        assert value(again, COUNT, model_name="nn", status="OK") == requests + 1


def test_rows_of_any_size_are_read_by_siblings(tmp_path: Path) -> None:
    ours, theirs = Tally(tmp_path), Tally(tmp_path)
    widths = {("small", "ß"): 1, ("", "name" * 20_000): 3, ("wide",): 9000, ("last", '"\n'): 2}
    # More than a block of them, so that the file grows on the way.
    widths |= {("many", str(number)): 35 for number in range(400)}
    for number, (key, width) in enumerate(widths.items()):
        row = ours.row(key, width)
        assert row.tolist() == [0.0] * width
        row[width - 1] = number + 0.5
    (sibling,) = [worker for worker in theirs.workers() if worker.rows]
    assert sibling.pid == os.getpid()
    assert sibling.lives
    assert {key: len(row) for key, row in sibling.rows.items()} == widths
    assert [row[-1] for row in sibling.rows.values()] == [number + 0.5 for number in range(len(widths))]
    ours.close()
    assert [worker.lives for worker in theirs.workers()] == [False, True]
    theirs.close()


def test_a_full_disk_fails_no_request(tmp_path: Path) -> None:
    # A limit on the size of files stands for the disk: one block fits, the second doesn't.
    script = (
        "import pathlib, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from tfship.serving.metrics.metrics import Metrics\n"
        "metrics = Metrics(folder=pathlib.Path(sys.argv[1]))\n"
        "for number in range(100):\n"
        "    metrics.versions(name := f'model-{number}', {'AVAILABLE': 1})\n"
        "    metrics.request(model=name, api='Predict', entrypoint='GRPC', status='OK', seconds=1)\n"
        "print(metrics.page()[0].decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert value(done.stdout, COUNT, model_name="model-0", status="OK") == 1
    assert value(done.stdout, COUNT, model_name="model-99", status="OK") is None
    assert f"{tmp_path}: No space left on device; the metrics page lacks " in done.stderr
