"""`tfship score --engine ray`: one worker on this machine, and a cluster of two nodes that loses one."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from client_fixtures import RELEASED_MODELS
from tfship.benchmarks.harness import process_info
from tfship.client.score import command
from tfship.train.common import cli
from tfship.train.data.datasets import Digits

TARGET = f"--target=tflite:{RELEASED_MODELS / 'cnn.int8.tflite'}"
# Ray uses deprecated options of its own.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")
# A module that Python imports at the start of each worker: a decoder that ends its process, as native code may.
DECODER = """
import os
def patch():
    from PIL import Image
    usual = Image.open
    def open(file, *args, **kwargs):
        if file.getvalue().endswith(b"fatal"):
            os._exit(1)
        return usual(file, *args, **kwargs)
    Image.open = open
patch()
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, sample: Digits) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(200):
        Image.fromarray(sample.x_test[number]).save(folder / f"{number:03}.png")
    (folder / "100.png").write_text("no image")
    return folder


def score(images: Path, out: Path, *more: str, table: Path | None = None) -> int:
    inputs = [str(each) for each in (images, table) if each]
    arguments = [*inputs, TARGET, "--out", str(out), "--batch=10", "--part-rows=40", *more]
    return cli.run(command.main, arguments)


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("expected") / "scores.parquet"
    assert score(images, out) == 0
    return parquet.read_table(out)


def test_a_worker_process_gives_the_same_rows(
    images: Path, expected: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An image that ends its worker is a row with an error, and the only difference."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(DECODER)
    out, fatal = tmp_path / "scores.parquet", images / "150.png"
    valid = fatal.read_bytes()
    fatal.write_bytes(valid + b"fatal")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path / "modules"))
            assert score(images, out, "--engine=ray", "--workers=1", "--json") == 0
    finally:
        fatal.write_bytes(valid)
    captured = capfd.readouterr()
    assert json.loads(captured.out)["errors"] == 2
    assert "score: a worker has ended; scoring its " in captured.err
    found, rows = parquet.read_table(out).to_pylist(), expected.to_pylist()
    assert "ended its worker 2 times" in found[150].pop("error")
    assert found[150] == {**dict.fromkeys(found[150]), "path": str(fatal)}
    assert [*found[:150], *found[151:]] == [*rows[:150], *rows[151:]]


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """A Ray cluster on this machine, whose nodes have a processor each."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        cluster.add_node(**small)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def workers_below(pid: int) -> list[int]:
    """Return the process ids of the actors of a node, whose raylet is `pid`."""
    found = []
    for child in process_info.children(pid):
        with contextlib.suppress(OSError):
            if b"_Worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def test_a_cluster_loses_an_actor_and_a_node(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = [path.read_bytes() for path in sorted(images.iterdir())]
    table, out, expected = (
        tmp_path / "images.parquet",
        tmp_path / "scores.parquet",
        tmp_path / "expected.parquet",
    )
    parquet.write_table(pa.table({"image": data * 11}), table, row_group_size=10)
    assert score(images, expected, "--part-rows=240", table=table) == 0
    total = -(-(len(data) * 12) // 240)
    events: list[tuple[str, int]] = []

    def finished() -> int:
        return len(list(Path(f"{out}.parts").glob("part-*.parquet")))

    def await_parts(count: int) -> None:
        while finished() < count and not ended.is_set():
            time.sleep(0.01)

    def harm() -> None:
        await_parts(1)
        (other,) = cluster.worker_nodes
        while not (workers := workers_below(raylet(cluster.head_node))):
            if ended.is_set():
                return
            time.sleep(0.01)
        os.kill(workers[0], signal.SIGKILL)
        events.append(("actor", finished()))
        await_parts(3)
        cluster.remove_node(other, allow_graceful=False)
        events.append(("node", finished()))

    ended = threading.Event()
    with two_nodes() as cluster:
        thread = threading.Thread(target=harm)
        thread.start()
        try:
            how = ("--part-rows=240", "--engine=ray", "--ray-address", cluster.address)
            code = score(images, out, *how, table=table)
        finally:
            ended.set()
            thread.join()
    assert code == 0
    # In the middle of the job, if this machine lets the thread run at all.
    assert [name for name, parts in events if parts < total] == ["actor", "node"]
    assert "score: a worker has ended; scoring its " in capfd.readouterr().err
    assert parquet.read_table(out).equals(parquet.read_table(expected))


def test_no_cluster_is_one_line(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert score(images, tmp_path / "s.parquet", "--engine=ray", "--ray-address=127.0.0.1:9") == 5
    out, error = capfd.readouterr()
    assert out == ""
    (line,) = error.splitlines()
    assert line.startswith("error: --ray-address 127.0.0.1:9: ")
